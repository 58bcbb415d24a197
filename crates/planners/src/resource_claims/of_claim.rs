//! The plan for a claim: ended pods no longer reserve it, and unused devices are free.

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use resource_kinds::resource::ALLOCATED;

use crate::ownership::controller;

/// What was seen of a pod that a claim names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It runs, or may run.
    Living,
    /// It will not run any more.
    Over,
    /// It is not there, or another pod has its name.
    Gone,
    /// Nobody has looked closely enough.
    Unknown,
}

/// What is to be done for a claim, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimStep {
    /// Write who still uses the claim.
    Release {
        /// Those who do.
        kept: Vec<ResourceClaimConsumerReference>,
        /// Whether the devices are free.
        free: bool,
    },
    /// Take away the finalizer: the claim has no devices.
    Unprotect {
        /// The finalizers that stay.
        kept: Vec<String>,
    },
    /// Delete the claim: it was made for a pod that is over.
    Delete,
}

/// The users of a claim.
pub fn consumers(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    let status = claim.status.as_ref();
    status
        .and_then(|status| status.reserved_for.as_deref())
        .unwrap_or_default()
}

/// Whether a user is a pod.
fn is_pod(user: &ResourceClaimConsumerReference) -> bool {
    user.resource == "pods" && user.api_group.as_deref().unwrap_or_default().is_empty()
}

/// What is to be done for a claim; `seen` tells of pods of its namespace by name and uid.
pub fn plan_claim(claim: &ResourceClaim, seen: impl Fn(&str, &str) -> Seen) -> Vec<ClaimStep> {
    let users = consumers(claim);
    let stays = |user: &&ResourceClaimConsumerReference| {
        // What else may use a claim is not known here, and keeps it.
        !is_pod(user) || matches!(seen(&user.name, &user.uid), Seen::Living | Seen::Unknown)
    };
    let kept: Vec<ResourceClaimConsumerReference> = users.iter().filter(stays).cloned().collect();
    let finalizers = claim.metadata.finalizers.as_deref().unwrap_or_default();
    let protected = finalizers.iter().any(|finalizer| finalizer == ALLOCATED);
    let status = claim.status.as_ref();
    let allocated = status.is_some_and(|status| status.allocation.is_some());
    let unused = kept.is_empty();
    let going = claim.metadata.deletion_timestamp.is_some();
    let released = kept.len() < users.len();
    // A claim that was allocated and not used yet is somebody's who is about to use it.
    let ends = protected && unused && (released || going);
    let mut steps = Vec::new();
    if released || (ends && allocated) {
        steps.push(ClaimStep::Release { kept, free: ends });
    }
    if ends {
        let kept = finalizers
            .iter()
            .filter(|finalizer| *finalizer != ALLOCATED);
        steps.push(ClaimStep::Unprotect {
            kept: kept.cloned().collect(),
        });
    }
    let owner = controller(claim.metadata.owner_references.as_deref());
    let owner = owner.filter(|owner| owner.kind == "Pod" && owner.api_version == "v1");
    if let Some(owner) = owner
        && unused
        && !going
        && seen(&owner.name, &owner.uid) == Seen::Over
    {
        steps.push(ClaimStep::Delete);
    }
    steps
}
