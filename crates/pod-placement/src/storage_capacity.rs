//! The free storage that CSI drivers report (CSIStorageCapacity; KEP-1472), for volumes that are created on the pod's
//! node.

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use object_model::Quantity;
use resource_kinds::volume_fit::requested_size;

use crate::labels::{of_node, selects};
use crate::view::ClusterView;

/// Whether a volume for the claim can be created on the node, as far as the class's driver reports its free storage. A
/// driver reports if its CSIDriver has `storageCapacity`; other drivers are assumed to have enough storage.
pub(crate) fn has_capacity(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
    view: &ClusterView,
) -> bool {
    let driver = view.drivers.get(&class.provisioner);
    if driver.and_then(|driver| driver.spec.storage_capacity) != Some(true) {
        return true;
    }
    let size = requested_size(claim);
    let mut capacities = view.capacities.values();
    capacities.any(|capacity| {
        Some(&capacity.storage_class_name) == class.metadata.name.as_ref()
            && volume_size_max(capacity).is_some_and(|max| max >= size)
            && is_accessible(capacity, node)
    })
}

/// The size of the largest volume. One volume may have a lower limit than all volumes together.
fn volume_size_max(capacity: &CSIStorageCapacity) -> Option<Quantity> {
    let max = capacity.maximum_volume_size.as_ref();
    max.or(capacity.capacity.as_ref())?.0.parse().ok()
}

/// Whether the storage is accessible on the node. Storage without a topology is accessible on no node.
fn is_accessible(capacity: &CSIStorageCapacity, node: &Node) -> bool {
    selects(capacity.node_topology.as_ref(), |key| of_node(node, key))
}
