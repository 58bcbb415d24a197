//! A webhook in this process: the test sets its responses and reads the requests that it got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use certificates::{Authority, SubjectAltNames};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use json_tree::{Value, json};
use tokio::net::TcpListener;

use crate::harness::Api;

pub const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

type Respond = dyn Fn(Value) -> Value + Send + Sync;

/// An HTTPS server on the loopback address that responds with JSON documents.
pub struct JsonServer {
    address: SocketAddr,
    bundle: String,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for JsonServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl JsonServer {
    pub async fn start(respond: impl Fn(Value) -> Value + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(directory.path()).unwrap();
        let names = SubjectAltNames {
            addresses: ["127.0.0.1".parse().unwrap()].into(),
            ..SubjectAltNames::default()
        };
        let identity = authority.server(&names).unwrap();
        let chain = vec![identity.certificate_der()];
        let key = identity.key_der();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let respond: Arc<Respond> = Arc::new(respond);
        let serving = tokio::spawn(async move {
            // The connections end with the server.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, respond) = (acceptor.clone(), respond.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service =
                        hyper::service::service_fn(move |request| serve(request, respond.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self {
            address,
            bundle: STANDARD.encode(authority.ca_pem()),
            serving,
        }
    }

    /// The `clientConfig` of a webhook.
    pub fn client_config(&self) -> Value {
        json!({"url": format!("https://{}/x", self.address), "caBundle": self.bundle})
    }
}

/// A webhook, and the requests that it got.
pub struct Hook {
    server: JsonServer,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    /// A webhook whose responses contain the members that `rule` returns.
    pub async fn start(rule: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let requests: Arc<Mutex<Vec<Value>>> = Arc::default();
        let recorded = requests.clone();
        let server = JsonServer::start(move |review| {
            let request = &review["request"];
            let mut response = rule(request);
            if response["uid"].is_null() {
                response["uid"] = request["uid"].clone();
            }
            recorded.lock().unwrap().push(request.clone());
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "response": response})
        })
        .await;
        Self { server, requests }
    }

    pub fn requests(&self) -> Vec<Value> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }

    /// A configuration that calls the webhook for ConfigMaps.
    pub fn configuration(&self, kind: &str, name: &str, more: Value) -> Value {
        let mut hook = json!({"name": format!("{name}.example.com"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            "clientConfig": self.server.client_config(),
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["configmaps"]}]});
        for (field, value) in more.as_object().into_iter().flatten() {
            hook[field] = value.clone();
        }
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": name}, "webhooks": [hook]})
    }
}

async fn serve(
    request: Request<Incoming>,
    respond: Arc<Respond>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let response = respond(serde_json::from_slice(&body).unwrap());
    Ok(Response::new(Full::new(Bytes::from(response.to_string()))))
}

/// A response that changes the object.
pub fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch",
        "patch": STANDARD.encode(operations.to_string())})
}

/// Creates a webhook configuration, a policy or a binding.
pub async fn make(api: &Api, plural: &str, object: Value) {
    let (code, response) = api.send("POST", &format!("{GROUP}/{plural}"), object).await;
    assert_eq!(code, 201, "{response}");
}

pub const VALIDATING: &str = "validatingwebhookconfigurations";
pub const MUTATING: &str = "mutatingwebhookconfigurations";
