//! Events about pods, as kubelet writes them.

use controller_framework::{EventType, Recorder, reference};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use pod_lifecycle::spec::{Kind, find};

/// Reports events about one pod.
#[derive(Clone)]
pub struct PodEvents {
    recorder: Recorder,
    pod: ObjectReference,
}

impl PodEvents {
    pub fn new(recorder: &Recorder, pod: &Pod) -> Self {
        Self {
            recorder: recorder.clone(),
            pod: reference(pod),
        }
    }

    pub fn normal(&self, reason: &str, message: impl Into<String>) {
        self.recorder
            .event(self.pod.clone(), EventType::Normal, reason, message);
    }

    pub fn warning(&self, reason: &str, message: impl Into<String>) {
        self.recorder
            .event(self.pod.clone(), EventType::Warning, reason, message);
    }

    /// A reporter of events about `object`.
    pub fn about(&self, object: ObjectReference) -> Self {
        Self {
            recorder: self.recorder.clone(),
            pod: object,
        }
    }

    /// A reporter of events about a container of the pod.
    pub fn container(&self, pod: &Pod, name: &str) -> Self {
        let container = pod.spec.as_ref().and_then(|spec| find(spec, name));
        let list = match container {
            Some((Kind::Init | Kind::Sidecar, _)) => "initContainers",
            Some((Kind::Ephemeral, _)) => "ephemeralContainers",
            Some((Kind::Main, _)) | None => "containers",
        };
        let mut events = self.clone();
        events.pod.field_path = Some(format!("spec.{list}{{{name}}}"));
        events
    }
}
