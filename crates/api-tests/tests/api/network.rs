//! Over real sockets: TLS, client certificates, tokens, limits, shutdown.

use std::sync::Arc;
use std::time::Duration;

use certificates::{Authority, Identity, SubjectAltNames};
use kube_api_server::{Limits, TlsMaterial};
use mvcc_store::embedded::EmbeddedStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::harness::{Api, PODS, pod};

/// A server with a listener.
pub struct Served {
    /// The directory of the authority's keys.
    pub dir: tempfile::TempDir,
    pub authority: Authority,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<Result<(), kube_api_server::ServeError>>,
    pub api: Api,
}

impl Served {
    pub async fn new(limits: Limits) -> Self {
        Self::over(EmbeddedStore::in_memory(), limits).await
    }

    pub async fn over(store: Arc<EmbeddedStore>, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let names = SubjectAltNames::api_server("localhost", [address.ip()]);
        let identity = authority.server(&names).unwrap();
        let tls = TlsMaterial {
            certificate_pem: identity.certificate_pem().to_owned(),
            key_pem: identity.key_pem().to_owned(),
            client_ca_pem: authority.ca_pem().to_owned(),
        };
        let api = Api::over(store, limits, Some(tls)).await;
        let stop = CancellationToken::new();
        let (server, token) = (api.server.clone(), stop.clone());
        let done = tokio::spawn(async move { server.serve(listener, token).await });
        Self {
            dir,
            authority,
            address,
            stop,
            done,
            api,
        }
    }

    pub fn admin(&self) -> Identity {
        self.authority
            .client("mainstay-admin", &["system:masters"])
            .unwrap()
    }

    pub async fn connect(&self, identity: Option<&Identity>) -> TlsStream<TcpStream> {
        let pems = identity.map(|identity| (identity.certificate_pem(), identity.key_pem()));
        self.connect_with(pems, &[]).await
    }

    /// Connects with a certificate and its key as PEM, and negotiates one of these protocols.
    pub async fn connect_with(
        &self,
        identity: Option<(&str, &str)>,
        protocols: &[&str],
    ) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.ca_pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(chain.collect::<Result<_, _>>().unwrap(), key)
                    .unwrap()
            }
        };
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }

    /// Sends text and returns all received bytes until the server closes the connection.
    pub async fn talk(&self, identity: Option<&Identity>, text: &str) -> String {
        let stream = self.connect(identity).await;
        Self::talk_over(stream, text.as_bytes()).await
    }

    /// Sends a request over an existing connection.
    pub async fn talk_over(mut stream: TlsStream<TcpStream>, bytes: &[u8]) -> String {
        stream.write_all(bytes).await.unwrap();
        let mut response = Vec::new();
        let reading = stream.read_to_end(&mut response);
        // A TLS connection that was closed without a close message is accepted here.
        let _result = tokio::time::timeout(Duration::from_secs(240), reading)
            .await
            .unwrap();
        String::from_utf8_lossy(&response).into_owned()
    }
}

pub fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
}

#[tokio::test]
async fn a_server_with_other_addresses_shows_another_certificate_and_keeps_its_connections() {
    let served = Served::new(Limits::default()).await;
    let before = served.connect(None).await;
    let presented = |stream: &TlsStream<TcpStream>| {
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        chain[0].to_vec()
    };
    let names = SubjectAltNames::api_server("localhost", ["192.0.2.7".parse().unwrap()]);
    let identity = served.authority.server(&names).unwrap();
    let (certificate, key) = (identity.certificate_pem(), identity.key_pem());
    served
        .api
        .server
        .show_certificate(certificate, key)
        .unwrap();
    let after = served.connect(None).await;
    assert_ne!(presented(&before), presented(&after));
    let expected = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    assert_eq!(presented(&after), expected.to_vec());
    for stream in [before, after] {
        let response = Served::talk_over(stream, get("/livez", "").as_bytes()).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }
    let broken = served.api.server.show_certificate("nonsense", key);
    assert!(broken.is_err());
    served.connect(None).await;
}

#[tokio::test]
async fn only_those_who_are_known_get_beyond_health_and_version() {
    let served = Served::new(Limits::default()).await;
    let pods = get("/api/v1/pods", "");
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        let response = served.talk(None, &get(path, "")).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{path}: {response}");
    }
    for path in [
        "/api",
        "/apis",
        "/openapi/v2",
        "/metrics",
        "/",
        "/api/v1/pods",
    ] {
        let response = served.talk(None, &get(path, "")).await;
        assert!(response.starts_with("HTTP/1.1 401"), "{path}: {response}");
        assert!(response.contains("\"message\":\"Unauthorized\""));
    }
    let response = served.talk(Some(&served.admin()), &pods).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("PodList"));
    let nobody = served.authority.client("nobody", &[]).unwrap();
    let response = served.talk(Some(&nobody), &pods).await;
    assert!(response.starts_with("HTTP/1.1 403"), "{response}");
    let other_dir = tempfile::tempdir().unwrap();
    let other = Authority::open_or_create(other_dir.path()).unwrap();
    let forged = other.client("mainstay-admin", &["system:masters"]).unwrap();
    let response = served.talk(Some(&forged), &pods).await;
    assert!(response.starts_with("HTTP/1.1 401"), "{response}");
}

