//! Containers that exit, and pods that have ended.

use json_tree::{Value, json};
use object_model::Quantity;
use pod_lifecycle::diagnosis::remedy::{self, template};
use pod_lifecycle::diagnosis::text::between;
use pod_lifecycle::diagnosis::{Reason, Remedy};
use resource_kinds::pod_view::Phase;

use super::DiagnosedPod;

const MIB: i64 = 1024 * 1024;

impl DiagnosedPod<'_> {
    /// The remedy for a container that does not keep running.
    pub(super) fn crash(&self) -> Option<Remedy> {
        if self.diagnosis.message.contains("OOMKilled") {
            return self.memory();
        }
        if self.diagnosis.message.contains("StartError") {
            return Some(self.command());
        }
        None
    }

    /// The remedy that doubles the memory limit.
    fn memory(&self) -> Option<Remedy> {
        let container = self.container()?;
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        let limit: Quantity = limits.get("memory")?.0.parse().ok()?;
        let mib = limit.value().saturating_mul(2).div_euclid(MIB).max(1);
        let text = "a program that uses less memory, or a higher limit";
        // The resources of a pod without a controller are immutable, except by its `resize` sub-resource.
        if self.pod.controller.is_none() {
            let change = json!({ "resources": { "limits": { "memory": format!("{mib}Mi") } } });
            return Some(self.by(text, self.change_container(change)));
        }
        let (template, name) = (template(self.pod), &container.name);
        let set = format!("set resources {template} -c {name} --limits=memory={mib}Mi");
        Some(Remedy::new(text).with(self.kubectl(&set)))
    }

    /// The remedy for a pod that has ended.
    pub(super) fn end(&self) -> Option<Remedy> {
        let message = self.pod.message.as_deref().unwrap_or_default();
        if let Some(change) = self.higher_limit(message) {
            let text = "a program that writes less, or a higher limit";
            return Some(self.by(text, self.change(change)));
        }
        if self.pod.reason.as_deref() == Some("DeadlineExceeded") {
            let text = "more time for it (activeDeadlineSeconds), or none";
            let change = json!({ "activeDeadlineSeconds": null });
            return Some(self.by(text, self.change(change)));
        }
        if self.pod.controller.is_some() {
            return None;
        }
        let text = match (self.pod.phase, self.diagnosis.reason) {
            (Phase::Succeeded, _) => "it has done its work; to clear it away",
            (_, Reason::Evicted) => "no controller recreates it; to delete it",
            _ => "correct the cause, delete it, and create it again",
        };
        Some(Remedy::new(text).with(remedy::delete(self.pod)))
    }

    /// A higher storage limit for a pod that wrote more than its limit.
    fn higher_limit(&self, message: &str) -> Option<Value> {
        if let Some(volume) = between(message, "Usage of EmptyDir volume \"", "\"") {
            let volume = json!({ "name": volume, "emptyDir": { "sizeLimit": "SIZE" } });
            return Some(json!({ "volumes": [volume] }));
        }
        let larger_limits = json!({ "limits": { "ephemeral-storage": "SIZE" } });
        if let Some(name) = between(
            message,
            "Container ",
            " exceeded its local ephemeral storage",
        ) {
            return Some(json!({ "containers": [{ "name": name, "resources": larger_limits }] }));
        }
        if !message.starts_with("Pod ephemeral local storage usage exceeds") {
            return None;
        }
        let first = self.containers().find(|container| {
            let limits = container.resources.as_ref();
            let limits = limits.and_then(|resources| resources.limits.as_ref());
            limits.is_some_and(|limits| limits.contains_key("ephemeral-storage"))
        })?;
        Some(json!({ "containers": [{ "name": first.name, "resources": larger_limits }] }))
    }
}
