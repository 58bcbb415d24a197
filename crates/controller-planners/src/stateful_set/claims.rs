//! Claims: created from templates, and owned as the retention policy demands.
//!
//! The policy works only by owner references, because the garbage collector deletes the claims. A reference is
//! therefore written only where the policy demands deletion, and removed everywhere else.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use object_model::Uid;
use resource_kinds::reasons::stateful_set as reasons;
use resource_kinds::stateful_set_policy::{ClaimRules, ClaimUpdates};

use crate::ownership::controller;

use super::claim_edits;
use super::draft::Draft;
use super::identity;
use super::member::Member;
use super::observed::{ClaimState, ParsedSet, Retention, Spec, template_names};
use super::plan::{SetEvent, StatefulSetAction};
use super::waiting::Cause;

/// The names of the claims of an ordinal, in the order of their templates.
pub(super) fn names(spec: &Spec<'_>, ordinal: i64) -> Vec<String> {
    template_names(spec.claim_templates)
        .map(|template| identity::claim_name(template, spec.name, ordinal))
        .collect()
}

/// A claim of the pod of an ordinal.
struct PodClaim<'t> {
    name: String,
    template: &'t PersistentVolumeClaim,
    /// Whether the set has removed the template since the pod's revision.
    is_restored: bool,
}

/// The claims of an ordinal: of the set's templates, and of these removed templates.
fn pod_claims<'t>(
    spec: &Spec<'t>,
    restored: &[&'t PersistentVolumeClaim],
    ordinal: i64,
) -> Vec<PodClaim<'t>> {
    let present = spec
        .claim_templates
        .iter()
        .map(|template| (template, false));
    let restored = restored.iter().map(|template| (*template, true));
    let claims = present
        .chain(restored)
        .filter_map(|(template, is_restored)| {
            let name = identity::claim_name(template.metadata.name.as_deref()?, spec.name, ordinal);
            Some(PodClaim {
                name,
                template,
                is_restored,
            })
        });
    claims.collect()
}

/// The removed claim templates that a pod template mounts: an earlier revision has volumes of templates that the set has
/// lost since then (rollouts.md C7).
pub(super) fn restored<'p>(
    parsed: &'p ParsedSet<'_>,
    template: &PodTemplateSpec,
) -> Vec<&'p PersistentVolumeClaim> {
    if parsed.removed_templates.is_empty() {
        return Vec::new();
    }
    let Some(pod) = &template.spec else {
        return Vec::new();
    };
    let is_mounted = |volume: &str| {
        let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
        containers.into_iter().any(|container| {
            let mounts = container.volume_mounts.iter().flatten();
            let devices = container.volume_devices.iter().flatten();
            let mut names = mounts
                .map(|mount| &mount.name)
                .chain(devices.map(|one| &one.name));
            names.any(|name| name == volume)
        })
    };
    let is_defined = |name: &str| {
        pod.volumes
            .iter()
            .flatten()
            .any(|volume| volume.name == name)
    };
    let removed = parsed.removed_templates.iter();
    let restored = removed.filter(|template| {
        let name = template.metadata.name.as_deref();
        name.is_some_and(|name| is_mounted(name) && !is_defined(name))
    });
    restored.collect()
}

/// The reason why the pod of that ordinal, which also uses claims of these removed templates, cannot be created now.
pub(super) fn obstacle(
    parsed: &ParsedSet<'_>,
    restored: &[&PersistentVolumeClaim],
    ordinal: i64,
) -> Option<Cause> {
    for PodClaim {
        name: claim_name, ..
    } in pod_claims(&parsed.spec, restored, ordinal)
    {
        let Some(claim) = parsed.observed.claims.get(&claim_name) else {
            continue;
        };
        // The claim will be deleted with the former pod, even if the policy has changed since then: a new pod must not
        // use the claim.
        let pod = identity::pod_name(parsed.spec.name, ordinal);
        let of_former_pod = references_other(claim, "v1", "Pod", &pod, None);
        // A claim of a former set of this name will be deleted as well; kube-controller-manager does not check this.
        let of_former_set = references_other(
            claim,
            identity::API_VERSION,
            identity::KIND,
            parsed.spec.name,
            Some(&parsed.spec.uid),
        );
        if of_former_pod || of_former_set {
            return Some(Cause::ClaimStale { claim: claim_name });
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(Cause::ClaimTerminating { claim: claim_name });
        }
    }
    None
}

