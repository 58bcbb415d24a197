//! Malicious registries and images: each error is reported for its pod, and other pods are not delayed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image_store::{ImageConfig, ImageStore};
use json_tree::{Value, json};
use node_agent::OnShutdown;
use sha2::{Digest, Sha256};
use tar::EntryType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Harness, IMAGE, layer, phase, state};
use crate::pods::SLEEP;
use crate::pressure::Disk;
use crate::registry::request_head;
use crate::trace::holds;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The responses by path. A response of `None` ends before its content is complete.
type Pages = BTreeMap<String, Option<Vec<u8>>>;

/// A registry that serves pages until it is dropped.
struct Hostile {
    host: String,
    /// Number of requests that wait for data that never arrives.
    waiting: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Hostile {
    async fn start(images: impl IntoIterator<Item = Image>) -> Self {
        let mut pages = Pages::from([("/v2/".to_owned(), Some(Vec::new()))]);
        for image in images {
            image.add(&mut pages);
        }
        let pages = Arc::new(pages);
        let waiting = Arc::new(AtomicUsize::new(0));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let count = Arc::clone(&waiting);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(respond(stream, Arc::clone(&pages), Arc::clone(&count)));
            }
        });
        Self {
            host,
            waiting,
            task,
        }
    }

    fn name(&self, image: &str) -> String {
        let separator = if image.contains('@') { "" } else { ":1" };
        format!("{}/{image}{separator}", self.host)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Responds to one request and closes the connection.
async fn respond(mut stream: TcpStream, pages: Arc<Pages>, waiting: Arc<AtomicUsize>) {
    let Some(head) = request_head(&mut stream).await else {
        return;
    };
    let page = head.split(' ').nth(1).and_then(|path| pages.get(path));
    let (status, length) = match page {
        Some(Some(body)) => ("200 OK", body.len()),
        Some(None) => ("200 OK", 1000),
        None => ("404 Not Found", 0),
    };
    let reply =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    // A client that disconnects needs no more data.
    if stream.write_all(reply.as_bytes()).await.is_err() {
        return;
    }
    match page {
        Some(Some(body)) => {
            stream.write_all(body).await.ok();
        }
        Some(None) => {
            waiting.fetch_add(1, Ordering::Relaxed);
            // Waits until the client disconnects.
            stream.read_u8().await.ok();
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
        None => {}
    }
    stream.shutdown().await.ok();
}

fn digest(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An image of a registry, whose responses may differ from its manifest.
struct Image {
    name: &'static str,
    layers: Vec<Vec<u8>>,
    architecture: &'static str,
    lie: Lie,
}

enum Lie {
    None,
    Layer,
    Config,
    /// The response to a request for this digest is another content.
    Manifest(String),
    EndlessManifest,
    /// The content of its layers never arrives.
    Nothing,
}

impl Image {
    fn new(name: &'static str, layer: Vec<u8>) -> Self {
        let architecture = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "amd64",
        };
        Self {
            name,
            layers: vec![layer],
            architecture,
            lie: Lie::None,
        }
    }

    /// An image that can run. Not all of its content is on the node.
    fn fine(mark: &str) -> Self {
        let mut image = Self::new("fine", layer());
        let layer = entry(EntryType::Regular, mark, "", 0, (0, 0));
        image.layers.push(layer);
        image
    }

    fn lying(self, lie: Lie) -> Self {
        Self { lie, ..self }
    }

    fn add(&self, pages: &mut Pages) {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({"architecture": self.architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let mut blob = |bytes: &[u8], served: Option<&[u8]>| -> Value {
            let digest = digest(bytes);
            let path = format!("/v2/{}/blobs/{digest}", self.name);
            pages.insert(path, served.map(<[u8]>::to_vec));
            json!({"mediaType": "x", "digest": digest, "size": bytes.len()})
        };
        let config = config.to_string().into_bytes();
        let other = config.to_ascii_uppercase();
        let config = match self.lie {
            Lie::Config => blob(&config, Some(&other)),
            _ => blob(&config, Some(&config)),
        };
        let each = self.layers.iter();
        let layers = each.map(|layer| match self.lie {
            Lie::Layer => blob(layer, Some(&layer.to_ascii_uppercase())),
            Lie::Nothing => blob(layer, None),
            _ => blob(layer, Some(layer)),
        });
        let layers: Vec<Value> = layers.collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": layers});
        let mut bytes = manifest.to_string().into_bytes();
        if matches!(self.lie, Lie::EndlessManifest) {
            bytes.resize(5 << 20, b' ');
        }
        let reference = match &self.lie {
            Lie::Manifest(digest) => digest,
            _ => "1",
        };
        let path = format!("/v2/{}/manifests/{reference}", self.name);
        pages.insert(path, Some(bytes));
    }
}

/// An archive with one entry, whose header states the size `size`.
fn entry(kind: EntryType, path: &str, link: &str, size: u64, device: (u32, u32)) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o666);
    header.set_size(size);
    header.set_device_major(device.0).unwrap();
    header.set_device_minor(device.1).unwrap();
    // The name is written directly, because the library rejects such names.
    let raw = header.as_old_mut();
    raw.name[..path.len()].copy_from_slice(path.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.extend([0; 1024]);
    archive
}

fn pod(image: String, script: &str) -> Value {
    json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": image,
        "command": ["/bin/busybox", "sh", "-c", script]}]})
}

