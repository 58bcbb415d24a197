//! Common functions of the controllers of interchangeable pods: the owner of a pod, its state, the
//! creation and the name of a new one.
//!
//! **Goal**: none of its own; ReplicaSets, Jobs and DaemonSets are planned with it.
//! **Relies on**: a fresh view. Other than those of a StatefulSet these pods have names that can
//! exist any number of times, so that a planner must have seen what it planned before: the
//! executor waits until its writes have reached the cache.
//! **Guarantees**: pods of others are never touched; each write but creations names a uid.

mod name;
mod ownership;
mod state;

pub use name::Names;
pub use ownership::{Owner, Sorted, owner_reference};
pub use state::{Phase, PodState, state};

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use resource_kinds::pod_view::PodView;

/// Pods that one plan creates or deletes at most; the next plan goes on. As
/// kube-controller-manager's largest batch.
pub const BURST_MAX: usize = 500;

/// One write about a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read the owner from the server itself; go on only if it is this one and is not being
    /// deleted.
    ConfirmOwner,
    /// Become the owner of a pod that has none.
    Adopt {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
    },
    /// Stop owning a pod.
    Release {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
    },
    /// Create a pod.
    Create(Box<Pod>),
    /// Delete a pod, with its own grace.
    Delete {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
    },
    /// Replace the finalizers of a pod.
    SetFinalizers {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
        /// The state that was seen.
        resource_version: String,
        /// The finalizers it is to have.
        finalizers: Vec<String>,
    },
}

impl Action {
    /// Deletes a pod.
    pub fn delete(pod: &PodView) -> Self {
        Self::Delete {
            name: pod.name.to_string(),
            uid: pod.uid.to_string(),
        }
    }
}

/// A pod of an owner, made from a template. Its name is still to be chosen.
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

pub(crate) fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}
