//! A server in this process, and helpers for requests to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use certificates::TokenSigner;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use json_tree::{Value, json};
use kube_api_server::{
    AdmissionConfiguration, ApiServer, BoxBody, BoxError, Config, Limits, LocalService,
    NodeConnector, NodeService, SlowPolls, TlsMaterial, UserInfo,
};
use mvcc_store::embedded::EmbeddedStore;
use mvcc_store::{Operation, Range, Store, Txn};
use resource_kinds::{ClusterConfig, stateful_set_policy};
use tower::ServiceExt;

use crate::published;

/// The response to a request.
#[derive(Debug)]
pub struct ApiResponse {
    pub code: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl ApiResponse {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The texts of the `Warning` headers.
    pub fn warnings(&self) -> Vec<&str> {
        let all = self.headers.get_all("warning").iter();
        all.map(|value| value.to_str().unwrap()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A node that responds with the received request.
#[derive(Default)]
pub struct EchoNode {
    pub requests: Mutex<Vec<String>>,
    /// The node's usage summary.
    pub summary: Mutex<Option<Value>>,
}

impl NodeConnector for SharedNode {
    fn connect(&self, node_name: &str) -> Option<NodeService> {
        if node_name != "n1" {
            return None;
        }
        let node = self.0.clone();
        let service = tower::service_fn(move |request: Request<BoxBody>| {
            let line = format!("{} {}", request.method(), request.uri());
            node.requests.lock().unwrap().push(line.clone());
            let summary = node.summary.lock().unwrap().clone();
            let summary = summary.filter(|_| line.contains("/stats/summary"));
            async move {
                if request.headers().contains_key("upgrade") {
                    return Ok(echo(request));
                }
                let waiting = line.contains("waiting");
                let text = if let Some(summary) = summary {
                    summary.to_string()
                } else if waiting {
                    "container is waiting to start".to_owned()
                } else {
                    line
                };
                let body = Full::new(Bytes::from(text));
                let mut response = Response::new(body.map_err(BoxError::from).boxed_unsync());
                if waiting {
                    *response.status_mut() = http::StatusCode::BAD_REQUEST;
                }
                Ok::<_, BoxError>(response)
            }
        });
        Some(NodeService::new(service))
    }
}

struct SharedNode(Arc<EchoNode>);

/// Upgrades the connection and sends back all received bytes.
fn echo(request: Request<BoxBody>) -> Response<BoxBody> {
    let headers = request.headers().clone();
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.unwrap();
        let stream = hyper_util::rt::TokioIo::new(upgraded);
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let mut response = Response::builder().status(101);
    for name in ["connection", "upgrade"] {
        response = response.header(name, headers[name].clone());
    }
    let body = Full::new(Bytes::new()).map_err(BoxError::from);
    response.body(body.boxed_unsync()).unwrap()
}

pub struct Api {
    pub server: Arc<ApiServer>,
    pub store: Arc<EmbeddedStore>,
    pub node: Arc<EchoNode>,
    /// The signer of tokens.
    pub signer: Arc<TokenSigner>,
    service: LocalService,
    slow_polls: Arc<SlowPolls>,
}

/// Maximum duration of a request's poll on the runtime's threads, without optimisation.
const POLL_MAX: Duration = Duration::from_millis(50);

/// findings S13: the test fails if a slow poll ran on the threads that serve all requests.
impl Drop for Api {
    fn drop(&mut self) {
        let polls = self.slow_polls.recorded();
        if !polls.is_empty() && !std::thread::panicking() {
            panic!("slow on the runtime's threads: {polls:?}");
        }
    }
}

impl Api {
    pub async fn new() -> Self {
        Self::over(EmbeddedStore::in_memory(), Limits::default(), None).await
    }

    pub async fn over(store: Arc<EmbeddedStore>, limits: Limits, tls: Option<TlsMaterial>) -> Self {
        Self::through(store.clone(), store, limits, tls).await
    }

    /// A server over a store in which the test can change the server's view.
    pub async fn through(
        store: Arc<EmbeddedStore>,
        view: Arc<dyn Store>,
        limits: Limits,
        tls: Option<TlsMaterial>,
    ) -> Self {
        let config = Config {
            tls,
            limits,
            ..Config::in_process(view)
        };
        Self::configured(store, config).await
    }

    /// With the kinds for another cluster configuration.
    pub async fn of_cluster(store: Arc<EmbeddedStore>, cluster: &ClusterConfig) -> Self {
        let config = Config {
            kinds: resource_kinds::all(cluster),
            ..Config::in_process(store.clone())
        };
        Self::configured(store, config).await
    }

    /// With the kind StatefulSetPolicy, as in a new cluster.
    pub async fn with_policies() -> Self {
        let store = EmbeddedStore::in_memory();
        let mut config = Config::in_process(store.clone());
        let mut definitions = stateful_set_policy::definitions();
        config.default_objects.append(&mut definitions);
        let api = Self::configured(store, config).await;
        api.accept_definition(stateful_set_policy::DEFINITION).await;
        api
    }

    /// With settings of admission plug-ins.
    pub async fn admitting(admission_configuration: AdmissionConfiguration) -> Self {
        let store = EmbeddedStore::in_memory();
        let config = Config {
            admission_configuration,
            ..Config::in_process(store.clone())
        };
        Self::configured(store, config).await
    }

    pub async fn configured(store: Arc<EmbeddedStore>, config: Config) -> Self {
        let mut limits = config.limits;
        let slow_polls = SlowPolls::new(POLL_MAX);
        limits.slow_polls = Some(slow_polls.clone());
        let node = Arc::new(EchoNode::default());
        let signer = Arc::new(TokenSigner::ephemeral().unwrap());
        let server = ApiServer::new(Config {
            tokens: Some(signer.clone()),
            advertise: vec!["10.244.0.1:6443".parse().unwrap()],
            nodes: Arc::new(SharedNode(node.clone())),
            limits,
            ..config
        })
        .await
        .unwrap();
        let service = server.local(UserInfo::new("admin", ["system:masters"]));
        Self {
            server,
            store,
            node,
            signer,
            service,
            slow_polls,
        }
    }

    /// A client of the server for another user.
    pub fn as_user(&self, name: &str, groups: &[&str]) -> Self {
        self.as_user_info(UserInfo::new(name, groups.iter().copied()))
    }

    /// A client of the server for a user with further attributes.
    pub fn as_user_info(&self, user: UserInfo) -> Self {
        Self {
            server: self.server.clone(),
            store: self.store.clone(),
            node: self.node.clone(),
            signer: self.signer.clone(),
            service: self.server.local(user),
            slow_polls: self.slow_polls.clone(),
        }
    }

    pub async fn respond(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<BoxBody> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.service.clone().oneshot(request).await.unwrap()
    }

    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> ApiResponse {
        let response = self.respond(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let is_json = |kind: &http::HeaderValue| kind.as_bytes().starts_with(b"application/json");
        let is_object =
            path.starts_with("/api") && parts.headers.get("content-type").is_some_and(is_json);
        if is_object && let Ok(object) = serde_json::from_slice(&bytes) {
            self.check(&object, &format!("{method} {path}")).await;
        }
        ApiResponse {
            code: parts.status.as_u16(),
            headers: parts.headers,
            bytes,
        }
    }

    /// findings C1: no response violates the schema that the server publishes.
    async fn check(&self, object: &Value, request: &str) {
        published::check(&self.admin(), object, request).await;
    }

    fn admin(&self) -> LocalService {
        let admin = UserInfo::new("admin", ["system:masters"]);
        self.server.local(admin)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.raw("GET", path, &[], "").await;
        (response.code, response.json())
    }

    pub async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let json = [("content-type", "application/json")];
        let bytes = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let response = self.raw(method, path, &json, bytes).await;
        (response.code, response.json())
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> (u16, Value) {
        let content_type = match kind {
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "apply" => "application/apply-patch+yaml",
            _ => "application/strategic-merge-patch+json",
        };
        let headers = [("content-type", content_type)];
        let response = self.raw("PATCH", path, &headers, body.to_string()).await;
        (response.code, response.json())
    }

    /// Creates an object; the test fails if the server refuses it.
    pub async fn create(&self, path: &str, body: Value) -> Value {
        let (code, value) = self.send("POST", path, body).await;
        assert_eq!(code, 201, "{value}");
        value
    }

    /// Accepts the names of a CustomResourceDefinition, as the controller does.
    pub async fn accept_definition(&self, name: &str) {
        let path = format!("{DEFINITIONS}/{name}");
        let (_, mut object) = self.get(&path).await;
        let at = "2026-01-01T00:00:00Z";
        object["status"]["conditions"] = json!([
            {"type": "NamesAccepted", "status": "True", "lastTransitionTime": at},
            {"type": "Established", "status": "True", "lastTransitionTime": at}]);
        object["status"]["acceptedNames"] = object["spec"]["names"].clone();
        let (code, response) = self.send("PUT", &format!("{path}/status"), object).await;
        assert_eq!(code, 200, "{response}");
    }

    /// Replaces the stored text of the only object whose key ends with `suffix`, without a request.
    pub async fn rewrite_stored(&self, suffix: &str, change: impl Fn(&str) -> String) {
        let all = Range {
            start: b"/registry/".to_vec(),
            end: Some(b"/registry0".to_vec()),
            ..Range::default()
        };
        let listed = self.store.range(all).await.unwrap();
        let mut items = listed.items.iter();
        let item = items
            .find(|item| item.key.ends_with(suffix.as_bytes()))
            .unwrap();
        let text = change(std::str::from_utf8(&item.value).unwrap());
        let txn = Txn {
            operations: vec![put_stored(item.key.to_vec(), &text)],
            ..Txn::default()
        };
        self.store.txn(txn).await.unwrap();
    }

    /// Creates the default ServiceAccount, so that pods can be created in the default namespace.
    pub async fn with_account(&self) {
        self.create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
    }
}

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";

pub fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

pub fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

pub fn stateful_set(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    })
}

/// The events of a running watch.
pub struct Events {
    admin: LocalService,
    path: String,
    body: BoxBody,
    rest: Vec<u8>,
}

impl Events {
    pub async fn open(api: &Api, path: &str) -> Self {
        Self::open_with(api, path, &[]).await
    }

    pub async fn open_with(api: &Api, path: &str, headers: &[(&str, &str)]) -> Self {
        let response = api.respond("GET", path, headers, "").await;
        assert_eq!(response.status(), 200, "{path}");
        Self {
            admin: api.admin(),
            path: path.to_owned(),
            body: response.into_body(),
            rest: Vec::new(),
        }
    }

    /// The next event; `None` at the end of the watch.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                // A bookmark contains only its version.
                if event["type"] != "BOOKMARK" {
                    published::check(&self.admin, &event["object"], &self.path).await;
                }
                return Some(event);
            }
            let frame = tokio::time::timeout(Duration::from_secs(240), self.body.frame());
            let frame = frame.await.expect("an event within a minute");
            self.rest
                .extend_from_slice(&frame?.unwrap().into_data().unwrap());
        }
    }

