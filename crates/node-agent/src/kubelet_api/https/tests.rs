//! Tests of the listener with real clients, and with an API server that has one token and a few rights.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use certificates::{Authority, SubjectAltNames};
use http::{HeaderValue, StatusCode, header};
use http_body_util::{Empty, Full};
use json_tree::{Value, json};
use kube_api_client::Client;
use outbound_http::tls::{self, Roots, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::DropGuard;

use super::super::response::text;
use super::*;

/// Time limit of a step. A machine under load is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The user, the verb, and the subresource of the node `n1`.
const RIGHTS: [(&str, &str, &str); 5] = [
    ("narrow", "get", "pods"),
    ("old", "get", "proxy"),
    ("monitor", "get", "metrics"),
    ("operator", "create", "proxy"),
    ("operator", "get", "proxy"),
];

type Reviews = Arc<Mutex<Vec<Value>>>;

/// The API server. It records the SubjectAccessReviews, and fails for the user `unlucky`.
fn api(reviews: Reviews) -> Client {
    let service = tower::service_fn(move |request: Request<kube_api_client::Body>| {
        let reviews = reviews.clone();
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            let mut code = StatusCode::CREATED;
            if path == "/apis/authentication.k8s.io/v1/tokenreviews" {
                let is_valid = review["spec"]["token"] == "good";
                let user = json!({"username": "monitor", "uid": "7", "groups": ["g"],
                    "extra": {"example.com/by": ["test"]}});
                // A response may name the user of an invalid token.
                review["status"] = json!({"authenticated": is_valid, "user": user});
            } else {
                assert_eq!(path, "/apis/authorization.k8s.io/v1/subjectaccessreviews");
                let spec = &review["spec"];
                let attributes = &spec["resourceAttributes"];
                let is_allowed = RIGHTS.iter().any(|(user, verb, subresource)| {
                    spec["user"] == *user
                        && attributes["verb"] == *verb
                        && attributes["subresource"] == *subresource
                        && attributes["resource"] == "nodes"
                        && attributes["name"] == "n1"
                });
                if spec["user"] == "unlucky" {
                    code = StatusCode::INTERNAL_SERVER_ERROR;
                }
                reviews.lock().unwrap().push(spec.clone());
                review["status"] = json!({"allowed": is_allowed});
            }
            let mut response = Response::new(Full::new(Bytes::from(review.to_string())));
            *response.status_mut() = code;
            Ok::<_, Infallible>(response)
        }
    });
    Client::new(service, "default")
}

/// A service that responds with the path of the request, and that echoes after an upgrade.
fn echo() -> NodeService {
    NodeService::new(tower::service_fn(
        |mut request: Request<BoxBody>| async move {
            if !request.headers().contains_key(header::UPGRADE) {
                return Ok::<_, BoxError>(text(request.uri().path().to_owned()));
            }
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(&word).await.unwrap();
                stream.shutdown().await.unwrap();
            });
            let mut response = text(String::new());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let to = HeaderValue::from_static("test");
            response.headers_mut().insert(header::UPGRADE, to);
            let connection = HeaderValue::from_static("upgrade");
            response
                .headers_mut()
                .insert(header::CONNECTION, connection);
            Ok(response)
        },
    ))
}

struct Node {
    address: SocketAddr,
    authority: Authority,
    certificate: watch::Sender<Option<ServingCertificate>>,
    reviews: Reviews,
    stop: DropGuard,
    _dir: tempfile::TempDir,
}

fn new_authority() -> (Authority, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Authority::open_or_create(dir.path()).unwrap(), dir)
}

/// A server certificate for 127.0.0.1 and the DNS name `name`.
fn serving(authority: &Authority, name: &str) -> ServingCertificate {
    let names = SubjectAltNames::api_server(name, []);
    let identity = authority.server(&names).unwrap();
    ServingCertificate::of_pem(identity.certificate_pem(), identity.key_pem()).unwrap()
}

