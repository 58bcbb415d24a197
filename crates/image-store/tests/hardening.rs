//! Malicious or malformed images and registries.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use image_store::{ImageConfig, ImageStore, PullOptions};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::EntryType;

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// An archive of raw entries, which may have malicious names.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn entry(mut self, kind: EntryType, name: &str, link: &str, data: &[u8]) -> Layer {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_000_000_000);
        let raw = header.as_old_mut();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Layer {
        self.entry(EntryType::Regular, name, "", data.as_bytes())
    }

    fn pax(self, key: &str, value: &[u8]) -> Layer {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length += 1;
        }
        let mut data = format!("{length} {key}=").into_bytes();
        data.extend_from_slice(value);
        data.push(b'\n');
        self.entry(EntryType::XHeader, "pax", "", &data)
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Unpacks a layer as a built-in image. Returns its directory.
fn unpacked(store: &ImageStore, layer: Layer) -> Result<std::path::PathBuf, String> {
    let config = ImageConfig::default();
    let image = store.put_builtin("app", &layer.finish(), &config, "f");
    image.map(|image| image.layers[0].clone()).map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    })
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    (directory, store)
}

#[test]
fn names_and_attributes_cannot_fill_the_memory() {
    let (_directory, store) = store();
    let huge = vec![b'a'; 4 << 20];
    let by_pax = Layer::default().pax("path", &huge).file("x", "x");
    let error = unpacked(&store, by_pax).unwrap_err();
    assert!(error.contains("limit"), "{error}");
    let by_name = Layer::default()
        .entry(EntryType::GNULongName, "n", "", &huge)
        .file("x", "x");
    let error = unpacked(&store, by_name).unwrap_err();
    assert!(error.contains("limit"), "{error}");
}

/// findings A6
#[test]
fn numbers_of_attributes_are_numbers() {
    let (_directory, store) = store();
    for (key, value) in [
        ("size", "inf"),
        ("size", "1e3"),
        ("size", "-1"),
        ("size", "18446744073709551615"),
        ("uid", "nan"),
        ("gid", "4294967296"),
    ] {
        let layer = Layer(Vec::new())
            .pax(key, value.as_bytes())
            .file("a", "text");
        assert!(unpacked(&store, layer).is_err(), "{key}={value}");
    }
}

/// findings C4: an archive as `umoci insert` of Debian writes it, and as containerd accepts it.
#[test]
fn the_padding_of_the_last_file_may_be_missing() {
    cov_mark::check!(findings_c4);
    let (_directory, store) = store();
    let mut bytes = Layer(Vec::new()).file("a", "text").0;
    bytes.truncate(512 + 4);
    let config = ImageConfig::default();
    let image = store.put_builtin("app", &bytes, &config, "f").unwrap();
    let text = std::fs::read_to_string(image.layers[0].join("a"));
    assert_eq!(text.unwrap(), "text");
    // A truncated file is an error.
    bytes.truncate(512 + 3);
    store.put_builtin("cut", &bytes, &config, "f").unwrap_err();
}

#[test]
fn attributes_may_contain_any_byte() {
    let (_directory, store) = store();
    // The value of a line feed is also a valid part of a capability mask.
    let capability: &[u8] = &[
        1, 0, 0, 2, b'\n', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let layer = Layer::default().pax("SCHILY.xattr.security.capability", capability);
    let root = unpacked(&store, layer.file("tool", "x")).unwrap();
    let mut value = [0; 64];
    let length =
        rustix::fs::getxattr(root.join("tool"), "security.capability", &mut value).unwrap();
    assert_eq!(&value[..length], capability);
}

#[test]
fn a_deletion_hides_only_what_is_below() {
    let (_directory, store) = store();
    let layer = Layer::default()
        .file(".wh.replaced", "")
        .file("replaced/deep/file", "y")
        .file("kept", "z")
        .file(".wh.kept", "");
    let root = unpacked(&store, layer).unwrap();
    assert_eq!(
        fs::read_to_string(root.join("replaced/deep/file")).unwrap(),
        "y"
    );
    assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "z");
    let mut value = [0; 4];
    let opaque = rustix::fs::getxattr(root.join("replaced"), "trusted.overlay.opaque", &mut value);
    assert_eq!(&value[..opaque.unwrap()], b"y");
}

