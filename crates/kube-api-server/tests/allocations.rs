//! The number of allocations of a request: a bound for each sort of request, so that a new copy of an object or a
//! second decoding is noticed. The test is its own program, because its allocator counts the allocations of the whole
//! process. `REQUESTS=CreatePod,LabelPod` sends only these requests, for a profiler.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::alloc::System;
use std::sync::Arc;

use bytes::Bytes;
use certificates::TokenSigner;
use http::Request;
use http_body_util::{BodyExt, Full};
use json_tree::{Value, json};
use kube_api_server::{ApiServer, Config, LocalService, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::ServiceExt;

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests of each sort. The median counts, so that a background task or the growth of a map during some requests
/// has no effect.
const REQUESTS: usize = 101;

/// Maximum number of allocations of one request, with a small margin. Lower the number if the code needs less; raise
/// it only for a documented reason.
const BOUNDS: [(Sent, usize); 11] = [
    (Sent::CreatePod, 347),
    (Sent::PatchStatus, 300),
    (Sent::LabelPod, 181),
    (Sent::AddFinalizer, 190),
    (Sent::RemoveFinalizer, 215),
    (Sent::GetPod, 45),
    (Sent::DeletePod, 104),
    (Sent::BindPod, 219),
    (Sent::CreateConfigMap, 119),
    (Sent::PatchConfigMap, 163),
    (Sent::DeleteConfigMap, 121),
];

/// A value of a JSON tree must stay small: its maps have no hash table (`crates/json-tree`).
const _: () = assert!(size_of::<Value>() == 32);

/// Maximum number of bytes that a watch holds.
const WATCH_BYTES: usize = 1750;

/// Pods of a list: so many that constant allocations do not matter.
const LISTED: usize = 1000;

/// Maximum number of bytes that a list allocates, in per cent of its body. The list is built in one pass over the
/// stored bytes: each byte is copied once, and nothing is decoded (a decoded pod has four times its stored size).
const LISTS: [(&str, usize); 2] = [
    ("application/json", 120),
    ("application/vnd.kubernetes.protobuf", 142),
];

#[derive(Clone, Copy, Debug)]
enum Sent {
    CreatePod,
    PatchStatus,
    LabelPod,
    AddFinalizer,
    RemoveFinalizer,
    GetPod,
    DeletePod,
    BindPod,
    CreateConfigMap,
    PatchConfigMap,
    DeleteConfigMap,
}

impl Sent {
    fn request(self, n: usize) -> Request<Full<Bytes>> {
        let (pods, maps) = ("pods", "configmaps");
        let merge = "application/merge-patch+json";
        let strategic = "application/strategic-merge-patch+json";
        let json_patch = "application/json-patch+json";
        let (method, path, media, body) = match self {
            Self::CreatePod => ("POST", pods.to_owned(), "application/json", pod("p", n)),
            Self::BindPod => {
                let path = format!("{pods}/b-{n}/binding");
                ("POST", path, "application/json", binding())
            }
            Self::PatchStatus => ("PATCH", format!("{pods}/p-{n}/status"), strategic, status()),
            Self::LabelPod => {
                let patch = json!({"metadata": {"labels": {"tier": "a"}}});
                ("PATCH", format!("{pods}/p-{n}"), merge, patch)
            }
            Self::AddFinalizer => {
                let patch = json!({"metadata": {"finalizers": ["example.com/a"]}});
                ("PATCH", format!("{pods}/p-{n}"), strategic, patch)
            }
            Self::RemoveFinalizer => {
                let patch = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
                ("PATCH", format!("{pods}/p-{n}"), json_patch, patch)
            }
            Self::GetPod => ("GET", format!("{pods}/p-{n}"), "", Value::Null),
            Self::DeletePod => ("DELETE", format!("{pods}/p-{n}"), "", Value::Null),
            Self::CreateConfigMap => ("POST", maps.to_owned(), "application/json", map(n)),
            Self::PatchConfigMap => {
                let patch = json!({"data": {"a": "2"}});
                ("PATCH", format!("{maps}/m-{n}"), merge, patch)
            }
            Self::DeleteConfigMap => ("DELETE", format!("{maps}/m-{n}"), "", Value::Null),
        };
        let body = match body {
            Value::Null => Bytes::new(),
            body => body.to_string().into(),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/namespaces/default/{path}"))
            .header("user-agent", "test/1");
        let request = match media {
            "" => request,
            media => request.header("content-type", media),
        };
        request.body(Full::new(body)).unwrap()
    }
}

#[tokio::test]
async fn a_request_allocates_no_more_than_it_did() {
    let server = server().await;
    let client = server.local(UserInfo::new("admin", ["system:masters"]));
    let account = json!({"metadata": {"name": "default"}}).to_string();
    let account = Request::post("/api/v1/namespaces/default/serviceaccounts")
        .header("content-type", "application/json")
        .body(Full::new(account.into()))
        .unwrap();
    allocations(&client, account).await;
    create_pods(&client, "b", REQUESTS).await;
    let mut wrong = Vec::new();
    let only = std::env::var("REQUESTS").unwrap_or_default();
    let is_sent =
        |write: &Sent| only.is_empty() || only.split(',').any(|name| name == format!("{write:?}"));
    for (write, bound) in BOUNDS.into_iter().filter(|(write, _)| is_sent(write)) {
        let mut counts = Vec::new();
        for n in 0..REQUESTS {
            counts.push(allocations(&client, write.request(n)).await);
        }
        counts.sort_unstable();
        let median = counts[REQUESTS / 2];
        println!("{write:?}: {median} allocations, at most {bound}");
        if median > bound {
            wrong.push(format!(
                "{write:?} makes {median} allocations, bound {bound}"
            ));
        }
    }
    let bytes = bytes_of_a_watch(&client).await;
    println!("a watch: {bytes} bytes, at most {WATCH_BYTES}");
    if bytes > WATCH_BYTES {
        wrong.push(format!("a watch holds {bytes} bytes, bound {WATCH_BYTES}"));
    }
    create_pods(&client, "l", LISTED).await;
    for (accept, bound) in LISTS {
        // The first request also builds the tables of the form.
        bytes_of_a_list(&client, accept).await;
        let [bytes, body] = bytes_of_a_list(&client, accept).await;
        let percent = 100 * bytes / body;
        println!("a list in {accept}: {bytes} bytes for {body}, {percent} %, at most {bound} %");
        if percent > bound {
            wrong.push(format!(
                "a list in {accept} takes {percent} %, bound {bound} %"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("; "));
}

async fn create_pods(client: &LocalService, prefix: &str, count: usize) {
    for n in 0..count {
        let new = Request::post("/api/v1/namespaces/default/pods")
            .header("content-type", "application/json")
            .body(Full::new(pod(prefix, n).to_string().into()))
            .unwrap();
        allocations(client, new).await;
    }
}

/// The number of bytes that a list of all pods allocates, and the length of its body. The body is dropped while it
/// arrives.
async fn bytes_of_a_list(client: &LocalService, accept: &str) -> [usize; 2] {
    let list = Request::get("/api/v1/pods").header("accept", accept);
    let list = list.body(Full::default()).unwrap();
    let region = Region::new(MEMORY);
    let response = client.clone().oneshot(list).await.unwrap();
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    [region.change().bytes_allocated, length]
}

/// The number of bytes that an idle watch holds in the server, without the bytes of its connection.
async fn bytes_of_a_watch(client: &LocalService) -> usize {
    let open = || {
        let watch = Request::get("/api/v1/namespaces/default/secrets?watch=true");
        client.clone().oneshot(watch.body(Full::default()).unwrap())
    };
    let _first = open().await.unwrap();
    let region = Region::new(MEMORY);
    let mut watches = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        watches.push(open().await.unwrap());
    }
    let change = region.change();
    let list_bytes = watches.capacity() * size_of_val(&watches[0]);
    (change.bytes_allocated - change.bytes_deallocated - list_bytes) / REQUESTS
}

/// The number of allocations from a request to the last byte of its response.
async fn allocations(client: &LocalService, request: Request<Full<Bytes>>) -> usize {
    let about = format!("{} {}", request.method(), request.uri());
    let region = Region::new(MEMORY);
    let response = client.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let change = region.change();
    assert!(
        status.is_success(),
        "{about}: {status} {}",
        String::from_utf8_lossy(&body)
    );
    change.allocations + change.reallocations
}

async fn server() -> Arc<ApiServer> {
    let config = Config {
        tokens: Some(Arc::new(TokenSigner::ephemeral().unwrap())),
        ..Config::in_process(EmbeddedStore::in_memory())
    };
    ApiServer::new(config).await.unwrap()
}

fn map(n: usize) -> Value {
    json!({"metadata": {"name": format!("m-{n}")}, "data": {"a": "1"}})
}

/// A pod with the parts that a workload usually has.
fn pod(prefix: &str, n: usize) -> Value {
    let port = json!({"name": "http", "containerPort": 8080});
    let probe = json!({"httpGet": {"path": "/ready", "port": "http"}});
    let container = json!({
        "name": "web", "image": "registry.example/web:1.2.3", "ports": [port],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        "readinessProbe": probe, "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    });
    let metadata = json!({"name": format!("{prefix}-{n}"), "labels": {"app": "web"}});
    let volumes = json!([{"name": "data", "emptyDir": {}}]);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"containers": [container], "volumes": volumes},
    })
}

/// A Binding of a pod to a node.
fn binding() -> Value {
    json!({"target": {"kind": "Node", "name": "n-1"}})
}

/// The status of a running pod.
fn status() -> Value {
    let at = "2026-01-01T00:00:00Z";
    let kinds = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let conditions =
        kinds.map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": at}));
    let container = json!({
        "name": "web", "ready": true, "restartCount": 0, "started": true,
        "image": "registry.example/web:1.2.3", "imageID": "sha256:0",
        "containerID": "mainstay://x", "state": {"running": {"startedAt": at}},
    });
    json!({"status": {
        "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.244.0.5",
        "podIPs": [{"ip": "10.244.0.5"}], "startTime": at,
        "conditions": conditions, "containerStatuses": [container],
    }})
}
