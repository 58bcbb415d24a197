//! Grace periods of containers.

use json_tree::json;
use pod_lifecycle::PodConfirmation;
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::spec::ProbeKind;

use crate::world::World;

#[test]
fn a_probe_may_give_less_time_than_the_pod() {
    // statefulset.md 12.5
    let mut world = World::new(json!({"terminationGracePeriodSeconds": 60, "containers": [
        {"name": "c", "image": "i", "livenessProbe": {"exec": {}, "periodSeconds": 10,
            "failureThreshold": 1, "terminationGracePeriodSeconds": 5}}]}));
    world.behaviour.deaf.push("c");
    let failed = ProbeOutcome::Failure("no".to_owned());
    world
        .behaviour
        .probes
        .insert(("c", ProbeKind::Liveness), [failed].into());
    world.pass(30);
    let lines = world.lines();
    for what in ["0 TERM c", "5 KILL c"] {
        assert!(lines.contains(&what.to_owned()), "{what}: {lines:?}");
    }
}

#[test]
fn the_rest_of_the_grace_is_for_the_signal_when_a_hook_does_not_end() {
    // statefulset.md 12.6, 12.7
    let mut world = World::new(json!({"terminationGracePeriodSeconds": 10, "containers": [
        {"name": "c", "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["wait"]}}}}]}));
    world.behaviour.deaf.push("c");
    world.behaviour.slow_hooks.push("c");
    world.pass(1);
    world.delete(10);
    world.pass(30);
    let lines = world.lines();
    for what in ["11 TERM c", "13 KILL c"] {
        assert!(lines.contains(&what.to_owned()), "{what}: {lines:?}");
    }
}

/// findings R7: if the agent was killed during a termination's hook, the termination starts again instead
/// of waiting until the grace period ends.
#[test]
fn an_end_whose_hook_was_cut_off_begins_anew() {
    cov_mark::check!(findings_r7);
    // statefulset.md 12.6
    let mut world = World::new(
        json!({"terminationGracePeriodSeconds": 3600, "containers": [
        {"name": "c", "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["wait"]}}}}]}),
    );
    world.behaviour.slow_hooks.push("c");
    world.pass(1);
    world.delete(3600);
    world.pass(4);
    world.record = std::mem::take(&mut world.record).without_work_in_flight();
    world.behaviour.slow_hooks.clear();
    world.pass(1);
    let lines = world.lines();
    let hooks = lines.iter().filter(|what| what.ends_with("preStop c"));
    assert_eq!(hooks.collect::<Vec<_>>(), ["1 preStop c", "5 preStop c"]);
    assert!(lines.contains(&"5 TERM c".to_owned()), "{lines:?}");
}

/// A termination continues after its hook has ended.
#[test]
fn an_end_whose_hook_was_over_goes_on() {
    // statefulset.md 12.7
    let mut world = World::new(json!({"terminationGracePeriodSeconds": 10, "containers": [
        {"name": "c", "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["wait"]}}}}]}));
    world.behaviour.deaf.push("c");
    world.pass(1);
    world.delete(10);
    world.pass(4);
    world.record = std::mem::take(&mut world.record).without_work_in_flight();
    world.pass(30);
    let lines = world.lines();
    let hooks = lines.iter().filter(|what| what.ends_with("preStop c"));
    assert_eq!(hooks.count(), 1);
    assert!(lines.contains(&"11 KILL c".to_owned()), "{lines:?}");
}

#[test]
fn a_node_that_stops_may_leave_less_time_than_the_pod_has() {
    // statefulset.md 12.17
    for (limit, killed) in [
        (Some(4), "5 KILL c"),
        (Some(60), "11 KILL c"),
        (None, "11 KILL c"),
    ] {
        let mut world = World::new(json!({"terminationGracePeriodSeconds": 10, "containers": [
            {"name": "c", "image": "i"}]}));
        world.behaviour.deaf.push("c");
        world.pass(1);
        world.node_stops = Some(NodeStop {
            grace_seconds: limit,
        });
        world.pass(30);
        let lines = world.lines();
        for what in ["1 TERM c", killed] {
            assert!(lines.contains(&what.to_owned()), "{what}: {lines:?}");
        }
    }
}

#[test]
fn a_pod_that_is_ending_already_has_no_more_time_than_the_node_leaves() {
    // statefulset.md 12.17
    let mut world = World::new(json!({"terminationGracePeriodSeconds": 60, "containers": [
        {"name": "c", "image": "i"}]}));
    world.behaviour.deaf.push("c");
    world.pass(1);
    world.delete(60);
    world.pass(3);
    world.node_stops = Some(NodeStop {
        grace_seconds: Some(5),
    });
    world.pass(30);
    let lines = world.lines();
    assert!(lines.contains(&"6 KILL c".to_owned()), "{lines:?}");
}

#[test]
fn what_cannot_be_cleared_away_does_not_keep_a_node_from_stopping() {
    let mut world = World::new(json!({"containers": [{"name": "c", "image": "i"}]}));
    world.behaviour.bad_disk = true;
    world.pass(1);
    world.node_stops = Some(NodeStop::default());
    world.pass(60);
    let lines = world.lines();
    assert!(world.plan.finished, "{lines:?}");
    let stays = lines.iter().filter(|what| what.ends_with("sandbox stays"));
    assert_eq!(stays.count(), 4, "{lines:?}");
    // The next agent has to remove the sandbox and run the pod.
    assert_ne!(world.record.sandbox, pod_lifecycle::record::Sandbox::None);

    // A deleted pod must be cleaned up if the node keeps running.
    world.node_stops = None;
    world.delete(0);
    world.pass(60);
    assert!(!world.plan.finished);
    world.behaviour.bad_disk = false;
    world.pass(120);
    assert!(world.plan.finished);
}

#[test]
fn a_pod_without_grace_is_killed_at_once() {
    cov_mark::check!(findings_c26);
    // findings C26
    for (requested, killed) in [(1, "1 KILL c"), (20, "21 KILL c")] {
        let mut world = World::new(json!({"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": "i", "lifecycle": {"preStop": {"exec": {}}}}]}));
        world.behaviour.deaf.push("c");
        world.pass(1);
        world.delete(requested);
        world.pass(60);
        let lines = world.lines();
        assert!(lines.contains(&killed.to_owned()), "{lines:?}");
        let hook = lines.contains(&"1 preStop c".to_owned());
        assert_eq!(hook, requested > 1, "{lines:?}");
        assert!(world.plan.finished);
    }
}

#[test]
fn a_node_that_stops_does_not_wait_for_years() {
    cov_mark::check!(findings_s33);
    // findings S33
    let long = json!({"terminationGracePeriodSeconds": 1_000_000_000, "containers": [
        {"name": "c", "image": "i"}]});
    let stopping = || {
        let mut world = World::new(long.clone());
        world.behaviour.deaf.push("c");
        world.pass(1);
        world.node_stops = Some(NodeStop::default());
        world.pass(9);
        world
    };
    let mut patient = stopping();
    patient.pass(4000);
    let lines = patient.lines();
    assert!(lines.contains(&"3601 KILL c".to_owned()), "{lines:?}");
    // A forced deletion ends the wait.
    let mut forced = stopping();
    forced.confirmation = PodConfirmation::Removed;
    forced.pass(5);
    let lines = forced.lines();
    assert!(lines.contains(&"10 KILL c".to_owned()), "{lines:?}");
    let mut hurried = stopping();
    hurried.delete(5);
    hurried.pass(5);
    let lines = hurried.lines();
    assert!(lines.contains(&"10 KILL c".to_owned()), "{lines:?}");
}
