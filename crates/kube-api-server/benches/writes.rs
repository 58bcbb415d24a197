//! Benchmark of writes in the server: decode, admit, validate, track managed fields, encode.
//!
//! `cargo bench -p kube-api-server --bench writes`. The whole pipeline runs in this process over a store in memory,
//! without socket, TLS and disk. The program prints the median duration of one client's requests.
//!
//! `ROUNDS=300 valgrind --tool=callgrind --dump-before='writes::report' PROGRAM` counts the instructions of each sort
//! of request in a separate file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use certificates::TokenSigner;
use http::Request;
use http_body_util::{BodyExt, Full};
use json_tree::{Value, json};
use kube_api_server::{ApiServer, Config, LocalService, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use tower::ServiceExt;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Requests of each sort, unless the variable `ROUNDS` sets another number.
const ROUNDS: usize = 3000;
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

struct Client(LocalService);

impl Client {
    async fn ask(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Duration {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("user-agent", "bench/1")
            .body(Full::new(body))
            .expect("a request");
        let started = Instant::now();
        let response = self.0.clone().oneshot(request).await.expect("an answer");
        let status = response.status();
        let bytes = response.into_body().collect().await.expect("a body");
        let took = started.elapsed();
        assert!(
            status.is_success(),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&bytes.to_bytes())
        );
        took
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let client = Client(
        server()
            .await
            .local(UserInfo::new("admin", ["system:masters"])),
    );
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    client.ask("POST", accounts, JSON, &account).await;
    let name = |n: usize| format!("{PODS}/web-{n}");
    let mut times = Vec::new();
    let rounds = std::env::var("ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    report("start of the server", &mut times);
    for n in 0..rounds {
        times.push(client.ask("POST", PODS, JSON, &pod(n)).await);
    }
    report("create a pod", &mut times);
    for (what, ready) in [("first", "False"), ("second", "True")] {
        for n in 0..rounds {
            let path = format!("{}/status", name(n));
            times.push(client.ask("PATCH", &path, STRATEGIC, &status(ready)).await);
        }
        report(&format!("patch its status, {what} time"), &mut times);
    }
    let label = json!({"metadata": {"labels": {"extra": "1"}}});
    for n in 0..rounds {
        times.push(client.ask("PATCH", &name(n), MERGE, &label).await);
    }
    report("label it", &mut times);
    for n in 0..rounds {
        times.push(client.ask("GET", &name(n), JSON, &Value::Null).await);
    }
    report("get it", &mut times);
    for n in 0..rounds {
        times.push(client.ask("DELETE", &name(n), JSON, &Value::Null).await);
    }
    report("delete it", &mut times);
    let binding = json!({"target": {"kind": "Node", "name": "n-1"}});
    for n in 0..rounds {
        client.ask("POST", PODS, JSON, &pod(n)).await;
    }
    report("create pods again", &mut times);
    for n in 0..rounds {
        let path = format!("{}/binding", name(n));
        times.push(client.ask("POST", &path, JSON, &binding).await);
    }
    report("bind another", &mut times);
    let map = |n: usize| json!({"metadata": {"name": format!("m-{n}")}, "data": {"a": "1"}});
    let maps = "/api/v1/namespaces/default/configmaps";
    for n in 0..rounds {
        times.push(client.ask("POST", maps, JSON, &map(n)).await);
    }
    report("create a small ConfigMap", &mut times);
    let named = |n: usize| format!("{maps}/m-{n}");
    for n in 0..rounds {
        times.push(client.ask("PUT", &named(n), JSON, &map(n)).await);
    }
    report("put a ConfigMap without a change", &mut times);
    let patch = json!({"data": {"a": "2"}});
    for n in 0..rounds {
        times.push(client.ask("PATCH", &named(n), MERGE, &patch).await);
    }
    report("patch a ConfigMap", &mut times);
    for n in 0..rounds {
        times.push(client.ask("DELETE", &named(n), JSON, &Value::Null).await);
    }
    report("delete a ConfigMap", &mut times);
}

async fn server() -> Arc<ApiServer> {
    ApiServer::new(Config {
        tokens: Some(Arc::new(TokenSigner::ephemeral().expect("a key"))),
        ..Config::in_process(EmbeddedStore::in_memory())
    })
    .await
    .expect("a server")
}

#[inline(never)]
fn report(what: &str, times: &mut Vec<Duration>) {
    if times.is_empty() {
        return;
    }
    times.sort();
    let at = |part: usize| times[times.len() * part / 100];
    println!("{what}: {:.1?}, p99 {:.1?}", at(50), at(99));
    times.clear();
}

fn pod(n: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("web-{n}"), "labels": {"app": "web", "pod": format!("web-{n}")}},
        "spec": {
            "containers": [{
                "name": "web", "image": "registry.example/web:1.2.3",
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn status(ready: &str) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let kinds = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let conditions: Vec<Value> = kinds.into_iter().map(condition).collect();
    json!({"status": {
        "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.244.0.5",
        "podIPs": [{"ip": "10.244.0.5"}],
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": conditions,
        "containerStatuses": [{
            "name": "web", "ready": ready == "True", "restartCount": 0, "started": true,
            "image": "registry.example/web:1.2.3", "imageID": "sha256:0",
            "containerID": "mainstay://x",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }],
    }})
}
