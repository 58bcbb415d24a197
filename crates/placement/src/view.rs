//! The input and the output of placement.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::StorageClass;
use resource_kinds::pod_view::PodView;

/// The cluster as it is known. Objects are shared, so that a view is cheap to make.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// All nodes, by name.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// All pods that have a node and have not ended, also those that are only about to be bound
    /// to the node (`PodView::node`).
    pub pods: Vec<Arc<PodView>>,
    /// Pods without a node for which a place is being made on one (`PodView::node`, here): others
    /// have been driven out for them.
    pub nominated: Vec<Arc<PodView>>,
    /// How many pods of which kind may go.
    pub budgets: Vec<Arc<PodDisruptionBudget>>,
    /// Namespaces, by name; their labels count for affinity.
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Claims, by namespace and name.
    pub claims: BTreeMap<(String, String), Arc<PersistentVolumeClaim>>,
    /// Volumes, by name.
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// Storage classes, by name.
    pub classes: BTreeMap<String, Arc<StorageClass>>,
    /// Claims of devices, by namespace and name.
    pub device_claims: BTreeMap<(String, String), Arc<ResourceClaim>>,
    /// What drivers offer.
    pub device_slices: Vec<Arc<ResourceSlice>>,
    /// Classes of devices, by name.
    pub device_classes: BTreeMap<String, Arc<DeviceClass>>,
}

/// What must be written so that a claim gets its volume or its devices on the chosen node.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimStep {
    /// Keep this volume for the claim (`spec.claimRef`); the binder does the rest.
    Reserve {
        /// The claim's name.
        claim: String,
        /// The volume's name.
        volume: String,
    },
    /// Say on which node the volume is to be made (`volume.kubernetes.io/selected-node`).
    SelectNode {
        /// The claim's name.
        claim: String,
    },
    /// Give devices to a claim, and the claim to the pod.
    Allocate {
        /// The ResourceClaim's name.
        claim: String,
        /// The devices.
        allocation: Box<AllocationResult>,
    },
    /// Add the pod to the users of a claim that has its devices.
    UseDevices {
        /// The ResourceClaim's name.
        claim: String,
    },
}

/// What is to happen with the pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Bind it to this node.
    Bind {
        /// The node's name.
        node: String,
    },
    /// Keep a place for it on this node, take the steps (none when all are taken), and decide
    /// again when its claims have changed.
    Prepare {
        /// The node's name.
        node: String,
        /// What is to be written, in this order.
        steps: Vec<ClaimStep>,
    },
    /// It can go nowhere now, but it could if others went.
    Preempt(Preemption),
    /// It can go nowhere now.
    Unschedulable(Obstacle),
}

/// Why a pod cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Reason of the `PodScheduled` condition: `Unschedulable` or `SchedulingGated`.
    pub reason: &'static str,
    /// For people, for instance `0/1 nodes are available: 1 Insufficient cpu.`
    pub message: String,
    /// Whether the place that may be being made for it (`status.nominatedNodeName`) still is.
    pub keeps_nomination: bool,
}

/// Who is to go, so that a pod fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Preemption {
    /// Where the place is made.
    pub node: String,
    /// Who is to be deleted, the most important first; some may be going already.
    pub victims: Vec<Arc<PodView>>,
    /// Pods whose nomination was cleared.
    pub displaced: Vec<Arc<PodView>>,
    /// What is to be said of the pod meanwhile.
    pub obstacle: Obstacle,
}
