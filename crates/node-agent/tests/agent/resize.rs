//! New resources for running containers (kubectl.md 6.7).

use std::fs;

use container_runtime::Sandbox;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use kube_api_client::{Patch, PatchParams};

use crate::harness::{Harness, condition, state};
use crate::pods::SLEEP;

/// A limit of the container or of the pod, read from the control group. `v1` and `v2` are the file names in
/// both versions of control groups.
fn limit(sandbox: &Sandbox, container: Option<&str>, v1: (&str, &str), v2: &str) -> String {
    let mut group = sandbox.cgroup().to_owned();
    if let Some(container) = container {
        group = format!("{group}/{container}");
    }
    let (controller, file) = v1;
    let old = format!("/sys/fs/cgroup/{controller}{group}/{file}");
    let new = format!("/sys/fs/cgroup{group}/{v2}");
    let text = fs::read_to_string(old).or_else(|_| fs::read_to_string(new));
    text.unwrap().split_whitespace().next().unwrap().to_owned()
}

fn memory(sandbox: &Sandbox, container: Option<&str>) -> String {
    limit(
        sandbox,
        container,
        ("memory", "memory.limit_in_bytes"),
        "memory.max",
    )
}

fn quota(sandbox: &Sandbox, container: Option<&str>) -> String {
    limit(sandbox, container, ("cpu", "cpu.cfs_quota_us"), "cpu.max")
}

async fn resize(harness: &Harness, container: Value) {
    resize_with(harness, json!({"containers": [container]})).await;
}

async fn resize_with(harness: &Harness, spec: Value) {
    let patch = Patch::Strategic(json!({"spec": spec}));
    let pods = harness.api::<Pod>();
    pods.patch_subresource("resize", "p", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

fn asking(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

fn applied(pod: &Pod, cpu: &str) -> bool {
    let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref();
    has(pod, statuses.unwrap()[0].resources.as_ref(), cpu)
}

/// Whether these resources have the CPU limit `cpu`, and no resize of the pod is in progress.
fn has(pod: &Pod, resources: Option<&ResourceRequirements>, cpu: &str) -> bool {
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let conditions = pod.status.as_ref().unwrap().conditions.as_ref().unwrap();
    let resizing = |c: &k8s_openapi::api::core::v1::PodCondition| c.type_.starts_with("PodResize");
    limits.is_some_and(|limits| limits["cpu"].0 == cpu) && !conditions.iter().any(resizing)
}

pub async fn limits_follow_what_is_asked_for() {
    let harness = Harness::started("resize").await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", SLEEP], "resources": asking("100m", "64Mi"),
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"},
                {"resourceName": "cpu", "restartPolicy": "NotRequired"}]}]});
    let pod = harness.pod("p", spec).await;
    harness.ready("p").await;
    let uid = pod.metadata.uid.unwrap();
    let sandbox = harness.runtime.sandbox(&uid).await.unwrap().unwrap();
    assert_eq!(quota(&sandbox, Some("c-0")), "10000");

    resize(
        &harness,
        json!({"name": "c", "resources": asking("300m", "64Mi")}),
    )
    .await;
    let larger = |pod: &Pod| applied(pod, "300m");
    let pod = harness.until("p", "more processor time", larger).await;
    assert_eq!(quota(&sandbox, Some("c-0")), "30000");
    assert_eq!(quota(&sandbox, None), "30000");
    assert_eq!(state(&pod, "c"), ("running".to_owned(), 0));
    harness.event("p", "Normal ResizeStarted").await;
    harness.event("p", "Normal ResizeCompleted").await;
    resize(
        &harness,
        json!({"name": "c", "resources": asking("50m", "64Mi")}),
    )
    .await;
    let smaller = |pod: &Pod| applied(pod, "50m");
    harness.until("p", "less processor time", smaller).await;
    assert_eq!(quota(&sandbox, Some("c-0")), "5000");
    assert_eq!(quota(&sandbox, None), "5000");

    // The container's resize policy applies a new memory limit only at a restart.
    resize(
        &harness,
        json!({"name": "c", "resources": asking("50m", "96Mi")}),
    )
    .await;
    let restarted = |pod: &Pod| state(pod, "c") == ("running".to_owned(), 1);
    harness.until("p", "more memory", restarted).await;
    assert_eq!(memory(&sandbox, Some("c-1")), (96 << 20).to_string());
    assert_eq!(memory(&sandbox, None), (96 << 20).to_string());
    harness.until("p", "the end of it", smaller).await;

    resize(
        &harness,
        json!({"name": "c", "resources": asking("5000", "96Mi")}),
    )
    .await;
    let refused = |pod: &Pod| {
        let conditions = pod.status.as_ref().unwrap().conditions.as_ref();
        let mut conditions = conditions.unwrap().iter();
        conditions.any(|c| c.type_ == "PodResizePending")
    };
    let pod = harness.until("p", "a refusal", refused).await;
    let reported = condition(&pod, "PodResizePending");
    assert!(reported.contains("Infeasible"), "{reported}");
    harness.event("p", "Warning ResizeInfeasible").await;
    resize(
        &harness,
        json!({"name": "c", "resources": asking("50m", "96Mi")}),
    )
    .await;
    harness.until("p", "what it has", smaller).await;
    harness.end().await;
}

