//! The pod manager: the current view of all pods of the node, for the kubelet API and the node's
//! own tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use container_runtime::Sandbox;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use pod_lifecycle::PodRecord;
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
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let places = PodPaths::of(&self.pod, &self.record, &self.dir);
        figures.measure(uid, &places, clock)
    }
}

type Name = (String, String);

/// All pods of the node by namespace and name. Older pods with a name stay until they are cleaned up.
#[derive(Default)]
pub struct PodManager {
    views: RwLock<BTreeMap<Name, Vec<Arc<PodView>>>>,
}

fn name_of(pod: &Pod) -> Name {
    let meta = &pod.metadata;
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

impl PodManager {
    pub fn publish(&self, view: PodView) {
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        let of_name = views.entry(name_of(&view.pod)).or_default();
        let same = |known: &Arc<PodView>| known.pod.metadata.uid == view.pod.metadata.uid;
        match of_name.iter_mut().find(|known| same(known)) {
            Some(known) => *known = Arc::new(view),
            None => of_name.push(Arc::new(view)),
        }
    }

    pub fn remove(&self, pod: &Pod) {
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        let name = name_of(pod);
        if let Some(of_name) = views.get_mut(&name) {
            of_name.retain(|known| known.pod.metadata.uid != pod.metadata.uid);
            if of_name.is_empty() {
                views.remove(&name);
            }
        }
    }

    /// The newest pod with this name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodView>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views
            .get(&(namespace.to_owned(), name.to_owned()))?
            .last()
            .cloned()
    }

    pub fn list(&self) -> Vec<Arc<PodView>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views.values().flatten().cloned().collect()
    }
}