#[test]
fn links_through_links_stay_inside() {
    let (directory, store) = store();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "untouched").unwrap();
    let there = outside.to_str().unwrap();
    let up = format!("../../../../../../../..{there}");
    let layer = || Layer::default().entry(EntryType::Symlink, "out", &up, b"");
    assert!(
        unpacked(
            &store,
            layer().entry(EntryType::Link, "hard", "out/file", b"")
        )
        .is_err()
    );
    let climbing = Layer::default().pax("path", b"../escape").file("x", "x");
    let root = unpacked(&store, climbing).unwrap();
    assert!(root.join("escape").is_file() && !root.join("../escape").exists());
    let looped = Layer::default().entry(EntryType::Symlink, "loop", "loop", b"");
    assert!(unpacked(&store, looped.file("loop/x", "x")).is_err());
    let names: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"]);
    assert_eq!(
        fs::read_to_string(outside.join("file")).unwrap(),
        "untouched"
    );
}

/// A registry whose first responses may fail, and which may run a function at a path.
struct Registry {
    host: String,
    failures: Arc<AtomicU32>,
}

type Blobs = Vec<(String, Vec<u8>)>;
type CallBack = Box<dyn Fn(&str) + Send + Sync>;

fn registry(blobs: Blobs, call_back: CallBack) -> Registry {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let failures = Arc::new(AtomicU32::new(0));
    let shared = Arc::new((blobs, call_back, Arc::clone(&failures)));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let shared = Arc::clone(&shared);
            // A function may wait for the response to another request.
            std::thread::spawn(move || respond(stream, &shared.0, &shared.1, &shared.2));
        }
    });
    Registry { host, failures }
}

fn respond(mut stream: TcpStream, blobs: &Blobs, call_back: &CallBack, failing: &AtomicU32) {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    reader.read_line(&mut line).unwrap();
    let mut header = String::new();
    while reader.read_line(&mut header).is_ok_and(|count| count > 2) {
        header.clear();
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    call_back(&path);
    let busy = path != "/v2/"
        && failing
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |remaining| {
                remaining.checked_sub(1)
            })
            .is_ok();
    let blob = blobs.iter().find(|(name, _)| path.ends_with(name.as_str()));
    let (status, body): (_, &[u8]) = match (busy, blob) {
        (true, _) => ("503 Service Unavailable", b"busy"),
        (false, Some((_, body))) => ("200 OK", body),
        (false, None) if path == "/v2/" => ("200 OK", b"{}"),
        (false, None) => ("404 Not Found", b"{}"),
    };
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    // The client may have disconnected.
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body))
        .ok();
}

/// An image with these layers: pairs of the archive and its transferred form.
fn image(layers: &[(Vec<u8>, Vec<u8>)]) -> Blobs {
    let architecture = if std::env::consts::ARCH == "aarch64" {
        "arm64"
    } else {
        "amd64"
    };
    let diff_ids: Vec<_> = layers.iter().map(|(plain, _)| digest(plain)).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let part = |bytes: &[u8]| -> Value {
        json!({ "mediaType": "application/octet-stream", "digest": digest(bytes),
                "size": bytes.len() })
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part(&config),
        "layers": layers.iter().map(|(_, sent)| part(sent)).collect::<Vec<_>>(),
    });
    let mut blobs: Blobs = vec![
        ("/manifests/1".to_owned(), manifest.to_string().into_bytes()),
        (digest(&config), config),
    ];
    blobs.extend(layers.iter().map(|(_, sent)| (digest(sent), sent.clone())));
    blobs
}

#[tokio::test]
async fn layers_of_several_zstd_frames_are_whole() {
    let (_directory, store) = store();
    let plain = Layer::default()
        .file("a", &"x".repeat(9_000))
        .file("b", "y")
        .finish();
    let frame = |bytes: &[u8]| {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    };
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
    let sent = [
        &frame(&plain[..5000])[..],
        &skippable,
        &frame(&plain[5000..]),
    ]
    .concat();
    let registry = registry(image(&[(plain, sent)]), Box::new(|_| {}));
    let name = format!("{}/app:1", registry.host);
    let image = store.pull(&name, &PullOptions::default()).await.unwrap();
    assert_eq!(fs::read_to_string(image.layers[0].join("b")).unwrap(), "y");
}

/// findings-2 I3: two images have the layer, which refers to a different file above each base layer.
#[tokio::test]
async fn a_layer_is_pulled_for_its_place_in_the_image() {
    let (_directory, store) = store();
    let shared = Layer::default().file("home/x", "x").finish();
    let base = Layer::default().file("other", "").finish();
    let linked = Layer::default().entry(EntryType::Symlink, "home", "users", b"");
    for (base, path) in [(base, "home/x"), (linked.finish(), "users/x")] {
        let layers = [&base, &shared].map(|plain| (plain.clone(), gzip(plain)));
        let registry = registry(image(&layers), Box::new(|_| {}));
        let name = format!("{}/app:1", registry.host);
        for _ in 0..2 {
            let pulled = store.pull(&name, &PullOptions::default()).await.unwrap();
            assert!(pulled.layers[1].join(path).is_file(), "{pulled:?}");
        }
    }
    assert_eq!(store.layers().unwrap().len(), 4);
}

