//! Ephemeral containers (kubectl.md 5.8), and the resource usage that nodes report (kubectl.md 6.1).

use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube_api_client::{Patch, PatchParams};
use node_agent::OnShutdown;
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt;

use crate::harness::{Harness, IMAGE};
use crate::pods::SLEEP;
use crate::terminal::dial;

async fn add(harness: &Harness, pod: &str, container: Value) {
    let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [container]}}));
    let pods = harness.api::<Pod>();
    pods.patch_subresource("ephemeralcontainers", pod, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

fn status<'p>(pod: &'p Pod, name: &str) -> Option<&'p ContainerStatus> {
    let statuses = pod.status.as_ref()?.ephemeral_container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == name)
}

fn runs(pod: &Pod, name: &str) -> bool {
    let state = status(pod, name).and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.running.is_some())
}

fn exit_code(pod: &Pod, name: &str) -> Option<i32> {
    let state = status(pod, name)?.state.as_ref()?;
    Some(state.terminated.as_ref()?.exit_code)
}

pub async fn a_running_pod_is_looked_into() {
    let mut harness = Harness::new("ephemeral").await;
    harness.start(OnShutdown::LeavePods).await;
    let command = format!("echo up; {SLEEP}");
    let spec = json!({"containers": [{"name": "c", "command": ["sh", "-c", command]}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let shell = json!({"name": "debug", "image": IMAGE, "command": ["sh"], "stdin": true,
        "targetContainerName": "c", 
        "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}});
    add(&harness, "p", shell).await;
    harness
        .until("p", "debugged", |pod| runs(pod, "debug"))
        .await;
    harness.event("p", "Normal Started").await;

    // The debug container shares the processes of its target, and continues to run without the agent.
    let attach = "/attach/default/p/debug?stdin=true&stdout=true";
    let mut attached = dial(harness.node(), attach, "v5.channel.k8s.io").await;
    let ask = b"\0tr '\\0' ' ' < /proc/1/cmdline; echo\n".to_vec();
    attached.send(Message::binary(ask)).await.unwrap();
    let output = attached.next().await.unwrap().unwrap().into_data();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(output.contains("sh -c echo up"), "{output:?}");
    attached.close(None).await.unwrap();
    harness.stop().await;
    harness.start(OnShutdown::StopPods).await;
    // The status in the API is older than the agent, so the test waits until the new agent has adopted the
    // container.
    while !get_text(&harness, "/pods").await.contains("\"debug\"") {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let before = harness
        .until("p", "debugged", |pod| runs(pod, "debug"))
        .await;
    let id = |pod: &Pod| status(pod, "debug").unwrap().container_id.clone();

    // The exit of the debug container does not affect other containers.
    let mut attached = dial(harness.node(), attach, "v5.channel.k8s.io").await;
    attached
        .send(Message::binary(b"\0exit 7\n".to_vec()))
        .await
        .unwrap();
    let ended = |pod: &Pod| exit_code(pod, "debug") == Some(7);
    let after = harness.until("p", "its end", ended).await;
    assert_eq!(id(&after), id(&before));
    let main = after.status.as_ref().unwrap().container_statuses.as_ref();
    assert_eq!(main.unwrap()[0].restart_count, 0);
    let logs = harness.logs("p", "debug").await;
    assert!(logs.contains("echo up"), "{logs:?}");

    // If the target does not run, the debug container waits for it.
    let second = json!({"name": "again", "image": IMAGE, "command": ["sh", "-c", SLEEP],
    });
    add(&harness, "p", second).await;
    harness
        .until("p", "debugged", |pod| runs(pod, "again"))
        .await;
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    harness.end().await;
}

/// The response of the kubelet API.
pub async fn get_text(harness: &Harness, path: &'static str) -> String {
    let body = http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut request = http::Request::new(body);
    *request.uri_mut() = http::Uri::from_static(path);
    let response = harness.node().oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub async fn what_runs_has_figures() {
    let harness = Harness::started("figures").await;
    let busy = "while true; do :; done";
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", busy],
            "resources": {"limits": {"cpu": "200m", "memory": "64Mi"}}}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let (pod, container) = loop {
        let summary: Value =
            serde_json::from_str(&get_text(&harness, "/stats/summary").await).unwrap();
        assert!(summary["node"]["nodeName"].is_string(), "{summary}");
        let pod = summary["pods"][0].clone();
        let container = pod["containers"][0].clone();
        let is_sampled = container["cpu"]["usageNanoCores"].is_u64();
        // The files are checked every 10 seconds.
        if is_sampled && container["rootfs"]["usedBytes"].is_u64() {
            break (pod, container);
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    let cores = container["cpu"]["usageNanoCores"].as_u64().unwrap();
    assert!((1_000_000..400_000_000).contains(&cores), "{container}");
    let bytes = container["memory"]["workingSetBytes"].as_u64().unwrap();
    assert!((1..=64 << 20).contains(&bytes), "{container}");
    let metrics = get_text(&harness, "/metrics/resource").await;
    let line = "container_cpu_usage_seconds_total{container=\"c\",namespace=\"default\",pod=\"p\"}";
    assert!(metrics.contains(line), "{metrics}");
    // findings C8
    for path in [
        "/memory/usageBytes",
        "/memory/rssBytes",
        "/rootfs/usedBytes",
        "/logs/usedBytes",
    ] {
        assert!(
            container.pointer(path).is_some_and(Value::is_u64),
            "{path}: {container}"
        );
    }
    for path in ["/network/rxBytes", "/ephemeral-storage/usedBytes"] {
        assert!(
            pod.pointer(path).is_some_and(Value::is_u64),
            "{path}: {pod}"
        );
    }
    assert_eq!(pod["network"]["name"], "eth0", "{pod}");
    for (path, text) in [
        ("/metrics", "kubelet_running_pods 1\n"),
        (
            "/metrics/cadvisor",
            "container_memory_rss{container=\"c\",id=\"",
        ),
        (
            "/metrics/cadvisor",
            "container_network_receive_bytes_total{container=\"\",",
        ),
        (
            "/metrics/cadvisor",
            "container_processes{container=\"c\",id=",
        ),
        (
            "/metrics/cadvisor",
            "container_memory_cache{container=\"c\",id=",
        ),
        (
            "/metrics/cadvisor",
            "container_spec_cpu_shares{container=\"c\",id=",
        ),
        (
            "/metrics/cadvisor",
            "container_start_time_seconds{container=\"c\",id=",
        ),
        (
            "/metrics/cadvisor",
            "container_fs_usage_bytes{container=\"c\",device=",
        ),
        ("/metrics/cadvisor", "machine_cpu_cores{boot_id="),
        ("/configz", "\"maxPods\":110"),
    ] {
        let response = get_text(&harness, path).await;
        assert!(response.contains(text), "{path}: {response}");
    }
    harness.end().await;
}
