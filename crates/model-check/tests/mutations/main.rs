//! Injected mistakes, each of which the checker must detect, in a world without other violations.

mod claim_edits;
mod guard_checks;
mod verdicts;

use std::sync::Arc;

use controller_planners::stateful_set::write_schedule::Write;
use controller_planners::stateful_set::{Observed, StatefulSetAction, StatefulSetPlan, identity};
use k8s_openapi::api::apps::v1::StatefulSet;
use model_check::check::{Report, check, check_seeded};
use model_check::seeded::{Guards, Seeded};
use model_check::state::Budget;
use model_check::world::{Edit, Fault, World};
use resource_kinds::annotations;
use resource_kinds::pod_view::{Condition, Phase, PodView};

pub(crate) fn world(name: &str) -> World {
    World::named(name).expect("a world of that name")
}

/// Explores a world without and with a mistake: only with the mistake a rule is violated, and the rule is
/// `rule`.
pub(crate) fn check_detects(world: World, seeded: Seeded, rule: &str) {
    let without = check(world.clone(), 2);
    assert!(
        without.violation.is_none(),
        "without a mistake: {}",
        story(&without)
    );
    let with = check_seeded(world, seeded, 1);
    let violation = story(&with);
    assert!(
        violation.contains(rule),
        "expected {rule:?}, found: {violation}"
    );
}

pub(crate) fn story(report: &Report) -> String {
    match &report.violation {
        Some(violation) => format!("{}\n{}", violation.rule, violation.story),
        None => format!("nothing in {} states", report.states),
    }
}

pub(crate) fn without_guard(change: impl FnOnce(&mut Guards)) -> Seeded {
    let mut seeded = Seeded::default();
    change(&mut seeded.guards);
    seeded
}

pub(crate) fn with_input(input: fn(&mut Observed)) -> Seeded {
    Seeded {
        input: Some(input),
        ..Seeded::default()
    }
}

pub(crate) fn with_plan(plan: fn(&Observed, &mut StatefulSetPlan)) -> Seeded {
    Seeded {
        plan: Some(plan),
        ..Seeded::default()
    }
}

/// Only the effect of a mistake is detected, not the plan.
pub(crate) fn by_effect(seeded: Seeded) -> Seeded {
    Seeded {
        skips_plan_checks: true,
        ..seeded
    }
}

fn ordinal(name: &str) -> i64 {
    identity::ordinal("web", name).expect("a pod of the set")
}

/// A world with few steps, for one mistake.
pub(crate) fn small(name: &str, budget: Budget) -> World {
    World {
        budget,
        ..world(name)
    }
}

/// statefulset.md 3.11: the pod just below the next pod counts as Ready.
#[test]
fn order_with_an_off_by_one_is_detected() {
    let input = |observed: &mut Observed| {
        let highest = observed
            .pods
            .iter_mut()
            .max_by_key(|pod| ordinal(&pod.name));
        let Some(pod) = highest.map(Arc::make_mut) else {
            return;
        };
        pod.phase = Phase::Running;
        for condition in &mut pod.conditions {
            *condition = Condition::new(condition.kind(), "True", condition.since);
        }
    };
    check_detects(
        small("scale", Budget::default()),
        with_input(input),
        "is created before",
    );
}

/// statefulset.md 3.32: a creation that replaces an existing object gives one identity two running instances.
#[test]
fn a_create_without_the_guard_of_the_name_is_detected() {
    let budget = Budget {
        takeovers: 1,
        faults: 1,
        ..Budget::default()
    };
    check_detects(
        small("scale", budget),
        without_guard(|guards| guards.create_by_name = false),
        "at most one running instance has an identity",
    );
}

/// statefulset.md 5.3: a late delete by name of a replaced controller deletes the successor of its pod.
#[test]
fn a_delete_without_uid_is_detected() {
    let budget = Budget {
        edits: 1,
        takeovers: 1,
        ..Budget::default()
    };
    check_detects(
        small("rollout", budget),
        without_guard(|guards| guards.delete_by_uid = false),
        "is not the one that was meant",
    );
}