    /// Reads this number of events, without a look at them.
    pub async fn skip(&mut self, count: usize) {
        let is_end = |byte: &&u8| **byte == b'\n';
        let mut skipped = self.rest.iter().filter(is_end).count();
        self.rest.clear();
        while skipped < count {
            let frame = self.body.frame().await.expect("further events");
            let data = frame.unwrap().into_data().unwrap();
            skipped += data.iter().filter(is_end).count();
        }
        assert_eq!(skipped, count);
    }

    /// The next event as `TYPE name`.
    pub async fn short(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

/// A write of a stored object. If the text has a `resourceVersion`, the store replaces this value by the version of the
/// write.
pub fn put_stored(key: Vec<u8>, text: &str) -> Operation {
    const MARK: &str = "\"resourceVersion\":\"";
    let parts = text.split_once(MARK);
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once('"')?.1)));
    let value = match parts {
        Some((before, after)) => mvcc_store::Value::Stamped {
            before: format!("{before}{MARK}").into_bytes().into(),
            after: format!("\"{after}").into_bytes().into(),
            omittable: mvcc_store::Omittable::UNKNOWN,
        },
        None => mvcc_store::Value::Plain(text.to_owned().into_bytes().into()),
    };
    Operation::Put {
        key,
        value,
        lease: None,
    }
}