impl Node {
    async fn start() -> Self {
        Self::start_up_to(CONNECTIONS_MAX).await
    }

    async fn start_up_to(max: ConnectionLimits) -> Self {
        let (authority, dir) = new_authority();
        let certificate = watch::Sender::new(Some(serving(&authority, "first")));
        let mut settings = KubeletApi {
            listen: ([127, 0, 0, 1], 0).into(),
            client_ca_pem: authority.ca_pem().to_owned(),
            certificate: certificate.subscribe(),
            is_needed: true,
        };
        let reviews = Reviews::default();
        let access = KubeletAuthorizer::new("n1", api(reviews.clone()));
        let server = HttpsServer::bind(&mut settings, access).await.unwrap();
        assert_ne!(settings.listen.port(), 0);
        let stop = CancellationToken::new();
        tokio::spawn(server.serve_up_to(max, echo(), stop.clone()));
        Self {
            address: settings.listen,
            authority,
            certificate,
            reviews,
            stop: stop.drop_guard(),
            _dir: dir,
        }
    }

    fn identity(authority: &Authority, user: &str) -> tls::Identity {
        let identity = authority.client(user, &["team"]).unwrap();
        let (certificate, key) = (identity.certificate_pem(), identity.key_pem());
        tls::Identity::of_pem(certificate.as_bytes(), key.as_bytes()).unwrap()
    }

    /// Sends a request over a new connection.
    async fn send(
        &self,
        trusted: &Authority,
        identity: Option<tls::Identity>,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<outbound_http::Body>, BoxError> {
        let roots = Roots::none().with_pem(trusted.ca_pem().as_bytes())?;
        let config = tls::client(Trust::Roots(roots), identity)?;
        let response = async {
            let stream = outbound_http::connect(self.address, PATIENCE).await?;
            let stream = tls::handshake(stream, "127.0.0.1", config).await?;
            Ok(outbound_http::exchange(stream, request).await?)
        };
        tokio::time::timeout(PATIENCE, response).await?
    }

    /// The status code and the body of a response to a user with a certificate, or to a client without a
    /// certificate.
    async fn response_to(&self, user: &str, request: Request<Empty<Bytes>>) -> (u16, String) {
        let identity = (!user.is_empty()).then(|| Self::identity(&self.authority, user));
        let response = self.send(&self.authority, identity, request).await;
        let response = response.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = path.parse().unwrap();
    let host = HeaderValue::from_static("n1");
    request.headers_mut().insert(header::HOST, host);
    request
}

fn with_authorization(path: &str, value: &'static str) -> Request<Empty<Bytes>> {
    let mut request = get(path);
    let value = HeaderValue::from_static(value);
    request.headers_mut().insert(header::AUTHORIZATION, value);
    request
}

#[tokio::test]
async fn anonymous_requests_are_rejected() {
    let node = Node::start().await;
    assert_eq!(node.response_to("", get("/healthz")).await.0, 401);
    for authorization in ["Bearer bad", "Bearer", "Bearer  ", "Basic Z29vZA==", "good"] {
        let (code, body) = node
            .response_to("", with_authorization("/healthz", authorization))
            .await;
        assert_eq!(code, 401, "{authorization}");
        let status: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status["reason"], "Unauthorized", "{body}");
    }
    assert_eq!(*node.reviews.lock().unwrap(), Vec::<Value>::new());
}

// KEP-2862
#[tokio::test]
async fn each_request_needs_its_right() {
    let node = Node::start().await;
    for (user, path, code) in [
        ("narrow", "/pods", 200),
        ("narrow", "/containerLogs/n/p/c", 403),
        ("narrow", "/healthz", 403),
        ("old", "/pods", 200),
        ("old", "/healthz", 200),
        ("old", "/containerLogs/n/p/c", 200),
        ("old", "/metrics", 403),
        ("old", "/exec/n/p/c", 403),
        ("nobody", "/pods", 403),
        ("operator", "/pods", 200),
        ("unlucky", "/pods", 500),
    ] {
        let (actual_code, body) = node.response_to(user, get(path)).await;
        assert_eq!(actual_code, code, "{user} {path} {body}");
        if code == 200 {
            assert_eq!(body, path);
        }
    }
    let (_, body) = node.response_to("nobody", get("/pods")).await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["reason"], "Forbidden");
    let message = r#"user "nobody" needs the right to get nodes/pods or nodes/proxy of node "n1""#;
    assert_eq!(status["message"], message);
    let spec = node.reviews.lock().unwrap().last().cloned().unwrap();
    assert_eq!(spec["groups"], json!(["team", "system:authenticated"]));
    let mut options = get("/pods");
    *options.method_mut() = http::Method::OPTIONS;
    assert_eq!(node.response_to("operator", options).await.0, 405);
}

