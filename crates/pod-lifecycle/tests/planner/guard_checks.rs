//! The checks of a guard in the pods of a StatefulSet (rollouts.md R29, R30).

use std::collections::BTreeMap;

use json_tree::json;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::spec::ProbeKind;
use resource_kinds::stateful_set_policy::CheckKind;

use crate::harness::Harness;

const HEALTH: ProbeKind = ProbeKind::Guard(CheckKind::Health);
const RECOVERY: ProbeKind = ProbeKind::Guard(CheckKind::Recovery);

fn answer(harness: &mut Harness, container: &'static str, kind: ProbeKind, passes: bool) {
    let outcome = match passes {
        true => ProbeOutcome::Success,
        false => ProbeOutcome::Failure("no".to_owned()),
    };
    let probes = &mut harness.behaviour.probes;
    probes.insert((container, kind), [outcome].into());
}

fn annotate(harness: &mut Harness, checks: &[(CheckKind, json_tree::Value)]) {
    let checks = checks.iter();
    let annotations: BTreeMap<String, String> = checks
        .map(|(kind, check)| (kind.annotation().to_owned(), check.to_string()))
        .collect();
    harness.pod.metadata.annotations = Some(annotations);
}

/// rollouts.md R29, R30: each check is a condition of its own, and has no effect on the readiness of the pod.
#[test]
fn checks_are_conditions() {
    let spec = json!({"containers": [
        {"name": "db", "image": "img"}, {"name": "exporter", "image": "img"}]});
    let mut harness = Harness::new(spec);
    harness.pass(1);
    let exec = json!({"exec": {"command": ["check"]}, "periodSeconds": 5});
    let named = json!({"tcpSocket": {"port": 1}, "container": "exporter", "periodSeconds": 5});
    annotate(
        &mut harness,
        &[(CheckKind::Health, exec), (CheckKind::Recovery, named)],
    );
    answer(&mut harness, "db", HEALTH, true);
    answer(&mut harness, "exporter", RECOVERY, false);
    harness.pass(30);
    assert_eq!(harness.condition("mainstay.dev/Healthy"), "True");
    let failed = "False CheckFailed";
    assert_eq!(harness.condition("mainstay.dev/Recovered"), failed);
    assert_eq!(harness.condition("Ready"), "True");
    answer(&mut harness, "db", HEALTH, false);
    answer(&mut harness, "exporter", RECOVERY, true);
    harness.pass(10);
    assert_eq!(harness.condition("mainstay.dev/Healthy"), failed);
    assert_eq!(harness.condition("mainstay.dev/Recovered"), "True");
    assert_eq!(harness.state("db"), "running, ready true, restarts 0");
    // Without the annotation there is no condition.
    annotate(&mut harness, &[]);
    harness.pass(10);
    let conditions = harness.status.conditions.iter().flatten();
    let mut own = conditions.filter(|c| c.type_.starts_with("mainstay.dev/"));
    assert_eq!(own.next(), None);
}

/// rollouts.md R29: without a result a pod is not healthy; an unreadable check is none.
#[test]
fn a_check_without_a_result_does_not_hold() {
    let mut harness = Harness::new(json!({"containers": [{"name": "db", "image": "img"}]}));
    let exec = json!({"exec": {"command": ["check"]}, "container": "none"});
    annotate(&mut harness, &[(CheckKind::Health, exec)]);
    harness.pass(20);
    let absent = "False NoContainer";
    assert_eq!(harness.condition("mainstay.dev/Healthy"), absent);
    annotate(&mut harness, &[(CheckKind::Health, json!("what"))]);
    harness.pass(20);
    let conditions = harness.status.conditions.iter().flatten();
    let mut own = conditions.filter(|c| c.type_.starts_with("mainstay.dev/"));
    assert_eq!(own.next(), None);
}
