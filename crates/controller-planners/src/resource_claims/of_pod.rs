//! The plan for a pod: its claims, their names in its status, and its reservations.

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::resource::POD_CLAIM_NAME;

use crate::ownership::controller;
use crate::stateful_set::revisions::hash;

/// Maximum length of a claim's name without the hash, in bytes: the name must be valid as a label value.
const BASE_BYTES_MAX: usize = 50;
/// Maximum number of consumers of one claim.
const USERS_MAX: usize = 256;

/// The action for a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodStep {
    /// Create a claim.
    Create(Box<ResourceClaim>),
    /// A claim cannot be created yet; the message for an event.
    Wait(String),
    /// Write the names of the created claims into the pod's status; each pair is the name in the pod and the claim's
    /// name.
    Note(Vec<(String, String)>),
    /// Reserve a claim for a pod that was bound without the scheduler.
    Reserve {
        /// The observed claim.
        claim: Box<ResourceClaim>,
        /// The pod as a consumer.
        user: ResourceClaimConsumerReference,
    },
}

/// The names of the ResourceClaimTemplates of a pod.
pub fn templates(pod: &Pod) -> impl Iterator<Item = &str> {
    claims_of(pod).filter_map(|claim| claim.resource_claim_template_name.as_deref())
}

/// The name of a pod's claim; equal for each call, because the name contains a hash of its input.
pub fn claim_name(pod: &str, uid: &str, claim: &str) -> String {
    let whole = pod.len() + claim.len() + 2;
    // Both names are shortened in proportion, so that both stay recognisable.
    let shorten = |name: &str| {
        let most = (name.len() * BASE_BYTES_MAX).div_ceil(whole.max(1));
        let end = name.floor_char_boundary(most.saturating_sub(1).max(1));
        name.get(..end).unwrap_or_default().to_owned()
    };
    let (pod, claim_part) = if whole > BASE_BYTES_MAX {
        (shorten(pod), shorten(claim))
    } else {
        (pod.to_owned(), claim.to_owned())
    };
    let hash = hash(&format!("{uid}/{claim}"), None);
    // A shortened name must not end in a dash or dot.
    let pod = pod.trim_end_matches(['-', '.']);
    let claim_part = claim_part.trim_end_matches(['-', '.']);
    format!("{pod}-{claim_part}-{hash}")
}

/// Plans the actions for a pod. `claim` and `template` return objects of its namespace by name.
pub fn plan_pod<C, T>(
    pod: &Pod,
    claim: impl Fn(&str) -> Option<C>,
    template: impl Fn(&str) -> Option<T>,
) -> Result<Vec<PodStep>, IncompleteMetadata>
where
    C: AsRef<ResourceClaim>,
    T: AsRef<ResourceClaimTemplate>,
{
    if has_ended(pod) || pod.metadata.deletion_timestamp.is_some() {
        return Ok(Vec::new());
    }
    let owner = owner_reference(pod)?;
    let mut steps = Vec::new();
    let mut notes = Vec::new();
    for requested in claims_of(pod) {
        let name = match (
            &requested.resource_claim_name,
            &requested.resource_claim_template_name,
        ) {
            (Some(name), _) => name.clone(),
            (None, Some(from)) => {
                let (name, step) =
                    claim_of_template(&pod.metadata, &owner, requested, from, &claim, &template);
                if let Some(step) = step {
                    let waits = matches!(step, PodStep::Wait(_));
                    steps.push(step);
                    if waits {
                        continue;
                    }
                }
                if reported_claim(pod, &requested.name) != Some(name.as_str()) {
                    notes.push((requested.name.clone(), name.clone()));
                }
                name
            }
            (None, None) => continue,
        };
        steps.extend(claim(&name).and_then(|claim| reserve(pod, &owner, claim.as_ref())));
    }
    if !notes.is_empty() {
        steps.push(PodStep::Note(notes));
    }
    Ok(steps)
}

/// The name of the claim from a template, and the action before the pod has it.
fn claim_of_template<C: AsRef<ResourceClaim>, T: AsRef<ResourceClaimTemplate>>(
    pod: &ObjectMeta,
    owner: &OwnerReference,
    requested: &PodResourceClaim,
    from: &str,
    claim: &impl Fn(&str) -> Option<C>,
    template: &impl Fn(&str) -> Option<T>,
) -> (String, Option<PodStep>) {
    let name = claim_name(&owner.name, &owner.uid, &requested.name);
    if let Some(existing) = claim(&name) {
        let references = existing.as_ref().metadata.owner_references.as_deref();
        let is_owned = controller(references).is_some_and(|of_claim| of_claim.uid == owner.uid);
        let step = (!is_owned).then(|| {
            PodStep::Wait(format!(
                "PodResourceClaim {}: resource claim {name:?} exists, but is not owned by the pod",
                requested.name
            ))
        });
        return (name, step);
    }
    let Some(template) = template(from) else {
        let text = format!(
            "PodResourceClaim {}: resource claim template {from:?}: \
             resourceclaimtemplate.resource.k8s.io {from:?} not found",
            requested.name
        );
        return (name, Some(PodStep::Wait(text)));
    };
    let spec = &template.as_ref().spec;
    let metadata = spec.metadata.clone().unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.to_owned(), requested.name.clone());
    let created = ResourceClaim {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: pod.namespace.clone(),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: spec.spec.clone(),
        status: None,
    };
    (name, Some(PodStep::Create(Box::new(created))))
}

/// The reference to the pod as the controlling owner of its claims.
fn owner_reference(pod: &Pod) -> Result<OwnerReference, IncompleteMetadata> {
    Ok(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.metadata.object_name()?.to_owned(),
        uid: pod.metadata.object_uid()?.into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

/// Reserves the claim of a pod that was created with `nodeName`, because the scheduler has not reserved the claim.
fn reserve(pod: &Pod, owner: &OwnerReference, claim: &ResourceClaim) -> Option<PodStep> {
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    let status = claim.status.as_ref()?;
    let allocated = status.allocation.is_some() && claim.metadata.deletion_timestamp.is_none();
    let users = status.reserved_for.as_deref().unwrap_or_default();
    let has = users.iter().any(|user| user.uid == owner.uid);
    let may = allocated && !has && users.len() < USERS_MAX && !node.is_empty();
    may.then(|| PodStep::Reserve {
        claim: Box::new(claim.clone()),
        user: ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        },
    })
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.resource_claims.as_deref())
        .unwrap_or_default()
        .iter()
}

fn reported_claim<'p>(pod: &'p Pod, name: &str) -> Option<&'p str> {
    let statuses = pod.status.as_ref()?.resource_claim_statuses.as_deref()?;
    let status = statuses.iter().find(|status| status.name == name)?;
    status.resource_claim_name.as_deref()
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
