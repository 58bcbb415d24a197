//! Pods that the node rejects or stops.

use json_tree::json;
use pod_lifecycle::PodFailure;

use crate::harness::Harness;

fn failure(reason: &str, grace_seconds: Option<i64>, disrupts: bool) -> PodFailure {
    PodFailure {
        reason: reason.to_owned(),
        message: format!("because of {reason}"),
        grace_seconds,
        disrupts,
    }
}

#[test]
fn a_pod_that_is_not_taken_fails_at_once_and_nothing_of_it_runs() {
    // statefulset.md 12.1, 12.16
    let mut harness = Harness::new(json!({"containers": [{"name": "c", "image": "i"}]}));
    harness.record.failure = Some(failure("SysctlForbidden", None, false));
    harness.pass(0);
    assert_eq!(harness.lines(), Vec::<String>::new());
    assert_eq!(harness.status.phase.as_deref(), Some("Failed"));
    assert_eq!(harness.status.reason.as_deref(), Some("SysctlForbidden"));
    assert_eq!(
        harness.status.message.as_deref(),
        Some("because of SysctlForbidden")
    );
    assert_eq!(harness.status.container_statuses, None);
    assert_eq!(harness.condition("Ready"), "False PodFailed");
}

#[test]
fn a_pod_that_is_driven_out_has_less_time_and_fails_when_nothing_of_it_runs() {
    // statefulset.md 12.1, 12.7, 12.14
    let mut harness = Harness::new(json!({"containers": [{"name": "c", "image": "i"}]}));
    harness.behaviour.deaf.push("c");
    harness.pass(5);
    harness.record.failure = Some(failure("Evicted", Some(1), true));
    harness.pass(1);
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    let condition = harness.condition("DisruptionTarget");
    assert_eq!(condition, "True TerminationByKubelet because of Evicted");
    harness.pass(10);
    assert_eq!(harness.status.phase.as_deref(), Some("Failed"));
    assert_eq!(harness.status.reason.as_deref(), Some("Evicted"));
    let lines = harness.lines();
    // The grace period is one second, but there are at least two seconds between the signal and the kill.
    for what in ["5 TERM c", "7 KILL c"] {
        assert!(lines.contains(&what.to_owned()), "{what}: {lines:?}");
    }
}
