//! Properties for any pod and any order of events: a container never runs twice, no container runs in a pod
//! that has ended, the planner finishes its actions, and a deleted pod is removed.

use crate::world::World;
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

fn ended(world: &World) -> bool {
    matches!(world.status.phase.as_deref(), Some("Succeeded" | "Failed"))
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
        let mut world = World::new(spec);
        world.settle();
        let mut final_phase = None;
        for step in steps {
            match step {
                Step::Exit(index, code) => world.exit(names[index], code),
                Step::Pass(seconds) => world.pass(seconds),
                Step::LoseSandbox if world.record.sandbox != Sandbox::None => {
                    let now = world.now;
                    world.record.sandbox_lost(now);
                }
                Step::LoseSandbox => {}
                Step::Restart => world.record = world.record.clone().without_work_in_flight(),
                Step::RestartAlone => {
                    world.record = world.record.clone().without_work_in_flight();
                    world.confirmation = PodConfirmation::Unconfirmed;
                }
                Step::Confirm => world.confirmation = PodConfirmation::Bound,
                Step::Delete(grace) => world.delete(grace),
            }
            let sandboxes_before = world.record.sandboxes_made;
            world.settle();
            // An unconfirmed pod gets no new sandbox.
            let is_confirmed = world.confirmation == PodConfirmation::Bound;
            prop_assert!(is_confirmed || world.record.sandboxes_made == sandboxes_before);
            if let Some(phase) = &final_phase {
                prop_assert_eq!(phase, &world.status.phase);
            } else if ended(&world) {
                final_phase = Some(world.status.phase.clone());
            }
            if ended(&world) {
                world.pass(60);
                prop_assert!(!world.record.anything_runs());
            }
        }
        world.delete(5);
        world.pass(60);
        prop_assert!(world.plan.finished, "{:?}", world.plan);
        prop_assert!(ended(&world));
        let replanned = world.plan();
        prop_assert_eq!(&replanned.actions, &vec![]);
    }
}
