//! New resources for running containers (kubectl.md 6.7).

use std::fs;

use container_runtime::Sandbox;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::pods::SLEEP;
use crate::world::{World, condition, state};

/// A limit of the container, or of the pod, as the kernel has it, by its names in both versions.
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

async fn resize(world: &World, container: Value) {
    let patch = Patch::Strategic(json!({"spec": {"containers": [container]}}));
    let pods = world.api::<Pod>();
    pods.patch_resize("p", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

fn asking(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

fn applied(pod: &Pod, cpu: &str) -> bool {
    let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref();
    let resources = statuses.unwrap()[0].resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let conditions = pod.status.as_ref().unwrap().conditions.as_ref().unwrap();
    let resizing = |c: &k8s_openapi::api::core::v1::PodCondition| c.type_.starts_with("PodResize");
    limits.is_some_and(|limits| limits["cpu"].0 == cpu) && !conditions.iter().any(resizing)
}

pub async fn limits_follow_what_is_asked_for() {
    let world = World::started("resize").await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", SLEEP], "resources": asking("100m", "64Mi"),
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"},
                {"resourceName": "cpu", "restartPolicy": "NotRequired"}]}]});
    let pod = world.pod("p", spec).await;
    world.ready("p").await;
    let uid = pod.metadata.uid.unwrap();
    let sandbox = world.runtime.sandbox(&uid).await.unwrap().unwrap();
    assert_eq!(quota(&sandbox, Some("c-0")), "10000");

    resize(
        &world,
        json!({"name": "c", "resources": asking("300m", "64Mi")}),
    )
    .await;
    let larger = |pod: &Pod| applied(pod, "300m");
    let pod = world.until("p", "more processor time", larger).await;
    assert_eq!(quota(&sandbox, Some("c-0")), "30000");
    assert_eq!(quota(&sandbox, None), "30000");
    assert_eq!(state(&pod, "c"), ("running".to_owned(), 0));
    world.event("p", "Normal ResizeStarted").await;
    world.event("p", "Normal ResizeCompleted").await;
    resize(
        &world,
        json!({"name": "c", "resources": asking("50m", "64Mi")}),
    )
    .await;
    let smaller = |pod: &Pod| applied(pod, "50m");
    world.until("p", "less processor time", smaller).await;
    assert_eq!(quota(&sandbox, Some("c-0")), "5000");
    assert_eq!(quota(&sandbox, None), "5000");

    // Memory is taken at the start only, as the container wants it.
    resize(
        &world,
        json!({"name": "c", "resources": asking("50m", "96Mi")}),
    )
    .await;
    let restarted = |pod: &Pod| state(pod, "c") == ("running".to_owned(), 1);
    world.until("p", "more memory", restarted).await;
    assert_eq!(memory(&sandbox, Some("c-1")), (96 << 20).to_string());
    assert_eq!(memory(&sandbox, None), (96 << 20).to_string());
    world.until("p", "the end of it", smaller).await;

    resize(
        &world,
        json!({"name": "c", "resources": asking("5000", "96Mi")}),
    )
    .await;
    let refused = |pod: &Pod| {
        let conditions = pod.status.as_ref().unwrap().conditions.as_ref();
        let mut conditions = conditions.unwrap().iter();
        conditions.any(|c| c.type_ == "PodResizePending")
    };
    let pod = world.until("p", "a refusal", refused).await;
    let said = condition(&pod, "PodResizePending");
    assert!(said.contains("Infeasible"), "{said}");
    world.event("p", "Warning ResizeInfeasible").await;
    resize(
        &world,
        json!({"name": "c", "resources": asking("50m", "96Mi")}),
    )
    .await;
    world.until("p", "what it has", smaller).await;
    world.end().await;
}
