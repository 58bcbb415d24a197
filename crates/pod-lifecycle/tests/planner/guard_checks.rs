//! The checks of a guard and the hooks of a policy in the pods of a StatefulSet (rollouts.md R22 to R25, R29, R30).

use std::collections::BTreeMap;

use json_tree::json;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::spec::ProbeKind;
use pod_lifecycle::status::OWN_CONDITIONS;
use resource_kinds::stateful_set_policy::{
    CheckKind, GuardCheck, HookPurpose, PodHold, PolicyHook,
};

use crate::harness::Harness;

const HEALTH: ProbeKind = ProbeKind::Guard(CheckKind::Health);
const HOOK: ProbeKind = ProbeKind::Guard(CheckKind::Hook);
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

/// The hold with the hook `drain` that begins at that second.
fn hold(second: i64) -> PodHold {
    let hook = json!({"name": "drain", "before": ["Update"], "exec": {"command": ["drain"]},
        "periodSeconds": 5});
    let hook: PolicyHook = json_tree::from_value(hook).unwrap();
    let at = jiff::Timestamp::from_second(second).unwrap();
    PodHold::new(HookPurpose::Update, at).begin(&hook, at)
}

fn annotate_hold(harness: &mut Harness, hold: &PodHold) {
    let annotation = (CheckKind::Hook.annotation().to_owned(), hold.text());
    harness.pod.metadata.annotations = Some(BTreeMap::from([annotation]));
}

/// rollouts.md R23, R24: a hook runs until it succeeds, and the answer names its run.
#[test]
fn a_hook_runs_until_it_succeeds() {
    let mut harness = Harness::new(json!({"containers": [{"name": "db", "image": "img"}]}));
    harness.pass(1);
    let first = hold(1);
    annotate_hold(&mut harness, &first);
    answer(&mut harness, "db", HOOK, false);
    harness.pass(30);
    let failed = "False CheckFailed";
    assert_eq!(harness.condition("mainstay.dev/HookDone"), failed);
    assert_eq!(harness.condition("Ready"), "True");
    answer(&mut harness, "db", HOOK, true);
    harness.pass(10);
    let done = format!("True {}", first.id);
    assert_eq!(harness.condition("mainstay.dev/HookDone"), done);
    // It has ended: a later failure would not count.
    answer(&mut harness, "db", HOOK, false);
    harness.pass(30);
    assert_eq!(harness.condition("mainstay.dev/HookDone"), done);
    // The next run begins without an answer.
    let second = hold(2);
    annotate_hold(&mut harness, &second);
    harness.pass(30);
    assert_eq!(harness.condition("mainstay.dev/HookDone"), failed);
    answer(&mut harness, "db", HOOK, true);
    harness.pass(10);
    let done = format!("True {}", second.id);
    assert_eq!(harness.condition("mainstay.dev/HookDone"), done);
}

/// rollouts.md R23, R29: the agent writes the conditions of all checks.
#[test]
fn the_condition_of_each_check_is_the_agents() {
    for kind in CheckKind::ALL {
        let condition = kind.condition();
        assert!(OWN_CONDITIONS.contains(&condition), "{condition}");
    }
}

/// rollouts.md R22: without an action, nobody but a person answers.
#[test]
fn a_hook_without_an_action_has_no_condition() {
    let mut harness = Harness::new(json!({"containers": [{"name": "db", "image": "img"}]}));
    let hold = PodHold {
        check: GuardCheck::default(),
        ..hold(1)
    };
    annotate_hold(&mut harness, &hold);
    harness.pass(20);
    let conditions = harness.status.conditions.iter().flatten();
    let mut own = conditions.filter(|c| c.type_.starts_with("mainstay.dev/"));
    assert_eq!(own.next(), None);
}
