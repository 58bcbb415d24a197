//! Invariants of every plan, for any observed state. Tests, the model checker and the simulation check the invariants
//! after every step.
//!
//! The rules are implemented here a second time, from the specification and independently of the planner, so that a
//! mistake in one of the two implementations is detected.

mod claims;
mod guard;
mod hooks;
mod order;
mod pods;
mod policy_order;
mod status;
mod steps;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use object_model::Uid;
use resource_kinds::annotations::REJECTED;
use resource_kinds::stateful_set_policy::{OnFailure, OrderKey, RolloutStrategy};

use crate::ownership::controller;

use super::member::Member;
use super::observed::{Observed, ParsedSet, Strategy};
use super::plan::{StatefulSetAction, StatefulSetPlan};
use super::revisions::{self, RevisionName};
use super::waiting::Waiting;
use steps::StepFacts;

/// The facts that the rules check.
struct Facts<'f, 'w> {
    parsed: &'f ParsedSet<'w>,
    plan: &'f StatefulSetPlan,
    /// The revision that pods are to have: the stored revision with the set's template, or the revision that the plan
    /// creates; after a rejection with `Rollback`, the revision before.
    update: Option<RevisionName>,
    /// The answer to the verdict about the template's revision.
    rejected: Option<OnFailure>,
    created: Vec<&'f Pod>,
    /// The members that the plan deletes.
    deleted: Vec<&'f Member<'w>>,
    /// The order of the policy; empty without an order.
    order: &'f [OrderKey],
    /// Whether the present step of the rollout has all its pods.
    is_step_full: bool,
}

/// The rules that a plan violates; empty if the plan violates no rule.
pub fn violations(observed: &Observed, plan: &StatefulSetPlan, now: Timestamp) -> Vec<String> {
    let parsed = match ParsedSet::of(observed, now) {
        Ok(parsed) => parsed,
        Err(error) => return vec![error.to_string()],
    };
    let names = deleted(plan);
    let is_deleted = |member: &&Member<'_>| names.iter().any(|(name, _)| *name == member.name());
    let update = update_revision(&parsed).or_else(|| planned_revision(plan));
    let rejected = rejection(&parsed, update.as_ref(), plan);
    let deleted: Vec<&Member<'_>> = parsed.all().filter(is_deleted).collect();
    let created = created(plan);
    let target = match rejected {
        Some(OnFailure::Rollback) => current_revision(&parsed),
        _ => update,
    };
    let steps = StepFacts {
        parsed: &parsed,
        plan,
        current: current_revision(&parsed),
        update: target.clone(),
        is_rejected: rejected.is_some(),
        created: &created,
        deleted: &deleted,
    };
    let is_step_full = steps::is_full(&steps);
    let mut violations = Vec::new();
    steps::are_kept(&steps, &mut violations);
    let facts = Facts {
        parsed: &parsed,
        plan,
        update: target,
        rejected,
        created: created.clone(),
        deleted: deleted.clone(),
        order: observed.rollout().map_or(&[], |rules| &rules.order),
        is_step_full,
    };
    pods::names_are_free(&facts, &mut violations);
    pods::deletions_are_justified(&facts, &mut violations);
    pods::revisions_are_right(&facts, &mut violations);
    pods::budget_is_respected(&facts, &mut violations);
    pods::a_rejected_revision_is_not_released(&facts, &mut violations);
    pods::versions_do_not_mix(&facts, &mut violations);
    // The guard does not hold pods that all end before a new one starts.
    let others = facts.deleted.iter().copied();
    let others: Vec<_> = others
        .filter(|member| !facts.is_recreated(member))
        .collect();
    guard::is_kept(&parsed, plan, &others, &mut violations);
    let rolls_back = rejected == Some(OnFailure::Rollback);
    hooks::are_done(&parsed, &facts.deleted, rolls_back, &mut violations);
    order::creations(&facts, &mut violations);
    order::deletions(&facts, &mut violations);
    let updated = facts.deleted.iter().copied();
    let updated: Vec<_> = updated.filter(|member| facts.is_updated(member)).collect();
    let is_outdated = |member: &Member<'_>| !is_up_to_date(&parsed, facts.update.as_ref(), member);
    policy_order::is_kept(
        &parsed,
        facts.order,
        &updated,
        &is_outdated,
        &mut violations,
    );
    claims::follow_policy(&parsed, plan, &mut violations);
    claims::edits_keep_data(&parsed, plan, &mut violations);
    claims::survive_deletions(&parsed, plan, &mut violations);
    claims::follow_the_policy(&parsed, plan, &mut violations);
    status::is_sound(&parsed, plan, &mut violations);
    if parsed.spec.deleting {
        if plan.actions().next().is_some() {
            violations.push("a set that is being deleted does nothing".to_owned());
        }
        return violations;
    }
    silence_is_explained(&facts, &mut violations);
    let changes = !(facts.created.is_empty() && names.is_empty());
    if changes && at_goal(&parsed, facts.update.as_ref()) {
        violations.push("the goal is reached, and pods are created or deleted".to_owned());
    }
    violations
}