/// statefulset.md 3.31: a pod that is deleted without waiting for its node still runs on the node.
#[test]
fn a_delete_without_grace_is_detected() {
    let seeded = without_guard(|guards| guards.delete_gracefully = false);
    check_detects(
        world("node-lost"),
        seeded,
        "at most one running instance has an identity",
    );
}

/// statefulset.md 3.31: the name of a pod that is being deleted is not free.
#[test]
fn a_terminating_pod_that_counts_as_missing_is_detected() {
    let input = |observed: &mut Observed| {
        observed.pods.retain(|pod| !pod.is_deleting());
    };
    let budget = Budget {
        faults: 1,
        ..Budget::default()
    };
    check_detects(
        small("scale", budget),
        with_input(input),
        "is created while it exists",
    );
}

/// Two leaders at once, one leader with old caches: without the guard of the name, one identity gets two running
/// instances.
#[test]
fn two_leaders_without_the_guard_of_the_name_are_detected() {
    check_detects(
        world("two-leaders"),
        without_guard(|guards| guards.create_by_name = false),
        "at most one running instance has an identity",
    );
}

/// Two leaders at once: a delete by name alone deletes the pod that the other leader has created.
#[test]
fn two_leaders_that_delete_by_name_are_detected() {
    check_detects(
        world("two-leaders-rollout"),
        without_guard(|guards| guards.delete_by_uid = false),
        "is not the one that was meant",
    );
}

/// Two leaders at once: a pod that is deleted by force still runs when the other leader replaces it.
#[test]
fn two_leaders_that_delete_without_grace_are_detected() {
    check_detects(
        world("two-leaders-node-lost"),
        without_guard(|guards| guards.delete_gracefully = false),
        "at most one running instance has an identity",
    );
}

/// Liveness: a missing action is detected as well.
#[test]
fn a_set_that_never_deletes_surplus_pods_is_detected() {
    let plan = |_: &Observed, plan: &mut StatefulSetPlan| {
        for work in &mut plan.pods {
            work.actions
                .retain(|action| !matches!(action, StatefulSetAction::DeletePod { .. }));
        }
    };
    let world = World {
        edits: vec![Edit::Replicas(1)],
        budget: Budget {
            edits: 1,
            ..Budget::default()
        },
        ..world("scale")
    };
    check_detects(world, with_plan(plan), "nothing is done about ordinal");
}

/// statefulset.md 5.14: a status is written without its observed version.
#[test]
fn a_status_without_version_is_detected() {
    check_detects(
        world("scale-lagging"),
        without_guard(|guards| guards.status_by_version = false),
        "goes back to a generation",
    );
}

/// statefulset.md 2.14: owners are written to a claim that other controllers have changed since.
#[test]
fn claim_owners_without_version_are_detected() {
    check_detects(
        world("claims-scaled"),
        without_guard(|guards| guards.owners_by_version = false),
        "is deleted though it was to be kept",
    );
}

/// statefulset.md 2.16, 2.17: a claim of a former set of this name is about to be deleted.
#[test]
fn pods_on_claims_of_a_former_set_are_detected() {
    let input = |observed: &mut Observed| {
        let set = observed.set.metadata.uid.clone().unwrap_or_default();
        for claim in observed.claims.values_mut() {
            let owners = &mut Arc::make_mut(claim).metadata.owner_references;
            owners
                .iter_mut()
                .for_each(|all| all.retain(|owner| owner.uid == set));
        }
    };
    let world = small(
        "replaced",
        Budget {
            faults: 2,
            ..Budget::default()
        },
    );
    check_detects(world, with_input(input), "owners of others");
}

