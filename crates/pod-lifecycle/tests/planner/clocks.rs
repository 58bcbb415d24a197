//! Tests in which the wall clock is set while pods run.

use jiff::SignedDuration;
use json_tree::json;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::spec::ProbeKind;
use proptest::prelude::*;

use crate::harness::Harness;

/// The events of a pod with failing probes, a crashing container, and a container that ignores its stop
/// signal. Between the parts of its life, the wall clock is changed by `hours`.
fn life(hours: [i64; 5]) -> Vec<String> {
    let mut harness = Harness::new(json!({
        "terminationGracePeriodSeconds": 20, "activeDeadlineSeconds": 400,
        "containers": [
            {"name": "crashes", "image": "x"},
            {"name": "bad", "image": "missing"},
            {"name": "hangs", "image": "x", "livenessProbe": {"periodSeconds": 7}}]}));
    let failures = std::iter::repeat_n(ProbeOutcome::Failure(String::new()), 9);
    let probes = &mut harness.behaviour.probes;
    probes.insert(("hangs", ProbeKind::Liveness), failures.collect());
    harness.behaviour.deaf.push("hangs");
    let trouble = ("ErrImagePull", "no");
    harness.behaviour.bad_images.insert("bad", trouble);
    for step in hours {
        harness.set_wall_clock(SignedDuration::from_hours(step));
        harness.pass(35);
        harness.set_wall_clock(SignedDuration::from_hours(-step / 2));
        harness.exit("crashes", 1);
        harness.pass(60);
    }
    harness.lines()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    // findings R4
    #[test]
    fn what_is_done_when_does_not_depend_on_the_wall_clock(
        hours in prop::array::uniform5(-30_i64..30)
    ) {
        prop_assert_eq!(life(hours), life([0; 5]));
    }
}

#[test]
fn such_a_life_has_restarts_kills_and_an_end() {
    let lines = life([0; 5]).join("\n");
    for what in [
        "BackOff crashes",
        "pull bad",
        "DeadlineExceeded",
        "KILL hangs",
    ] {
        assert!(lines.contains(what), "{what}: {lines}");
    }
}
