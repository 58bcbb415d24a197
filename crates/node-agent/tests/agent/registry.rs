//! A registry with a few images (OCI distribution specification).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use json_tree::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The response bodies by path.
type Pages = BTreeMap<String, Vec<u8>>;

/// A registry that serves images until it is dropped.
pub struct Registry {
    address: SocketAddr,
    pages: Arc<Mutex<Pages>>,
    task: JoinHandle<()>,
}

impl Registry {
    /// Serves images by name, with the listed layers and the tag 1.
    pub async fn start(images: &[(&str, Vec<Vec<u8>>)]) -> Self {
        let mut pages = Pages::from([("/v2/".to_owned(), Vec::new())]);
        for (name, layers) in images {
            add(&mut pages, name, layers);
        }
        let pages = Arc::new(Mutex::new(pages));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = pages.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(respond(stream, served.clone()));
            }
        });
        Self {
            address,
            pages,
            task,
        }
    }

    /// Changes the image of the tag to an image with these layers.
    pub fn put(&self, image: &str, layers: &[Vec<u8>]) {
        add(&mut self.pages.lock().unwrap(), image, layers);
    }

    /// The name of an image without its tag.
    pub fn repository(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// The name of an image with its tag.
    pub fn name(&self, image: &str) -> String {
        format!("{}:1", self.repository(image))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn digest(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn add(pages: &mut Pages, name: &str, layers: &[Vec<u8>]) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config = json!({"architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let mut blob = |media_type: &str, bytes: &[u8]| {
        let digest = digest(bytes);
        pages.insert(format!("/v2/{name}/blobs/{digest}"), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let config = blob(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| blob("application/vnd.oci.image.layer.v1.tar", layer))
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
        "layers": layers});
    let bytes = manifest.to_string().into_bytes();
    pages.insert(format!("/v2/{name}/manifests/1"), bytes);
}

/// The head of a request; `None` if the client disconnects.
pub async fn request_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// Responds to one request and closes the connection.
async fn respond(mut stream: TcpStream, pages: Arc<Mutex<Pages>>) {
    let Some(head) = request_head(&mut stream).await else {
        return;
    };
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next());
    let page = path.and_then(|path| pages.lock().unwrap().get(path).cloned());
    let status = if page.is_some() {
        "200 OK"
    } else {
        "404 Not Found"
    };
    let body = page.unwrap_or_default();
    let kind = match path.is_some_and(|path| path.contains("/manifests/")) {
        true => MANIFEST,
        false => "application/octet-stream",
    };
    let reply = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    // A client that disconnects needs no more data.
    if stream.write_all(reply.as_bytes()).await.is_ok() && method != "HEAD" {
        stream.write_all(&body).await.ok();
    }
    stream.shutdown().await.ok();
}