/// The owners of a claim are corrected only while its pod is not being deleted.
fn without_owners_of_terminating_pods() -> Seeded {
    let plan = |observed: &Observed, plan: &mut StatefulSetPlan| {
        for work in &mut plan.pods {
            let is_terminating =
                |pod: &Arc<PodView>| pod.is_deleting() && ordinal(&pod.name) == work.ordinal;
            if observed.pods.iter().any(is_terminating) {
                work.actions
                    .retain(|action| !matches!(action, StatefulSetAction::SetClaimOwners { .. }));
            }
        }
    };
    Seeded {
        skips_plan_checks: true,
        ..with_plan(plan)
    }
}

/// A world of terminating pods, with a few changes.
fn terminating_world(edits: &[Edit], faults: &'static [Fault]) -> World {
    World {
        edits: edits.to_vec(),
        faults,
        budget: Budget {
            edits: u8::try_from(edits.len()).expect("a few"),
            faults: u8::try_from(faults.len()).expect("a few"),
            ..Budget::default()
        },
        ..world("claims-going")
    }
}

/// findings R1 (a): scaled down, and up again while the pod terminates.
#[test]
fn a_claim_that_a_terminating_pod_still_owns_is_detected() {
    check_detects(
        terminating_world(&[Edit::Replicas(1), Edit::Replicas(2)], &[]),
        without_owners_of_terminating_pods(),
        "data-web-1 is deleted though it was to be kept",
    );
}

/// findings R1 (b): scaled down, and `Retain` while the pod terminates.
#[test]
fn a_claim_that_is_deleted_under_the_policy_retain_is_detected() {
    check_detects(
        terminating_world(&[Edit::Replicas(1), Edit::WhenScaled(false)], &[]),
        without_owners_of_terminating_pods(),
        "data-web-1 is deleted though it was to be kept",
    );
}

/// findings R1 (c): the pod is deleted, and then its ordinal is scaled down.
#[test]
fn a_claim_of_a_deleted_pod_that_a_scale_down_does_not_delete_is_detected() {
    check_detects(
        terminating_world(&[Edit::Replicas(1)], &[Fault::Delete]),
        without_owners_of_terminating_pods(),
        "data-web-1 has not gone with its pod",
    );
}

/// findings A11: a set that is being deleted with orphaned dependents adopts its pods again.
#[test]
fn a_deleting_set_that_adopts_pods_is_detected() {
    let input = |observed: &mut Observed| {
        Arc::make_mut(&mut observed.set).metadata.deletion_timestamp = None;
    };
    check_detects(
        small(
            "deleted",
            Budget {
                edits: 1,
                faults: 1,
                ..Budget::default()
            },
        ),
        with_input(input),
        "a set that is being deleted does nothing",
    );
}

/// statefulset.md 5.4: the partition is off by one.
#[test]
fn a_partition_with_an_off_by_one_is_detected() {
    let input = |observed: &mut Observed| {
        let spec = Arc::make_mut(&mut observed.set).spec.as_mut();
        let strategy = spec.and_then(|spec| spec.update_strategy.as_mut());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_mut());
        let partition = rolling.and_then(|rolling| rolling.partition.as_mut());
        if let Some(partition) = partition {
            *partition = (*partition - 1).max(0);
        }
    };
    check_detects(world("partition"), with_input(input), "below the partition");
}

/// statefulset.md 3.13: surplus pods are deleted in the descending order of their ordinals.
#[test]
fn surplus_pods_that_are_deleted_from_the_lowest_are_detected() {
    let plan = |observed: &Observed, plan: &mut StatefulSetPlan| {
        let replicas = observed.set.spec.as_ref().and_then(|spec| spec.replicas);
        let first_surplus = format!("web-{}", replicas.unwrap_or_default());
        let lowest = observed
            .pods
            .iter()
            .find(|pod| *pod.name == *first_surplus && !pod.is_deleting());
        let Some(lowest) = lowest else { return };
        for action in plan.pods.iter_mut().flat_map(|work| &mut work.actions) {
            if let StatefulSetAction::DeletePod { name, uid, .. } = action {
                name.clone_from(&first_surplus);
                *uid = lowest.uid.clone();
            }
        }
    };
    let world = World {
        edits: vec![Edit::Replicas(0)],
        faults: &[],
        ..world("scale")
    };
    check_detects(world, with_plan(plan), "is deleted while the higher");
}

