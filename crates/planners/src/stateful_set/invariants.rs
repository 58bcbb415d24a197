//! What holds for every plan, whatever was observed. Tests check it after every step.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use resource_kinds::labels;

use super::observed::{Member, Observed, Phase, Retention, Strategy, World};
use super::plan::{Action, Plan};
use super::{identity, revisions};

/// The rules that a plan breaks; empty when all is well.
pub fn violations(observed: &Observed, plan: &Plan, now: Timestamp) -> Vec<String> {
    let world = World::of(observed, now);
    let mut found = Vec::new();
    names_are_free(&world, plan, &mut found);
    deletions_are_justified(&world, plan, &mut found);
    order_is_kept(&world, plan, &mut found);
    claims_follow_policy(&world, plan, &mut found);
    if world.spec.deleting && plan.actions().next().is_some() {
        found.push("a set that is being deleted does nothing".to_owned());
    }
    if plan.is_idle()
        && plan.waiting_on.is_empty()
        && plan.requeue_after.is_none()
        && !goal_reached(observed, now)
    {
        found.push("the goal is not reached, nothing is done and no reason is given".to_owned());
    }
    found
}

/// Whether there is a healthy pod of an allowed revision for each ordinal, and no other.
pub fn goal_reached(observed: &Observed, now: Timestamp) -> bool {
    let world = World::of(observed, now);
    if world.spec.deleting {
        return true;
    }
    let update = update_revision(&world);
    let wanted = |member: &Member<'_>| {
        !member.unavailable()
            && (member.ordinal < world.spec.first_updatable()
                || world.spec.strategy == Strategy::OnDelete
                || update.as_deref() == Some(member.revision))
    };
    let members = i64::try_from(world.members.len()).unwrap_or(i64::MAX);
    members == world.spec.replicas
        && world.condemned.is_empty()
        && world.members.values().all(wanted)
}

/// The name of the stored revision that has the set's template.
fn update_revision(world: &World<'_>) -> Option<String> {
    let same = |data: &serde_json::Value| {
        revisions::decode(data).is_some_and(|template| template == *world.spec.template)
    };
    let mut revisions: Vec<_> = world
        .observed
        .revisions
        .iter()
        .filter(|revision| revision.data.as_ref().is_some_and(|data| same(&data.0)))
        .collect();
    revisions.sort_by_key(|revision| revision.revision);
    revisions
        .last()
        .and_then(|revision| revision.metadata.name.clone())
}

fn created(plan: &Plan) -> Vec<&Pod> {
    let mut pods = Vec::new();
    for action in plan.actions() {
        if let Action::CreatePod(pod) = action {
            pods.push(pod.as_ref());
        }
    }
    pods
}

fn deleted(plan: &Plan) -> Vec<(&str, &str)> {
    let mut pods = Vec::new();
    for action in plan.actions() {
        if let Action::DeletePod { name, uid } = action {
            pods.push((name.as_str(), uid.as_str()));
        }
    }
    pods
}

/// A pod is created only for a wanted ordinal, only once, and never beside one of its name.
fn names_are_free(world: &World<'_>, plan: &Plan, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    let namespace = world.spec.namespace;
    let present: BTreeSet<&str> = world
        .observed
        .pods
        .iter()
        .filter(|pod| pod.metadata.namespace.as_deref() == Some(namespace))
        .filter_map(|pod| pod.metadata.name.as_deref())
        .collect();
    for pod in created(plan) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if present.contains(name) {
            found.push(format!("{name} is created while it exists"));
        }
        if !seen.insert(name) {
            found.push(format!("{name} is created twice"));
        }
        let ordinal = identity::ordinal(world.spec.name, name);
        if !ordinal.is_some_and(|ordinal| world.spec.in_range(ordinal)) {
            found.push(format!("{name} is created and not wanted"));
        }
    }
}

/// A wanted pod is deleted only when it has ended or is outdated, and by its uid.
fn deletions_are_justified(world: &World<'_>, plan: &Plan, found: &mut Vec<String>) {
    let status = world.spec.set.status.as_ref();
    let current = status.and_then(|status| status.current_revision.as_deref());
    let update = update_revision(world);
    for (name, uid) in deleted(plan) {
        let Some(member) = world.all().find(|member| member.name() == name) else {
            found.push(format!("{name} is deleted and is not of the set"));
            continue;
        };
        if member.uid() != uid || member.terminating {
            found.push(format!("{name} is deleted twice or under another uid"));
        }
        if !world.spec.in_range(member.ordinal) || member.phase == Phase::Ended {
            continue;
        }
        if update.as_deref() == Some(member.revision) {
            found.push(format!("{name} is deleted though it is up to date"));
        }
        if member.ordinal < world.spec.first_updatable() && current == Some(member.revision) {
            found.push(format!(
                "{name} is deleted though it is below the partition"
            ));
        }
        if world.spec.strategy == Strategy::OnDelete {
            found.push(format!("{name} is deleted in spite of OnDelete"));
        }
    }
}

/// In order: one pod at a time, and none before all lower ones are available.
fn order_is_kept(world: &World<'_>, plan: &Plan, found: &mut Vec<String>) {
    if !world.spec.ordered {
        return;
    }
    let (created, deleted) = (created(plan), deleted(plan));
    let rolling = match world.spec.strategy {
        Strategy::RollingUpdate(Some(rolling)) => rolling.max_unavailable.is_some(),
        _ => false,
    };
    if created.len() + deleted.len() > 1 && !(rolling && created.is_empty()) {
        found.push("more than one pod is created or deleted at a time".to_owned());
    }
    for pod in created {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let ordinal = identity::ordinal(world.spec.name, name).unwrap_or_default();
        for lower in world.spec.start..ordinal {
            if world.members.get(&lower).is_none_or(Member::unavailable) {
                found.push(format!("{name} is created before {lower} is available"));
            }
        }
    }
}

/// Claims are given owners only as far as the policy wants them deleted.
fn claims_follow_policy(world: &World<'_>, plan: &Plan, found: &mut Vec<String>) {
    let claims = &world.observed.claims;
    let mut made: BTreeMap<&str, usize> = BTreeMap::new();
    for action in plan.actions() {
        match action {
            Action::CreateClaim(claim) => {
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                *made.entry(name).or_default() += 1;
                if claims.contains_key(name) {
                    found.push(format!("claim {name} is created while it exists"));
                }
            }
            Action::SetClaimOwners { name, owners, .. } => {
                for owner in owners {
                    let allowed = match owner.kind.as_str() {
                        "Pod" => world.spec.when_scaled == Retention::Delete,
                        identity::KIND => world.spec.when_deleted == Retention::Delete,
                        _ => true,
                    };
                    let before = claims
                        .get(name)
                        .and_then(|c| c.metadata.owner_references.clone());
                    if !allowed && !before.unwrap_or_default().contains(owner) {
                        found.push(format!("claim {name} is given away against the policy"));
                    }
                }
            }
            _ => {}
        }
    }
    found.extend(
        made.iter()
            .filter(|(_, n)| **n > 1)
            .map(|(c, _)| format!("{c} is made twice")),
    );
    for pod in created(plan) {
        let revision = pod
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(labels::CONTROLLER_REVISION_HASH));
        if revision.is_none_or(String::is_empty) {
            found.push("a pod is created without a revision".to_owned());
        }
    }
}
