//! The plan for a claim: ended pods lose their reservation, and unused devices are deallocated.

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use resource_kinds::resource::ALLOCATED;

use crate::ownership::controller;

/// The state of a pod that a claim is reserved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerState {
    /// The pod runs, or may run.
    Living,
    /// The pod has ended.
    Ended,
    /// The pod does not exist, or another pod has its name.
    Absent,
    /// The API server did not confirm the state.
    Unknown,
}

/// An action for a claim, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimStep {
    /// Write the remaining consumers of the claim.
    Release {
        /// The remaining consumers.
        consumers: Vec<ResourceClaimConsumerReference>,
        /// Whether the devices are deallocated.
        free: bool,
    },
    /// Remove the finalizer: the claim has no devices.
    Unprotect {
        /// The remaining finalizers.
        finalizers: Vec<String>,
    },
    /// Delete the claim: its pod has ended.
    Delete,
}

/// The consumers of a claim.
pub fn consumers(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    let status = claim.status.as_ref();
    status
        .and_then(|status| status.reserved_for.as_deref())
        .unwrap_or_default()
}

/// Whether a consumer is a pod.
fn is_pod(user: &ResourceClaimConsumerReference) -> bool {
    user.resource == "pods" && user.api_group.as_deref().unwrap_or_default().is_empty()
}

/// Plans the actions for a claim; `state_of` returns the state of pods of its namespace by name and UID.
pub fn plan_claim(
    claim: &ResourceClaim,
    state_of: impl Fn(&str, &str) -> ConsumerState,
) -> Vec<ClaimStep> {
    let users = consumers(claim);
    let stays = |user: &&ResourceClaimConsumerReference| {
        // The state of consumers of other kinds is unknown to this controller, so their claims stay reserved.
        !is_pod(user)
            || matches!(
                state_of(&user.name, &user.uid),
                ConsumerState::Living | ConsumerState::Unknown
            )
    };
    let remaining: Vec<ResourceClaimConsumerReference> =
        users.iter().filter(stays).cloned().collect();
    let finalizers = claim.metadata.finalizers.as_deref().unwrap_or_default();
    let protected = finalizers.iter().any(|finalizer| finalizer == ALLOCATED);
    let status = claim.status.as_ref();
    let allocated = status.is_some_and(|status| status.allocation.is_some());
    let unused = remaining.is_empty();
    let is_deleting = claim.metadata.deletion_timestamp.is_some();
    let released = remaining.len() < users.len();
    // An allocated claim without a consumer may get a consumer soon.
    let ends = protected && unused && (released || is_deleting);
    let mut steps = Vec::new();
    if released || (ends && allocated) {
        cov_mark::hit!(findings_c48);
        steps.push(ClaimStep::Release {
            consumers: remaining,
            free: ends,
        });
    }
    if ends {
        let remaining = finalizers
            .iter()
            .filter(|finalizer| *finalizer != ALLOCATED);
        steps.push(ClaimStep::Unprotect {
            finalizers: remaining.cloned().collect(),
        });
    }
    let owner = controller(claim.metadata.owner_references.as_deref());
    let owner = owner.filter(|owner| owner.kind == "Pod" && owner.api_version == "v1");
    if let Some(owner) = owner
        && unused
        && !is_deleting
        && state_of(&owner.name, &owner.uid) == ConsumerState::Ended
    {
        steps.push(ClaimStep::Delete);
    }
    steps
}
