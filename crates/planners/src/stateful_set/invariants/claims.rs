//! Claims are given owners, and thereby to the collector, only as the retention policy says.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::super::claims;
use super::super::identity;
use super::super::observed::{Member, Retention, World};
use super::super::plan::{Action, Plan};

/// Claims are made once, under names of wanted pods, and owned only as far as the policy wants
/// them deleted; owners that are nobody here stay.
pub(super) fn follow_policy(world: &World<'_>, plan: &Plan, found: &mut Vec<String>) {
    let mut made = BTreeSet::new();
    for work in &plan.pods {
        let names = claims::names(&world.spec, work.ordinal);
        for action in &work.actions {
            match action {
                Action::CreateClaim(claim) => {
                    let name = claim.metadata.name.clone().unwrap_or_default();
                    if world.observed.claims.contains_key(&name) || !made.insert(name.clone()) {
                        found.push(format!("claim {name} is created while it exists"));
                    }
                    if !world.spec.in_range(work.ordinal) || !names.contains(&name) {
                        found.push(format!("claim {name} is created and not wanted"));
                    }
                    let owners = claim.metadata.owner_references.as_deref();
                    owners_are_allowed(world, work.ordinal, &name, owners, found);
                }
                Action::SetClaimOwners { name, owners, .. } => {
                    if !names.contains(name) {
                        found.push(format!("claim {name} is not of ordinal {}", work.ordinal));
                    }
                    owners_are_allowed(world, work.ordinal, name, Some(owners), found);
                    let before = foreign(world, work.ordinal, owners_of(world, name));
                    if before != foreign(world, work.ordinal, owners) {
                        found.push(format!("claim {name} loses or gains owners of others"));
                    }
                }
                _ => {}
            }
        }
    }
}

fn owners_of<'w>(world: &World<'w>, claim: &str) -> &'w [OwnerReference] {
    let claim = world.observed.claims.get(claim);
    let owners = claim.and_then(|claim| claim.metadata.owner_references.as_deref());
    owners.unwrap_or_default()
}

fn member<'m, 'w>(world: &'m World<'w>, ordinal: i64) -> Option<&'m Member<'w>> {
    let wanted = world.members.get(&ordinal);
    wanted.or_else(|| world.condemned.get(&ordinal))
}

/// The owners that are neither the set nor its pod.
fn foreign<'o>(
    world: &World<'_>,
    ordinal: i64,
    owners: &'o [OwnerReference],
) -> Vec<&'o OwnerReference> {
    let pod = member(world, ordinal).map(Member::uid);
    let others = owners
        .iter()
        .filter(|owner| owner.uid != world.spec.uid && Some(owner.uid.as_str()) != pod);
    others.collect()
}

/// The set owns if claims go with it; a pod only once it is surplus, and claims go with such.
fn owners_are_allowed(
    world: &World<'_>,
    ordinal: i64,
    claim: &str,
    owners: Option<&[OwnerReference]>,
    found: &mut Vec<String>,
) {
    let pod = member(world, ordinal).map(Member::uid);
    for owner in owners.unwrap_or_default() {
        let surplus = !world.spec.in_range(ordinal);
        let allowed = match owner.kind.as_str() {
            "Pod" if Some(owner.uid.as_str()) == pod => {
                surplus && world.spec.when_scaled == Retention::Delete
            }
            identity::KIND if owner.uid == world.spec.uid => {
                world.spec.when_deleted == Retention::Delete
            }
            _ => owners_of(world, claim).contains(owner),
        };
        if !allowed {
            found.push(format!("claim {claim} is given away against the policy"));
        }
    }
}

/// A pod that is deleted takes a claim with it only if it is surplus and the policy says so.
pub(super) fn survive_deletions(world: &World<'_>, plan: &Plan, found: &mut Vec<String>) {
    for work in &plan.pods {
        let deletes = |action: &Action| matches!(action, Action::DeletePod { .. });
        let Some(at) = work.actions.iter().position(deletes) else {
            continue;
        };
        let Some(member) = member(world, work.ordinal) else {
            continue;
        };
        let surplus = !world.spec.in_range(work.ordinal);
        if surplus && world.spec.when_scaled == Retention::Delete {
            continue;
        }
        for name in claims::names(&world.spec, work.ordinal) {
            let corrected = work.actions[..at]
                .iter()
                .rev()
                .find_map(|action| match action {
                    Action::SetClaimOwners {
                        name: of, owners, ..
                    } if *of == name => Some(&owners[..]),
                    _ => None,
                });
            let owners = corrected.unwrap_or_else(|| owners_of(world, &name));
            // One that a predecessor owns is on its way out and is left alone (2.16).
            let stale = owners.iter().any(|owner| {
                (owner.kind == "Pod" && owner.uid != member.uid() && owner.name == member.name())
                    || (owner.kind == identity::KIND
                        && owner.uid != world.spec.uid
                        && owner.name == world.spec.name)
            });
            if !stale && owners.iter().any(|owner| owner.uid == member.uid()) {
                found.push(format!("claim {name} would go with pod {}", member.name()));
            }
        }
    }
}
