//! Mistakes about rollouts that fail (rollouts.md R11–R15).

use std::sync::Arc;

use controller_planners::stateful_set::{Observed, StatefulSetAction, StatefulSetPlan};
use k8s_openapi::api::apps::v1::ControllerRevision;
use model_check::seeded::Seeded;
use model_check::state::Budget;
use model_check::world::{Edit, Fault, World};
use resource_kinds::annotations::REJECTED;
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::{Evidence, OnFailure};
use resource_kinds::{MetadataIdentity, labels};

use super::{by_effect, check_detects, with_input, with_plan, without_guard, world};

/// The time of every plan, in seconds.
const NOW: i64 = 2_000_000;

/// The world of rollouts that are taken back.
fn rollback(edits: u8, faults: u8) -> World {
    World {
        budget: Budget {
            edits,
            faults,
            ..Budget::default()
        },
        ..world("verdict-rollback")
    }
}

/// The newest revision, which is that of the set's template, if one of its pods was not Ready in time.
fn failing(observed: &Observed) -> Option<&Arc<ControllerRevision>> {
    let revisions = observed.revisions.iter();
    let newest = revisions.max_by_key(|revision| revision.revision)?;
    let name = newest.metadata.name.as_deref();
    let is_overdue = |pod: &Arc<PodView>| {
        let ready = pod.condition(pod_condition::READY);
        let since = ready.filter(|ready| !ready.holds());
        let since = since.and_then(|ready| ready.since);
        pod.label(labels::CONTROLLER_REVISION_HASH) == name
            && since.is_some_and(|since| since.as_second() < NOW - 600)
    };
    observed.pods.iter().any(is_overdue).then_some(newest)
}

/// rollouts.md R12: pods are taken back before the evidence is stored.
#[test]
fn a_verdict_that_is_acted_on_before_it_is_stored_is_detected() {
    let input = |observed: &mut Observed| {
        let name = failing(observed).map(|revision| revision.metadata.name.clone());
        let mut revisions = observed.revisions.iter_mut();
        let failing = revisions.find(|revision| Some(&revision.metadata.name) == name.as_ref());
        if let Some(revision) = failing.map(Arc::make_mut) {
            let annotations = revision.metadata.annotations.get_or_insert_default();
            annotations.insert(REJECTED.to_owned(), String::new());
        }
    };
    let plan = |observed: &Observed, plan: &mut StatefulSetPlan| {
        let Some(failing) = failing(observed).filter(|revision| !has_verdict(revision)) else {
            return;
        };
        let meta = &failing.metadata;
        let (name, uid) = (meta.name.clone(), meta.object_uid());
        plan.cleanup.push(StatefulSetAction::RejectRevision {
            name: name.expect("a name"),
            uid: uid.expect("a UID"),
            evidence: Box::new(Evidence {
                at: String::new(),
                pod: String::new(),
                uid: String::new(),
                reason: String::new(),
                message: String::new(),
            }),
        });
    };
    let seeded = Seeded {
        input: Some(input),
        ..with_plan(plan)
    };
    check_detects(
        rollback(1, 0),
        by_effect(seeded),
        "is taken back before the evidence is stored",
    );
}

fn has_verdict(revision: &ControllerRevision) -> bool {
    let annotations = revision.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(REJECTED))
}

fn without_verdicts(observed: &mut Observed) {
    for revision in &mut observed.revisions {
        if let Some(annotations) = &mut Arc::make_mut(revision).metadata.annotations {
            annotations.remove(REJECTED);
        }
    }
}

/// rollouts.md R12: a stored verdict is not read, so that the revision is rejected without end.
#[test]
fn a_verdict_that_is_not_read_is_detected() {
    check_detects(
        rollback(1, 0),
        by_effect(with_input(without_verdicts)),
        "no rest after 100 rounds",
    );
}

/// rollouts.md R13, R15: a verdict is forgotten with the last pod of its revision.
#[test]
fn a_verdict_that_is_forgotten_is_detected() {
    let input = |observed: &mut Observed| {
        let mut pods = observed.pods.iter();
        let newest = newest(observed);
        if !pods.any(|pod| pod.label(labels::CONTROLLER_REVISION_HASH) == newest) {
            without_verdicts(observed);
        }
    };
    check_detects(
        rollback(1, 0),
        by_effect(with_input(input)),
        "is created at the rejected revision B",
    );
}

/// The name of the newest revision, which is that of the set's template.
fn newest(observed: &Observed) -> Option<&str> {
    let revisions = observed.revisions.iter();
    let newest = revisions.max_by_key(|revision| revision.revision);
    newest.and_then(|revision| revision.metadata.name.as_deref())
}

/// rollouts.md R12: a verdict that is never stored.
#[test]
fn a_verdict_that_is_not_stored_is_detected() {
    let plan = |_: &Observed, plan: &mut StatefulSetPlan| {
        plan.prepare
            .retain(|action| !matches!(action, StatefulSetAction::RejectRevision { .. }));
    };
    check_detects(
        rollback(1, 0),
        by_effect(with_plan(plan)),
        "a bad template that is not rejected",
    );
}

/// rollouts.md R13: a missing pod is made at the update revision, in spite of the verdict.
#[test]
fn a_missing_pod_at_the_rejected_revision_is_detected() {
    let plan = |observed: &Observed, plan: &mut StatefulSetPlan| {
        let Some(name) = newest(observed).map(str::to_owned) else {
            return;
        };
        for action in plan.pods.iter_mut().flat_map(|work| &mut work.actions) {
            if let StatefulSetAction::CreatePod(pod) = action {
                let labels = pod.metadata.labels.get_or_insert_default();
                labels.insert(labels::CONTROLLER_REVISION_HASH.to_owned(), name.clone());
            }
        }
    };
    let with_deletion = |name| World {
        edits: vec![Edit::Template(1)],
        faults: &[Fault::Delete],
        budget: Budget {
            edits: 1,
            faults: 1,
            ..Budget::default()
        },
        ..world(name)
    };
    check_detects(
        with_deletion("verdict-hold"),
        with_plan(plan),
        "is created at the wrong revision",
    );
    check_detects(
        with_deletion("verdict-hold"),
        by_effect(with_plan(plan)),
        "is created at the rejected revision B",
    );
}

/// rollouts.md R13: a rollout is taken back that is to be held.
#[test]
fn a_held_rollout_that_is_taken_back_is_detected() {
    let input = |observed: &mut Observed| {
        if let Some(policy) = &mut observed.policy {
            let rules = Arc::make_mut(policy).spec.rollout.as_mut();
            rules.expect("rules").on_failure = OnFailure::Rollback;
        }
    };
    let world = World {
        budget: rollback(1, 0).budget,
        ..world("verdict-hold")
    };
    check_detects(
        world,
        with_input(input),
        "is deleted though it is up to date",
    );
}

/// rollouts.md R12: the controller plans again before its caches have the verdict that it has stored.
#[test]
fn a_plan_that_does_not_wait_for_the_stored_verdict_is_detected() {
    check_detects(
        world("verdict-lagging"),
        without_guard(|guards| guards.waits_for_verdicts = false),
        "for the rejected revision",
    );
}
