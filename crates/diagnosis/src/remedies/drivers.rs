//! Pods that wait for a CSI driver: no node may have another of its volumes, or the driver has too little free storage.

use std::collections::BTreeSet;
use std::sync::Arc;

use json_tree::json;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::{CSINode, CSIStorageCapacity, StorageClass};
use object_model::{LabelSelector, Quantity};
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::pod_view::PodView;
use resource_kinds::volume_fit::{requested_class, requested_size};

use super::DiagnosedPod;
use crate::claims;
use crate::observed::ObservedNamespace;

impl DiagnosedPod<'_> {
    /// The remedy for drivers that accept no further volume on any node.
    pub(super) fn attach_limit(&self) -> Option<Remedy> {
        let nodes = self.observed.cluster.csi_nodes.as_deref()?;
        let mut full = Vec::new();
        let mut users: BTreeSet<&str> = BTreeSet::new();
        for driver in drivers(self.observed, self.pod) {
            let limited = nodes.iter().filter_map(|node| limit(node, driver));
            let limited: Vec<(&str, i32)> = limited.collect();
            if limited.is_empty() {
                continue;
            }
            let limits = limited
                .iter()
                .map(|(node, count)| format!("{count} on {node}"));
            let limits: Vec<String> = limits.collect();
            let limits = text::list(limits.iter().map(String::as_str));
            full.push(format!("driver {driver} takes {limits}"));
            let is_there = |pod: &&Arc<PodView>| {
                let node = pod.node.as_deref();
                let on_limited = limited.iter().any(|(name, _)| Some(*name) == node);
                on_limited && !pod.has_ended() && drivers(self.observed, pod).contains(driver)
            };
            let pods = self.observed.pods.iter().filter(is_there);
            users.extend(pods.map(|pod| &*pod.name));
        }
        if full.is_empty() {
            return None;
        }
        let users = match users.is_empty() {
            true => String::new(),
            false => format!(", such as {}", text::list(users.into_iter())),
        };
        Some(Remedy::new(format!(
            "the number of volumes on a node is limited by its driver ({}), and all are in use or attached: end a \
             pod there that uses one{users}; or add a node with the driver; or raise the limit in \
             the driver's settings",
            full.join("; ")
        )))
    }

    /// The remedy for a driver that reports too little free storage.
    pub(super) fn free_storage(&self) -> Option<Remedy> {
        let capacities = self.observed.cluster.capacities.as_deref()?;
        let unbound = self.pod.claims.iter().filter_map(|used| {
            let claim = self.observed.claim(&used.name)?;
            let class = self.observed.class(requested_class(claim)?)?;
            let sizes = sizes(self.observed, capacities, class);
            let size = requested_size(claim);
            let is_too_large = sizes.iter().all(|(volume_size, _)| *volume_size < size);
            let is_bound = claims::volume_name(claim).is_some();
            (!is_bound && is_too_large).then_some((claim, class, sizes))
        });
        let (claim, class, sizes) = unbound.max_by_key(|(claim, ..)| requested_size(claim))?;
        let (name, driver) = (text::name(&claim.metadata), &class.provisioner);
        let class = text::name(&class.metadata);
        if sizes.is_empty() {
            return Some(Remedy::new(format!(
                "driver {driver} reports no free storage for class {class} on any node: its \
                 provisioner has to run and to report (--enable-capacity)"
            )));
        }
        let sizes: Vec<String> = sizes
            .iter()
            .map(|(volume_size, nodes)| format!("{volume_size}{nodes}"))
            .collect();
        let text = format!(
            "driver {driver} has room for a volume of at most {}, and claim {name} asks for {}: \
             add storage for the driver; or recreate the claim with a smaller size",
            text::list(sizes.iter().map(String::as_str)),
            requested_size(claim),
        );
        let smaller = json!({ "resources": { "requests": { "storage": "SIZE" } } });
        Some(Remedy::new(text).with(claims::anew(claim, &smaller)))
    }
}

/// The drivers of the volumes that the pod's claims have or request.
fn drivers<'o>(observed: &'o ObservedNamespace, pod: &PodView) -> BTreeSet<&'o str> {
    let claims = pod.claims.iter();
    let claims = claims.filter_map(|used| observed.claim(&used.name));
    claims.filter_map(|claim| driver(observed, claim)).collect()
}

fn driver<'o>(observed: &'o ObservedNamespace, claim: &PersistentVolumeClaim) -> Option<&'o str> {
    let volume = claims::volume_name(claim).and_then(|name| observed.volume(name));
    match volume {
        Some(volume) => Some(&volume.spec.as_ref()?.csi.as_ref()?.driver),
        None => Some(&observed.class(requested_class(claim)?)?.provisioner),
    }
}

/// The node's name, and the maximum number of the driver's volumes on the node.
fn limit<'n>(node: &'n CSINode, driver: &str) -> Option<(&'n str, i32)> {
    let mut drivers = node.spec.drivers.iter();
    let limits_of_driver = drivers.find(|entry| entry.name == driver)?;
    Some((
        text::name(&node.metadata),
        limits_of_driver.allocatable.as_ref()?.count?,
    ))
}

/// The sizes of the largest volumes of the class, each with ` on NODES`; the largest first.
fn sizes(
    observed: &ObservedNamespace,
    capacities: &[Arc<CSIStorageCapacity>],
    class: &StorageClass,
) -> Vec<(Quantity, String)> {
    let of_class = |capacity: &&Arc<CSIStorageCapacity>| {
        Some(&capacity.storage_class_name) == class.metadata.name.as_ref()
    };
    let sizes = capacities.iter().filter(of_class).filter_map(|reported| {
        let maximum = reported.maximum_volume_size.as_ref();
        let size = maximum.or(reported.capacity.as_ref())?;
        let topology = LabelSelector::of(&reported.node_topology.as_ref())?;
        let nodes = observed.nodes().iter().filter(|node| {
            let labels = node.metadata.labels.as_ref();
            topology.matches_by(|key| labels?.get(key).map(String::as_str))
        });
        let nodes = text::list(nodes.map(|node| text::name(&node.metadata)));
        let location = match nodes.is_empty() {
            true => String::new(),
            false => format!(" on {nodes}"),
        };
        Some((size.0.parse().ok()?, location))
    });
    let mut sizes: Vec<(Quantity, String)> = sizes.collect();
    sizes
        .sort_unstable_by(|(a, a_nodes), (b, b_nodes)| b.cmp(a).then_with(|| a_nodes.cmp(b_nodes)));
    sizes
}
