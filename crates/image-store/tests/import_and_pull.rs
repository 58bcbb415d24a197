//! Complete images in the store: from archives, and from a small registry of this test that can send wrong
//! data.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use image_store::{ImageConfig, ImageStore, PullError, PullOptions, RegistriesConfig};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpSocket;

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn architecture() -> &'static str {
    if std::env::consts::ARCH == "x86_64" {
        "amd64"
    } else {
        "arm64"
    }
}

/// The blobs of an image with one gzip layer and one file; the manifest is last.
struct Built {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

fn build(text: &str, architecture: &str) -> Built {
    let plain = tar(&[("hello", text.as_bytes())]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&plain).unwrap();
    let layer = encoder.finish().unwrap();
    let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["hello"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&plain)]}});
    let config = config.to_string().into_bytes();
    let describe = |kind: &str, bytes: &[u8]| {
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest(bytes), "size": bytes.len()})
    };
    let manifest = json!({"schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", &config),
        "layers": [describe("layer.v1.tar+gzip", &layer)]});
    Built {
        layer,
        config,
        manifest: manifest.to_string().into_bytes(),
    }
}

fn hello(store: &ImageStore, name: &str) -> String {
    let image = store.get(name).unwrap().expect("the image is present");
    assert_eq!(image.config.cmd, ["hello"]);
    std::fs::read_to_string(image.layers[0].join("hello")).unwrap()
}

fn oci_archive(built: &Built, name: &str) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(&built.manifest), "size": built.manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": name}}]});
    let blob = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));
    tar(&[
        ("index.json", index.to_string().as_bytes()),
        (&blob(&built.manifest), &built.manifest),
        (&blob(&built.config), &built.config),
        (&blob(&built.layer), &built.layer),
    ])
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path().join("images")).unwrap();
    (directory, store)
}

fn import(store: &ImageStore, directory: &Path, bytes: &[u8]) -> Result<Vec<String>, String> {
    let file = directory.join("archive.tar");
    std::fs::write(&file, bytes).unwrap();
    store.import(&file).map_err(|error| error.to_string())
}

#[test]
fn an_oci_archive_is_imported() {
    let (directory, store) = store();
    let bytes = oci_archive(&build("one", architecture()), "app:1");
    let names = import(&store, directory.path(), &bytes).unwrap();
    assert_eq!(names, ["docker.io/library/app:1"]);
    assert_eq!(hello(&store, "app:1"), "one");
}

#[test]
fn an_archive_of_docker_save_is_imported() {
    let (directory, store) = store();
    let built = build("two", architecture());
    let manifest =
        json!([{"Config": "config.json", "RepoTags": ["app:2"], "Layers": ["l/layer.tar"]}]);
    let bytes = tar(&[
        ("manifest.json", manifest.to_string().as_bytes()),
        ("config.json", &built.config),
        ("l/layer.tar", &built.layer),
    ]);
    assert_eq!(
        import(&store, directory.path(), &bytes).unwrap(),
        ["docker.io/library/app:2"]
    );
    assert_eq!(hello(&store, "app:2"), "two");
}

/// findings A6: a chain of indexes with correct digests ends before the stack overflows.
#[test]
fn indexes_behind_indexes_are_bounded() {
    let (directory, store) = store();
    let built = build("deep", architecture());
    let chain = |length: usize| {
        let blob = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));
        let mut last = built.manifest.clone();
        let mut blobs = vec![built.layer.clone(), built.config.clone(), last.clone()];
        for _ in 0..length {
            let entry = json!({"digest": digest(&last), "size": last.len(),
                "platform": {"os": "linux", "architecture": architecture()}});
            let index = json!({"schemaVersion": 2, "manifests": [entry]});
            last = index.to_string().into_bytes();
            blobs.push(last.clone());
        }
        let index = json!({"schemaVersion": 2, "manifests": [{"digest": digest(&last),
            "size": last.len(), "annotations": {"org.opencontainers.image.ref.name": "deep:1"}}]});
        let index = index.to_string().into_bytes();
        let named: Vec<(String, &[u8])> = blobs.iter().map(|b| (blob(b), b.as_slice())).collect();
        let entries = named.iter().map(|(name, bytes)| (name.as_str(), *bytes));
        tar(&entries
            .chain([("index.json", index.as_slice())])
            .collect::<Vec<_>>())
    };
    let names = import(&store, directory.path(), &chain(7)).unwrap();
    assert_eq!(names, ["docker.io/library/deep:1"]);
    let refused = import(&store, directory.path(), &chain(3000)).unwrap_err();
    assert!(refused.contains("behind more than 8 others"), "{refused}");
}

