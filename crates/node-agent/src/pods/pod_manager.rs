//! The pod manager: the current view of all pods of the node, for the kubelet API and the node's
//! own tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use container_runtime::Sandbox;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use object_model::{ObjectKey, Uid};
use pod_lifecycle::{PodIdentity, PodRecord};
use tokio::sync::mpsc;

use super::message::Message;
use crate::clock::Clock;
use crate::machine::disk_figures::{DiskFigures, MeasuredFiles};
use crate::machine::pod_files::PodPaths;
use crate::paths::PodDir;
use crate::volumes::PreparedVolumes;

/// The state of a pod after its worker's last step.
#[derive(Clone)]
pub struct PodView {
    pub identity: PodIdentity,
    /// The pod as the worker last read it.
    pub pod: Arc<Pod>,
    /// The node's record of the pod.
    pub record: PodRecord,
    /// The pod's status from the last plan.
    pub status: PodStatus,
    pub sandbox: Option<Sandbox>,
    /// The prepared volumes of the pod.
    pub volumes: PreparedVolumes,
    /// The pod's directory on the node.
    pub dir: PodDir,
    /// The sender of messages to the pod's worker.
    pub worker: mpsc::Sender<Message>,
}

impl PodView {
    /// Whether the pod has reached a final phase.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Measures all files of the pod and stores their sizes. Blocks.
    pub fn measure_files(&self, figures: &DiskFigures, clock: Clock) -> Arc<MeasuredFiles> {
        let paths = PodPaths::new(&self.pod, &self.record, &self.dir);
        figures.measure(self.identity.uid.as_str(), &paths, clock)
    }
}

/// All pods of the node by namespace and name. Older pods with a name stay until they are cleaned up.
#[derive(Default)]
pub struct PodManager {
    views: RwLock<BTreeMap<ObjectKey, Vec<Arc<PodView>>>>,
}

impl PodManager {
    /// Whether a pod of the node has reached a final phase. `false` for a pod without a view.
    pub fn has_ended(&self, uid: &Uid) -> bool {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = views.values().flatten();
        let view = all.find(|view| view.identity.uid == *uid);
        view.is_some_and(|view| view.has_ended())
    }

    pub fn publish(&self, view: PodView) {
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        let namesakes = views.entry(view.identity.key.clone()).or_default();
        let previous = namesakes
            .iter_mut()
            .find(|previous| previous.identity.uid == view.identity.uid);
        match previous {
            Some(previous) => *previous = Arc::new(view),
            None => namesakes.push(Arc::new(view)),
        }
    }

    pub fn remove(&self, pod: &PodIdentity) {
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(namesakes) = views.get_mut(&pod.key) {
            namesakes.retain(|view| view.identity.uid != pod.uid);
            if namesakes.is_empty() {
                views.remove(&pod.key);
            }
        }
    }

    /// The newest pod with this name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodView>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views.get(&ObjectKey::new(namespace, name))?.last().cloned()
    }

    pub fn get(&self, pod: &PodIdentity) -> Option<Arc<PodView>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let mut namesakes = views.get(&pod.key)?.iter();
        namesakes.find(|view| view.identity.uid == pod.uid).cloned()
    }

    pub fn list(&self) -> Vec<Arc<PodView>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views.values().flatten().cloned().collect()
    }
}