#[tokio::test]
async fn a_registry_that_hiccups_is_asked_again() {
    let (_directory, store) = store();
    let plain = Layer::default().file("a", "x").finish();
    let registry = registry(image(&[(plain.clone(), plain)]), Box::new(|_| {}));
    registry.failures.store(2, Ordering::Relaxed);
    let name = format!("{}/app:1", registry.host);
    store.pull(&name, &PullOptions::default()).await.unwrap();
}

#[tokio::test]
async fn clearing_up_during_a_pull_takes_nothing_that_the_pull_needs() {
    let (directory, store) = store();
    let first = Layer::default().file("first", "x").finish();
    let second = Layer::default().file("second", "y").finish();
    let (second_digest, path) = (digest(&second), directory.path().to_owned());
    let blobs = image(&[(first.clone(), first.clone()), (second.clone(), second)]);
    let first = digest(&first);
    // When the second layer is requested, a concurrent process removes layers without an image.
    let cleared = AtomicU32::new(0);
    let clear = move |requested: &str| {
        if requested.ends_with(&second_digest) && cleared.fetch_add(1, Ordering::Relaxed) == 0 {
            wait_for(&path.join("layers").join(&first[7..]));
            ImageStore::open(&path)
                .unwrap()
                .drop_unused_layers()
                .unwrap();
        }
    };
    let registry = registry(blobs, Box::new(clear));
    let name = format!("{}/app:1", registry.host);
    let image = store.pull(&name, &PullOptions::default()).await.unwrap();
    assert!(image.layers.iter().all(|layer| layer.is_dir()), "{image:?}");
}

