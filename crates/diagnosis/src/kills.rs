//! Containers that the node has stopped: an event contains the reason, because the exit code does not.

use k8s_openapi::api::core::v1::{Container, Event};
use pod_lifecycle::diagnosis::container::describe_probe;
use pod_lifecycle::diagnosis::{Diagnosis, Reason};
use resource_kinds::pod_view::PodView;

use super::chain_builder::ChainBuilder;
use super::observed::{container, last_seen};

impl ChainBuilder<'_> {
    /// The diagnosis; it becomes the kill of the container, if the node stopped the container after a failed probe or
    /// hook.
    pub fn killed(&self, pod: &PodView, mut diagnosis: Diagnosis) -> Diagnosis {
        let is_end = diagnosis.reason == Reason::ContainerCrashed;
        let (Some(name), true) = (diagnosis.container.clone(), is_end) else {
            return diagnosis;
        };
        let Some(event) = self.last_kill(pod, &name) else {
            return diagnosis;
        };
        let detail = event.message.as_deref().unwrap_or_default();
        let full = self.observed.in_full(pod);
        let full = full.and_then(|pod| find(pod.spec.as_ref()?, &name));
        let described = |probe: Option<_>| {
            probe.map_or(String::new(), |probe| {
                format!(" ({})", describe_probe(probe))
            })
        };
        let (reason, message) = if detail.contains("failed liveness probe") {
            let described = described(full.and_then(|full| full.liveness_probe.as_ref()));
            let message = format!(
                "container {name} is killed again and again: its liveness probe fails{described}"
            );
            (Reason::LivenessProbe, message)
        } else if detail.contains("failed startup probe") {
            let described = described(full.and_then(|full| full.startup_probe.as_ref()));
            let message = format!(
                "container {name} is killed again and again: its startup probe does not pass{described}"
            );
            (Reason::StartupProbe, message)
        } else if detail.contains("FailedPostStartHook") {
            let message =
                format!("container {name} is killed again and again: its postStart hook fails");
            (Reason::PostStartHook, message)
        } else {
            return diagnosis;
        };
        diagnosis.reason = reason;
        diagnosis.message = message;
        diagnosis
    }

    /// The newest `Killing` event of the container, unless the container has started since then.
    fn last_kill(&self, pod: &PodView, name: &str) -> Option<&Event> {
        let is_kill = |event: &Event| {
            event.reason.as_deref() == Some("Killing") && container(event) == Some(name)
        };
        let event =
            self.observed
                .newest_event("Pod", &pod.name, Some(pod.uid.as_str()), is_kill)?;
        let mut statuses = pod.containers.iter().chain(&pod.init_containers);
        let status = statuses.find(|status| &*status.name == name)?;
        let end = status.end().or(status.last_end.as_deref())?;
        let began = end.started_at.as_ref().map(|time| time.0);
        // Times in a status have whole seconds.
        (last_seen(event) >= began).then_some(event)
    }
}

fn find<'p>(spec: &'p k8s_openapi::api::core::v1::PodSpec, name: &str) -> Option<&'p Container> {
    let init = spec.init_containers.iter().flatten();
    let mut all = spec.containers.iter().chain(init);
    all.find(|container| container.name == name)
}
