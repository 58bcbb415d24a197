//! Registries that require credentials, that never end their responses, or that are slow.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image_store::{
    Credentials, Image, ImageStore, MinimumSpeed, PullError, PullOptions, PullSecret, SecretName,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn digest(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The response of a registry.
#[derive(Clone)]
struct TestResponse {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

#[derive(Clone)]
enum Body {
    Whole(Vec<u8>),
    /// A response that states a length, which is at least the length of the first chunk.
    Promised(u64),
    /// A response that continues until the client disconnects.
    Endless,
    /// A response that is sent byte by byte, slowly.
    Trickle(Vec<u8>),
}

impl TestResponse {
    fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: Body::Whole(body.into()),
        }
    }

    fn with(mut self, header: &'static str, value: &str) -> Self {
        self.headers.push((header, value.to_owned()));
        self
    }
}

/// A request: the path with its query, and the credentials.
struct TestRequest {
    path: String,
    authorization: String,
}

type Respond = dyn Fn(&TestRequest) -> Option<TestResponse> + Send + Sync;

/// A registry whose responses are returned by a function; if it returns none, the part of the image is
/// sent.
struct Registry {
    host: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    fn new(
        parts: BTreeMap<String, Vec<u8>>,
        respond: impl Fn(&TestRequest) -> Option<TestResponse> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, respond): (_, Arc<Respond>) = (Arc::clone(&requests), Arc::new(respond));
        let parts = Arc::new(parts);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, respond, parts) = (log.clone(), respond.clone(), parts.clone());
                std::thread::spawn(move || serve(stream, &log, &*respond, &parts));
            }
        });
        Self { host, requests }
    }

    async fn pull(&self, store: &ImageStore, options: &PullOptions) -> Result<Image, PullError> {
        let name = format!("{}/app:1", self.host);
        store.pull(&name, options).await
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Responds to one request and closes the connection.
fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<String>>,
    respond: &Respond,
    parts: &BTreeMap<String, Vec<u8>>,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let mut authorization = String::new();
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            value.clone_into(&mut authorization);
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    if path == "/v2/" {
        let greeting = "HTTP/1.1 200 x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
        // A client that disconnects needs no more data.
        stream.write_all(greeting.as_bytes()).ok();
        return;
    }
    log.lock().unwrap().push(path.clone());
    let request = TestRequest {
        path,
        authorization,
    };
    let response = respond(&request).unwrap_or_else(|| {
        let part = parts
            .iter()
            .find(|(name, _)| request.path.ends_with(name.as_str()));
        part.map_or_else(
            || TestResponse {
                status: 404,
                ..TestResponse::ok("")
            },
            |(_, bytes)| TestResponse::ok(bytes.clone()),
        )
    });
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", response.status);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = match &response.body {
        Body::Whole(bytes) | Body::Trickle(bytes) => Some(bytes.len() as u64),
        Body::Promised(length) => Some(*length),
        Body::Endless => None,
    };
    if let Some(length) = length {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    head.push_str("\r\n");
    // A client that disconnects needs no more data.
    let mut send = |bytes: &[u8]| stream.write_all(bytes).is_ok();
    if !send(head.as_bytes()) {
        return;
    }
    match response.body {
        Body::Whole(bytes) => {
            send(&bytes);
        }
        Body::Trickle(bytes) => {
            let mut pieces = bytes.chunks(1);
            while pieces.next().is_some_and(&mut send) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Body::Promised(_) | Body::Endless => while send(&[b' '; 1 << 16]) {},
    }
}

/// The parts of an image with one layer, by the end of their path.
fn image() -> BTreeMap<String, Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    builder.append_data(&mut header, "file", &b"x"[..]).unwrap();
    let layer = builder.into_inner().unwrap();
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let config = json!({"architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
    let config = config.to_string().into_bytes();
    let part = |bytes: &[u8]| -> Value {
        json!({"mediaType": "x", "digest": digest(bytes), "size": bytes.len()})
    };
    let manifest = json!({"schemaVersion": 2, "config": part(&config), "layers": [part(&layer)]});
    BTreeMap::from([
        ("/manifests/1".to_owned(), manifest.to_string().into_bytes()),
        (digest(&config), config),
        (digest(&layer), layer),
    ])
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    (directory, store)
}

fn nothing_is_left(directory: &Path) {
    for part in ["layers", "temporary"] {
        let count = std::fs::read_dir(directory.join(part)).unwrap().count();
        assert_eq!(count, 0, "{part}");
    }
}

/// A registry that issues tokens to clients with the password. The realm is the registry itself.
fn with_tokens(token: TestResponse) -> Registry {
    let realm = Arc::new(Mutex::new(String::new()));
    let shared_realm = Arc::clone(&realm);
    let registry = Registry::new(image(), move |request: &TestRequest| {
        if request.path.starts_with("/token?") {
            // The base64 form of `me:secret`.
            let knows = request.authorization == "Basic bWU6c2VjcmV0";
            let refused = TestResponse {
                status: 401,
                ..TestResponse::ok("")
            };
            return Some(if knows { token.clone() } else { refused });
        }
        let realm = shared_realm.lock().unwrap();
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        let refused = TestResponse {
            status: 401,
            ..TestResponse::ok("")
        };
        let refused = refused.with("www-authenticate", &challenge);
        (request.authorization != "Bearer t").then_some(refused)
    });
    *realm.lock().unwrap() = format!("http://{}/token", registry.host);
    registry
}

fn me(password: &str) -> PullOptions {
    with_secret(
        "team",
        Credentials::Basic {
            username: "me".to_owned(),
            password: password.to_owned(),
        },
    )
}

fn with_secret(namespace: &str, credentials: Credentials) -> PullOptions {
    let holder = SecretName {
        namespace: namespace.to_owned(),
        name: "pull".to_owned(),
        uid: format!("uid-{namespace}"),
    };
    let secret = PullSecret {
        credentials,
        holder,
    };
    PullOptions {
        secrets: vec![secret],
        ..PullOptions::default()
    }
}

#[tokio::test]
async fn tokens_are_given_to_those_who_log_in() {
    let (_directory, store) = store();
    let registry = with_tokens(TestResponse::ok(r#"{"access_token": "t"}"#));
    for stranger in [PullOptions::default(), me("wrong")] {
        let error = registry.pull(&store, &stranger).await.unwrap_err();
        assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
    }
    let mut mine = me("secret");
    // The valid secret need not be the first one.
    mine.secrets.insert(0, me("wrong").secrets.remove(0));
    registry.pull(&store, &mine).await.unwrap();
    let requests = registry.requests();
    let tokens = requests.iter().filter(|path| path.starts_with("/token?"));
    let expected = "/token?scope=repository%3Aapp%3Apull&service=s";
    assert!(tokens.clone().all(|path| path == expected), "{requests:?}");
    assert_eq!(tokens.count(), 4, "one is enough for a pull: {requests:?}");
}

/// findings S20
#[tokio::test]
async fn an_image_is_for_those_who_have_shown_a_secret_or_for_all_if_none_was_needed() {
    let (_directory, store) = store();
    let registry = with_tokens(TestResponse::ok(r#"{"access_token": "t"}"#));
    let name = format!("{}/app:1", registry.host);
    let mine = me("secret");
    registry.pull(&store, &mine).await.unwrap();
    assert!(store.may_use(&name, &mine.secrets).unwrap());
    assert!(!store.may_use(&name, &[]).unwrap());
    // By the image's digest, under another repository's name, the image is not available to the pods.
    let digest = store.get(&name).unwrap().unwrap().digest;
    let elsewhere = format!("elsewhere.example/app@{digest}");
    assert!(store.get(&elsewhere).unwrap().is_some());
    assert!(!store.may_use(&elsewhere, &mine.secrets).unwrap());
    // A failed attempt changes nothing. A second secret is added to the first one.
    registry.pull(&store, &me("wrong")).await.unwrap_err();
    let mut second = me("secret");
    second.secrets[0].holder.namespace = "other".to_owned();
    registry.pull(&store, &second).await.unwrap();
    let rotated = with_secret("team", Credentials::Bearer("new".to_owned()));
    assert!(store.may_use(&name, &rotated.secrets).unwrap());
    let open = Registry::new(image(), |_| None);
    open.pull(&store, &PullOptions::default()).await.unwrap();
    assert!(store.may_use(&format!("{}/app:1", open.host), &[]).unwrap());
}

/// findings S19: if a service of the node is no registry, only `/v2/` is requested from it. The error
/// contains neither its response nor whether a service responds.
#[tokio::test]
async fn what_is_no_registry_on_the_node_is_not_asked_and_not_told() {
    let (_directory, store) = store();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (sender, requests) = std::sync::mpsc::channel();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = String::new();
        BufReader::new(stream.try_clone().unwrap())
            .read_line(&mut first)
            .unwrap();
        sender.send(first).unwrap();
        let reply = "HTTP/1.1 200 x\r\nconnection: close\r\ncontent-length: 6\r\n\r\nsecret";
        stream.write_all(reply.as_bytes()).unwrap();
    });
    let pull = || async {
        let name = format!("{host}/app:1");
        let error = store.pull(&name, &PullOptions::default()).await;
        error.unwrap_err().to_string()
    };
    let error = pull().await;
    service.join().unwrap();
    assert!(requests.recv().unwrap().starts_with("GET /v2/ "));
    assert!(requests.recv().is_err(), "it was asked once");
    assert!(error.ends_with("does not answer as a registry"), "{error}");
    // No program listens at the port now.
    assert_eq!(pull().await, error);
    let anyone = PullOptions::default();
    let link = store.pull("169.254.169.254/x:1", &anyone).await;
    let error = link.unwrap_err().to_string();
    assert!(error.contains("may not reach"), "{error}");
}

/// findings S19
#[tokio::test]
async fn a_registry_sends_nobody_to_the_nodes_services() {
    let (_directory, store) = store();
    let inner = Registry::new(image(), |_| None);
    let moved = format!("http://{}/v2/app/manifests/1", inner.host);
    let sends = Registry::new(BTreeMap::new(), move |_| {
        let moved = TestResponse {
            status: 307,
            ..TestResponse::ok("")
        }
        .with("location", &moved);
        Some(moved)
    });
    sends
        .pull(&store, &PullOptions::default())
        .await
        .unwrap_err();
    assert_eq!(inner.requests(), [""; 0]);
    let realm = format!("Bearer realm=\"http://{}/token\"", inner.host);
    let tokens = Registry::new(BTreeMap::new(), move |_| {
        let refused = TestResponse {
            status: 401,
            ..TestResponse::ok("")
        };
        Some(refused.with("www-authenticate", &realm))
    });
    let error = tokens.pull(&store, &me("secret")).await.unwrap_err();
    assert!(error.to_string().contains("may not reach"), "{error}");
    assert_eq!(inner.requests(), [""; 0]);
    // A registry may redirect within itself, but not endlessly.
    let within = Registry::new(image(), |request| {
        let (path, count) = request
            .path
            .split_once("?n=")
            .unwrap_or((&request.path, "0"));
        let count: u32 = count.parse().unwrap();
        let most = if path.contains("/blobs/") { 100 } else { 2 };
        let next = format!("{path}?n={}", count + 1);
        let moved = TestResponse {
            status: 307,
            ..TestResponse::ok("")
        };
        (path.contains("/blobs/") && count < most).then(|| moved.with("location", &next))
    });
    within
        .pull(&store, &PullOptions::default())
        .await
        .unwrap_err();
    assert!(within.requests().len() < 40, "{:?}", within.requests());
}

#[tokio::test]
async fn a_password_is_shown_to_who_asks_for_it() {
    let (_directory, store) = store();
    let registry = Registry::new(image(), |request| {
        let refused = TestResponse {
            status: 401,
            ..TestResponse::ok("")
        };
        let refused = refused.with("www-authenticate", "Basic realm=\"x\"");
        (request.authorization != "Basic bWU6c2VjcmV0").then_some(refused)
    });
    registry.pull(&store, &me("wrong")).await.unwrap_err();
    registry.pull(&store, &me("secret")).await.unwrap();
    let bearer = |token: &str| with_secret("team", Credentials::Bearer(token.to_owned()));
    let error = registry.pull(&store, &bearer("t")).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
    let registry = with_tokens(TestResponse::ok("{}"));
    registry.pull(&store, &bearer("t")).await.unwrap();
}

#[tokio::test]
async fn answers_without_an_end_are_not_read_to_the_end() {
    let (directory, store) = store();
    let endless = |body: Body| TestResponse {
        body,
        ..TestResponse::ok("")
    };
    for body in [Body::Endless, Body::Promised(1 << 40)] {
        let manifest = endless(body.clone());
        let at = move |path: &'static str, response: TestResponse| {
            Registry::new(image(), move |request| {
                request.path.contains(path).then(|| response.clone())
            })
        };
        let registry = at("/manifests/", manifest.clone());
        let error = registry.pull(&store, &PullOptions::default()).await;
        let error = error.unwrap_err().to_string();
        let expected = "its manifest is longer than the limit of 4194304 bytes";
        assert!(error.contains(expected), "{error}");

        let token = with_tokens(manifest.clone());
        let error = token.pull(&store, &me("secret")).await.unwrap_err();
        let error = error.to_string();
        let expected = "its token is longer than the limit of 262144 bytes";
        assert!(error.contains(expected), "{error}");

        // A response with an error cannot be endless either.
        let refusal = TestResponse {
            status: 400,
            ..manifest.clone()
        };
        let registry = at("/manifests/", refusal);
        let error = registry.pull(&store, &PullOptions::default()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("it answered 400"), "{error}");

        // The descriptor of a blob has its length; a longer blob does not match.
        for (part, bytes) in image() {
            if part.starts_with("sha256:") {
                let part: &'static str = part.leak();
                let mut longer = bytes;
                longer.push(0);
                for response in [manifest.clone(), TestResponse::ok(longer)] {
                    let registry = at(part, response);
                    let error = registry.pull(&store, &PullOptions::default()).await;
                    let error = error.unwrap_err();
                    let lies = matches!(error, PullError::DigestMismatch { .. });
                    assert!(lies, "{part}: {error}");
                }
            }
        }
    }
    nothing_is_left(directory.path());
}

#[tokio::test]
async fn a_manifest_is_what_the_registry_says_it_is() {
    let (directory, store) = store();
    let parts = image();
    let manifest = parts["/manifests/1"].clone();
    let registry_with = |digest_header: String| {
        let manifest = manifest.clone();
        Registry::new(parts.clone(), move |request| {
            let response =
                TestResponse::ok(manifest.clone()).with("docker-content-digest", &digest_header);
            request.path.ends_with("/manifests/1").then_some(response)
        })
    };
    let lying = registry_with(digest(b"another"));
    let error = lying.pull(&store, &PullOptions::default()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, PullError::DigestMismatch { .. }), "{error}");
    nothing_is_left(directory.path());
    for digest_header in [digest(&manifest), "sha512:00".to_owned()] {
        let honest = registry_with(digest_header);
        honest.pull(&store, &PullOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_registry_that_trickles_is_given_up() {
    let (directory, store) = store();
    let options = PullOptions {
        minimum_speed: MinimumSpeed {
            // The window is longer than a busy machine needs for the small parts, which are sent at once.
            window: Duration::from_secs(3),
            bytes_min: 1 << 20,
        },
        ..PullOptions::default()
    };
    for (part, bytes) in image() {
        // The manifest is slow, too, and so are the parts that it names; the small parts never end.
        let mut slowly = bytes.clone();
        if part.starts_with('/') {
            slowly.resize(1 << 20, b' ');
        }
        let at = part.clone();
        let registry = Registry::new(image(), move |request| {
            let response = TestResponse {
                body: Body::Trickle(slowly.clone()),
                ..TestResponse::ok("")
            };
            request.path.ends_with(&at).then_some(response)
        });
        let error = registry.pull(&store, &options).await.unwrap_err();
        assert!(
            matches!(error, PullError::TooSlow { .. }),
            "{part}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains("is too slow: "), "{text}");
        assert!(text.contains("where 1 MiB are the least"), "{text}");
        let requests = registry.requests();
        let times = requests.iter().filter(|path| path.ends_with(&part)).count();
        assert_eq!(
            times, 1,
            "who is slow is not asked again at once: {requests:?}"
        );
    }
    nothing_is_left(directory.path());
    let registry = Registry::new(image(), |_| None);
    registry.pull(&store, &options).await.unwrap();
    assert!(options.progress.bytes() > 0);
}