#[tokio::test]
async fn a_token_is_reviewed() {
    let node = Node::start().await;
    let metrics = || with_authorization("/metrics", "bearer good");
    assert_eq!(
        node.response_to("", metrics()).await,
        (200, "/metrics".to_owned())
    );
    let spec = node.reviews.lock().unwrap().last().cloned().unwrap();
    assert_eq!(spec["user"], "monitor");
    assert_eq!(
        (&spec["uid"], &spec["groups"]),
        (&json!("7"), &json!(["g"]))
    );
    assert_eq!(spec["extra"], json!({"example.com/by": ["test"]}));
    let logs = with_authorization("/logs/", "Bearer good");
    assert_eq!(node.response_to("", logs).await.0, 403);
    // The certificate has priority over the token.
    assert_eq!(node.response_to("nobody", metrics()).await.0, 403);
}

#[tokio::test]
async fn connections_are_upgraded() {
    let node = Node::start().await;
    let mut exec = get("/exec/n/p/c");
    let protocol = HeaderValue::from_static("test");
    exec.headers_mut().insert(header::UPGRADE, protocol);
    let connection = HeaderValue::from_static("upgrade");
    exec.headers_mut().insert(header::CONNECTION, connection);
    let identity = Node::identity(&node.authority, "operator");
    let mut response = node
        .send(&node.authority, Some(identity), exec)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    let mut stream = TokioIo::new(upgraded);
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = Vec::new();
    let result = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut echoed)).await;
    result.unwrap().unwrap();
    assert_eq!(echoed, b"ping");
}

#[tokio::test]
async fn strangers_do_not_get_through_the_handshake() {
    let node = Node::start().await;
    let (other_authority, _dir) = new_authority();
    let stranger = Node::identity(&other_authority, "operator");
    let result = node
        .send(&node.authority, Some(stranger), get("/pods"))
        .await;
    assert!(result.is_err(), "{result:?}");
    // The client does not trust the server's authority.
    let identity = Node::identity(&node.authority, "operator");
    let result = node
        .send(&other_authority, Some(identity), get("/pods"))
        .await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(*node.reviews.lock().unwrap(), Vec::<Value>::new());
}

#[tokio::test]
async fn the_certificate_may_come_later_and_change() {
    let node = Node::start().await;
    node.certificate.send_replace(None);
    let identity = || Some(Node::identity(&node.authority, "operator"));
    let result = node.send(&node.authority, identity(), get("/pods")).await;
    assert!(result.is_err(), "{result:?}");
    let (other_authority, _dir) = new_authority();
    node.certificate
        .send_replace(Some(serving(&other_authority, "second")));
    let response = node
        .send(&other_authority, identity(), get("/pods"))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let node = Node::start().await;
    let mut settings = KubeletApi {
        listen: node.address,
        client_ca_pem: node.authority.ca_pem().to_owned(),
        certificate: node.certificate.subscribe(),
        is_needed: true,
    };
    let access = KubeletAuthorizer::new("n1", api(Reviews::default()));
    let result = HttpsServer::bind(&mut settings, access).await;
    let error = result.err().map(|error| error.to_string());
    assert_eq!(error, Some(format!("listen on {}", node.address)));
    // findings-2 C36: a node in the process of the API server starts without the port.
    settings.is_needed = false;
    let access = KubeletAuthorizer::new("n1", api(Reviews::default()));
    let result = HttpsServer::bind_if_possible(&mut settings, access).await;
    assert!(matches!(result, Ok(None)));
    settings.is_needed = true;
    let access = KubeletAuthorizer::new("n1", api(Reviews::default()));
    let result = HttpsServer::bind_if_possible(&mut settings, access).await;
    assert!(matches!(result.err(), Some(KubeletApiError::Listen { .. })));
    settings.client_ca_pem.clear();
    let access = KubeletAuthorizer::new("n1", api(Reviews::default()));
    let result = HttpsServer::bind(&mut settings, access).await;
    assert!(matches!(result.err(), Some(KubeletApiError::ClientCa(_))));
}

