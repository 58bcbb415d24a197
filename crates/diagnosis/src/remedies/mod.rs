//! The remedy of a pod, from its state and the related objects.
//!
//! The cause is already diagnosed ([`Diagnosis`]); this module adds commands.

mod configuration;
mod drivers;
mod endings;
mod images;
mod placement;
mod probes;

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use pod_lifecycle::diagnosis::{Diagnosis, Reason, Remedy, remedy, text};
use resource_kinds::pod_view::PodView;

use super::observed::ObservedNamespace;

/// A waiting pod with its diagnosis.
pub(super) struct DiagnosedPod<'a> {
    observed: &'a ObservedNamespace,
    pod: &'a PodView,
    /// The pod's specification, if it was read.
    spec: Option<&'a PodSpec>,
    diagnosis: &'a Diagnosis,
}

impl<'a> DiagnosedPod<'a> {
    pub fn of(observed: &'a ObservedNamespace, pod: &'a PodView, diagnosis: &'a Diagnosis) -> Self {
        Self {
            observed,
            pod,
            spec: observed.in_full(pod).and_then(|pod| pod.spec.as_ref()),
            diagnosis,
        }
    }

    /// The remedy, if the related objects allow a better remedy than the pod alone.
    pub fn remedy(&self) -> Option<Remedy> {
        match self.diagnosis.reason {
            Reason::ImagePullFailed => self.image(),
            Reason::ContainerConfigError => self.configuration(),
            Reason::ContainerStartError => Some(self.command()),
            Reason::ContainerCrashed => self.crash(),
            Reason::LivenessProbe => self.probe("livenessProbe", ""),
            Reason::StartupProbe => self.probe("startupProbe", ""),
            Reason::ReadinessProbe => self.probe("readinessProbe", ""),
            Reason::PostStartHook => Some(self.hook()),
            Reason::SchedulingGated => Some(self.gates()),
            Reason::NotScheduled => self.scheduler(),
            Reason::Unschedulable => self.unschedulable(),
            Reason::ReadinessGate => Some(self.readiness_gates()),
            Reason::Evicted | Reason::Failed | Reason::Completed => self.end(),
            _ => None,
        }
    }

    fn kubectl(&self, rest: &str) -> String {
        text::kubectl(&self.pod.namespace, rest)
    }

    /// The commands that merge `change` into the pod's spec.
    fn change(&self, change: Value) -> Vec<String> {
        remedy::change(self.pod, change)
    }

    /// The commands that merge `change` into the diagnosed container.
    fn change_container(&self, change: Value) -> Vec<String> {
        let name = self.diagnosis.container.as_deref().unwrap_or_default();
        self.change_of(name, change)
    }

    fn change_of(&self, container: &str, mut change: Value) -> Vec<String> {
        change["name"] = container.into();
        let mut init = self.pod.spec.init_containers.iter().flatten();
        let list = match init.any(|other| other.name == container) {
            true => "initContainers",
            false => "containers",
        };
        self.change(json!({ list: [change] }))
    }

    /// All containers with their full specification.
    fn containers(&self) -> impl Iterator<Item = &'a Container> {
        let spec = self.spec.unwrap_or(&self.pod.spec);
        let init = spec.init_containers.iter().flatten();
        spec.containers.iter().chain(init)
    }

    /// The diagnosed container.
    fn container(&self) -> Option<&'a Container> {
        let name = self.diagnosis.container.as_deref()?;
        self.containers().find(|container| container.name == name)
    }

    fn title(&self) -> String {
        format!(
            "container {}",
            self.diagnosis.container.as_deref().unwrap_or_default()
        )
    }

    fn logs(&self) -> String {
        let container = self.diagnosis.container.as_deref().unwrap_or_default();
        self.kubectl(&format!("logs {} -c {container}", self.pod.name))
    }

    /// A remedy with commands.
    fn by(&self, text: impl Into<String>, commands: Vec<String>) -> Remedy {
        Remedy {
            text: text.into(),
            commands,
        }
    }
}