/// Whether there is a healthy pod of an allowed revision for each ordinal, and no other pod.
pub fn goal_reached(observed: &Observed, now: Timestamp) -> bool {
    ParsedSet::of(observed, now).is_ok_and(|parsed| {
        let update = update_revision(&parsed);
        let is_reached = || match stored_rejection(&parsed, update.as_ref()) {
            // Pods of both revisions stay; with `Recreate`, the missing ones wait for the end of the others.
            Some(OnFailure::Hold) => {
                let mut members = parsed.members.iter();
                let is_alone = recreates(&parsed) && is_other_there(&parsed);
                let is_complete = missing(&parsed) == 0 && parsed.condemned.is_empty();
                (is_complete || is_alone) && members.all(|member| !member.unavailable())
            }
            Some(OnFailure::Rollback) => at_goal(&parsed, current_revision(&parsed).as_ref()),
            None => at_goal(&parsed, update.as_ref()),
        };
        parsed.spec.deleting || is_reached()
    })
}

/// Whether pods of two revisions must not run side by side (rollouts.md R34).
fn recreates(parsed: &ParsedSet<'_>) -> bool {
    let rules = parsed.observed.rollout();
    rules.is_some_and(|rules| rules.strategy == RolloutStrategy::Recreate)
}

/// Whether an updatable pod has another revision than the current one.
fn is_other_there(parsed: &ParsedSet<'_>) -> bool {
    let current = current_revision(parsed);
    let mut members = parsed.all();
    members.any(|member| {
        let is_updatable =
            !parsed.spec.in_range(member.ordinal) || is_updatable(parsed, member.ordinal);
        is_updatable && Some(&member.revision) != current.as_ref()
    })
}

impl Facts<'_, '_> {
    /// Whether a deleted member ends for an update, beside other pods.
    fn is_updated(&self, member: &Member<'_>) -> bool {
        self.parsed.spec.in_range(member.ordinal) && !self.is_recreated(member)
    }

    /// Whether the pod ends because all pods end before a new one starts.
    fn is_recreated(&self, member: &Member<'_>) -> bool {
        let parsed = self.parsed;
        let is_rolling = matches!(parsed.spec.strategy, Strategy::RollingUpdate(_));
        let is_other = match parsed.spec.in_range(member.ordinal) {
            true => {
                is_updatable(parsed, member.ordinal)
                    && !is_up_to_date(parsed, self.update.as_ref(), member)
            }
            false => self.update.as_ref() != Some(&member.revision),
        };
        recreates(parsed) && is_rolling && is_other && self.rejected != Some(OnFailure::Hold)
    }
}

/// `status.currentRevision`, if the revision exists.
fn current_revision(parsed: &ParsedSet<'_>) -> Option<RevisionName> {
    let status = parsed.spec.set.status.as_ref();
    let named = status.and_then(|status| status.current_revision.as_deref())?;
    let mut revisions = parsed.stored_revisions.iter();
    let is_stored = revisions.any(|revision| revision.name == named);
    is_stored.then(|| RevisionName::new(named))
}

/// The answer of the policy to the stored verdict about the template's revision (rollouts.md R13).
fn stored_rejection(parsed: &ParsedSet<'_>, update: Option<&RevisionName>) -> Option<OnFailure> {
    let rules = parsed.observed.rollout()?;
    let (update, current) = (update?, current_revision(parsed)?);
    let is_rolling = matches!(parsed.spec.strategy, Strategy::RollingUpdate(_));
    let mut revisions = parsed.stored_revisions.iter();
    let stored = revisions.find(|revision| *update == *revision.name)?;
    let annotations = stored.object.metadata.annotations.as_ref()?;
    let is_rejected = is_rolling && current != *update && annotations.contains_key(REJECTED);
    is_rejected.then_some(rules.on_failure)
}

/// The stored verdict, or that of the plan, after which nothing is done yet (rollouts.md R12).
fn rejection(
    parsed: &ParsedSet<'_>,
    update: Option<&RevisionName>,
    plan: &StatefulSetPlan,
) -> Option<OnFailure> {
    let rejects =
        |action: &StatefulSetAction| matches!(action, StatefulSetAction::RejectRevision { .. });
    let is_rejected_now = plan.actions().any(rejects);
    let stored = stored_rejection(parsed, update);
    stored.or(is_rejected_now.then_some(OnFailure::Hold))
}

