//! The devices that drivers offer in their ResourceSlices, by pool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use json_tree::Value;
use k8s_openapi::api::core::v1::{Node, NodeSelector};
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, ResourceSlice};

use crate::labels::node_selector_matches;

/// The identity of a device: driver, pool, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeviceId(pub String, pub String, pub String);

/// The nodes that can reach a device.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum DeviceNodes {
    On(String),
    OnNodes(NodeSelector),
    Everywhere,
}

/// A device that can be allocated to a claim.
#[derive(Clone, Debug)]
pub(super) struct AvailableDevice {
    pub id: DeviceId,
    pub device: Device,
    /// The device in the form that CEL expressions read.
    pub json: Value,
    pub nodes: DeviceNodes,
    /// Whether the device's pool is complete; false while the driver rewrites the pool.
    pub pool_is_whole: bool,
}

impl AvailableDevice {
    /// Whether the device can be reached from a node.
    pub fn is_on(&self, node: &Node) -> bool {
        match &self.nodes {
            DeviceNodes::Everywhere => true,
            DeviceNodes::On(name) => node.metadata.name.as_ref() == Some(name),
            DeviceNodes::OnNodes(selector) => node_selector_matches(selector, node),
        }
    }

    /// An attribute by its qualified name; a name without a domain has the driver's domain.
    pub fn attribute(&self, name: &str) -> Option<&DeviceAttribute> {
        let attributes = self.device.attributes.as_ref()?;
        let unqualified = || {
            let (domain, id) = name.split_once('/')?;
            (domain == self.id.0).then(|| attributes.get(id))?
        };
        attributes.get(name).or_else(unqualified)
    }
}

/// All devices, in the order of their pools and slices.
pub(super) fn pools(slices: &[Arc<ResourceSlice>]) -> Vec<AvailableDevice> {
    let mut pools: BTreeMap<(&str, &str), Vec<&ResourceSlice>> = BTreeMap::new();
    for slice in slices {
        let key = (slice.spec.driver.as_str(), slice.spec.pool.name.as_str());
        pools.entry(key).or_default().push(slice);
    }
    let mut offered = Vec::new();
    for slices in pools.values_mut() {
        // Slices of older generations are about to be deleted.
        let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
        slices.retain(|slice| Some(slice.spec.pool.generation) == newest);
        slices.sort_unstable_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let count = i64::try_from(slices.len()).unwrap_or(i64::MAX);
        let expected = slices
            .first()
            .map(|slice| slice.spec.pool.resource_slice_count);
        let mut names = BTreeSet::new();
        let devices = || {
            slices
                .iter()
                .flat_map(|slice| slice.spec.devices.iter().flatten())
        };
        let unique = devices().all(|device| names.insert(&device.name));
        let whole = expected == Some(count) && unique;
        for slice in slices.iter() {
            let devices = slice.spec.devices.iter().flatten();
            offered.extend(devices.filter_map(|device| offer(slice, device, whole)));
        }
    }
    offered
}

/// The offer of a device; `None` for a shared device or a device with binding conditions, which are not supported yet.
fn offer(slice: &ResourceSlice, device: &Device, whole: bool) -> Option<AvailableDevice> {
    let partial = device
        .consumes_counters
        .as_ref()
        .is_some_and(|all| !all.is_empty());
    let slow = device
        .binding_conditions
        .as_ref()
        .is_some_and(|all| !all.is_empty());
    if partial || slow || device.allow_multiple_allocations == Some(true) {
        return None;
    }
    let spec = &slice.spec;
    let (name, selector, all) = match spec.per_device_node_selection {
        Some(true) => (&device.node_name, &device.node_selector, device.all_nodes),
        _ => (&spec.node_name, &spec.node_selector, spec.all_nodes),
    };
    let nodes = match (name, selector, all) {
        (Some(name), _, _) => DeviceNodes::On(name.clone()),
        (None, Some(selector), _) => DeviceNodes::OnNodes(selector.clone()),
        (None, None, Some(true)) => DeviceNodes::Everywhere,
        (None, None, _) => return None,
    };
    Some(AvailableDevice {
        id: DeviceId(
            spec.driver.clone(),
            spec.pool.name.clone(),
            device.name.clone(),
        ),
        json: json_tree::to_value(device).ok()?,
        device: device.clone(),
        nodes,
        pool_is_whole: whole,
    })
}
