//! Invariants of claims: their owners, and thus their deletion, follow the retention policy.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use object_model::Quantity;
use resource_kinds::stateful_set_policy::ClaimUpdates;

use super::super::claim_edits::ClaimEdit;
use super::super::claims;
use super::super::identity;
use super::super::member::Member;
use super::super::observed::{ClaimState, ParsedSet, Refused, Retention, template_names};
use super::super::plan::{StatefulSetAction, StatefulSetPlan};

/// Claims are created once, with names of desired pods, and are owned only if the policy demands their deletion;
/// foreign owners stay.
pub(super) fn follow_policy(
    parsed: &ParsedSet<'_>,
    plan: &StatefulSetPlan,
    violations: &mut Vec<String>,
) {
    let mut created = BTreeSet::new();
    for work in &plan.pods {
        let names = claims::names(&parsed.spec, work.ordinal);
        let kept = kept_names(parsed, work.ordinal);
        for action in &work.actions {
            match action {
                StatefulSetAction::CreateClaim(claim) => {
                    let name = claim.metadata.name.clone().unwrap_or_default();
                    if parsed.observed.claims.contains_key(&name) || !created.insert(name.clone()) {
                        violations.push(format!("claim {name} is created while it exists"));
                    }
                    let is_kept = kept.contains(&name);
                    let is_wanted = names.contains(&name) || is_kept;
                    if !parsed.spec.in_range(work.ordinal) || !is_wanted {
                        violations.push(format!("claim {name} is created and not wanted"));
                    }
                    let owners = claim.metadata.owner_references.as_deref();
                    if is_kept && owners.is_some() {
                        violations.push(format!("claim {name} is to be kept and has an owner"));
                    }
                    owners_are_allowed(parsed, work.ordinal, &name, owners, violations);
                }
                StatefulSetAction::SetClaimOwners { name, owners, .. } => {
                    if !names.contains(name) && !kept.contains(name) {
                        violations.push(format!("claim {name} is not of ordinal {}", work.ordinal));
                    }
                    owners_are_allowed(parsed, work.ordinal, name, Some(owners), violations);
                    let before = foreign(parsed, work.ordinal, owners_of(parsed, name));
                    if before != foreign(parsed, work.ordinal, owners) {
                        violations.push(format!("claim {name} loses or gains owners of others"));
                    }
                }
                _ => {}
            }
        }
    }
}

fn owners_of<'w>(parsed: &ParsedSet<'w>, claim: &str) -> &'w [OwnerReference] {
    let claim = parsed.observed.claims.get(claim);
    let owners = claim.and_then(|claim| claim.metadata.owner_references.as_deref());
    owners.unwrap_or_default()
}

fn member<'m, 'w>(parsed: &'m ParsedSet<'w>, ordinal: i64) -> Option<&'m Member<'w>> {
    let desired = parsed.members.get(ordinal);
    desired.or_else(|| parsed.condemned.get(ordinal))
}

/// The owners other than the set and its pod.
fn foreign<'o>(
    parsed: &ParsedSet<'_>,
    ordinal: i64,
    owners: &'o [OwnerReference],
) -> Vec<&'o OwnerReference> {
    let pod = member(parsed, ordinal);
    let is_pod = |owner: &OwnerReference| pod.is_some_and(|pod| pod.is_owner(owner));
    let others = owners
        .iter()
        .filter(|owner| !parsed.spec.is_owner(owner) && !is_pod(owner));
    others.collect()
}

/// The set owns a claim if claims are deleted with the set; a pod owns a claim only if the pod is surplus and the
/// policy deletes such claims.
fn owners_are_allowed(
    parsed: &ParsedSet<'_>,
    ordinal: i64,
    claim: &str,
    owners: Option<&[OwnerReference]>,
    violations: &mut Vec<String>,
) {
    let pod = member(parsed, ordinal);
    for owner in owners.unwrap_or_default() {
        let surplus = !parsed.spec.in_range(ordinal);
        let allowed = match owner.kind.as_str() {
            "Pod" if pod.is_some_and(|pod| pod.is_owner(owner)) => {
                surplus && parsed.spec.when_scaled == Retention::Delete
            }
            identity::KIND if parsed.spec.is_owner(owner) => {
                parsed.spec.when_deleted == Retention::Delete
            }
            _ => owners_of(parsed, claim).contains(owner),
        };
        if !allowed {
            violations.push(format!("claim {claim} is given away against the policy"));
        }
    }
}

