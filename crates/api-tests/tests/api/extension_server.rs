//! An extension API server in this process: it stores flunders, and verifies the certificate of its front proxy.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use certificates::{Authority, SubjectAltNames};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use json_tree::{Value, json};
use kube_api_server::FrontProxyMaterial;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::harness::Api;

pub const GROUP: &str = "wardle.example.com";
pub const BASE: &str = "/apis/wardle.example.com/v1alpha1";
pub const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
pub const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A request that the server got.
#[derive(Clone, Debug)]
pub struct Received {
    pub line: String,
    pub headers: HeaderMap,
}

impl Received {
    /// The values of a header.
    pub fn all(&self, name: &str) -> Vec<String> {
        let values = self.headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }
}

struct State {
    requests: Mutex<Vec<Received>>,
    objects: Mutex<BTreeMap<String, Value>>,
    events: broadcast::Sender<Value>,
}

/// The server ends when it is dropped.
pub struct ExtensionServer {
    address: IpAddr,
    port: u16,
    bundle: String,
    state: Arc<State>,
    _shutdown: DropGuard,
}

/// A front proxy with an authority of its own.
pub fn front_proxy() -> FrontProxyMaterial {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path()).unwrap();
    let client = authority.client("front-proxy-client", &[]).unwrap();
    FrontProxyMaterial {
        certificate_pem: client.certificate_pem().to_owned(),
        key_pem: client.key_pem().to_owned(),
        ca_pem: authority.ca_pem().to_owned(),
    }
}

impl ExtensionServer {
    /// A server that trusts certificates of the proxy's authority only; `None` on a machine without a network, because
    /// no Service has endpoints on the loopback address.
    pub async fn start(proxy: &FrontProxyMaterial) -> Option<Self> {
        let address = crate::remote_nodes::machine_address()?;
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(directory.path()).unwrap();
        let names = SubjectAltNames {
            dns: ["flunders.default.svc".to_owned()].into(),
            ..SubjectAltNames::default()
        };
        let identity = authority.server(&names).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(proxy.ca_pem.as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(vec![identity.certificate_der()], identity.key_der())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            requests: Mutex::default(),
            objects: Mutex::default(),
            events: broadcast::Sender::new(16),
        });
        let (shared, shutdown) = (state.clone(), CancellationToken::new());
        let connections_shutdown = shutdown.clone();
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                let serving = async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let service = hyper::service::service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, std::io::Error>(respond(request, &state).await) }
                    });
                    let io = TokioIo::new(stream);
                    if is_http2 {
                        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        drop(http.serve_connection(io, service).await);
                    } else {
                        let http = hyper::server::conn::http1::Builder::new();
                        drop(http.serve_connection(io, service).with_upgrades().await);
                    }
                };
                tokio::spawn(
                    connections_shutdown
                        .clone()
                        .run_until_cancelled_owned(serving),
                );
            }
        }));
        Some(Self {
            address,
            port,
            bundle: STANDARD.encode(authority.ca_pem()),
            state,
            _shutdown: shutdown.drop_guard(),
        })
    }

    /// The requests since the last call, without those of the server's own checks.
    pub fn requests(&self) -> Vec<Received> {
        let all = std::mem::take(&mut *self.state.requests.lock().unwrap());
        let is_check =
            |request: &Received| request.all("x-remote-user") == ["system:kube-aggregator"];
        all.into_iter()
            .filter(|request| !is_check(request))
            .collect()
    }

    /// Creates the Service with its endpoint, and the APIService.
    pub async fn register(&self, api: &Api) {
        api.create(
            "/api/v1/namespaces/default/services",
            json!({"metadata": {"name": "flunders"}, "spec": {"clusterIP": "None",
                "ports": [{"name": "https", "port": 443}]}}),
        )
        .await;
        api.create(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({"metadata": {"name": "flunders-1", "labels":
                    {"kubernetes.io/service-name": "flunders"}},
                "addressType": "IPv4", "ports": [{"name": "https", "port": self.port}],
                "endpoints": [{"addresses": [self.address.to_string()],
                    "conditions": {"ready": true}}]}),
        )
        .await;
        api.create(API_SERVICES, self.api_service(GROUP, "v1alpha1"))
            .await;
    }

    pub fn api_service(&self, group: &str, version: &str) -> Value {
        json!({"metadata": {"name": format!("{version}.{group}")}, "spec": {
            "group": group, "version": version, "groupPriorityMinimum": 2000,
            "versionPriority": 200, "caBundle": self.bundle,
            "service": {"namespace": "default", "name": "flunders"}}})
    }
}