fn at_goal(parsed: &ParsedSet<'_>, update: Option<&RevisionName>) -> bool {
    let is_as_desired = |member: &Member<'_>| is_as_desired(parsed, update, member);
    missing(parsed) == 0 && parsed.condemned.is_empty() && parsed.members.iter().all(is_as_desired)
}

/// The number of missing desired pods.
fn missing(parsed: &ParsedSet<'_>) -> i64 {
    let ordinals = parsed.spec.ordinals();
    ordinals.end - ordinals.start - i64::try_from(parsed.members.len()).unwrap_or(i64::MAX)
}

fn is_as_desired(
    parsed: &ParsedSet<'_>,
    update: Option<&RevisionName>,
    member: &Member<'_>,
) -> bool {
    !member.unavailable()
        && (!is_updatable(parsed, member.ordinal) || is_up_to_date(parsed, update, member))
}

/// Whether the pod is at the update revision, and has the claims of the set's templates.
fn is_up_to_date(
    parsed: &ParsedSet<'_>,
    update: Option<&RevisionName>,
    member: &Member<'_>,
) -> bool {
    let rejected = || stored_rejection(parsed, update_revision(parsed).as_ref());
    update == Some(&member.revision)
        && (member.has_its_claims || rejected() == Some(OnFailure::Rollback))
}

/// Whether a rolling update may touch the pod.
fn is_updatable(parsed: &ParsedSet<'_>, ordinal: i64) -> bool {
    parsed.spec.strategy != Strategy::OnDelete && ordinal >= parsed.spec.first_updatable()
}

/// The name of the stored revision with the set's template.
fn update_revision(parsed: &ParsedSet<'_>) -> Option<RevisionName> {
    let desired = revisions::encode(parsed.spec.template);
    let same = |data: &serde_json::Value| {
        let means = || revisions::decode(data).is_some_and(|t| t == *parsed.spec.template);
        *data == desired || means()
    };
    let mut revisions: Vec<_> = parsed
        .observed
        .revisions
        .iter()
        .filter(|revision| {
            let owner = controller(revision.metadata.owner_references.as_deref());
            owner.is_none_or(|owner| parsed.spec.is_owner(owner))
        })
        .filter(|revision| revision.data.as_ref().is_some_and(|data| same(&data.0)))
        .collect();
    revisions.sort_by_key(|revision| revision.revision);
    let name = revisions.last()?.metadata.name.as_deref();
    name.map(RevisionName::new)
}

/// The name of the revision that the plan creates. If the snapshot of revisions is old, pods may have this revision
/// already.
fn planned_revision(plan: &StatefulSetPlan) -> Option<RevisionName> {
    plan.actions().find_map(|action| match action {
        StatefulSetAction::CreateRevision(revision) => {
            revision.metadata.name.as_deref().map(RevisionName::new)
        }
        _ => None,
    })
}

fn created(plan: &StatefulSetPlan) -> Vec<&Pod> {
    let mut pods = Vec::new();
    for action in plan.actions() {
        if let StatefulSetAction::CreatePod(pod) = action {
            pods.push(pod.as_ref());
        }
    }
    pods
}

fn deleted(plan: &StatefulSetPlan) -> Vec<(&str, &Uid)> {
    let actions = plan.actions();
    actions.filter_map(StatefulSetAction::deleted_pod).collect()
}

/// Each pod that is not in its desired state is changed, or there is a reason why it is not changed.
fn silence_is_explained(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Facts {
        parsed,
        plan,
        update,
        ..
    } = facts;
    let about_set = |waiting: &Waiting| waiting.ordinal.is_none();
    if plan.waiting_on.iter().any(about_set) {
        return;
    }
    let explained = |ordinal: i64| {
        let waits = plan
            .waiting_on
            .iter()
            .any(|waiting| waiting.ordinal == Some(ordinal));
        let works = plan.pods.iter().filter(|work| work.ordinal == ordinal);
        let mut actions = works.flat_map(|work| &work.actions);
        waits || actions.any(StatefulSetAction::changes_pods)
    };
    // Before the revision is stored every pod has another revision; this fact alone needs no reason.
    let amiss = |ordinal: &i64| match parsed.members.get(*ordinal) {
        None => true,
        Some(member) if update.is_none() => member.unavailable(),
        Some(member) => !is_as_desired(parsed, update.as_ref(), member),
    };
    let desired = parsed.spec.ordinals().filter(amiss);
    let all = desired.chain(parsed.condemned.iter().map(|member| member.ordinal));
    if let Some(ordinal) = all.into_iter().find(|ordinal| !explained(*ordinal)) {
        violations.push(format!(
            "nothing is done about ordinal {ordinal}, and nobody says why"
        ));
    }
}
