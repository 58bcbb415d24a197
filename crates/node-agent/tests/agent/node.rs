//! Pods when their node shuts down, starts or changes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use json_tree::{Value, json};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Event, Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube_api_client::{Api, ListParams, Patch, PatchParams, PostParams};
use node_agent::{OnShutdown, ShutdownOrder};

use crate::harness::{Harness, NODE, PATIENCE, is_ready};
use crate::pods::SLEEP;

/// A script that ignores the termination signal.
const DEAF: &str = "trap '' TERM; sleep 1000000 & wait";

fn container(script: &str) -> Value {
    json!([{"name": "c", "command": ["sh", "-c", script]}])
}

pub async fn pods_end_by_priority_within_the_time_that_the_node_leaves() {
    // statefulset.md 12.17
    let mut harness = Harness::new("order").await;
    harness.shutdown_order = ShutdownOrder::by_priority([(0, 1), (1000, 2)]).unwrap();
    harness.start(OnShutdown::StopPods).await;
    let classes: Api<PriorityClass> = Api::all(harness.client.clone());
    let high = json!({"metadata": {"name": "high"}, "value": 1000});
    let high = json_tree::from_value(high).unwrap();
    classes.create(&PostParams::default(), &high).await.unwrap();
    let spec = |class: &str| {
        json!({"terminationGracePeriodSeconds": 3600, "priorityClassName": class,
            "containers": container(DEAF)})
    };
    harness.pod("low", spec("")).await;
    harness.pod("high", spec("high")).await;
    harness.ready("low").await;
    harness.ready("high").await;
    harness.stop().await;
    harness.start(OnShutdown::StopPods).await;
    let low = former_end(&harness.ready("low").await);
    let high = former_end(&harness.ready("high").await);
    assert_eq!((low.exit_code, high.exit_code), (137, 137));
    let (low, high) = (low.finished_at.unwrap().0, high.finished_at.unwrap().0);
    assert!(low < high, "{low} {high}");
    harness.end().await;
}

/// The exit of the previous instance.
fn former_end(pod: &Pod) -> ContainerStateTerminated {
    let status = pod.status.clone().unwrap();
    let container = status.container_statuses.unwrap().remove(0);
    assert_eq!(container.restart_count, 1);
    container.last_state.unwrap().terminated.unwrap()
}

pub async fn another_address_is_told_and_harms_nobody() {
    let mut harness = Harness::started("address").await;
    let on_host = json!({"hostNetwork": true, "containers": container(SLEEP)});
    harness.pod("on-host", on_host).await;
    harness
        .pod("plain", json!({"containers": container(SLEEP)}))
        .await;
    harness.ready("on-host").await;
    let before = addresses(&harness.ready("plain").await);
    for address in ["192.0.2.8", "192.0.2.9"] {
        if address == "192.0.2.8" {
            harness.node_ip.send_replace(address.parse().unwrap());
        } else {
            // The address changes while no agent runs.
            harness.stop().await;
            harness.node_ip.send_replace(address.parse().unwrap());
            harness.start(OnShutdown::StopPods).await;
        }
        until_address_reported(&harness, address).await;
        let follows = |pod: &Pod| {
            let (host, pods) = addresses(pod);
            host == [address] && pods == [address]
        };
        harness
            .until("on-host", "at the new address", follows)
            .await;
        let plain = |pod: &Pod| addresses(pod).0 == [address];
        let pod = harness.until("plain", "on the new address", plain).await;
        if address == "192.0.2.8" {
            assert_eq!(addresses(&pod).1, before.1, "its own address stays");
        }
    }
    harness.end().await;
}

