//! Pods that an agent has read from its disk while no API server responds.

use json_tree::json;
use pod_lifecycle::PodConfirmation;
use pod_lifecycle::record::Sandbox;

use crate::harness::Harness;

/// A running pod whose agent was restarted without an API server.
fn adopted() -> Harness {
    let container = json!({"name": "c", "image": "i",
        "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 10}});
    let mut harness = Harness::new(json!({"containers": [container]}));
    harness.pass(1);
    harness.record = harness.record.clone().without_work_in_flight();
    harness.confirmation = PodConfirmation::Unconfirmed;
    harness.log.clear();
    harness
}

#[test]
fn a_pod_with_a_sandbox_is_run_by_its_policies() {
    // statefulset.md 12.5
    let mut harness = adopted();
    harness.pass(60);
    harness.exit("c", 1);
    harness.pass(60);
    assert_eq!(harness.state("c"), "running, ready true, restarts 1");
    assert!(harness.lines().iter().all(|line| !line.contains("sandbox")));
}

/// The machine was switched off, an administrator confirmed that it was off, and the pod runs on another
/// node. The machine cannot know this without an API server.
#[test]
fn a_pod_without_a_sandbox_gets_one_only_when_the_api_confirms_it() {
    // statefulset.md 3.32
    let mut harness = adopted();
    let now = harness.now;
    harness.record.sandbox_lost(now);
    harness.pass(3600);
    assert_eq!(harness.lines(), [""; 0]);
    let waiting = &harness.plan.waiting[0].reason;
    assert!(waiting.contains("API server"), "{waiting}");
    assert_eq!(harness.record.sandbox, Sandbox::Gone);
    harness.confirmation = PodConfirmation::Bound;
    harness.pass(0);
    assert_eq!(harness.state("c"), "running, ready true, restarts 1");
}

#[test]
fn a_pod_that_was_deleted_meanwhile_only_ends() {
    // statefulset.md 12.7
    let mut harness = adopted();
    harness.confirmation = PodConfirmation::Removed;
    harness.pass(60);
    assert!(harness.plan.finished, "{:?}", harness.plan);
    assert!(
        harness
            .lines()
            .iter()
            .all(|line| !line.ends_with(" sandbox") || line.ends_with("no sandbox"))
    );
}
