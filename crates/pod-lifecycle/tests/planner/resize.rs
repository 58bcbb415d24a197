//! New resources for running containers (kubectl.md 6.7; statefulset.md 12.1, 12.10).

use json_tree::{Value, json};
use pod_lifecycle::resources::amounts::{Amounts, NodeResources};

use crate::world::World;

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

fn pod(policy: &str) -> World {
    let mut world = World::new(json!({"containers": [{
        "name": "c", "image": "i", "resources": asking("500m"),
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]}));
    world.pod.metadata.generation = Some(1);
    world.node_resources = node_resources(0);
    world.pass(1);
    world
}

fn resize(world: &mut World, cpu: &str) {
    let spec = world.pod.spec.as_mut().unwrap();
    spec.containers[0].resources = Some(json_tree::from_value(asking(cpu)).unwrap());
    let generation = world.pod.metadata.generation.as_mut().unwrap();
    *generation += 1;
}

/// The allocated and the applied CPU limit in the status.
fn cpus(world: &World) -> (String, String) {
    let status = &world.status.container_statuses.as_ref().unwrap()[0];
    let allocated = &status.allocated_resources.as_ref().unwrap()["cpu"];
    let resources = status.resources.as_ref().unwrap();
    let applied = &resources.limits.as_ref().unwrap()["cpu"];
    (allocated.0.clone(), applied.0.clone())
}

fn has_condition(world: &World, type_: &str) -> bool {
    let mut all = world.status.conditions.iter().flatten();
    all.any(|condition| condition.type_ == type_)
}

fn pair(allocated: &str, applied: &str) -> (String, String) {
    (allocated.to_owned(), applied.to_owned())
}

#[test]
fn limits_change_while_the_container_runs() {
    let mut world = pod("NotRequired");
    assert_eq!(cpus(&world), pair("500m", "500m"));
    resize(&mut world, "1");
    world.pass(1);
    assert_eq!(cpus(&world), pair("1", "1"));
    assert_eq!(world.state("c"), "running, ready true, restarts 0");
    assert!(!has_condition(&world, "PodResizeInProgress"));
    let lines = world.lines();
    assert_eq!(
        lines[2..],
        ["1 resize", "1 update c", "1 resized"],
        "{lines:?}"
    );
}

#[test]
fn a_container_that_wants_it_is_restarted() {
    let mut world = pod("RestartContainer");
    resize(&mut world, "1");
    world.pass(5);
    assert_eq!(world.state("c"), "running, ready true, restarts 1");
    assert_eq!(cpus(&world), pair("1", "1"));
    assert!(!has_condition(&world, "PodResizeInProgress"));
    let lines = world.lines();
    assert!(
        !lines.iter().any(|line| line.contains("update")),
        "{lines:?}"
    );
}

#[test]
fn what_can_never_be_had_is_said() {
    let mut world = pod("NotRequired");
    resize(&mut world, "5");
    world.pass(60);
    assert_eq!(
        world.condition("PodResizePending"),
        "True Infeasible Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"
    );
    assert_eq!(cpus(&world), pair("500m", "500m"));
    let mut all = world.status.conditions.iter().flatten();
    let condition = all.find(|c| c.type_ == "PodResizePending").unwrap();
    assert_eq!(condition.observed_generation, Some(2));
    // A request for the current resources cancels the resize.
    resize(&mut world, "500m");
    world.pass(1);
    assert!(!has_condition(&world, "PodResizePending"));
    let infeasible = world
        .lines()
        .iter()
        .filter(|line| line.contains("Infeasible"))
        .count();
    assert_eq!(infeasible, 1);
}

#[test]
fn what_cannot_be_had_now_is_waited_for() {
    let mut world = pod("NotRequired");
    world.node_resources = node_resources(3000);
    resize(&mut world, "2");
    world.pass(60);
    assert_eq!(
        world.condition("PodResizePending"),
        "True Deferred Node didn't have enough resource: cpu, requested: 2000, used: 3000, \
         capacity: 4000"
    );
    world.node_resources = node_resources(1000);
    world.pass(15);
    assert!(!has_condition(&world, "PodResizePending"));
    assert_eq!(cpus(&world), pair("2", "2"));
}

#[test]
fn what_cannot_be_applied_is_tried_again() {
    let mut world = pod("NotRequired");
    world.behaviour.bad_limits.push("c");
    resize(&mut world, "1");
    world.pass(25);
    assert_eq!(
        world.condition("PodResizeInProgress"),
        "True Error below current usage"
    );
    assert_eq!(cpus(&world), pair("1", "500m"));
    world.behaviour.bad_limits.clear();
    world.pass(15);
    assert!(!has_condition(&world, "PodResizeInProgress"));
    assert_eq!(cpus(&world), pair("1", "1"));
}

#[test]
fn a_container_starts_with_what_is_allocated() {
    let mut world = pod("NotRequired");
    resize(&mut world, "5");
    world.pass(1);
    world.exit("c", 1);
    world.pass(30);
    assert_eq!(world.state("c"), "running, ready true, restarts 1");
    assert_eq!(cpus(&world), pair("500m", "500m"));
}

/// A pod with pod-level resources: `c` has half of them, and `rest` is limited only by the pod.
fn pod_as_a_whole(policy: &str) -> World {
    let mut world = World::new(json!({
        "resources": {"requests": {"cpu": "1", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "64Mi"}},
        "containers": [
            {"name": "c", "image": "i", "resources": asking("500m")},
            {"name": "rest", "image": "i",
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]}));
    world.pod.metadata.generation = Some(1);
    world.node_resources = node_resources(0);
    world.pass(1);
    world
}

fn resize_pod(world: &mut World, cpu: &str) {
    let spec = world.pod.spec.as_mut().unwrap();
    spec.resources = Some(json_tree::from_value(asking(cpu)).unwrap());
    let generation = world.pod.metadata.generation.as_mut().unwrap();
    *generation += 1;
}

/// The allocated and the applied pod-level CPU limit in the status.
fn cpus_of_pod(world: &World) -> (String, String) {
    let allocated = &world.status.allocated_resources.as_ref().unwrap()["cpu"];
    let resources = world.status.resources.as_ref().unwrap();
    let applied = &resources.limits.as_ref().unwrap()["cpu"];
    (allocated.0.clone(), applied.0.clone())
}

fn told_of(world: &World, words: &[&str]) -> Vec<String> {
    let lines = world.lines().into_iter();
    let lines = lines.filter(|line| words.iter().any(|word| line.contains(word)));
    lines.collect()
}

// KEP-5419
#[test]
fn the_pod_as_a_whole_changes_after_its_containers() {
    let mut world = pod_as_a_whole("NotRequired");
    assert_eq!(cpus_of_pod(&world), pair("1", "1"));
    resize_pod(&mut world, "2");
    resize(&mut world, "1500m");
    world.pass(1);
    assert_eq!(cpus_of_pod(&world), pair("2", "2"));
    assert_eq!(cpus(&world), pair("1500m", "1500m"));
    assert!(!has_condition(&world, "PodResizeInProgress"));
    assert_eq!(
        told_of(&world, &["resize", "update"]),
        ["1 resize", "1 update c", "1 update pod", "1 resized"]
    );
    for name in ["c", "rest"] {
        assert_eq!(world.state(name), "running, ready true, restarts 0");
    }
}

#[test]
fn a_container_that_the_pod_bounds_is_restarted_where_it_wants_that() {
    let mut world = pod_as_a_whole("RestartContainer");
    resize_pod(&mut world, "2");
    world.pass(30);
    assert_eq!(world.state("c"), "running, ready true, restarts 0");
    assert_eq!(world.state("rest"), "running, ready true, restarts 1");
    assert_eq!(cpus_of_pod(&world), pair("2", "2"));
    assert!(!has_condition(&world, "PodResizeInProgress"));
    assert_eq!(told_of(&world, &["update"]), ["1 update pod"]);
}

#[test]
fn the_pod_as_a_whole_has_to_fit() {
    let mut world = pod_as_a_whole("NotRequired");
    resize_pod(&mut world, "5");
    world.pass(1);
    assert_eq!(
        world.condition("PodResizePending"),
        "True Infeasible Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"
    );
    world.node_resources = node_resources(3000);
    resize_pod(&mut world, "2");
    world.pass(1);
    assert_eq!(
        world.condition("PodResizePending"),
        "True Deferred Node didn't have enough resource: cpu, requested: 2000, used: 3000, \
         capacity: 4000"
    );
    assert_eq!(cpus_of_pod(&world), pair("1", "1"));
    world.node_resources = node_resources(1000);
    world.pass(15);
    assert_eq!(cpus_of_pod(&world), pair("2", "2"));
}

#[test]
fn what_the_pod_as_a_whole_cannot_have_is_tried_again() {
    let mut world = pod_as_a_whole("NotRequired");
    world.behaviour.bad_limits.push("");
    resize_pod(&mut world, "700m");
    world.pass(25);
    assert_eq!(
        world.condition("PodResizeInProgress"),
        "True Error below current usage"
    );
    assert_eq!(cpus_of_pod(&world), pair("700m", "1"));
    world.behaviour.bad_limits.clear();
    world.pass(15);
    assert!(!has_condition(&world, "PodResizeInProgress"));
    assert_eq!(cpus_of_pod(&world), pair("700m", "700m"));
}

#[test]
fn a_change_of_the_pod_that_is_taken_back_is_undone() {
    let mut world = pod_as_a_whole("NotRequired");
    world.behaviour.bad_limits.push("");
    resize_pod(&mut world, "700m");
    world.pass(1);
    world.behaviour.bad_limits.clear();
    let spec = world.pod.spec.as_mut().unwrap();
    spec.resources = Some(json_tree::from_value(asking("1")).unwrap());
    world.pass(1);
    // It is unknown which limits were applied before the failure.
    assert_eq!(
        told_of(&world, &["resize", "update"]),
        [
            "1 resize",
            "1 update pod failed",
            "2 resize",
            "2 update pod",
            "2 resized"
        ]
    );
    assert_eq!(cpus_of_pod(&world), pair("1", "1"));
    assert!(!has_condition(&world, "PodResizeInProgress"));
}

#[test]
fn a_pod_without_resources_of_its_own_gets_some() {
    let mut world = pod("NotRequired");
    assert_eq!(world.status.resources, None);
    assert_eq!(world.status.allocated_resources, None);
    resize_pod(&mut world, "1");
    world.pass(1);
    assert_eq!(cpus_of_pod(&world), pair("1", "1"));
    assert_eq!(world.state("c"), "running, ready true, restarts 0");
    assert_eq!(
        told_of(&world, &["resize", "update"]),
        ["1 resize", "1 update pod", "1 resized"]
    );
}