/// Waits until the condition `Available` has the reason.
pub async fn wait_for_reason(api: &Api, name: &str, reason: &str) -> Value {
    let mut last = Value::Null;
    for _ in 0..1200 {
        let (_, service) = api.get(&format!("{API_SERVICES}/{name}")).await;
        last = service["status"]["conditions"][0].clone();
        if last["reason"] == reason {
            return last;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{name}: expected {reason}, last state {last}");
}

fn whole(code: StatusCode, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", kind);
    response
}

async fn respond(request: Request<Incoming>, state: &State) -> Response<Body> {
    let line = format!(
        "{} {}",
        request.method(),
        request.uri().path_and_query().unwrap()
    );
    let headers = request.headers().clone();
    state
        .requests
        .lock()
        .unwrap()
        .push(Received { line, headers });
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    match path.as_str() {
        // A server of two group versions with equal resources.
        BASE | "/apis/metrics.k8s.io/v1beta1" => {
            let group_version = path.trim_start_matches("/apis/");
            return whole(
                StatusCode::OK,
                &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
                    "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true,
                        "kind": "Flunder", "verbs": ["create", "delete", "get", "list", "watch"]}]}),
            );
        }
        "/openapi/v3" => {
            let url = format!("/openapi/v3{BASE}?hash=A1");
            let path = BASE.trim_start_matches('/');
            let index = json!({"paths": {path: {"serverRelativeURL": url}}});
            return whole(StatusCode::OK, &index);
        }
        _ if path.starts_with("/openapi/v3/") => {
            return whole(
                StatusCode::OK,
                &json!({"openapi": "3.0.0", "info": {"title": "wardle"}}),
            );
        }
        _ => {}
    }
    let name = path
        .strip_prefix(FLUNDERS)
        .map(|rest| rest.trim_start_matches('/').to_owned());
    match (request.method().clone(), name.as_deref()) {
        (_, Some("elsewhere")) => {
            let mut response = whole(StatusCode::FOUND, &json!({}));
            let to = http::HeaderValue::from_static("https://169.254.169.254/");
            response.headers_mut().insert("location", to);
            response
        }
        (_, Some("silent")) => std::future::pending().await,
        (Method::GET, Some("stream")) if request.headers().contains_key("upgrade") => {
            upgrade(request)
        }
        (Method::GET, Some("")) if query.contains("watch=true") => watch(state),
        (Method::GET, Some("")) => {
            let objects: Vec<Value> = state.objects.lock().unwrap().values().cloned().collect();
            whole(
                StatusCode::OK,
                &json!({"kind": "FlunderList", "apiVersion": "wardle.example.com/v1alpha1",
                    "metadata": {"resourceVersion": "1"}, "items": objects}),
            )
        }
        (Method::POST, Some("")) => {
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            let object: Value = serde_json::from_slice(&bytes).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            state.objects.lock().unwrap().insert(name, object.clone());
            drop(
                state
                    .events
                    .send(json!({"type": "ADDED", "object": object})),
            );
            whole(StatusCode::CREATED, &object)
        }
        (method, Some(name)) => {
            let mut objects = state.objects.lock().unwrap();
            let object = match method {
                Method::DELETE => objects.remove(name),
                _ => objects.get(name).cloned(),
            };
            let Some(object) = object else {
                return whole(
                    StatusCode::NOT_FOUND,
                    &json!({"kind": "Status", "code": 404}),
                );
            };
            if method == Method::DELETE {
                drop(
                    state
                        .events
                        .send(json!({"type": "DELETED", "object": object})),
                );
            }
            whole(StatusCode::OK, &object)
        }
        (_, None) => whole(
            StatusCode::NOT_FOUND,
            &json!({"kind": "Status", "code": 404}),
        ),
    }
}

fn watch(state: &State) -> Response<Body> {
    let events = state.events.subscribe();
    let lines = futures::stream::unfold(events, |mut events| async move {
        let event = events.recv().await.ok()?;
        let line = Bytes::from(format!("{event}\n"));
        Some((Ok(Frame::data(line)), events))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
}

/// Sends back all bytes of an upgraded connection.
fn upgrade(request: Request<Incoming>) -> Response<Body> {
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.unwrap();
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        tokio::io::copy(&mut read, &mut write).await.ok();
    });
    let mut response = whole(StatusCode::SWITCHING_PROTOCOLS, &json!({}));
    for (name, value) in [("connection", "Upgrade"), ("upgrade", "test")] {
        let value = http::HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
