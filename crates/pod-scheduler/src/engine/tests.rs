use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request, Response};
use json_tree::{Value, json};

use super::*;

const NODES: usize = 200;
const PODS: usize = 64;

fn listed(path: &str) -> Vec<Value> {
    let name = |number: usize| format!("n{number}");
    match path {
        "/api/v1/nodes" => (0..NODES)
            .map(|number| {
                json!({
                    "metadata": {"name": name(number), "uid": name(number), "resourceVersion": "1"},
                    "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
                })
            })
            .collect(),
        "/api/v1/pods" => (0..PODS)
            .map(|number| {
                json!({
                    "metadata": {"name": name(number), "namespace": "default",
                        "uid": name(number), "resourceVersion": "1"},
                    "spec": {"containers": [{"name": "c"}]},
                })
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Many pods without a node are scheduled in portions, and other tasks of the process run in between.
#[tokio::test]
async fn one_poll_compares_a_bounded_number_of_pods_with_nodes() {
    let bindings = Arc::new(AtomicUsize::new(0));
    let count = bindings.clone();
    let respond = move |request: Request<kube_api_client::Body>| {
        let (uri, count) = (request.uri().clone(), count.clone());
        let binds = request.method() == Method::POST && uri.path().ends_with("/binding");
        count.fetch_add(usize::from(binds), Ordering::Relaxed);
        let watches = uri.query().unwrap_or_default().contains("watch=true");
        async move {
            if watches || binds {
                std::future::pending::<()>().await;
            }
            let list = json!({"metadata": {"resourceVersion": "2"}, "items": listed(uri.path())});
            Ok::<_, Infallible>(Response::new(list.to_string()))
        }
    };
    let client = Client::new(tower::service_fn(respond), "default");
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let engine = Engine::new(client, Config::default(), end.into());
    tokio::spawn(engine.run());
    let (mut decided, mut most) = (0, 0);
    while decided < PODS {
        tokio::task::yield_now().await;
        let before = std::mem::replace(&mut decided, bindings.load(Ordering::Relaxed));
        most = most.max(decided - before);
    }
    let units = 1 + NODES / limits::NODES_PER_UNIT;
    assert!(most <= 128 / units + 1, "{most} of {PODS} pods");
}