pub async fn what_operators_add_to_the_node_can_be_used() {
    const DONGLE: &str = "example.com/dongle";
    let harness = Harness::started("extended").await;
    let nodes: Api<Node> = Api::all(harness.client.clone());
    for (capacity, usable) in [(json!("3"), Some("3")), (Value::Null, None)] {
        let patch = Patch::Merge(json!({"status": {"capacity": {DONGLE: capacity}}}));
        nodes
            .patch_status(NODE, &PatchParams::default(), &patch)
            .await
            .unwrap();
        let begun = Instant::now();
        loop {
            let status = nodes.get(NODE).await.unwrap().status.unwrap();
            let allocatable = status.allocatable.unwrap().remove(DONGLE);
            if allocatable.as_ref().map(|quantity| quantity.0.as_str()) == usable {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{allocatable:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    harness.end().await;
}

/// The addresses of the pod's node, and the addresses of the pod.
fn addresses(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let status = pod.status.clone().unwrap();
    let (hosts, pods) = (status.host_ips.unwrap(), status.pod_ips.unwrap());
    assert_eq!(status.host_ip.as_ref(), hosts.first().map(|ip| &ip.ip));
    assert_eq!(status.pod_ip.as_ref(), pods.first().map(|ip| &ip.ip));
    (
        hosts.into_iter().map(|ip| ip.ip).collect(),
        pods.into_iter().map(|ip| ip.ip).collect(),
    )
}

/// Waits until the node has the address, and an event reports the change.
async fn until_address_reported(harness: &Harness, address: &str) {
    let expected: IpAddr = address.parse().unwrap();
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let events: Api<Event> = Api::all(harness.client.clone());
    let about = ListParams::default().fields(&format!("involvedObject.name={NODE}"));
    let begun = Instant::now();
    loop {
        let status = nodes.get(NODE).await.unwrap().status.unwrap();
        let listed: Vec<_> = status
            .addresses
            .unwrap()
            .into_iter()
            .filter(|address| address.type_ == "InternalIP")
            .map(|address| address.address)
            .collect();
        let reported = events.list(&about).await.unwrap().items;
        let is_reported = reported.into_iter().any(|event| {
            event.reason.as_deref() == Some("NodeAddressChanged")
                && event
                    .message
                    .is_some_and(|text| text.contains(&format!("address {expected};")))
        });
        if listed == [address] && is_reported {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{listed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The stored condition of the node: its status and the time of its transition.
async fn node_condition(harness: &Harness, type_: &str) -> Option<(String, jiff::Timestamp)> {
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let status = nodes.get_opt(NODE).await.unwrap()?.status?;
    let condition = status.conditions?.into_iter().find(|c| c.type_ == type_)?;
    Some((condition.status, condition.last_transition_time?.0))
}

/// Waits until `read` returns a value.
pub async fn until_some<T>(what: &str, read: impl AsyncFn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = read().await {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The node lifecycle controller marks a silent node and its pods. A working node corrects the marks at
/// once: the stored status counts, not the last status that the agent has sent.
pub async fn who_was_taken_for_lost_says_that_it_works() {
    // findings R2, R18
    let harness = Harness::started("silent").await;
    harness
        .pod("p", json!({"containers": container(SLEEP)}))
        .await;
    harness.ready("p").await;
    let nodes: Api<Node> = Api::all(harness.client.clone());
    // The marks are set more than once, because the agent must also correct marks after its own write.
    let mut before = node_condition(&harness, "Ready").await.unwrap().1;
    for second in [1, 2] {
        let lost = before + jiff::SignedDuration::from_secs(3600 * second);
        let conditions: Vec<_> = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
            .map(|type_| {
                json!({"type": type_, "status": "Unknown", "lastTransitionTime": lost,
                    "reason": "NodeStatusUnknown"})
            })
            .into();
        let lost_node = Patch::Strategic(json!({"status": {"conditions": conditions}}));
        let params = PatchParams::default();
        nodes.patch_status(NODE, &params, &lost_node).await.unwrap();
        before = until_some("the node is ready again", async || {
            let (status, since) = node_condition(&harness, "Ready").await?;
            (status == "True").then_some(since)
        })
        .await;
        assert!(before >= lost, "{before} is before {lost}");
        let unready = Patch::Strategic(json!({"status": {"conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": lost}]}}));
        let pods: Api<Pod> = harness.api();
        let left = pods.patch_status("p", &params, &unready).await.unwrap();
        let version = |pod: &Pod| -> u64 {
            let text = pod.metadata.resource_version.as_deref().unwrap();
            text.parse().unwrap()
        };
        let newer = |pod: &Pod| version(pod) > version(&left);
        harness
            .until("p", "ready again", |pod| newer(pod) && is_ready(pod))
            .await;
    }
    harness.end().await;
}

pub async fn a_deleted_node_is_registered_again_and_its_pods_go_on() {
    // findings R11, R18
    let harness = Harness::started("deleted-node").await;
    harness
        .pod("p", json!({"containers": container(SLEEP)}))
        .await;
    let pod = harness.ready("p").await;
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let mut uid = nodes.get(NODE).await.unwrap().metadata.uid;
    for _ in 0..2 {
        let params = kube_api_client::DeleteParams::default();
        nodes.delete(NODE, &params).await.unwrap();
        let now = until_some("the node is there again", async || {
            let node = nodes.get_opt(NODE).await.unwrap()?;
            let ready = node_condition(&harness, "Ready").await?;
            (node.metadata.uid != uid && ready.0 == "True").then_some(node)
        })
        .await;
        uid = now.metadata.uid;
        let leases: Api<Lease> = Api::namespaced(harness.client.clone(), "kube-node-lease");
        until_some("its lease", async || leases.get_opt(NODE).await.unwrap()).await;
    }
    let after = harness.ready("p").await;
    assert_eq!(after.metadata.uid, pod.metadata.uid);
    assert_eq!(
        crate::restarts::container_id(&after),
        crate::restarts::container_id(&pod)
    );
    harness.end().await;
}
