//! Grace periods of containers.

use json_tree::json;
use pod_lifecycle::PodConfirmation;
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::spec::ProbeKind;

use crate::harness::Harness;

#[test]
fn a_probe_may_give_less_time_than_the_pod() {
    // statefulset.md 12.5
    let mut harness = Harness::new(json!({"terminationGracePeriodSeconds": 60, "containers": [
        {"name": "c", "image": "i", "livenessProbe": {"exec": {}, "periodSeconds": 10,
            "failureThreshold": 1, "terminationGracePeriodSeconds": 5}}]}));
    harness.behaviour.deaf.push("c");
    let failed = ProbeOutcome::Failure("no".to_owned());
    harness
        .behaviour
        .probes
        .insert(("c", ProbeKind::Liveness), [failed].into());
    harness.pass(30);
    let lines = harness.lines();
    for what in ["0 TERM c", "5 KILL c"] {
        assert!(lines.contains(&what.to_owned()), "{what}: {lines:?}");
    }
}

#[test]
fn the_rest_of_the_grace_is_for_the_signal_when_a_hook_does_not_end() {
    // statefulset.md 12.6, 12.7
    let mut harness = Harness::new(json!({"terminationGracePeriodSeconds": 10, "containers": [
        {"name": "c", "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["wait"]}}}}]}));
    harness.behaviour.deaf.push("c");
    harness.behaviour.slow_hooks.push("c");
    harness.pass(1);
    harness.delete(10);
    harness.pass(30);
    let lines = harness.lines();
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
    let mut harness = Harness::new(
        json!({"terminationGracePeriodSeconds": 3600, "containers": [
        {"name": "c", "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["wait"]}}}}]}),
    );
    harness.behaviour.slow_hooks.push("c");
    harness.pass(1);
    harness.delete(3600);
    harness.pass(4);
    harness.record = std::mem::take(&mut harness.record).without_work_in_flight();
    harness.behaviour.slow_hooks.clear();
    harness.pass(1);
    let lines = harness.lines();
    let hooks = lines.iter().filter(|what| what.ends_with("preStop c"));
    assert_eq!(hooks.collect::<Vec<_>>(), ["1 preStop c", "5 preStop c"]);
    assert!(lines.contains(&"5 TERM c".to_owned()), "{lines:?}");
}

/// A termination continues after its hook has ended.
#[test]
fn an_end_whose_hook_was_over_goes_on() {
    // statefulset.md 12.7
    let mut harness = Harness::new(json!({"terminationGracePeriodSeconds": 10, "containers": [
        {"name": "c", "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["wait"]}}}}]}));
    harness.behaviour.deaf.push("c");
    harness.pass(1);
    harness.delete(10);
    harness.pass(4);
    harness.record = std::mem::take(&mut harness.record).without_work_in_flight();
    harness.pass(30);
    let lines = harness.lines();
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
        let mut harness = Harness::new(json!({"terminationGracePeriodSeconds": 10, "containers": [
            {"name": "c", "image": "i"}]}));
        harness.behaviour.deaf.push("c");
        harness.pass(1);
        harness.node_stops = Some(NodeStop {
            grace_seconds: limit,
        });
        harness.pass(30);
        let lines = harness.lines();
        for what in ["1 TERM c", killed] {
            assert!(lines.contains(&what.to_owned()), "{what}: {lines:?}");
        }
    }
}

#[test]
fn a_pod_that_is_ending_already_has_no_more_time_than_the_node_leaves() {
    // statefulset.md 12.17
    let mut harness = Harness::new(json!({"terminationGracePeriodSeconds": 60, "containers": [
        {"name": "c", "image": "i"}]}));
    harness.behaviour.deaf.push("c");
    harness.pass(1);
    harness.delete(60);
    harness.pass(3);
    harness.node_stops = Some(NodeStop {
        grace_seconds: Some(5),
    });
    harness.pass(30);
    let lines = harness.lines();
    assert!(lines.contains(&"6 KILL c".to_owned()), "{lines:?}");
}

#[test]
fn what_cannot_be_cleared_away_does_not_keep_a_node_from_stopping() {
    let mut harness = Harness::new(json!({"containers": [{"name": "c", "image": "i"}]}));
    harness.behaviour.bad_disk = true;
    harness.pass(1);
    harness.node_stops = Some(NodeStop::default());
    harness.pass(60);
    let lines = harness.lines();
    assert!(harness.plan.finished, "{lines:?}");
    let stays = lines.iter().filter(|what| what.ends_with("sandbox stays"));
    assert_eq!(stays.count(), 4, "{lines:?}");
    // The next agent has to remove the sandbox and run the pod.
    assert_ne!(harness.record.sandbox, pod_lifecycle::record::Sandbox::None);

    // A deleted pod must be cleaned up if the node keeps running.
    harness.node_stops = None;
    harness.delete(0);
    harness.pass(60);
    assert!(!harness.plan.finished);
    harness.behaviour.bad_disk = false;
    harness.pass(120);
    assert!(harness.plan.finished);
}

#[test]
fn a_pod_without_grace_is_killed_at_once() {
    cov_mark::check!(findings_c26);
    // findings C26
    for (requested, killed) in [(1, "1 KILL c"), (20, "21 KILL c")] {
        let mut harness = Harness::new(json!({"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": "i", "lifecycle": {"preStop": {"exec": {}}}}]}));
        harness.behaviour.deaf.push("c");
        harness.pass(1);
        harness.delete(requested);
        harness.pass(60);
        let lines = harness.lines();
        assert!(lines.contains(&killed.to_owned()), "{lines:?}");
        let hook = lines.contains(&"1 preStop c".to_owned());
        assert_eq!(hook, requested > 1, "{lines:?}");
        assert!(harness.plan.finished);
    }
}

#[test]
fn a_node_that_stops_does_not_wait_for_years() {
    cov_mark::check!(findings_s33);
    // findings S33
    let long = json!({"terminationGracePeriodSeconds": 1_000_000_000, "containers": [
        {"name": "c", "image": "i"}]});
    let stopping = || {
        let mut harness = Harness::new(long.clone());
        harness.behaviour.deaf.push("c");
        harness.pass(1);
        harness.node_stops = Some(NodeStop::default());
        harness.pass(9);
        harness
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
