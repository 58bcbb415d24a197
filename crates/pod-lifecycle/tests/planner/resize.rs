//! New resources for running containers (kubectl.md 6.7; statefulset.md 12.1, 12.10).

use json_tree::{Value, json};
use pod_lifecycle::resources::amounts::{Amounts, NodeResources};

use crate::harness::Harness;

const MI: i64 = 1 << 20;

fn node_resources(others_milli: i64) -> NodeResources {
    NodeResources {
        capacity: Amounts {
            cpu_milli: 4000,
            memory_bytes: 1024 * MI,
        },
        others: Amounts {
            cpu_milli: others_milli,
            memory_bytes: 0,
        },
    }
}

fn asking(cpu: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": "64Mi"}, "limits": {"cpu": cpu, "memory": "64Mi"}})
}

fn pod(policy: &str) -> Harness {
    let mut harness = Harness::new(json!({"containers": [{
        "name": "c", "image": "i", "resources": asking("500m"),
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]}));
    harness.pod.metadata.generation = Some(1);
    harness.node_resources = node_resources(0);
    harness.pass(1);
    harness
}

fn resize(harness: &mut Harness, cpu: &str) {
    let spec = harness.pod.spec.as_mut().unwrap();
    spec.containers[0].resources = Some(json_tree::from_value(asking(cpu)).unwrap());
    let generation = harness.pod.metadata.generation.as_mut().unwrap();
    *generation += 1;
}

/// The allocated and the applied CPU limit in the status.
fn cpus(harness: &Harness) -> (String, String) {
    let status = &harness.status.container_statuses.as_ref().unwrap()[0];
    let allocated = &status.allocated_resources.as_ref().unwrap()["cpu"];
    let resources = status.resources.as_ref().unwrap();
    let applied = &resources.limits.as_ref().unwrap()["cpu"];
    (allocated.0.clone(), applied.0.clone())
}

fn has_condition(harness: &Harness, type_: &str) -> bool {
    let mut all = harness.status.conditions.iter().flatten();
    all.any(|condition| condition.type_ == type_)
}

fn pair(allocated: &str, applied: &str) -> (String, String) {
    (allocated.to_owned(), applied.to_owned())
}

#[test]
fn limits_change_while_the_container_runs() {
    let mut harness = pod("NotRequired");
    assert_eq!(cpus(&harness), pair("500m", "500m"));
    resize(&mut harness, "1");
    harness.pass(1);
    assert_eq!(cpus(&harness), pair("1", "1"));
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
    assert!(!has_condition(&harness, "PodResizeInProgress"));
    let lines = harness.lines();
    assert_eq!(
        lines[2..],
        ["1 resize", "1 update c", "1 resized"],
        "{lines:?}"
    );
}

#[test]
fn a_container_that_wants_it_is_restarted() {
    let mut harness = pod("RestartContainer");
    resize(&mut harness, "1");
    harness.pass(5);
    assert_eq!(harness.state("c"), "running, ready true, restarts 1");
    assert_eq!(cpus(&harness), pair("1", "1"));
    assert!(!has_condition(&harness, "PodResizeInProgress"));
    let lines = harness.lines();
    assert!(
        !lines.iter().any(|line| line.contains("update")),
        "{lines:?}"
    );
}

#[test]
fn what_can_never_be_had_is_said() {
    let mut harness = pod("NotRequired");
    resize(&mut harness, "5");
    harness.pass(60);
    assert_eq!(
        harness.condition("PodResizePending"),
        "True Infeasible Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"
    );
    assert_eq!(cpus(&harness), pair("500m", "500m"));
    let mut all = harness.status.conditions.iter().flatten();
    let condition = all.find(|c| c.type_ == "PodResizePending").unwrap();
    assert_eq!(condition.observed_generation, Some(2));
    // A request for the current resources cancels the resize.
    resize(&mut harness, "500m");
    harness.pass(1);
    assert!(!has_condition(&harness, "PodResizePending"));
    let infeasible = harness
        .lines()
        .iter()
        .filter(|line| line.contains("Infeasible"))
        .count();
    assert_eq!(infeasible, 1);
}

#[test]
fn what_cannot_be_had_now_is_waited_for() {
    let mut harness = pod("NotRequired");
    harness.node_resources = node_resources(3000);
    resize(&mut harness, "2");
    harness.pass(60);
    assert_eq!(
        harness.condition("PodResizePending"),
        "True Deferred Node didn't have enough resource: cpu, requested: 2000, used: 3000, \
         capacity: 4000"
    );
    harness.node_resources = node_resources(1000);
    harness.pass(15);
    assert!(!has_condition(&harness, "PodResizePending"));
    assert_eq!(cpus(&harness), pair("2", "2"));
}

#[test]
fn what_cannot_be_applied_is_tried_again() {
    let mut harness = pod("NotRequired");
    harness.behaviour.bad_limits.push("c");
    resize(&mut harness, "1");
    harness.pass(25);
    assert_eq!(
        harness.condition("PodResizeInProgress"),
        "True Error below current usage"
    );
    assert_eq!(cpus(&harness), pair("1", "500m"));
    harness.behaviour.bad_limits.clear();
    harness.pass(15);
    assert!(!has_condition(&harness, "PodResizeInProgress"));
    assert_eq!(cpus(&harness), pair("1", "1"));
}

#[test]
fn a_container_starts_with_what_is_allocated() {
    let mut harness = pod("NotRequired");
    resize(&mut harness, "5");
    harness.pass(1);
    harness.exit("c", 1);
    harness.pass(30);
    assert_eq!(harness.state("c"), "running, ready true, restarts 1");
    assert_eq!(cpus(&harness), pair("500m", "500m"));
}

/// A pod with pod-level resources: `c` has half of them, and `rest` is limited only by the pod.
fn pod_as_a_whole(policy: &str) -> Harness {
    let mut harness = Harness::new(json!({
        "resources": {"requests": {"cpu": "1", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "64Mi"}},
        "containers": [
            {"name": "c", "image": "i", "resources": asking("500m")},
            {"name": "rest", "image": "i",
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]}));
    harness.pod.metadata.generation = Some(1);
    harness.node_resources = node_resources(0);
    harness.pass(1);
    harness
}

fn resize_pod(harness: &mut Harness, cpu: &str) {
    let spec = harness.pod.spec.as_mut().unwrap();
    spec.resources = Some(json_tree::from_value(asking(cpu)).unwrap());
    let generation = harness.pod.metadata.generation.as_mut().unwrap();
    *generation += 1;
}

/// The allocated and the applied pod-level CPU limit in the status.
fn cpus_of_pod(harness: &Harness) -> (String, String) {
    let allocated = &harness.status.allocated_resources.as_ref().unwrap()["cpu"];
    let resources = harness.status.resources.as_ref().unwrap();
    let applied = &resources.limits.as_ref().unwrap()["cpu"];
    (allocated.0.clone(), applied.0.clone())
}

fn told_of(harness: &Harness, words: &[&str]) -> Vec<String> {
    let lines = harness.lines().into_iter();
    let lines = lines.filter(|line| words.iter().any(|word| line.contains(word)));
    lines.collect()
}

// KEP-5419
#[test]
fn the_pod_as_a_whole_changes_after_its_containers() {
    let mut harness = pod_as_a_whole("NotRequired");
    assert_eq!(cpus_of_pod(&harness), pair("1", "1"));
    resize_pod(&mut harness, "2");
    resize(&mut harness, "1500m");
    harness.pass(1);
    assert_eq!(cpus_of_pod(&harness), pair("2", "2"));
    assert_eq!(cpus(&harness), pair("1500m", "1500m"));
    assert!(!has_condition(&harness, "PodResizeInProgress"));
    assert_eq!(
        told_of(&harness, &["resize", "update"]),
        ["1 resize", "1 update c", "1 update pod", "1 resized"]
    );
    for name in ["c", "rest"] {
        assert_eq!(harness.state(name), "running, ready true, restarts 0");
    }
}

#[test]
fn a_container_that_the_pod_bounds_is_restarted_where_it_wants_that() {
    let mut harness = pod_as_a_whole("RestartContainer");
    resize_pod(&mut harness, "2");
    harness.pass(30);
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
    assert_eq!(harness.state("rest"), "running, ready true, restarts 1");
    assert_eq!(cpus_of_pod(&harness), pair("2", "2"));
    assert!(!has_condition(&harness, "PodResizeInProgress"));
    assert_eq!(told_of(&harness, &["update"]), ["1 update pod"]);
}

#[test]
fn the_pod_as_a_whole_has_to_fit() {
    let mut harness = pod_as_a_whole("NotRequired");
    resize_pod(&mut harness, "5");
    harness.pass(1);
    assert_eq!(
        harness.condition("PodResizePending"),
        "True Infeasible Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"
    );
    harness.node_resources = node_resources(3000);
    resize_pod(&mut harness, "2");
    harness.pass(1);
    assert_eq!(
        harness.condition("PodResizePending"),
        "True Deferred Node didn't have enough resource: cpu, requested: 2000, used: 3000, \
         capacity: 4000"
    );
    assert_eq!(cpus_of_pod(&harness), pair("1", "1"));
    harness.node_resources = node_resources(1000);
    harness.pass(15);
    assert_eq!(cpus_of_pod(&harness), pair("2", "2"));
}

#[test]
fn what_the_pod_as_a_whole_cannot_have_is_tried_again() {
    let mut harness = pod_as_a_whole("NotRequired");
    harness.behaviour.bad_limits.push("");
    resize_pod(&mut harness, "700m");
    harness.pass(25);
    assert_eq!(
        harness.condition("PodResizeInProgress"),
        "True Error below current usage"
    );
    assert_eq!(cpus_of_pod(&harness), pair("700m", "1"));
    harness.behaviour.bad_limits.clear();
    harness.pass(15);
    assert!(!has_condition(&harness, "PodResizeInProgress"));
    assert_eq!(cpus_of_pod(&harness), pair("700m", "700m"));
}

#[test]
fn a_change_of_the_pod_that_is_taken_back_is_undone() {
    let mut harness = pod_as_a_whole("NotRequired");
    harness.behaviour.bad_limits.push("");
    resize_pod(&mut harness, "700m");
    harness.pass(1);
    harness.behaviour.bad_limits.clear();
    let spec = harness.pod.spec.as_mut().unwrap();
    spec.resources = Some(json_tree::from_value(asking("1")).unwrap());
    harness.pass(1);
    // It is unknown which limits were applied before the failure.
    assert_eq!(
        told_of(&harness, &["resize", "update"]),
        [
            "1 resize",
            "1 update pod failed",
            "2 resize",
            "2 update pod",
            "2 resized"
        ]
    );
    assert_eq!(cpus_of_pod(&harness), pair("1", "1"));
    assert!(!has_condition(&harness, "PodResizeInProgress"));
}

#[test]
fn a_pod_without_resources_of_its_own_gets_some() {
    let mut harness = pod("NotRequired");
    assert_eq!(harness.status.resources, None);
    assert_eq!(harness.status.allocated_resources, None);
    resize_pod(&mut harness, "1");
    harness.pass(1);
    assert_eq!(cpus_of_pod(&harness), pair("1", "1"));
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
    assert_eq!(
        told_of(&harness, &["resize", "update"]),
        ["1 resize", "1 update pod", "1 resized"]
    );
}
