//! Common functions of the controllers of interchangeable pods: the owner of a pod, its state, and the creation and the
//! name of a new pod.
//!
//! **Goal**: the planners of ReplicaSets, Jobs and DaemonSets share this code; the code has no goal for objects.
//! **Relies on**: a fresh snapshot. Unlike the pods of a StatefulSet these pods have generated names, so a planner must
//! observe its own earlier writes: the executor waits until the writes have reached the cache. **Guarantees**: pods of
//! other owners are never changed; each write except a creation names a UID.

mod name;
mod ownership;
mod state;

pub use name::Names;
pub use ownership::{Owner, OwnerKind, Sorted, owner_reference};
pub use state::{Phase, PodState, state};

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::{ResourceVersion, Uid};

/// Maximum number of creations and deletions of one plan; the next plan continues. As
/// kube-controller-manager's largest batch.
pub const BURST_MAX: usize = 500;

/// A write to a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodAction {
    /// Read the owner from the API server; continue only if its UID is the same and it is not being
    /// deleted.
    ConfirmOwner,
    /// Adopt a pod without an owner.
    Adopt { name: String, uid: Uid },
    /// Release a pod.
    Release { name: String, uid: Uid },
    /// Create a pod.
    Create(Box<Pod>),
    /// Delete a pod, with the grace period of the pod's spec.
    Delete { name: String, uid: Uid },
    /// Replace the finalizers of a pod.
    SetFinalizers {
        name: String,
        uid: Uid,
        /// The version that was read.
        version: ResourceVersion,
        /// The new finalizers.
        finalizers: Vec<String>,
    },
}

impl PodAction {
    /// The deletion of a pod, with its UID as a precondition.
    pub fn delete(pod: &PodState<'_>) -> Self {
        Self::Delete {
            name: pod.name().to_owned(),
            uid: pod.uid.clone(),
        }
    }
}

/// A pod of an owner, created from a template, without a name.
pub fn pod_of(owner: &Owner<'_>, template: &PodTemplateSpec) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name)),
            namespace: Some(owner.namespace.to_owned()),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![owner_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