/// findings-2 S40: connections of unknown clients are closed in favour of new clients, each with another
/// address.
#[tokio::test]
async fn strangers_who_hold_connections_keep_nobody_out() {
    let max = ConnectionLimits::without_nodes(8, 6);
    let node = Node::start_up_to(max).await;
    let connect_from = |last_octet: u8| {
        let address = node.address;
        async move {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, last_octet], 0).into()).unwrap();
            socket.connect(address).await.unwrap()
        }
    };
    // The unknown clients never begin a handshake: two addresses use all permits.
    let mut strangers = Vec::new();
    for last_octet in [2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3] {
        strangers.push(connect_from(last_octet).await);
    }
    for _ in 0..2 * max.all {
        assert_eq!(node.response_to("operator", get("/pods")).await.0, 200);
    }
    let mut closed = 0;
    for stranger in &mut strangers {
        let mut byte = [0; 1];
        let result = tokio::time::timeout(Duration::from_millis(1), stranger.read(&mut byte));
        closed += usize::from(matches!(result.await, Ok(Ok(0) | Err(_))));
    }
    assert!(closed >= strangers.len() - max.all, "{closed}");
}

/// findings-2 S40
#[tokio::test]
async fn an_authenticated_client_keeps_its_connection() {
    let max = ConnectionLimits::without_nodes(4, 3);
    let node = Node::start_up_to(max).await;
    let identity = Node::identity(&node.authority, "operator");
    let roots = Roots::none().with_pem(node.authority.ca_pem().as_bytes());
    let config = tls::client(Trust::Roots(roots.unwrap()), Some(identity)).unwrap();
    let stream = outbound_http::connect(node.address, PATIENCE)
        .await
        .unwrap();
    let mut stream = tls::handshake(stream, "127.0.0.1", config).await.unwrap();
    let request_bytes = b"GET /pods HTTP/1.1\r\nHost: n1\r\n\r\n";
    let mut response = [0; 12];
    stream.write_all(request_bytes).await.unwrap();
    stream.read_exact(&mut response).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(TcpStream::connect(node.address).await.unwrap());
        assert_eq!(node.response_to("narrow", get("/pods")).await.0, 200);
    }
    stream.write_all(request_bytes).await.unwrap();
    let mut buffer = [0; 64];
    let result = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
    assert!(result.unwrap().unwrap() > 0);
    assert_eq!(&response, b"HTTP/1.1 200");
}

#[tokio::test]
async fn the_end_closes_connections() {
    let node = Node::start().await;
    let roots = Roots::none().with_pem(node.authority.ca_pem().as_bytes());
    let config = tls::client(Trust::Roots(roots.unwrap()), None).unwrap();
    let stream = outbound_http::connect(node.address, PATIENCE)
        .await
        .unwrap();
    let mut stream = tls::handshake(stream, "127.0.0.1", config).await.unwrap();
    drop(node.stop);
    let mut unread = Vec::new();
    let result = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut unread)).await;
    // Closed, with or without the closing message of TLS.
    drop(result.unwrap());
    assert_eq!(unread, b"");
}
