//! Devices that a pod claims (`spec.resourceClaims`): the devices of each node, and the devices of
//! each claim. `pools` reads the drivers' ResourceSlices, `wishes` the claims' requests,
//! `allocator` searches.

mod allocator;
mod pools;
mod wishes;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceRequestAllocationResult, ResourceClaim,
};
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;
use thiserror::Error;

use crate::labels::node_selector_matches;
use crate::view::{ClaimStep, ClusterView};
use allocator::{DeviceOffer, allocate};
use pools::{DeviceId, pools};
use wishes::{ClaimRequests, RequestRefusal, wish};

/// Maximum number of pods that one claim serves; a limit of the API.
const USERS_MAX: usize = 256;

/// The reason why the devices of a pod cannot be allocated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum DeviceRefusal {
    #[error("waiting for dynamic resource controller to create the resourceclaim {0:?}")]
    NotCreated(String),
    #[error("waiting for resource claim {0:?}: not found")]
    NotFound(String),
    #[error("resourceclaim {0:?} was not created for the pod")]
    OtherOwner(String),
    #[error("resourceclaim {0:?} is being deleted")]
    Deleting(String),
    #[error("resourceclaim in use")]
    InUse,
    #[error("claim {claim}: {refusal}")]
    Request {
        claim: String,
        refusal: Box<RequestRefusal>,
    },
    #[error("identity of a resourceclaim: {0}")]
    Identity(#[from] IncompleteMetadata),
}

/// The claims of a pod.
#[derive(Default)]
pub(crate) struct Devices<'v> {
    allocated: Vec<AllocatedClaim<'v>>,
    wishes: Vec<ClaimRequests>,
    offer: DeviceOffer,
}

/// A claim that has its devices.
struct AllocatedClaim<'v> {
    name: &'v str,
    claim: &'v ResourceClaim,
    /// Whether the claim is reserved for the pod.
    is_reserved: bool,
}

impl<'v> Devices<'v> {
    pub fn of(pod: &PodView, view: &'v ClusterView) -> Result<Self, DeviceRefusal> {
        let mut devices = Self::default();
        let claims = pod.spec.resource_claims.as_deref().unwrap_or_default();
        if claims.is_empty() {
            return Ok(devices);
        }
        let mut visited = BTreeSet::new();
        for reference in claims {
            let claim = claim_of(pod, reference, view)?;
            // A pod may name a claim twice.
            let name = claim.metadata.object_name()?;
            if !visited.insert(name) {
                continue;
            }
            let users = claim
                .status
                .as_ref()
                .and_then(|status| status.reserved_for.as_deref());
            let users = users.unwrap_or_default();
            let reserved = users.iter().any(|user| pod.uid == *user.uid);
            if !reserved && users.len() >= USERS_MAX {
                return Err(DeviceRefusal::InUse);
            }
            match allocation(claim) {
                Some(_) => devices.allocated.push(AllocatedClaim {
                    name,
                    claim,
                    is_reserved: reserved,
                }),
                None => devices.wishes.push(wish(claim, &view.device_classes)?),
            }
        }
        if !devices.wishes.is_empty() {
            let allocated = view
                .device_claims
                .values()
                .flat_map(|claim| exclusive_devices(claim));
            let pools = pools(&view.device_slices);
            devices.offer = DeviceOffer::of(pools, allocated.collect(), &devices.wishes);
        }
        Ok(devices)
    }

    /// The objection to a node that does not depend on the node's pods.
    pub fn objection(&self, node: &Node) -> Option<String> {
        let elsewhere = self.allocated.iter().any(|allocated| {
            let nodes =
                allocation(allocated.claim).and_then(|result| result.node_selector.as_ref());
            nodes.is_some_and(|nodes| !node_selector_matches(nodes, node))
        });
        if elsewhere {
            return Some("resourceclaim not available on the node".to_owned());
        }
        if self.wishes.is_empty() {
            return None;
        }
        let refusal = allocate(&self.wishes, &self.offer, node).err();
        refusal.map(|refusal| refusal.to_string())
    }

    /// Whether all claims are allocated, and reserved for the pod.
    pub fn are_reserved(&self) -> bool {
        self.wishes.is_empty() && self.allocated.iter().all(|claim| claim.is_reserved)
    }

    /// The writes before the pod is bound to the node.
    pub fn steps(&self, node: &Node) -> Vec<ClaimStep> {
        let unreserved = self.allocated.iter().filter(|claim| !claim.is_reserved);
        let used = unreserved.map(|claim| ClaimStep::UseDevices {
            claim: claim.name.to_owned(),
        });
        let allocations = allocate(&self.wishes, &self.offer, node).unwrap_or_default();
        let wishes = self.wishes.iter().zip(allocations);
        let allocate_steps = wishes.map(|(wish, allocation)| ClaimStep::Allocate {
            claim: wish.claim.clone(),
            allocation: Box::new(allocation),
        });
        used.chain(allocate_steps).collect()
    }
}

fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

/// The devices that a claim uses exclusively.
fn exclusive_devices(claim: &ResourceClaim) -> impl Iterator<Item = DeviceId> {
    let devices = allocation(claim).and_then(|result| result.devices.as_ref());
    let results = devices.and_then(|devices| devices.results.as_deref());
    let is_exclusive = |result: &&DeviceRequestAllocationResult| result.admin_access != Some(true);
    let results = results.unwrap_or_default().iter().filter(is_exclusive);
    results.map(|result| {
        DeviceId(
            result.driver.clone(),
            result.pool.clone(),
            result.device.clone(),
        )
    })
}

/// The claim that a pod names, or that was created for the pod.
fn claim_of<'v>(
    pod: &PodView,
    reference: &PodResourceClaim,
    view: &'v ClusterView,
) -> Result<&'v Arc<ResourceClaim>, DeviceRefusal> {
    let generated = pod.device_claims.as_ref();
    let generated = generated.and_then(|generated| generated.get(reference.name.as_str()));
    let name = match (&reference.resource_claim_name, generated) {
        (Some(name), _) => name.clone(),
        (None, Some(generated)) => generated.to_string(),
        (None, None) => {
            return Err(DeviceRefusal::NotCreated(reference.name.clone()));
        }
    };
    let key = (pod.namespace.to_string(), name.clone());
    let claim = view.device_claims.get(&key);
    let claim = claim.ok_or_else(|| DeviceRefusal::NotFound(name.clone()))?;
    let owners = claim
        .metadata
        .owner_references
        .as_deref()
        .unwrap_or_default();
    if reference.resource_claim_name.is_none() && !owners.iter().any(|owner| pod.uid == *owner.uid)
    {
        return Err(DeviceRefusal::OtherOwner(name));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(DeviceRefusal::Deleting(name));
    }
    Ok(claim)
}
