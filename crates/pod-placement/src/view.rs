//! The input and the output of placement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use resource_kinds::pod_view::PodView;

use crate::attachments::Attachments;
use crate::node_view::NodeView;
use crate::placed::PlacedPods;

/// The observed state of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// Nodes, by name.
    pub nodes: BTreeMap<String, NodeView>,
    /// All pods that have a node and have not ended, including pods that are about to be bound (`PodView::node`).
    pub pods: PlacedPods,
    /// Pods that are nominated for a node (here in `PodView::node`): other pods were preempted for
    /// them.
    pub nominated: Vec<Arc<PodView>>,
    /// The PodDisruptionBudgets of all namespaces.
    pub budgets: Vec<Arc<PodDisruptionBudget>>,
    /// Namespaces, by name; their labels count for affinity.
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Services, by namespace and name; the pods that a Service selects are spread.
    pub services: BTreeMap<(String, String), Arc<Service>>,
    /// Claims, by namespace and name.
    pub claims: BTreeMap<(String, String), Arc<PersistentVolumeClaim>>,
    /// PersistentVolumes, by name.
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// StorageClasses, by name.
    pub classes: BTreeMap<String, Arc<StorageClass>>,
    /// CSIDrivers, by name.
    pub drivers: BTreeMap<String, Arc<CSIDriver>>,
    /// The free storage of CSI drivers, by namespace and name.
    pub capacities: BTreeMap<(String, String), Arc<CSIStorageCapacity>>,
    /// The nodes on which the volume of a claim could not be created recently, by the claim's namespace and name.
    pub refusals: BTreeMap<(String, String), BTreeSet<String>>,
    /// The CSI drivers of each node, by the node's name.
    pub csi_nodes: BTreeMap<String, Arc<CSINode>>,
    /// The VolumeAttachments, by node.
    pub attachments: Attachments,
    /// Claims of devices, by namespace and name.
    pub device_claims: BTreeMap<(String, String), Arc<ResourceClaim>>,
    /// The ResourceSlices of all drivers, from which devices are allocated.
    pub device_slices: Vec<Arc<ResourceSlice>>,
    /// Classes of devices, by name.
    pub device_classes: BTreeMap<String, Arc<DeviceClass>>,
}

/// A write that gives a claim its volume or its devices on the chosen node.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimStep {
    /// Reserve this volume for the claim (`spec.claimRef`); the binder completes the binding.
    Reserve {
        /// The claim's name.
        claim: String,
        /// The volume's name.
        volume: String,
    },
    /// Name the node on which to provision the volume (`volume.kubernetes.io/selected-node`).
    SelectNode {
        /// The claim's name.
        claim: String,
    },
    /// Allocate devices to a claim, and reserve the claim for the pod.
    Allocate {
        /// The ResourceClaim's name.
        claim: String,
        /// The devices.
        allocation: Box<AllocationResult>,
    },
    /// Add the pod to `status.reservedFor` of an allocated claim.
    UseDevices {
        /// The ResourceClaim's name.
        claim: String,
    },
}

/// The decision about a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PlacementDecision {
    /// Bind it to this node.
    Bind {
        /// The node's name.
        node: String,
    },
    /// Reserve this node for the pod, execute the steps (empty if none are left), and decide again after its claims
    /// have changed.
    Prepare {
        /// The node's name.
        node: String,
        /// The writes, in this order.
        steps: Vec<ClaimStep>,
    },
    /// No node is feasible now, but a node would be feasible without the victims.
    Preempt(Preemption),
    /// No node is feasible now.
    Unschedulable(PlacementFailure),
}

/// The reason why a pod cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementFailure {
    /// Reason of the `PodScheduled` condition: `Unschedulable`, `SchedulingGated` or `SchedulerError`.
    pub reason: &'static str,
    /// A message for users, for instance `0/1 nodes are available: 1 Insufficient cpu.`
    pub message: String,
    /// Whether the nomination of the pod (`status.nominatedNodeName`) is still valid.
    pub keeps_nomination: bool,
}

/// The preemption that makes a node feasible for the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Preemption {
    /// The node to which the pod is nominated.
    pub node: String,
    /// The victims, the most important first; some may be terminating already.
    pub victims: Vec<Arc<PodView>>,
    /// Pods whose nomination was cleared.
    pub displaced: Vec<Arc<PodView>>,
    /// The condition of the pod until the victims have ended.
    pub obstacle: PlacementFailure,
}
