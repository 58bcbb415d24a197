//! What hostile or unlucky images and registries must not be able to do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use image_store::{ImageConfig, ImageStore, PullOptions};
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

/// An archive of raw entries, hostile names and all.
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

/// Unpacks a layer by way of a built-in image; gives its directory.
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

#[test]
fn attributes_may_contain_any_byte() {
    let (_directory, store) = store();
    // A line feed is two capabilities' bits as well.
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
    assert!(
        unpacked(
            &store,
            Layer::default().pax("path", b"../escape").file("x", "x")
        )
        .is_err()
    );
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

/// Answers one after the other; may fail first, and may call back at a path.
struct Registry {
    host: String,
    failures: Arc<AtomicU32>,
}

type Blobs = Vec<(String, Vec<u8>)>;
type CallBack = Box<dyn Fn(&str) + Send>;

fn registry(blobs: Blobs, call_back: CallBack) -> Registry {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let failures = Arc::new(AtomicU32::new(0));
    let (failing, call_back) = (Arc::clone(&failures), Mutex::new(call_back));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            let mut header = String::new();
            while reader.read_line(&mut header).is_ok_and(|count| count > 2) {
                header.clear();
            }
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            call_back.lock().unwrap()(&path);
            let busy = path != "/v2/"
                && failing
                    .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok();
            let found = blobs.iter().find(|(name, _)| path.ends_with(name.as_str()));
            let (status, body): (_, &[u8]) = match (busy, found) {
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
            // A client may have gone away.
            stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body))
                .ok();
        }
    });
    Registry { host, failures }
}

/// An image of (archive, as it is sent) pairs.
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

fn tls_provider() {
    // The program does this at its start.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
}

#[tokio::test]
async fn layers_of_several_zstd_frames_are_whole() {
    tls_provider();
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

#[tokio::test]
async fn a_registry_that_hiccups_is_asked_again() {
    tls_provider();
    let (_directory, store) = store();
    let plain = Layer::default().file("a", "x").finish();
    let registry = registry(image(&[(plain.clone(), plain)]), Box::new(|_| {}));
    registry.failures.store(2, Ordering::Relaxed);
    let name = format!("{}/app:1", registry.host);
    store.pull(&name, &PullOptions::default()).await.unwrap();
}

#[tokio::test]
async fn clearing_up_during_a_pull_takes_nothing_that_the_pull_needs() {
    tls_provider();
    let (directory, store) = store();
    let first = Layer::default().file("first", "x").finish();
    let second = Layer::default().file("second", "y").finish();
    let (wanted, path) = (digest(&second), directory.path().to_owned());
    let blobs = image(&[(first.clone(), first.clone()), (second.clone(), second)]);
    let first = digest(&first);
    // When the second layer is asked for, somebody removes what no image names.
    let cleared = AtomicU32::new(0);
    let clear = move |asked: &str| {
        if asked.ends_with(&wanted) && cleared.fetch_add(1, Ordering::Relaxed) == 0 {
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

fn wait_for(path: &Path) {
    for _ in 0..500 {
        if path.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