/// statefulset.md 5.14: a status that is never written.
#[test]
fn a_status_that_is_never_written_is_detected() {
    let plan = |_: &Observed, plan: &mut StatefulSetPlan| plan.status = None;
    check_detects(
        small("scale", Budget::default()),
        with_plan(plan),
        "without a status",
    );
}

/// statefulset.md 5.20: with an annotation, as in kube-controller-manager, a rollout with a bad template stays broken
/// when the template is corrected.
#[test]
fn a_rollout_that_stays_stuck_is_detected() {
    let stuck = World {
        annotations: &[(annotations::STUCK_ROLLOUT, "Wait")],
        ..world("bad-template-lagging")
    };
    let report = check(stuck, 1);
    let violation = story(&report);
    assert!(violation.contains("rest without the goal"), "{violation}");
}

/// The mistakes are only in the wrappers: without a mistake, writes pass unchanged.
#[test]
fn without_a_mistake_nothing_is_changed() {
    let mut set = StatefulSet::default();
    set.metadata.name = Some("web".to_owned());
    set.metadata.namespace = Some("default".to_owned());
    set.metadata.uid = Some("u".to_owned());
    let observed = Observed {
        set: set.into(),
        ..Observed::default()
    };
    let now = jiff::Timestamp::UNIX_EPOCH;
    let plan = controller_planners::stateful_set::plan(&observed, now).expect("a plan");
    let mut altered = plan.clone();
    Seeded::default().alter(&observed, &mut altered);
    assert_eq!(plan, altered);
    let status = plan.status.as_ref().map(Write::Status);
    assert_eq!(
        status,
        plan.write(controller_planners::stateful_set::write_schedule::WritePosition::Status)
    );
}

/// A guarded set whose template changes while a user evicts a pod.
fn guarded() -> World {
    let budget = Budget {
        edits: 1,
        faults: 1,
        ..Budget::default()
    };
    small("guard", budget)
}

/// rollouts.md R28: two gates; an eviction that does not count in its transaction uses a healthy pod twice.
#[test]
fn an_eviction_by_an_old_view_is_detected() {
    check_detects(
        guarded(),
        without_guard(|guards| guards.eviction_counts = false),
        "fewer healthy pods than the guard demands",
    );
}

/// rollouts.md R28: a controller that deletes, in place of an eviction, ignores the evictions of others.
#[test]
fn an_update_past_the_gate_is_detected() {
    let plan = |_: &Observed, plan: &mut StatefulSetPlan| {
        for action in plan.pods.iter_mut().flat_map(|work| &mut work.actions) {
            if let StatefulSetAction::EvictPod { name, uid, .. } = action {
                *action = StatefulSetAction::DeletePod {
                    name: name.clone(),
                    uid: uid.clone(),
                    version: None,
                };
            }
        }
    };
    let seeded = Seeded {
        skips_plan_checks: true,
        ..with_plan(plan)
    };
    check_detects(
        guarded(),
        seeded,
        "fewer healthy pods than the guard demands",
    );
}

/// rollouts.md R34: a pod that is being deleted still runs: new pods beside it are detected.
#[test]
fn recreated_pods_beside_ending_ones_are_detected() {
    let budget = Budget {
        edits: 1,
        ..Budget::default()
    };
    let seeded = Seeded {
        skips_plan_checks: true,
        ..with_input(|observed| observed.pods.retain(|pod| !pod.is_deleting()))
    };
    check_detects(
        small("recreate", budget),
        seeded,
        "pods of two revisions exist at once",
    );
}