/// Confirms that a new pod's claims are in the observed state.
///
/// The claims of a surplus pod are deleted with the pod. After a scale-up the cache of this controller may not contain
/// the controller's own write to these claims yet, and the new pod would use a claim that is about to be deleted. The
/// API server then refuses the write of the desired owners (statefulset.md 2.12), because the resourceVersion is old.
pub(super) fn confirm_present(
    parsed: &ParsedSet<'_>,
    restored: &[&PersistentVolumeClaim],
    ordinal: i64,
    draft: &mut Draft,
) {
    if parsed.spec.when_scaled != Retention::Delete {
        return;
    }
    for claim in parsed.claims_of(ordinal) {
        if !draft.writes_claim(claim.name) {
            let owners = owners_of_desired(&parsed.spec, claim.claim);
            draft.act(ordinal, set_owners(claim, owners));
        }
    }
    let kept = parsed
        .kept_claims
        .range((ordinal, 0)..=(ordinal, usize::MAX));
    for ((_, template), claim) in kept {
        let is_used = parsed
            .removed_templates
            .get(*template)
            .is_some_and(|template| {
                restored
                    .iter()
                    .any(|restored| std::ptr::eq(*restored, template))
            });
        if is_used && !draft.writes_claim(claim.name) {
            let owners = claim.claim.metadata.owner_references.clone();
            draft.act(ordinal, set_owners(claim, owners.unwrap_or_default()));
        }
    }
}

/// The owners of a claim whose pod is desired and does not exist.
fn owners_of_desired(spec: &Spec<'_>, claim: &PersistentVolumeClaim) -> Vec<OwnerReference> {
    let present = claim.metadata.owner_references.as_deref();
    let present = present.unwrap_or_default();
    let others = present.iter().filter(|owner| !spec.is_owner(owner));
    let mut owners: Vec<OwnerReference> = others.cloned().collect();
    if spec.when_deleted == Retention::Delete && controller(Some(&owners)).is_none() {
        owners.push(spec.owner_reference());
    }
    if same(&owners, present) {
        present.to_vec()
    } else {
        owners
    }
}

/// The removed claim templates whose claims a pod uses.
pub(super) fn kept_of<'p>(
    parsed: &'p ParsedSet<'_>,
    member: &Member<'_>,
) -> Vec<&'p PersistentVolumeClaim> {
    let removed = parsed.removed_templates.iter();
    let kept = removed.filter(|template| {
        let name = template.metadata.name.as_deref().unwrap_or_default();
        let claim = identity::claim_name(name, parsed.spec.name, member.ordinal);
        member.pod.claims.iter().any(|used| *used.name == *claim)
    });
    kept.collect()
}

/// A claim of a pod that is being deleted.
pub(super) fn terminating(
    parsed: &ParsedSet<'_>,
    restored: &[&PersistentVolumeClaim],
    ordinal: i64,
) -> Option<String> {
    let claims = pod_claims(&parsed.spec, restored, ordinal).into_iter();
    let mut names = claims.map(|claim| claim.name);
    names.find(|name| {
        let claim = parsed.observed.claims.get(name);
        claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
    })
}

/// Creates the missing claims of a pod, which also uses claims of these removed templates.
pub(super) fn create_missing(
    parsed: &ParsedSet<'_>,
    restored: &[&PersistentVolumeClaim],
    ordinal: i64,
    draft: &mut Draft,
) {
    let spec = &parsed.spec;
    let claims = pod_claims(spec, restored, ordinal);
    let missing = claims
        .into_iter()
        .filter(|claim| !parsed.observed.claims.contains_key(&claim.name));
    for missing in missing {
        let claim = claim(spec, parsed.claim_rules, missing);
        draft.act(ordinal, StatefulSetAction::CreateClaim(Box::new(claim)));
    }
}

