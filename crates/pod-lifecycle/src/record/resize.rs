//! The state of a resize: the allocated resources, and the progress of their change.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Serialize};

use crate::monotonic::Instant;

/// The name by which an [`Allocation`] has the resources of the pod as a whole: no container's.
pub const POD: &str = "";

/// Resources of a pod's containers by name, and by [`POD`] those of the pod as a whole, where it has
/// some.
pub type Allocation = BTreeMap<String, ResourceRequirements>;

/// How far new resources have come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// What the node has allocated; `None` for a pod that it has just taken.
    pub allocated: Option<Allocation>,
    /// Why what the pod asks for is not allocated.
    pub pending: Option<PendingResize>,
    /// What is allocated and not yet applied everywhere.
    pub progress: Option<ResizeProgress>,
    /// The resources of the pod as a whole.
    #[serde(default)]
    pub pod: PodLevelResources,
}

/// How far new resources of the pod as a whole have come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodLevelResources {
    /// Those that its sandbox has; `None` where it has what its containers have together.
    pub applied: Option<ResourceRequirements>,
    /// Those that were allocated since, and no longer are: containers may still have as much.
    #[serde(default)]
    pub superseded: Vec<ResourceRequirements>,
    /// How their change gets on.
    pub update: ResourceUpdate,
}

/// Resources that the node does not allocate now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingResize {
    /// Whether, and when, they can be had.
    pub reason: PendingReason,
    /// What they lack, as the user reads it.
    pub message: String,
    /// The pod's generation that asks for them.
    pub generation: i64,
}

/// Whether resources that are not allocated can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingReason {
    /// Once other pods have gone.
    Deferred,
    /// Never on this node.
    Infeasible,
}

impl PendingReason {
    /// The condition's reason.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deferred => "Deferred",
            Self::Infeasible => "Infeasible",
        }
    }
}

/// Resources that are being applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeProgress {
    /// The pod's generation that asked for them.
    pub generation: i64,
    /// Why they could not be applied, the last time.
    pub error: Option<String>,
}

/// The application of new resources to one running container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceUpdate {
    /// Nothing is under way.
    #[default]
    None,
    /// It is under way.
    InFlight,
    /// It has failed.
    Failed {
        /// When.
        at: Instant,
    },
}

impl Resize {
    /// Allocates other resources.
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

    /// A sandbox is made, with what is allocated.
    pub fn sandbox_begins(&mut self) {
        self.pod = PodLevelResources {
            applied: self.of_pod().cloned(),
            ..PodLevelResources::default()
        };
    }

    /// What is allocated for the pod as a whole.
    pub fn of_pod(&self) -> Option<&ResourceRequirements> {
        self.allocated.as_ref()?.get(POD)
    }

    /// Whether the pod as a whole has, or may have, other resources than are allocated.
    pub fn pod_differs(&self) -> bool {
        let others = !self.pod.superseded.is_empty();
        self.allocated.is_some() && (others || self.of_pod() != self.pod.applied.as_ref())
    }
}