/// The names of the claims of removed templates.
fn kept_names(parsed: &ParsedSet<'_>, ordinal: i64) -> Vec<String> {
    let names = template_names(&parsed.removed_templates);
    names
        .map(|template| identity::claim_name(template, parsed.spec.name, ordinal))
        .collect()
}

/// After the plan, neither the set nor a pod of it owns a claim of a removed template, so that the garbage collector
/// never deletes such a claim (rollouts.md C7).
fn kept_claims_are_nobodys(
    parsed: &ParsedSet<'_>,
    plan: &StatefulSetPlan,
    violations: &mut Vec<String>,
) {
    for ((ordinal, _), ClaimState { name, .. }) in &parsed.kept_claims {
        let pod = member(parsed, *ordinal);
        let mut owners = owners_afterwards(parsed, plan, name).iter();
        if owners
            .any(|owner| parsed.spec.is_owner(owner) || pod.is_some_and(|pod| pod.is_owner(owner)))
        {
            violations.push(format!("claim {name} is to be kept and may be deleted"));
        }
    }
}

/// An edit concerns a claim that was read, never gives a claim less room than its volume has, and begins to change at most
/// `parallel` volumes at once, except those that were refused before. A volume with a larger request follows an earlier
/// edit already (rollouts.md C5, C6).
pub(super) fn edits_keep_data(
    parsed: &ParsedSet<'_>,
    plan: &StatefulSetPlan,
    violations: &mut Vec<String>,
) {
    let size = |text: Option<&String>| text.and_then(|text| text.parse::<Quantity>().ok());
    let mut begun = 0;
    for action in &plan.claim_edits {
        let StatefulSetAction::EditClaim {
            name, uid, edit, ..
        } = action
        else {
            violations.push(format!("{action} is no edit of a claim"));
            continue;
        };
        let Some(claim) = parsed.observed.claims.get(name) else {
            violations.push(format!("claim {name} is edited and does not exist"));
            continue;
        };
        if claim.metadata.uid.as_deref() != Some(uid.as_str()) {
            violations.push(format!("claim {name} is edited under another uid"));
        }
        if parsed.claim_rules.update != Some(ClaimUpdates::InPlace) {
            violations.push(format!(
                "claim {name} is edited though nobody has asked for it"
            ));
        }
        let target = |refused: &&Refused| refused.action == action.target();
        let is_new = parsed.observed.refused.iter().find(target).is_none();
        let ClaimEdit::Volume(edit) = &**edit else {
            continue;
        };
        let volume = claim
            .status
            .as_ref()
            .and_then(|status| status.capacity.as_ref());
        let volume = size(
            volume
                .and_then(|all| all.get("storage"))
                .map(|size| &size.0),
        );
        let spec = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        let before = spec.and_then(|resources| resources.requests.as_ref());
        let before = size(
            before
                .and_then(|all| all.get("storage"))
                .map(|size| &size.0),
        );
        let follows = edit.storage.is_some() && volume.is_some() && before > volume;
        begun += u32::from(is_new && !follows);
        let after = size(edit.storage.as_ref());
        if after.is_some() && after < before && after <= volume {
            violations.push(format!("claim {name} gets less room than its volume has"));
        }
    }
    if begun > parsed.claim_rules.parallel {
        violations.push(format!("{begun} volumes are changed at once"));
    }
}