pub async fn what_is_wrong_with_an_image_is_told_at_its_pod() {
    // statefulset.md 12.9
    let plain = entry(EntryType::Regular, "file", "", 0, (0, 0));
    let another = digest(b"another");
    let mut foreign = Image::new("foreign", plain.clone());
    foreign.architecture = "s390x";
    let links = entry(EntryType::Link, "shadow", "/etc/shadow", 0, (0, 0));
    let bomb = entry(EntryType::Regular, "bomb", "", 1 << 50, (0, 0));
    let memory = entry(EntryType::Char, "memory", "", 0, (1, 1));
    let mut device = Image::new("device", layer());
    device.layers.push(memory);
    // The archive is unpacked inside the root (findings-2 I5).
    let climbs = entry(EntryType::Regular, "../evil", "", 0, (0, 0));
    device.layers.push(climbs);
    let manifest = Image::new("manifest", plain.clone()).lying(Lie::Manifest(another.clone()));
    let registry = Hostile::start([
        Image::new("layer", plain.clone()).lying(Lie::Layer),
        Image::new("config", plain.clone()).lying(Lie::Config),
        Image::new("endless", plain).lying(Lie::EndlessManifest),
        manifest,
        foreign,
        Image::new("links", links),
        Image::new("bomb", bomb),
        device,
        Image::fine("one"),
    ])
    .await;
    let harness = Harness::started("hostile").await;
    let by_digest = format!("manifest@{another}");
    let lies = "sent data that does not match its digest sha256:";
    let messages = [
        ("layer", "layer", lies.to_owned()),
        ("config", "config", lies.to_owned()),
        (
            "manifest",
            &by_digest,
            format!("not match its digest {another}"),
        ),
        (
            "endless",
            "endless",
            "manifest is longer than the limit of".to_owned(),
        ),
        ("foreign", "foreign", "only for linux/s390x".to_owned()),
        (
            "links",
            "links",
            "a hard link to nothing in the image".to_owned(),
        ),
        (
            "bomb",
            "bomb",
            "at least 1 PiB more would be needed".to_owned(),
        ),
    ];
    for (name, image, _) in &messages {
        harness.pod(name, pod(registry.name(image), "exit 0")).await;
    }
    harness.pod("fine", pod(registry.name("fine"), SLEEP)).await;
    let read = "head -c 1 /memory && echo was read; exit 0";
    harness
        .pod("device", pod(registry.name("device"), read))
        .await;
    for (name, image, text) in &messages {
        let refused = |pod: &_| matches!(&*state(pod, "c").0, "ErrImagePull" | "ImagePullBackOff");
        harness.until(name, "refused", refused).await;
        let failed = format!(
            "Warning Failed Failed to pull image \"{}\"",
            registry.name(image)
        );
        harness.event(name, &failed).await;
        harness.event(name, text).await;
        harness
            .event(name, "Warning Failed Error: ErrImagePull")
            .await;
    }
    harness.ready("fine").await;
    // A layer may contain a device; the container cannot use it.
    let ended = |pod: &_| phase(pod) == "Succeeded";
    harness.until("device", "done", ended).await;
    let log = harness.logs("device", "c").await;
    assert!(log.contains("ermi") && !log.contains("was read"), "{log}");
    assert!(!Path::new("/evil").exists());
    // Each pull is retried after a delay. No files are left between the attempts.
    no_pull_is_left(harness.images.directory()).await;
    harness.end().await;
}

