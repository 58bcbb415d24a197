//! Properties for any pod and any order of events: a container never runs twice, no container runs in a pod
//! that has ended, the planner finishes its actions, and a deleted pod is removed.

use crate::harness::Harness;
use json_tree::{Value, json};
use pod_lifecycle::PodConfirmation;
use pod_lifecycle::record::Sandbox;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Exit(usize, i32),
    Pass(i64),
    LoseSandbox,
    Restart,
    /// The agent restarts while no API server responds.
    RestartAlone,
    /// The API server responds.
    Confirm,
    Delete(i64),
}

fn code() -> impl Strategy<Value = i32> {
    prop_oneof![Just(0), Just(1), Just(137)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..4, code()).prop_map(|(c, x)| Step::Exit(c, x)),
        4 => (0i64..400).prop_map(Step::Pass),
        1 => Just(Step::LoseSandbox),
        1 => Just(Step::Restart),
        1 => Just(Step::RestartAlone),
        1 => Just(Step::Confirm),
        1 => (1i64..40).prop_map(Step::Delete),
    ]
}

/// The restart rules of a container, if it has any.
fn rules() -> impl Strategy<Value = Value> {
    let rule =
        |action: &str| json!([{"action": action, "exitCodes": {"operator": "In", "values": [1]}}]);
    prop_oneof![
        4 => Just(Value::Null),
        1 => Just(rule("Restart")),
        1 => Just(rule("RestartAllContainers")),
    ]
}

fn pod() -> impl Strategy<Value = Value> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    let init = prop_oneof![Just(Value::Null), Just(json!("Always"))];
    let init = proptest::collection::vec((init, rules()), 0..3);
    let mains = proptest::collection::vec(rules(), 1..3);
    (policy, init, mains).prop_map(|(policy, init, mains)| {
        let init: Vec<Value> = init
            .iter()
            .enumerate()
            .map(|(i, (policy, rules))| {
                json!({"name": format!("i{i}"), "image": "x", "restartPolicy": policy,
                    "restartPolicyRules": rules})
            })
            .collect();
        let mains: Vec<Value> = mains
            .iter()
            .enumerate()
            .map(|(i, rules)| {
                json!({"name": format!("c{i}"), "image": "x", "restartPolicyRules": rules})
            })
            .collect();
        json!({"restartPolicy": policy, "initContainers": init, "containers": mains})
    })
}

fn ended(harness: &Harness) -> bool {
    matches!(
        harness.status.phase.as_deref(),
        Some("Succeeded" | "Failed")
    )
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_history_settles_and_keeps_the_invariants(
        spec in pod(),
        steps in proptest::collection::vec(step(), 1..25),
    ) {
        let names = ["i0", "i1", "c0", "c1"];
        let mut harness = Harness::new(spec);
        harness.settle();
        let mut final_phase = None;
        for step in steps {
            match step {
                Step::Exit(index, code) => harness.exit(names[index], code),
                Step::Pass(seconds) => harness.pass(seconds),
                Step::LoseSandbox if harness.record.sandbox != Sandbox::None => {
                    let now = harness.now;
                    harness.record.sandbox_lost(now);
                }
                Step::LoseSandbox => {}
                Step::Restart => harness.record = harness.record.clone().without_work_in_flight(),
                Step::RestartAlone => {
                    harness.record = harness.record.clone().without_work_in_flight();
                    harness.confirmation = PodConfirmation::Unconfirmed;
                }
                Step::Confirm => harness.confirmation = PodConfirmation::Bound,
                Step::Delete(grace) => harness.delete(grace),
            }
            let sandboxes_before = harness.record.sandboxes_made;
            harness.settle();
            // An unconfirmed pod gets no new sandbox.
            let is_confirmed = harness.confirmation == PodConfirmation::Bound;
            prop_assert!(is_confirmed || harness.record.sandboxes_made == sandboxes_before);
            if let Some(phase) = &final_phase {
                prop_assert_eq!(phase, &harness.status.phase);
            } else if ended(&harness) {
                final_phase = Some(harness.status.phase.clone());
            }
            if ended(&harness) {
                harness.pass(60);
                prop_assert!(!harness.record.anything_runs());
            }
        }
        harness.delete(5);
        harness.pass(60);
        prop_assert!(harness.plan.finished, "{:?}", harness.plan);
        prop_assert!(ended(&harness));
        let replanned = harness.plan();
        prop_assert_eq!(&replanned.actions, &vec![]);
    }
}