/// The deletion of a pod deletes a claim only if the pod is surplus and the policy demands the deletion.
pub(super) fn survive_deletions(
    parsed: &ParsedSet<'_>,
    plan: &StatefulSetPlan,
    violations: &mut Vec<String>,
) {
    for work in &plan.pods {
        let deletes = |action: &StatefulSetAction| action.deleted_pod().is_some();
        let Some(at) = work.actions.iter().position(deletes) else {
            continue;
        };
        let Some(member) = member(parsed, work.ordinal) else {
            continue;
        };
        let surplus = !parsed.spec.in_range(work.ordinal);
        if surplus && parsed.spec.when_scaled == Retention::Delete {
            continue;
        }
        for name in claims::names(&parsed.spec, work.ordinal) {
            let corrected = work.actions[..at]
                .iter()
                .rev()
                .find_map(|action| match action {
                    StatefulSetAction::SetClaimOwners {
                        name: of, owners, ..
                    } if *of == name => Some(&owners[..]),
                    _ => None,
                });
            let owners = corrected.unwrap_or_else(|| owners_of(parsed, &name));
            // A claim of a predecessor is about to be deleted and is not changed (2.16).
            let stale = owners.iter().any(|owner| {
                (owner.kind == "Pod" && !member.is_owner(owner) && owner.name == member.name())
                    || (owner.kind == identity::KIND
                        && !parsed.spec.is_owner(owner)
                        && owner.name == parsed.spec.name)
            });
            if !stale && owners.iter().any(|owner| member.is_owner(owner)) {
                violations.push(format!("claim {name} would go with pod {}", member.name()));
            }
        }
    }
}

/// After the plan the owners of each claim follow the policy, also for a terminating pod: the garbage collector reads
/// the owners when the pod is deleted (2.11 to 2.13).
pub(super) fn follow_the_policy(
    parsed: &ParsedSet<'_>,
    plan: &StatefulSetPlan,
    violations: &mut Vec<String>,
) {
    if parsed.spec.deleting || parsed.spec.selector.is_none() {
        return;
    }
    kept_claims_are_nobodys(parsed, plan, violations);
    let when_deleted = parsed.spec.when_deleted == Retention::Delete;
    let when_scaled = parsed.spec.when_scaled == Retention::Delete;
    for ((ordinal, _), ClaimState { name, .. }) in &parsed.claims {
        let owners = owners_afterwards(parsed, plan, name);
        let pod = member(parsed, *ordinal);
        let ours = |owner: &OwnerReference| parsed.spec.is_owner(owner);
        let of_pod = |owner: &OwnerReference| pod.is_some_and(|pod| pod.is_owner(owner));
        let other = |owner: &&OwnerReference| !ours(owner) && !of_pod(owner);
        // A claim of a predecessor (2.16) or of another controller is not changed.
        let pod_name = identity::pod_name(parsed.spec.name, *ordinal);
        let is_left_alone = |owner: &OwnerReference| {
            owner.controller == Some(true)
                || (owner.kind == "Pod" && owner.name == pod_name)
                || (owner.kind == identity::KIND && owner.name == parsed.spec.name)
        };
        if owners.iter().filter(other).any(is_left_alone) {
            continue;
        }
        let surplus = !parsed.spec.in_range(*ordinal);
        let goes_with_pod = pod.is_some() && surplus && when_scaled;
        let goes_with_set = when_deleted && !goes_with_pod;
        let has_set = owners.iter().any(ours);
        // The set does not become the owner of a claim without a pod (2.13).
        let set_is_right = has_set == goes_with_set || (pod.is_none() && !has_set);
        if owners.iter().any(of_pod) != goes_with_pod || !set_is_right {
            violations.push(format!("claim {name} is not given to whom the policy says"));
        }
    }
}

/// The owners of a claim after the plan.
fn owners_afterwards<'p>(
    parsed: &'p ParsedSet<'_>,
    plan: &'p StatefulSetPlan,
    claim: &str,
) -> &'p [OwnerReference] {
    let written = plan.actions().filter_map(|action| match action {
        StatefulSetAction::SetClaimOwners { name, owners, .. } if name == claim => {
            Some(&owners[..])
        }
        _ => None,
    });
    written.last().unwrap_or_else(|| owners_of(parsed, claim))
}
