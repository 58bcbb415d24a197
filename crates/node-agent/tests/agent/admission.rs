//! Pods that are bound to the node without a scheduler: the node admits pods that fit, and opens their host
//! ports.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube_api_client::{Api, Patch, PatchParams};
use node_agent::OnShutdown;
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, NODE, PATIENCE, phase};
use crate::pods::SLEEP;

async fn refused(harness: &Harness, name: &str, spec: Value) -> (String, String) {
    harness.pod(name, spec).await;
    let ended = harness
        .until(name, "refused", |pod| phase(pod) == "Failed")
        .await;
    let status = ended.status.unwrap();
    let (reason, message) = (status.reason.unwrap(), status.message.unwrap());
    let event = message.strip_prefix("Pod was rejected: ").unwrap();
    harness
        .event(name, &format!("Warning {reason} {event}"))
        .await;
    assert!(status.container_statuses.is_none(), "nothing was started");
    harness.delete(name).await;
    harness.wait_deleted(name).await;
    (reason, message)
}

fn sleeps() -> Value {
    json!({"name": "c", "command": ["sh", "-c", SLEEP]})
}

pub async fn what_does_not_fit_is_refused_once() {
    let mut harness = Harness::started("admission").await;
    let mut greedy = sleeps();
    greedy["resources"] = json!({"requests": {"cpu": "1k"}});
    let (reason, message) = refused(&harness, "greedy", json!({"containers": [greedy]})).await;
    assert_eq!(reason, "OutOfcpu");
    assert!(
        message.starts_with(
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: 0"
        ),
        "{message}"
    );
    let picky = || {
        // A shell ignores a termination signal directly after its start.
        json!({"terminationGracePeriodSeconds": 1, "nodeSelector": {"disk": "ssd"},
            "containers": [sleeps()]})
    };
    let (reason, message) = refused(&harness, "picky", picky()).await;
    assert_eq!(reason, "NodeAffinity");
    assert!(message.ends_with("node(s) didn't match Pod's node affinity/selector"));
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let label = |value: Value| Patch::Merge(json!({"metadata": {"labels": {"disk": value}}}));
    let params = PatchParams::default();
    nodes
        .patch(NODE, &params, &label(json!("ssd")))
        .await
        .unwrap();
    harness.pod("at-home", picky()).await;
    harness.ready("at-home").await;
    // An admitted pod stays, even if the node's labels change or the agent restarts.
    nodes
        .patch(NODE, &params, &label(Value::Null))
        .await
        .unwrap();
    harness.stop().await;
    harness.start(OnShutdown::StopPods).await;
    let again = harness
        .until("at-home", "back", |pod| restarts(pod) == 1)
        .await;
    assert_ne!(phase(&again), "Failed");
    harness.delete("at-home").await;
    harness.wait_deleted("at-home").await;
    harness.end().await;
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref());
    containers
        .and_then(<[_]>::first)
        .map_or(0, |container| container.restart_count)
}

pub async fn ports_of_the_node_are_one_pods() {
    let mut harness = Harness::new("hostports").await;
    harness.start(OnShutdown::LeavePods).await;
    let stop = CancellationToken::new();
    let proxy = tokio::spawn(service_proxy::run(
        harness.client.clone(),
        harness.proxy_config(),
        stop.clone().into(),
    ));
    // The port is free now. Another process of this machine could still bind it before the pod.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let spec = || {
        let mut container = sleeps();
        container["command"] = json!(["sh", "-c", "while true; do echo hello | nc -l -p 80; done"]);
        container["ports"] = json!([{"containerPort": 80, "hostPort": port}]);
        json!({"terminationGracePeriodSeconds": 1, "containers": [container]})
    };
    harness.pod("first", spec()).await;
    harness.ready("first").await;
    answers(port).await;
    let (reason, _) = refused(&harness, "second", spec()).await;
    assert_eq!(reason, "NodePorts");
    harness.stop().await;
    answers(port).await;
    harness.start(OnShutdown::StopPods).await;
    assert_eq!(restarts(&harness.ready("first").await), 0);
    answers(port).await;
    harness.delete("first").await;
    harness.wait_deleted("first").await;
    until(|| !says_hello(port)).await;
    stop.cancel();
    proxy.await.unwrap().unwrap();
    harness.end().await;
}

async fn answers(port: u16) {
    until(|| says_hello(port)).await;
}

async fn until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it never does");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn says_hello(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    ask().is_ok_and(|text| text == "hello\n")
}