fn claim(spec: &Spec<'_>, rules: ClaimRules, claim: PodClaim<'_>) -> PersistentVolumeClaim {
    let PodClaim {
        name,
        template,
        is_restored,
    } = claim;
    let mut labels = template.metadata.labels.clone().unwrap_or_default();
    let selector = spec.set.spec.as_ref().map(|set| &set.selector);
    labels.extend(
        selector
            .and_then(|s| s.match_labels.clone())
            .unwrap_or_default(),
    );
    let mut annotations = template.metadata.annotations.clone().unwrap_or_default();
    if rules.update == Some(ClaimUpdates::InPlace) {
        annotations.extend(claim_edits::record_of(template));
    }
    // Claims are created for desired ordinals only. Those of removed templates are never deleted.
    let owned = spec.when_deleted == Retention::Delete && !is_restored;
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(spec.namespace.to_owned()),
            labels: (!labels.is_empty()).then_some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: owned.then(|| vec![spec.owner_reference()]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Writes the owners of every claim as the policy demands, before any other write.
///
/// A terminating pod is not an exception. The garbage collector reads the owners when the pod is deleted, so the owners
/// must be correct by then, even if the ordinal was scaled down or up again, or the policy changed, after the deletion
/// began. Therefore a pod that blocks other pods does not block the writes of owners.
pub(super) fn settle_owners(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    // The order is that of the later work on the pods.
    let members = parsed.members.iter();
    for member in members.chain(parsed.condemned.iter().rev()) {
        settle_owners_of_member(parsed, member, draft);
    }
    if parsed.spec.when_deleted == Retention::Retain {
        reclaim_absent(parsed, draft);
    }
    release_kept(parsed, draft);
}

/// Removes the references to the set and to its pods from the claims of removed templates: these claims stay, whatever
/// the retention policy says (rollouts.md C7).
fn release_kept(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    for ((ordinal, _), claim) in &parsed.kept_claims {
        let desired = parsed.members.get(*ordinal);
        let member = desired.or_else(|| parsed.condemned.get(*ordinal));
        let is_ours = |owner: &OwnerReference| {
            parsed.spec.is_owner(owner) || member.is_some_and(|member| member.is_owner(owner))
        };
        release(*ordinal, claim, is_ours, draft);
    }
}

fn settle_owners_of_member(parsed: &ParsedSet<'_>, member: &Member<'_>, draft: &mut Draft) {
    for claim in parsed.claims_of(member.ordinal) {
        let desired = desired_owners(&parsed.spec, member, claim.claim);
        if matches!(desired, Owners::Foreign(_)) {
            draft.notices.push(conflicting(claim.name));
        }
        if let Owners::Foreign(Some(owners)) | Owners::Desired(owners) = desired {
            if member.terminating {
                cov_mark::hit!(findings_r1);
            }
            draft.act(member.ordinal, set_owners(claim, owners));
        }
    }
}

/// Removes the set's owner reference from claims of ordinals that have no pod.
fn reclaim_absent(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    for ((ordinal, _), claim) in &parsed.claims {
        if parsed.members.contains(*ordinal) || parsed.condemned.contains(*ordinal) {
            continue;
        }
        release(*ordinal, claim, |owner| parsed.spec.is_owner(owner), draft);
    }
}

/// Removes these owners of a claim, if it has any of them.
fn release(
    ordinal: i64,
    claim: &ClaimState<'_>,
    is_removed: impl Fn(&OwnerReference) -> bool,
    draft: &mut Draft,
) {
    let present = claim.claim.metadata.owner_references.iter().flatten();
    let (removed, others): (Vec<_>, Vec<_>) = present.cloned().partition(is_removed);
    if !removed.is_empty() {
        draft.act(ordinal, set_owners(claim, others));
    }
}

fn set_owners(claim: &ClaimState<'_>, owners: Vec<OwnerReference>) -> StatefulSetAction {
    StatefulSetAction::SetClaimOwners {
        name: claim.name.to_owned(),
        uid: claim.uid.clone(),
        version: claim.version,
        owners,
    }
}

fn conflicting(claim: &str) -> SetEvent {
    SetEvent {
        warning: true,
        reason: reasons::CONFLICTING_CONTROLLER,
        message: format!(
            "PersistentVolumeClaim {claim} has a conflicting OwnerReference that acts as a \
             manging controller, the retention policy is ignored for this claim"
        ),
    }
}

enum Owners {
    AsDesired,
    Desired(Vec<OwnerReference>),
    /// Another controller manages the claim; references to this set, if there are any, are removed.
    Foreign(Option<Vec<OwnerReference>>),
}

fn desired_owners(spec: &Spec<'_>, member: &Member<'_>, claim: &PersistentVolumeClaim) -> Owners {
    let (api, kind) = (identity::API_VERSION, identity::KIND);
    // A reference to a predecessor means that the claim is about to be deleted: the claim is not changed.
    if references_other(claim, api, kind, spec.name, Some(&spec.uid))
        || references_other(claim, "v1", "Pod", member.name(), Some(&member.uid))
    {
        return Owners::AsDesired;
    }
    let present = claim
        .metadata
        .owner_references
        .as_deref()
        .unwrap_or_default();
    let ours = |owner: &OwnerReference| spec.is_owner(owner) || member.is_owner(owner);
    let mut owners: Vec<OwnerReference> = present
        .iter()
        .filter(|owner| !ours(owner))
        .cloned()
        .collect();
    if controller(Some(&owners)).is_some() {
        return Owners::Foreign((owners.len() != present.len()).then_some(owners));
    }
    let condemned = !spec.in_range(member.ordinal);
    let of_pod = condemned && spec.when_scaled == Retention::Delete;
    let of_set = !of_pod && spec.when_deleted == Retention::Delete;
    if of_set {
        owners.push(spec.owner_reference());
    }
    if of_pod {
        owners.push(pod_reference(member));
    }
    if same(&owners, present) {
        Owners::AsDesired
    } else {
        Owners::Desired(owners)
    }
}

fn pod_reference(member: &Member<'_>) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: member.name().to_owned(),
        uid: member.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Equal, apart from the order.
fn same(desired: &[OwnerReference], present: &[OwnerReference]) -> bool {
    desired.len() == present.len() && desired.iter().all(|owner| present.contains(owner))
}

/// Whether an owner of the claim has that kind and name, but another UID; `None` if no object of that name exists.
fn references_other(
    claim: &PersistentVolumeClaim,
    api_version: &str,
    kind: &str,
    name: &str,
    uid: Option<&Uid>,
) -> bool {
    let owners = claim
        .metadata
        .owner_references
        .as_deref()
        .unwrap_or_default();
    owners.iter().any(|owner| {
        owner.api_version == api_version
            && owner.kind == kind
            && owner.name == name
            && uid.is_none_or(|uid| *uid != *owner.uid.as_str())
    })
}