#[tokio::test]
async fn tokens_are_accepted_and_wrong_ones_are_not() {
    let served = Served::new(Limits::default()).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    served
        .api
        .create(accounts, json_tree::json!({"metadata": {"name": "robot"}}))
        .await;
    let created = served
        .api
        .create(&format!("{accounts}/robot/token"), json_tree::json!({}))
        .await;
    let token = created["status"]["token"].as_str().unwrap();
    let with = |token: &str| {
        get(
            "/api/v1/pods",
            &format!("Authorization: Bearer {token}\r\n"),
        )
    };
    let response = served.talk(None, &with(token)).await;
    assert!(response.starts_with("HTTP/1.1 403"), "{response}");
    assert!(response.contains("system:serviceaccount:default:robot"));
    assert!(
        served
            .talk(None, &with("x.y.z"))
            .await
            .starts_with("HTTP/1.1 401")
    );
    let basic = get("/api/v1/pods", "Authorization: Basic eDp5\r\n");
    assert!(served.talk(None, &basic).await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn slow_and_cut_off_requests_end() {
    let limits = Limits {
        // Longer than the duration of a whole request on a busy machine.
        body_timeout: Duration::from_secs(3),
        header_timeout: Duration::from_secs(3),
        ..Limits::default()
    };
    let served = Served::new(limits).await;
    let head = "POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 100\r\n\r\n";
    let response = served
        .talk(Some(&served.admin()), &format!("{head}{{\"a\""))
        .await;
    assert!(response.starts_with("HTTP/1.1 408"), "{response}");
    assert!(response.contains("did not arrive within"));
    // A request head that never ends: the connection is closed, with or without a 408.
    let response = served
        .talk(Some(&served.admin()), "GET /api HTTP/1.1\r\nHost: x\r\n")
        .await;
    assert!(
        response.is_empty() || response.starts_with("HTTP/1.1 408"),
        "{response}"
    );
    // A connection is cut in the middle of a request; the server continues.
    let mut cut = served.connect(Some(&served.admin())).await;
    cut.write_all(head.as_bytes()).await.unwrap();
    drop(cut);
    assert!(
        served
            .talk(None, &get("/livez", ""))
            .await
            .starts_with("HTTP/1.1 200")
    );
    for nonsense in ["\0\x01\x02\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/9\r\n\r\n"] {
        let response = served.talk(None, nonsense).await;
        assert!(
            response.is_empty() || response.starts_with("HTTP/1.1 4"),
            "{response}"
        );
    }
}

#[tokio::test]
async fn too_many_watches_are_turned_away() {
    let served = Served::new(Limits {
        long_running_max: 1,
        ..Limits::default()
    })
    .await;
    let admin = served.admin();
    let mut first = served.connect(Some(&admin)).await;
    let watch = get("/api/v1/pods?watch=1", "");
    first.write_all(watch.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    first.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let second = served.talk(Some(&admin), &watch).await;
    assert!(second.starts_with("HTTP/1.1 429"), "{second}");
    assert!(second.to_lowercase().contains("retry-after: 1"));
    assert!(
        served
            .talk(Some(&admin), &get("/api/v1/pods", ""))
            .await
            .starts_with("HTTP/1.1 200")
    );
    drop(first);
    for _ in 0..3000 {
        let watch = get("/api/v1/pods?watch=1&timeoutSeconds=1", "");
        if served
            .talk(Some(&admin), &watch)
            .await
            .starts_with("HTTP/1.1 200")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place of a watch that ended is never given back");
}

#[tokio::test]
async fn one_client_does_not_take_all_places() {
    let served = Served::new(Limits {
        long_running_per_user_max: 1,
        ..Limits::default()
    })
    .await;
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    let role = json_tree::json!({"metadata": {"name": "watchers"},
        "rules": [{"verbs": ["watch"], "apiGroups": [""], "resources": ["pods"]}]});
    served
        .api
        .create(&format!("{roles}/clusterroles"), role)
        .await;
    let subject = |name: &str| {
        json_tree::json!({
            "kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"})
    };
    let binding = json_tree::json!({
        "metadata": {"name": "watchers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "watchers"},
        "subjects": [subject("greedy"), subject("modest")],
    });
    served
        .api
        .create(&format!("{roles}/clusterrolebindings"), binding)
        .await;
    let watch = get("/api/v1/pods?watch=1&timeoutSeconds=1", "");
    let [greedy, modest] = ["greedy", "modest"].map(|name| served.authority.client(name, &[]));
    let (greedy, modest) = (greedy.unwrap(), modest.unwrap());
    let long = get("/api/v1/pods?watch=1", "");
    let mut start = [0; 12];
    // The roles become effective a moment after their write.
    let _first = loop {
        let mut first = served.connect(Some(&greedy)).await;
        first.write_all(long.as_bytes()).await.unwrap();
        first.read_exact(&mut start).await.unwrap();
        if &start == b"HTTP/1.1 200" {
            break first;
        }
    };
    let second = served.talk(Some(&greedy), &watch).await;
    assert!(second.starts_with("HTTP/1.1 429"), "{second}");
    let other = served.talk(Some(&modest), &watch).await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    let admin = served.talk(Some(&served.admin()), &watch).await;
    assert!(admin.starts_with("HTTP/1.1 200"), "{admin}");
}

#[tokio::test]
async fn who_forgets_tls_is_told_so() {
    // The text is that of Go's server.
    let served = Served::new(Limits::default()).await;
    let mut plain = TcpStream::connect(served.address).await.unwrap();
    let request = get("/api", "");
    plain.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    plain.read_to_string(&mut response).await.unwrap();
    assert_eq!(
        response,
        "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    );
}

#[tokio::test]
async fn a_node_takes_over_the_connection_of_a_command() {
    // kubectl.md 5.1
    let served = Served::new(Limits::default()).await;
    served.api.with_account().await;
    served.api.create(PODS, pod("p")).await;
    let binding = json_tree::json!({"target": {"kind": "Node", "name": "n1"}});
    served
        .api
        .create(&format!("{PODS}/p/binding"), binding)
        .await;
    let request = format!(
        "GET {PODS}/p/exec?command=sh&stdin=true HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    let mut stream = served.connect(Some(&served.admin())).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    for word in [b"ping", b"pong"] {
        stream.write_all(word).await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, word);
    }
    // A user who may only read pods may not run commands in them.
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    let rules =
        json_tree::json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/exec"]}]);
    let role = json_tree::json!({"metadata": {"name": "look"}, "rules": rules});
    served
        .api
        .create(&format!("{roles}/clusterroles"), role)
        .await;
    let binding = json_tree::json!({
        "metadata": {"name": "look"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "look"},
        "subjects": [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}],
    });
    served
        .api
        .create(&format!("{roles}/clusterrolebindings"), binding)
        .await;
    let review = json_tree::json!({"spec": {"user": "eve", "resourceAttributes": {
        "verb": "get", "resource": "pods", "subresource": "exec", "namespace": "default"}}});
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    while served.api.create(reviews, review.clone()).await["status"]["allowed"] != true {
        tokio::task::yield_now().await;
    }
    let eve = served.authority.client("eve", &[]).unwrap();
    let refused = served
        .talk(Some(&eve), &request.replace("Upgrade\r\nUp", "close\r\nUp"))
        .await;
    assert!(
        refused.contains("cannot create resource \\\"pods/exec\\\""),
        "{refused}"
    );
}

#[tokio::test]
async fn shutdown_ends_watches_and_returns() {
    // The grace period is longer than the test.
    let limits = Limits {
        shutdown_grace: Duration::from_secs(3600),
        ..Limits::default()
    };
    let served = Served::new(limits).await;
    let mut watch = served.connect(Some(&served.admin())).await;
    watch
        .write_all(get("/api/v1/pods?watch=1", "").as_bytes())
        .await
        .unwrap();
    let mut start = [0; 12];
    watch.read_exact(&mut start).await.unwrap();
    served.stop.cancel();
    let done = tokio::time::timeout(Duration::from_secs(240), served.done);
    done.await.expect("it returns").unwrap().unwrap();
}

/// findings S24: connections without valid credentials are closed in favour of a connection with valid credentials.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_keep_the_places_of_others() {
    let limits = Limits {
        connections_max: 4,
        connections_per_address_max: 4,
        ..Limits::default()
    };
    let served = Served::new(limits).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(served.address).await.unwrap());
        silent.push(served.connect(None).await.into_inner().0);
    }
    let admin = served.admin();
    let request = get("/version", "");
    let response = served.talk(Some(&admin), &request).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    // Four authenticated connections hold all permits and are not closed.
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut stream = served.connect(Some(&admin)).await;
        let request = "GET /api HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        connections.push(stream);
    }
    let mut refused = served.connect(Some(&admin)).await;
    let mut rest = Vec::new();
    // The connection is closed, with or without a reset.
    let _result = refused.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    // findings-2 S39: connections of nodes have separate permits.
    let node = served.authority.client("system:node:n", &["system:nodes"]);
    let response = served.talk(Some(&node.unwrap()), &request).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    for stream in &mut connections {
        stream
            .write_all(get("/version", "").as_bytes())
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _result = stream.read_to_end(&mut rest).await;
        assert!(String::from_utf8_lossy(&rest).contains("gitVersion"));
    }
}