#[test]
fn what_is_wrong_with_an_archive_is_said() {
    let (directory, store) = store();
    let import = |bytes: &[u8]| import(&store, directory.path(), bytes).unwrap_err();
    assert!(import(b"not a tar at all").contains("archive"));
    assert!(import(&tar(&[("x", b"y")])).contains("neither index.json"));
    let foreign = oci_archive(&build("x", "s390x"), "app:1");
    assert!(import(&foreign).contains("only for [linux/s390x]"));
    let mut built = build("x", architecture());
    let honest = built.layer.clone();
    built.layer = tar(&[("hello", b"evil")]);
    let mut bytes = oci_archive(&built, "app:1");
    // The wrong layer, under the digest of the correct layer.
    let (lie, name) = (digest(&built.layer), digest(&honest));
    let (lie, name) = (
        lie.trim_start_matches("sha256:"),
        name.trim_start_matches("sha256:"),
    );
    let at = bytes
        .windows(lie.len())
        .rposition(|window| window == lie.as_bytes())
        .unwrap();
    bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
    assert!(!import(&bytes).is_empty());
    assert!(store.list().unwrap().is_empty(), "nothing was kept");
}

/// Serves fixed bodies by path; all other paths return 404.
fn registry(paths: BTreeMap<String, (u16, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let paths = Arc::new(paths);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let paths = Arc::clone(&paths);
            std::thread::spawn(move || respond(stream, &paths));
        }
    });
    address
}

fn respond(mut stream: TcpStream, paths: &BTreeMap<String, (u16, Vec<u8>)>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                break;
            }
        }
        let path = first.split_whitespace().nth(1).unwrap_or("/");
        let path = path.split('?').next().unwrap_or(path);
        let missing = (
            404,
            b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}".to_vec(),
        );
        let (code, body) = match paths.get(path) {
            Some(response) => response,
            None if path == "/v2/" => &(200, Vec::new()),
            None => &missing,
        };
        let kind = serde_json::from_slice::<Value>(body)
            .ok()
            .and_then(|value| value["mediaType"].as_str().map(str::to_owned))
            .unwrap_or_else(|| "application/octet-stream".to_owned());
        let head = format!(
            "HTTP/1.1 {code} X\r\nContent-Length: {}\r\nContent-Type: {kind}\r\n\r\n",
            body.len()
        );
        if stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body))
            .is_err()
        {
            return;
        }
    }
}

fn served(built: &Built) -> BTreeMap<String, (u16, Vec<u8>)> {
    let blob = |bytes: &[u8]| format!("/v2/library/app/blobs/{}", digest(bytes));
    BTreeMap::from([
        (
            "/v2/library/app/manifests/1".to_owned(),
            (200, built.manifest.clone()),
        ),
        (blob(&built.config), (200, built.config.clone())),
        (blob(&built.layer), (200, built.layer.clone())),
    ])
}

fn options(directory: &Path, address: &str) -> PullOptions {
    let file = directory.join("registries.yaml");
    let text = format!("mirrors:\n  docker.io:\n    endpoint: [\"http://{address}\"]\n");
    std::fs::write(&file, text).unwrap();
    let registries = RegistriesConfig::read(&file).unwrap();
    PullOptions {
        registries,
        ..PullOptions::default()
    }
}

async fn pull(
    paths: BTreeMap<String, (u16, Vec<u8>)>,
) -> (tempfile::TempDir, ImageStore, Result<String, PullError>) {
    let (directory, store) = store();
    let options = options(directory.path(), &registry(paths));
    let result = store.pull("app:1", &options).await;
    let result = result
        .map(|image| std::fs::read_to_string(image.layers[0].join("hello")).unwrap_or_default());
    (directory, store, result)
}

#[tokio::test]
async fn an_image_is_pulled_from_a_mirror() {
    let (_directory, _, text) = pull(served(&build("three", architecture()))).await;
    assert_eq!(text.unwrap(), "three");
}

#[tokio::test]
async fn a_registry_that_lies_about_a_layer_is_found_out() {
    let built = build("x", architecture());
    let mut paths = served(&built);
    let lie = build("evil", architecture()).layer;
    paths.insert(
        format!("/v2/library/app/blobs/{}", digest(&built.layer)),
        (200, lie),
    );
    let (_directory, store, result) = pull(paths).await;
    assert!(
        matches!(result, Err(PullError::DigestMismatch { .. })),
        "{result:?}"
    );
    assert!(store.list().unwrap().is_empty() && store.layers().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (_directory, _, result) = pull(BTreeMap::new()).await;
    assert!(
        matches!(result, Err(PullError::NotFound { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn an_image_for_other_machines_is_refused() {
    let (_directory, _, result) = pull(served(&build("x", "s390x"))).await;
    assert!(
        matches!(result, Err(PullError::WrongPlatform { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_registry_that_is_down_cannot_be_reached() {
    let (directory, store) = store();
    // The socket is bound so that no other program listens at the port.
    let unused = TcpSocket::new_v4().unwrap();
    unused.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = unused.local_addr().unwrap().to_string();
    let options = options(directory.path(), &closed);
    let result = store.pull(&format!("{closed}/app:1"), &options).await;
    assert!(
        matches!(result, Err(PullError::Unreachable { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn an_image_made_here_needs_no_registry() {
    let (_directory, store) = store();
    let layer = tar(&[("hello", b"four")]);
    let config = ImageConfig {
        cmd: vec!["hello".to_owned()],
        ..ImageConfig::default()
    };
    store
        .put_builtin("mainstay/hello", &layer, &config, "f")
        .unwrap();
    let image = store
        .pull("mainstay/hello", &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(image.references, ["docker.io/mainstay/hello:latest"]);
}