/// Waits until no temporary directory of a pull is left.
async fn no_pull_is_left(images: &Path) {
    let temporary = images.join("temporary");
    holds("pulls leave nothing", || {
        std::fs::read_dir(&temporary).unwrap().count() == 0
    })
    .await;
}

pub async fn a_slow_registry_leaves_turns_to_others() {
    // statefulset.md 12.9
    let layer = entry(EntryType::Regular, "slow", "", 0, (0, 0));
    let slow = Hostile::start([Image::new("slow", layer).lying(Lie::Nothing)]).await;
    let fine = Hostile::start([Image::fine("two")]).await;
    let harness = Harness::started("slow").await;
    let image = |number: usize| {
        json!({"containers": [{"name": "c", "image": format!("{}/slow:1", slow.host),
        "imagePullPolicy": if number.is_multiple_of(2) { "Always" } else { "IfNotPresent" }}]})
    };
    for number in 0..8 {
        harness.pod(&format!("slow-{number}"), image(number)).await;
    }
    // One pull sends a request, the other pulls wait for its result or for a permit.
    let asks = || slow.waiting.load(Ordering::Relaxed) > 0;
    holds("one of them asks", asks).await;
    harness.pod("fine", pod(fine.name("fine"), SLEEP)).await;
    harness.ready("fine").await;
    assert!(slow.waiting.load(Ordering::Relaxed) > 0);
    for number in 0..8 {
        harness.delete(&format!("slow-{number}")).await;
    }
    for number in 0..8 {
        harness.wait_deleted(&format!("slow-{number}")).await;
    }
    // A cancelled pull leaves no files. A directory that was being created when its pod was deleted is
    // removed shortly after.
    no_pull_is_left(harness.images.directory()).await;
    harness.end().await;
}

pub async fn a_full_disk_is_told_and_the_pull_goes_on_when_there_is_room() {
    // statefulset.md 12.9, 12.16
    let mut app = Image::new("app", layer());
    let mut data = entry(EntryType::Regular, "data", "", 2 << 20, (0, 0));
    data.resize(data.len() + (2 << 20), 0);
    app.layers.push(data);
    let registry = Hostile::start([app]).await;
    let mut harness = Harness::new("fulldisk").await;
    let disk = Disk::new(harness.dir.join("images"), "size=64m");
    let store = ImageStore::open(&disk.0).unwrap();
    let config = ImageConfig {
        env: vec!["PATH=/bin".to_owned()],
        ..ImageConfig::default()
    };
    store.put_builtin(IMAGE, &layer(), &config, "1").unwrap();
    let others = disk.0.join("others");
    let free = || {
        let file_system = nix::sys::statvfs::statvfs(&disk.0).unwrap();
        file_system.blocks_available() * file_system.fragment_size()
    };
    // Slightly more than the share of the disk that pulls must leave free.
    std::fs::write(
        &others,
        vec![1; usize::try_from(free() - (4 << 20)).unwrap()],
    )
    .unwrap();
    harness.images = store.clone();
    harness.start(OnShutdown::StopPods).await;
    // A pod with a present image runs.
    let present =
        json!({"containers": [{"name": "c", "command": ["/bin/busybox", "sh", "-c", SLEEP]}]});
    harness.pod("present", present).await;
    harness.pod("wants", pod(registry.name("app"), SLEEP)).await;
    let refused = |pod: &_| state(pod, "c").0 == "ErrImagePull";
    harness.until("wants", "refused", refused).await;
    harness
        .event("wants", "not enough room on the disk of ")
        .await;
    harness.event("wants", "3.2 MiB have to stay free").await;
    no_pull_is_left(&disk.0).await;
    let before = free();
    assert_eq!(store.layers().unwrap().len(), 1);
    assert!(before >= 3 << 20, "{before}");
    harness.ready("present").await;
    std::fs::remove_file(&others).unwrap();
    harness.ready("wants").await;
    harness.stop().await;
    drop(disk);
    harness.end().await;
}