/// KEP-5419: the limits of the pod follow its requested resources.
pub async fn limits_of_the_pod_follow_what_is_asked_for() {
    let harness = Harness::started("resize-pod").await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "resources": asking("400m", "64Mi"),
        "containers": [
            {"name": "c", "command": ["sh", "-c", SLEEP], "resources": asking("100m", "32Mi")},
            {"name": "rest", "command": ["sh", "-c", SLEEP], "resizePolicy": [
                {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]});
    let pod = harness.pod("p", spec).await;
    let before = harness.ready("p").await;
    let uid = pod.metadata.uid.unwrap();
    let sandbox = harness.runtime.sandbox(&uid).await.unwrap().unwrap();
    let of_pod = || (quota(&sandbox, None), memory(&sandbox, None));
    let mi = |amount: u64| (amount << 20).to_string();
    assert_eq!(of_pod(), ("40000".to_owned(), mi(64)));
    let status = before.status.as_ref().unwrap();
    assert_eq!(status.qos_class.as_deref(), Some("Guaranteed"));
    let resources = json_tree::to_value(&status.resources).unwrap();
    assert_eq!(resources, asking("400m", "64Mi"));
    let allocated = json_tree::to_value(&status.allocated_resources).unwrap();
    assert_eq!(allocated, resources["requests"]);

    let instances = |pod: &Pod| {
        let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref();
        let all = statuses.unwrap().iter();
        all.map(|one| (one.container_id.clone(), one.state.clone()))
            .collect::<Vec<_>>()
    };
    let until = async |cpu: &str| {
        let applied = |pod: &Pod| has(pod, pod.status.as_ref().unwrap().resources.as_ref(), cpu);
        harness.until("p", "other limits of the pod", applied).await
    };
    // Both limits grow at once; a container never has more than its pod.
    let c = json!({"name": "c", "resources": asking("500m", "32Mi")});
    resize_with(
        &harness,
        json!({"resources": asking("600m", "64Mi"), "containers": [c]}),
    )
    .await;
    let pod = until("600m").await;
    assert_eq!(of_pod(), ("60000".to_owned(), mi(64)));
    assert_eq!(quota(&sandbox, Some("c-0")), "50000");
    assert_eq!(instances(&pod), instances(&before));
    harness.event("p", "Normal ResizeCompleted").await;
    // Both limits shrink.
    let c = json!({"name": "c", "resources": asking("200m", "32Mi")});
    resize_with(
        &harness,
        json!({"resources": asking("300m", "64Mi"), "containers": [c]}),
    )
    .await;
    let pod = until("300m").await;
    assert_eq!(of_pod(), ("30000".to_owned(), mi(64)));
    assert_eq!(quota(&sandbox, Some("c-0")), "20000");
    assert_eq!(instances(&pod), instances(&before));

    // One container has a memory limit, the other container has the limit of the pod, from its start.
    resize_with(&harness, json!({"resources": asking("350m", "96Mi")})).await;
    let pod = until("350m").await;
    assert_eq!(of_pod(), ("35000".to_owned(), mi(96)));
    assert_eq!(state(&pod, "c"), ("running".to_owned(), 0));
    assert_eq!(state(&pod, "rest"), ("running".to_owned(), 1));
    assert_eq!(instances(&pod)[0], instances(&before)[0]);
    harness.end().await;
}
