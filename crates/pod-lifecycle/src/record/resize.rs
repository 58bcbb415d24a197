//! The state of a resize: the allocated resources, and the progress of their change.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Serialize};

use crate::monotonic::Instant;

/// The key of the pod-level resources in an [`Allocation`], because no container has an empty name.
pub const POD: &str = "";

/// Resources of a pod's containers by name, and pod-level resources under [`POD`].
pub type Allocation = BTreeMap<String, ResourceRequirements>;

/// The progress of a resize.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// The allocated resources; `None` for a pod that was just admitted.
    pub allocated: Option<Allocation>,
    /// The reason why the requested resources are not allocated.
    pub pending: Option<PendingResize>,
    /// The allocated resources that are not yet applied everywhere.
    pub progress: Option<ResizeProgress>,
    /// The applied pod-level resources.
    #[serde(default)]
    pub pod: PodLevelResources,
}

/// The progress of a resize of pod-level resources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodLevelResources {
    /// The resources of the pod's sandbox; `None` if they are the sum of its containers' resources.
    pub applied: Option<ResourceRequirements>,
    /// Resources that were allocated before the present ones: containers may still use as much.
    #[serde(default)]
    pub superseded: Vec<ResourceRequirements>,
    /// The progress of the change.
    pub update: ResourceUpdate,
}

/// A requested resize that the node cannot allocate now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingResize {
    pub reason: PendingReason,
    pub message: String,
    /// The generation of the pod that requests the resize.
    pub generation: i64,
}

/// Whether a pending resize can be allocated later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingReason {
    /// The resize can be allocated after other pods have ended.
    Deferred,
    /// The resize can never be allocated on this node.
    Infeasible,
}

impl PendingReason {
    /// The reason of the condition `PodResizePending`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deferred => "Deferred",
            Self::Infeasible => "Infeasible",
        }
    }
}

/// The resources that are being applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeProgress {
    /// The generation of the pod that requested the resources.
    pub generation: i64,
    pub error: Option<String>,
}

/// The progress of applying new resources to the pod or to a running container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceUpdate {
    /// No change is in progress.
    #[default]
    None,
    /// The change is in progress.
    InFlight,
    /// The change has failed.
    Failed { at: Instant },
}

impl Resize {
    /// Records newly allocated resources, which are not applied yet.
    pub fn start(&mut self, resources: Allocation, generation: i64) {
        if let Some(before) = self.of_pod().filter(|_| self.pod_differs()).cloned()
            && !self.pod.superseded.contains(&before)
        {
            self.pod.superseded.push(before);
        }
        self.allocated = Some(resources);
        self.pending = None;
        self.progress = Some(ResizeProgress {
            generation,
            error: None,
        });
        if matches!(self.pod.update, ResourceUpdate::Failed { .. }) {
            self.pod.update = ResourceUpdate::None;
        }
    }

    /// Records that a sandbox is being created with the allocated resources.
    pub fn sandbox_begins(&mut self) {
        self.pod = PodLevelResources {
            applied: self.of_pod().cloned(),
            ..PodLevelResources::default()
        };
    }

    /// The allocated resources of the pod as a whole.
    pub fn of_pod(&self) -> Option<&ResourceRequirements> {
        self.allocated.as_ref()?.get(POD)
    }

    /// Whether the applied pod-level resources differ, or may differ, from the allocated resources.
    pub fn pod_differs(&self) -> bool {
        let others = !self.pod.superseded.is_empty();
        self.allocated.is_some() && (others || self.of_pod() != self.pod.applied.as_ref())
    }
}
