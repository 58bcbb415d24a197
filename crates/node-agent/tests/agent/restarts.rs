//! Agents that stop and start while pods continue.

use json_tree::json;
use k8s_openapi::api::core::v1::Pod;
use node_agent::OnShutdown;

use crate::harness::{Harness, condition, is_ready, state};
use crate::pods::SLEEP;

fn spec() -> json_tree::Value {
    json!({"containers": [{"name": "c", "command": ["sh", "-c", SLEEP]}]})
}

pub fn container_id(pod: &k8s_openapi::api::core::v1::Pod) -> String {
    let status = pod.status.as_ref().unwrap();
    status.container_statuses.as_ref().unwrap()[0]
        .container_id
        .clone()
        .unwrap()
}

pub async fn a_new_agent_takes_over_what_runs() {
    let mut harness = Harness::new("adopt").await;
    harness.start(OnShutdown::LeavePods).await;
    harness.pod("kept", spec()).await;
    harness.pod("killed", spec()).await;
    let before = harness.ready("kept").await;
    harness.ready("killed").await;
    harness.stop().await;
    // No agent runs to observe this exit.
    let uid = harness
        .api::<k8s_openapi::api::core::v1::Pod>()
        .get("killed")
        .await
        .unwrap();
    let sandbox = harness
        .runtime
        .sandbox(&uid.metadata.uid.unwrap())
        .await
        .unwrap()
        .unwrap();
    sandbox.signal("c-0", 9).await.unwrap();
    // A former agent had created the next instance from an older version of the pod, but had not started
    // it.
    let spec = harness.dir.join("sandboxes/sandboxes").join(sandbox.id());
    let spec = std::fs::read_to_string(spec.join("containers/c-0/spec.json")).unwrap();
    let mut spec: json_tree::Value = serde_json::from_str(&spec).unwrap();
    spec["id"] = json!("c-1");
    let next = json_tree::from_value(spec).unwrap();
    sandbox.create_container(next).await.unwrap();
    harness.start(OnShutdown::StopPods).await;
    let restarted = |pod: &_| state(pod, "c") == ("running".to_owned(), 1);
    harness.until("killed", "restarted", restarted).await;
    let now = harness.ready("kept").await;
    assert_eq!(container_id(&now), container_id(&before));
    assert_eq!(state(&now, "c").1, 0);
    assert_eq!(
        now.metadata.resource_version,
        before.metadata.resource_version
    );
    harness.delete("kept").await;
    harness.wait_deleted("kept").await;
    harness.end().await;
}

pub async fn a_stopped_node_brings_its_pods_back() {
    let mut harness = Harness::started("stop").await;
    let script = format!(
        "trap 'exit 0' TERM; cat /scratch/word; echo kept > /scratch/word; echo written; {SLEEP}"
    );
    let scratch = json!({
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "containers": [{"name": "c", "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}]});
    harness.pod("p", scratch).await;
    let before = harness.ready("p").await;
    harness.logged("p", "c", "written").await;
    harness.stop().await;
    assert!(harness.runtime.sandboxes().await.unwrap().is_empty());
    let stopped = harness.until("p", "not ready", |pod| !is_ready(pod)).await;
    assert_eq!(stopped.metadata.uid, before.metadata.uid);
    harness.start(OnShutdown::StopPods).await;
    let after = harness.ready("p").await;
    assert_eq!(after.metadata.uid, before.metadata.uid);
    assert_eq!(state(&after, "c").1, 1);
    harness.logged("p", "c", "kept").await;
    harness.end().await;
}

pub async fn pods_that_are_gone_are_cleared_away() {
    // statefulset.md 3.32: the next pod with this name waits for this pod.
    let mut harness = Harness::new("gone").await;
    harness.start(OnShutdown::LeavePods).await;
    harness.pod("p", spec()).await;
    let first = harness.ready("p").await;
    harness.stop().await;
    let at_once = kube_api_client::DeleteParams::default().grace_period(0);
    let pods = harness.api::<k8s_openapi::api::core::v1::Pod>();
    pods.delete("p", &at_once).await.unwrap();
    harness.wait_deleted("p").await;
    harness.pod("p", spec()).await;
    // An agent was killed while it removed a pod, or before it had stored a record of the pod.
    let unnoted = harness
        .dir
        .join("pods/default_q_1b4e28ba-2fa1-11d2-883f-0016d3cca427");
    std::fs::create_dir_all(unnoted.join("c")).unwrap();
    harness.start(OnShutdown::StopPods).await;
    let second = harness.ready("p").await;
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while unnoted.exists() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(!unnoted.exists());
    assert_ne!(first.metadata.uid, second.metadata.uid);
    let left = harness.runtime.sandboxes().await.unwrap();
    let ids: Vec<&str> = left.iter().map(container_runtime::Sandbox::id).collect();
    assert_eq!(ids, [second.metadata.uid.as_deref().unwrap()]);
    harness.end().await;
}

pub async fn a_lost_sandbox_is_made_again() {
    // statefulset.md 12.17
    let harness = Harness::started("lost").await;
    let pod = harness.pod("p", spec()).await;
    harness.ready("p").await;
    let sandbox = harness
        .runtime
        .sandbox(&pod.metadata.uid.unwrap())
        .await
        .unwrap()
        .unwrap();
    let shim = sandbox.state().await.unwrap().pid.to_string();
    let killed = std::process::Command::new("kill")
        .args(["-9", &shim])
        .status()
        .unwrap();
    assert!(killed.success());
    harness.event("p", "Normal SandboxChanged").await;
    let again = |pod: &_| is_ready(pod) && state(pod, "c").1 == 1;
    harness.until("p", "made again", again).await;
    assert_eq!(harness.runtime.sandboxes().await.unwrap().len(), 1);
    harness.end().await;
}

pub async fn one_container_may_have_all_start_anew() {
    // statefulset.md 12.4
    let harness = Harness::started("restartall").await;
    let cache = json!([{"name": "cache", "mountPath": "/cache"}]);
    let ask = format!("test -e /cache/asked || {{ touch /cache/asked; exit 42; }}; {SLEEP}");
    let rules = json!([{"action": "RestartAllContainers",
        "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i", "volumeMounts": cache,
            "command": ["sh", "-c", "echo x >> /cache/runs; cat /cache/runs"]}],
        "containers": [
            {"name": "asks", "command": ["sh", "-c", ask], "volumeMounts": cache,
                "restartPolicy": "Never", "restartPolicyRules": rules},
            {"name": "other", "command": ["sh", "-c", SLEEP]}],
        "volumes": [{"name": "cache", "emptyDir": {}}]});
    harness.pod("p", spec).await;
    let anew = |pod: &Pod| {
        is_ready(pod)
            && ["i", "asks", "other"]
                .iter()
                .all(|name| state(pod, name).1 == 1)
    };
    let pod = harness.until("p", "all of it anew", anew).await;
    assert_eq!(harness.logs("p", "i").await, "x\nx\n");
    assert_eq!(
        condition(&pod, "AllContainersRestarting"),
        "False ContainerExited Container asks exited with code 42, triggering pod restart"
    );
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    harness.end().await;
}
