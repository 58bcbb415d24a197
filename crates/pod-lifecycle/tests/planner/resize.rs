//! New resources for running containers (kubectl.md 6.7; statefulset.md 12.1, 12.10).

use pod_lifecycle::resize::{Amounts, Room};
use serde_json::{Value, json};

use crate::world::World;

const MI: i64 = 1 << 20;

fn room(others_milli: i64) -> Room {
    Room {
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
    world.room = room(0);
    world.pass(1);
    world
}

fn resize(world: &mut World, cpu: &str) {
    let spec = world.pod.spec.as_mut().unwrap();
    spec.containers[0].resources = Some(serde_json::from_value(asking(cpu)).unwrap());
    let generation = world.pod.metadata.generation.as_mut().unwrap();
    *generation += 1;
}

/// The cpu that the status says is allocated, and that is applied.
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
    let told = world.told();
    assert_eq!(
        told[2..],
        ["1 resize", "1 update c", "1 resized"],
        "{told:?}"
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
    let told = world.told();
    assert!(!told.iter().any(|line| line.contains("update")), "{told:?}");
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
    // Whoever asks for what it has takes that back.
    resize(&mut world, "500m");
    world.pass(1);
    assert!(!has_condition(&world, "PodResizePending"));
    let infeasible = world
        .told()
        .iter()
        .filter(|line| line.contains("Infeasible"))
        .count();
    assert_eq!(infeasible, 1);
}

#[test]
fn what_cannot_be_had_now_is_waited_for() {
    let mut world = pod("NotRequired");
    world.room = room(3000);
    resize(&mut world, "2");
    world.pass(60);
    assert_eq!(
        world.condition("PodResizePending"),
        "True Deferred Node didn't have enough resource: cpu, requested: 2000, used: 3000, \
         capacity: 4000"
    );
    world.room = room(1000);
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
