//! Pods that an agent has read from its disk while no API server responds.

use json_tree::json;
use pod_lifecycle::PodConfirmation;
use pod_lifecycle::record::Sandbox;

use crate::world::World;

/// A running pod whose agent was restarted without an API server.
fn adopted() -> World {
    let container = json!({"name": "c", "image": "i",
        "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 10}});
    let mut world = World::new(json!({"containers": [container]}));
    world.pass(1);
    world.record = world.record.clone().without_work_in_flight();
    world.confirmation = PodConfirmation::Unconfirmed;
    world.log.clear();
    world
}

#[test]
fn a_pod_with_a_sandbox_is_run_by_its_policies() {
    // statefulset.md 12.5
    let mut world = adopted();
    world.pass(60);
    world.exit("c", 1);
    world.pass(60);
    assert_eq!(world.state("c"), "running, ready true, restarts 1");
    assert!(world.lines().iter().all(|line| !line.contains("sandbox")));
}

/// The machine was switched off, an administrator confirmed that it was off, and the pod runs on another
/// node. The machine cannot know this without an API server.
#[test]
fn a_pod_without_a_sandbox_gets_one_only_when_the_api_confirms_it() {
    // statefulset.md 3.32
    let mut world = adopted();
    let now = world.now;
    world.record.sandbox_lost(now);
    world.pass(3600);
    assert_eq!(world.lines(), [""; 0]);
    let waiting = &world.plan.waiting[0].reason;
    assert!(waiting.contains("API server"), "{waiting}");
    assert_eq!(world.record.sandbox, Sandbox::Gone);
    world.confirmation = PodConfirmation::Bound;
    world.pass(0);
    assert_eq!(world.state("c"), "running, ready true, restarts 1");
}

#[test]
fn a_pod_that_was_deleted_meanwhile_only_ends() {
    // statefulset.md 12.7
    let mut world = adopted();
    world.confirmation = PodConfirmation::Removed;
    world.pass(60);
    assert!(world.plan.finished, "{:?}", world.plan);
    assert!(
        world
            .lines()
            .iter()
            .all(|line| !line.ends_with(" sandbox") || line.ends_with("no sandbox"))
    );
}
