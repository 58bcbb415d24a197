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
use resource_kinds::pod_view::PodView;

use crate::labels::node_selector_matches;
use crate::view::{ClaimStep, ClusterView};
use allocator::{DeviceOffer, allocate};
use pools::{DeviceId, pools};
use wishes::{ClaimRequests, wish};

/// Maximum number of pods that one claim serves; a limit of the API.
const USERS_MAX: usize = 256;

/// The claims of a pod.
#[derive(Default)]
pub(crate) struct Devices<'v> {
    /// Allocated claims, and whether they are reserved for the pod.
    allocated: Vec<(&'v ResourceClaim, bool)>,
    wishes: Vec<ClaimRequests>,
    offer: DeviceOffer,
}

impl<'v> Devices<'v> {
    /// *Errors.* A message that applies to all nodes.
    pub fn of(pod: &PodView, view: &'v ClusterView) -> Result<Self, String> {
        let mut devices = Self::default();
        let claims = pod.spec.resource_claims.as_deref().unwrap_or_default();
        if claims.is_empty() {
            return Ok(devices);
        }
        let mut visited = BTreeSet::new();
        for reference in claims {
            let claim = claim_of(pod, reference, view)?;
            // A pod may name a claim twice.
            if !visited.insert(claim.metadata.name.as_deref().unwrap_or_default()) {
                continue;
            }
            let users = claim
                .status
                .as_ref()
                .and_then(|status| status.reserved_for.as_deref());
            let users = users.unwrap_or_default();
            let reserved = users.iter().any(|user| user.uid == *pod.uid);
            if !reserved && users.len() >= USERS_MAX {
                return Err("resourceclaim in use".to_owned());
            }
            match allocation(claim) {
                Some(_) => devices.allocated.push((claim, reserved)),
                None => devices.wishes.push(wish(claim, &view.device_classes)?),
            }
        }
        if !devices.wishes.is_empty() {
            let allocated = view.device_claims.values().flat_map(|claim| held(claim));
            let pools = pools(&view.device_slices);
            devices.offer = DeviceOffer::of(pools, allocated.collect(), &devices.wishes);
        }
        Ok(devices)
    }

    /// The objection to a node that does not depend on the node's pods.
    pub fn objection(&self, node: &Node) -> Option<String> {
        let elsewhere = self.allocated.iter().any(|(claim, _)| {
            let nodes = allocation(claim).and_then(|result| result.node_selector.as_ref());
            nodes.is_some_and(|nodes| !node_selector_matches(nodes, node))
        });
        if elsewhere {
            return Some("resourceclaim not available on the node".to_owned());
        }
        if self.wishes.is_empty() {
            return None;
        }
        allocate(&self.wishes, &self.offer, node).err()
    }

    /// Whether all claims are allocated, and reserved for the pod.
    pub fn are_reserved(&self) -> bool {
        self.wishes.is_empty() && self.allocated.iter().all(|(_, reserved)| *reserved)
    }

    /// The writes before the pod is bound to the node.
    pub fn steps(&self, node: &Node) -> Vec<ClaimStep> {
        let name = |claim: &ResourceClaim| claim.metadata.name.clone().unwrap_or_default();
        let used = self.allocated.iter().filter(|(_, reserved)| !reserved);
        let used = used.map(|(claim, _)| ClaimStep::UseDevices { claim: name(claim) });
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
fn held(claim: &ResourceClaim) -> impl Iterator<Item = DeviceId> {
    let devices = allocation(claim).and_then(|found| found.devices.as_ref());
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
) -> Result<&'v Arc<ResourceClaim>, String> {
    let generated = pod.device_claims.as_ref();
    let generated = generated.and_then(|generated| generated.get(reference.name.as_str()));
    let name = match (&reference.resource_claim_name, generated) {
        (Some(name), _) => name.clone(),
        (None, Some(generated)) => generated.to_string(),
        (None, None) => {
            return Err(format!(
                "waiting for dynamic resource controller to create the resourceclaim {:?}",
                reference.name
            ));
        }
    };
    let key = (pod.namespace.to_string(), name.clone());
    let claim = view.device_claims.get(&key);
    let claim = claim.ok_or_else(|| format!("waiting for resource claim {name:?}: not found"))?;
    let owners = claim
        .metadata
        .owner_references
        .as_deref()
        .unwrap_or_default();
    if reference.resource_claim_name.is_none() && !owners.iter().any(|owner| owner.uid == *pod.uid)
    {
        return Err(format!(
            "resourceclaim {name:?} was not created for the pod"
        ));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("resourceclaim {name:?} is being deleted"));
    }
    Ok(claim)
}