/// A separate file system with this size in MiB, which is unmounted when the value is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(mib: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = CString::new(format!("size={mib}m")).unwrap();
        let flags = MountFlags::empty();
        mount("tmpfs", directory.path(), "tmpfs", flags, &*options).unwrap();
        Self(directory)
    }

    fn available(&self) -> u64 {
        let statistics = rustix::fs::statvfs(self.0.path()).unwrap();
        statistics.f_bavail * statistics.f_frsize
    }

    /// Checks that nothing of a pull is left, not even temporarily.
    fn is_clean(&self, store: &ImageStore) {
        assert_eq!(store.layers().unwrap().len(), 0);
        let temporary = self.0.path().join("temporary");
        assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Pulls an image with one layer from a new registry.
async fn pull_layer(store: &ImageStore, plain: Vec<u8>) -> Result<image_store::Image, String> {
    let sent = gzip(&plain);
    let registry = registry(image(&[(plain, sent)]), Box::new(|_| {}));
    let name = format!("{}/app:1", registry.host);
    let pulled = store.pull(&name, &PullOptions::default()).await;
    pulled.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_bomb_ends_where_the_disk_has_no_more_room() {
    let disk = Disk::new(64);
    let store = ImageStore::open(disk.0.path()).unwrap();
    let before = disk.available();
    let zeros = |mib: usize| "\0".repeat(mib << 20);
    // One large file with a stated size, and many small files.
    let large = Layer::default().file("bomb", &zeros(65)).finish();
    let small = zeros(1);
    let many = (0..65).fold(Layer::default(), |layer, number| {
        layer.file(&number.to_string(), &small[1..])
    });
    for bomb in [large, many.finish()] {
        assert!(gzip(&bomb).len() < 1 << 20);
        let error = pull_layer(&store, bomb).await.unwrap_err();
        for part in [
            "not enough room on the disk of",
            "more would be needed",
            "3.2 MiB have to",
        ] {
            assert!(error.contains(part), "{error}");
        }
        disk.is_clean(&store);
        assert_eq!(disk.available(), before);
    }
    // If the content fits, the compression ratio does not matter.
    let dense = Layer::default().file("dense", &zeros(40)).finish();
    let image = pull_layer(&store, dense).await.unwrap();
    assert_eq!(image.size, 40 << 20);
}

#[tokio::test]
async fn an_image_of_which_one_layer_does_not_fit_leaves_none() {
    let disk = Disk::new(64);
    let store = ImageStore::open(disk.0.path()).unwrap();
    let layer = |name: &str, mib: usize| {
        let plain = Layer::default().file(name, &"\0".repeat(mib << 20));
        let plain = plain.finish();
        let sent = gzip(&plain);
        (plain, sent)
    };
    let (existing, fits, large) = (layer("kept", 1), layer("fits", 20), layer("large", 50));
    let present = pull_layer(&store, existing.0.clone()).await.unwrap();
    let digest_of_large = digest(&large.1);
    let layer_path = disk.0.path().join("layers").join(&digest(&fits.0)[7..]);
    // The layer that does not fit is sent after the other layer is unpacked.
    let wait = move |path: &str| {
        if path.ends_with(&digest_of_large) {
            wait_for(&layer_path);
        }
    };
    let registry = registry(image(&[existing, fits, large]), Box::new(wait));
    let name = format!("{}/app:1", registry.host);
    let error = store.pull(&name, &PullOptions::default()).await;
    assert!(error.unwrap_err().out_of_space().is_some());
    assert_eq!(store.layers().unwrap().len(), 1);
    assert!(present.layers[0].join("kept").is_file(), "it is another's");
}

#[tokio::test]
async fn what_cannot_fit_is_not_even_asked_for() {
    let disk = Disk::new(16);
    let store = ImageStore::open(disk.0.path()).unwrap();
    let plain = Layer::default().file("a", "x").finish();
    let layer = digest(&plain);
    let mut blobs = image(&[(plain.clone(), plain)]);
    let mut manifest: Value = serde_json::from_slice(&blobs[0].1).unwrap();
    manifest["layers"][0]["size"] = json!(1_u64 << 40);
    blobs[0].1 = manifest.to_string().into_bytes();
    let requests = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&requests);
    let registry = registry(
        blobs,
        Box::new(move |path| {
            count.fetch_add(u32::from(path.ends_with(&layer)), Ordering::Relaxed);
        }),
    );
    let name = format!("{}/app:1", registry.host);
    let error = store.pull(&name, &PullOptions::default()).await;
    let error = error.unwrap_err();
    assert_eq!(error.out_of_space().unwrap().needed, 1 << 40);
    assert!(error.to_string().contains("at least 1 TiB more"), "{error}");
    assert_eq!(requests.load(Ordering::Relaxed), 0);
    disk.is_clean(&store);
}

#[tokio::test]
async fn a_full_disk_takes_the_image_when_there_is_room() {
    let disk = Disk::new(32);
    let store = ImageStore::open(disk.0.path()).unwrap();
    let layer = || Layer::default().file("a", &"x".repeat(8 << 20)).finish();
    let filler = disk.0.path().join("others");
    fs::write(&filler, vec![1; 26 << 20]).unwrap();
    let error = pull_layer(&store, layer()).await.unwrap_err();
    assert!(
        error.contains("at least 8 MiB more would be needed"),
        "{error}"
    );
    disk.is_clean(&store);
    assert!(store.list().unwrap().is_empty());
    // Both the caller's minimum and the disk's minimum stay free.
    fs::remove_file(&filler).unwrap();
    let plain = layer();
    let registry = registry(image(&[(plain.clone(), plain)]), Box::new(|_| {}));
    let name = format!("{}/app:1", registry.host);
    let mut options = PullOptions::default();
    options.keep_free.bytes = 30 << 20;
    let error = store.pull(&name, &options).await.unwrap_err().to_string();
    assert!(error.contains("30 MiB have to stay free"), "{error}");
    disk.is_clean(&store);
    options.keep_free.bytes = 0;
    let image = store.pull(&name, &options).await.unwrap();
    assert_eq!(image.size, 8 << 20);
    assert!(image.layers[0].join("a").is_file());
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_leaves_nothing() {
    let (directory, store) = store();
    let plain = Layer::default().file("a", "x").finish();
    let layer = digest(&plain);
    let (requested, was_requested) = std::sync::mpsc::channel();
    let (stay, release) = std::sync::mpsc::channel::<()>();
    let release = Mutex::new(release);
    let hold = move |path: &str| {
        if path.ends_with(&layer) {
            requested.send(()).ok();
            release.lock().unwrap().recv().ok();
        }
    };
    let registry = registry(image(&[(plain.clone(), plain)]), Box::new(hold));
    let name = format!("{}/app:1", registry.host);
    let pulling = {
        let store = store.clone();
        tokio::spawn(async move { store.pull(&name, &PullOptions::default()).await })
    };
    host_kernel::blocking_value(move || was_requested.recv().unwrap())
        .await
        .unwrap();
    let begun = || {
        fs::read_dir(directory.path().join("temporary"))
            .unwrap()
            .count()
    };
    assert_eq!(begun(), 1);
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    assert_eq!(begun(), 0);
    drop(stay);
}

fn wait_for(path: &Path) {
    for _ in 0..30_000 {
        if path.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    panic!("{} never was there", path.display());
}
