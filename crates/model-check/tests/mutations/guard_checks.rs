//! Mistakes about the checks of a guard (rollouts.md R29–R31).

use std::sync::Arc;

use controller_planners::stateful_set::Observed;
use model_check::state::Budget;
use model_check::world::{Fault, World};
use resource_kinds::pod_view::Condition;
use resource_kinds::reasons::pod_condition;

use super::{by_effect, check_detects, with_input, without_guard, world};

/// The world of pods that recover, with one change of the template.
fn recovered(faults: &'static [Fault]) -> World {
    World {
        faults,
        budget: Budget {
            edits: 1,
            faults: u8::try_from(faults.len()).expect("a few"),
            ..Budget::default()
        },
        ..world("recovered")
    }
}

/// Every pod passes a check.
fn pass(observed: &mut Observed, check: &str) {
    for pod in &mut observed.pods {
        for condition in &mut Arc::make_mut(pod).conditions {
            if condition.kind() == check {
                *condition = Condition::new(condition.kind(), "True", condition.since);
            }
        }
    }
}

fn without_recovery(observed: &mut Observed) {
    pass(observed, pod_condition::RECOVERED);
}

/// rollouts.md R30: a pod counts as recovered when it is Ready.
#[test]
fn ready_in_place_of_recovered_is_detected() {
    check_detects(
        recovered(&[]),
        with_input(without_recovery),
        "while web-1 has not recovered",
    );
}

/// rollouts.md R28, R30: neither the planner nor the eviction waits for the recovery.
#[test]
fn an_eviction_that_does_not_wait_for_the_recovery_is_detected() {
    let mut seeded = by_effect(with_input(without_recovery));
    seeded.guards.eviction_awaits_recovery = false;
    check_detects(
        recovered(&[]),
        seeded,
        "the healthy pod web-0 is deleted while web-1 has not recovered",
    );
}

/// rollouts.md R29: the result of a check counts for the next pod of the name.
#[test]
fn a_result_by_name_is_detected() {
    check_detects(
        recovered(&[Fault::LateResult, Fault::Delete]),
        without_guard(|guards| guards.results_by_uid = false),
        "the healthy pod web-0 is deleted while web-1 has not recovered",
    );
}

/// rollouts.md R28: the pods of the other set count, whatever their state is.
#[test]
fn a_group_that_is_taken_for_healthy_is_detected() {
    let input = |observed: &mut Observed| {
        let others = observed.group.iter_mut();
        for pod in others.flat_map(|other| &mut other.pods) {
            for condition in &mut Arc::make_mut(pod).conditions {
                *condition = Condition::new(condition.kind(), "True", condition.since);
            }
        }
    };
    check_detects(world("group"), with_input(input), "the guard is broken");
}

/// rollouts.md R28: an eviction of the other set counts its own pods alone.
#[test]
fn an_eviction_that_does_not_count_the_group_is_detected() {
    check_detects(
        world("group"),
        without_guard(|guards| guards.eviction_counts = false),
        "fewer healthy pods than the guard demands",
    );
}

/// rollouts.md R29: a pod that fails the health check counts as healthy.
#[test]
fn an_ignored_health_check_is_detected() {
    let input = |observed: &mut Observed| pass(observed, pod_condition::HEALTHY);
    let world = World {
        faults: &[],
        budget: Budget {
            edits: 1,
            ..Budget::default()
        },
        ..world("health-check")
    };
    check_detects(world, with_input(input), "the guard is broken");
}
