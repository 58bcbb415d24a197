//! Handling of messages: each changes the pod's record.

use std::sync::Arc;

use container_runtime::spec::{Exit as RuntimeExit, SandboxEvent};
use host_kernel::block_in_place;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::messages;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::record::{Hook, Image, Instance, Removal, Sandbox, Volumes};
use pod_lifecycle::resources::admission::PodRejection;
use pod_lifecycle::spec::{self, ProbeKind};
use pod_lifecycle::{Instant as At, PodConfirmation, PodFailure};

use super::Worker;
use crate::api::events::PodEvents;
use crate::api::objects::Versions;
use crate::api::status_writer::{self, StatusWriteError, StatusWriteResult};
use crate::containers::instance::{exit_of, termination_message};
use crate::containers::lifecycle_hooks::{HookError, HookOutcome};
use crate::containers::sandbox_error::SandboxError;
use crate::images::ImageTrouble;
use crate::paths::runtime_id;
use crate::pods::message::{CreatedSandbox, Message, StartResult};
use crate::volumes::device_claims::{NotPrepared, NotReleased};
use crate::volumes::{PreparedVolumes, ReadObjects};

impl Worker {
    /// Applies one message to the worker's state.
    pub(super) fn handle(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.pod_changed(pod),
            Message::Removed(pod) => {
                self.pod = pod;
                self.confirmation = PodConfirmation::Removed;
            }
            Message::PredecessorRemoved(uid) => {
                self.predecessors.remove(&uid);
            }
            Message::NodeAddressChanged => self.follow_address(),
            Message::NodeStops(stop) => self.node_stops = Some(stop),
            Message::FailPod(failure) => self.fail_pod(failure),
            Message::Runtime { sandbox, event } => {
                if sandbox == self.record.sandboxes_made {
                    self.runtime_event(event);
                }
            }
            Message::SandboxCreated(result) => self.sandbox_created(result),
            Message::SandboxDestroyed(result) => self.sandbox_destroyed(result),
            Message::VolumesPrepared(result, read_objects) => {
                self.volumes_prepared(result, &read_objects)
            }
            Message::VolumesReleased(result) => self.volumes_released(result),
            Message::VolumesOutdated => self.sources_changed(),
            Message::VolumesRefreshed {
                read_objects,
                result,
            } => {
                self.volume_refresh.complete(result);
                self.request_refresh_after(read_objects.refresh_in);
                // The watches are started even if no volume was built, because a new agent reads the
                // objects before it watches them.
                self.watch_sources(&read_objects.versions);
            }
            Message::StorageMeasured(usage) => self.check_storage(usage.as_ref()),
            Message::Image {
                container,
                image,
                result,
            } => self.image_ensured(&container, &image, result),
            Message::Started { container, result } => self.container_started(&container, result),
            Message::PostStart {
                container,
                id,
                result,
            } => {
                self.post_start_ended(&container, &id, result);
            }
            Message::PreStop {
                container,
                id,
                result,
            } => {
                self.pre_stop_ended(&container, &id, result);
            }
            Message::Probe {
                container,
                id,
                kind,
                outcome,
            } => {
                self.probe_completed(&container, &id, kind, &outcome);
            }
            Message::ResourcesUpdated {
                container,
                id,
                resources,
                result,
            } => {
                self.resources_updated(&container, &id, resources, result);
            }
            Message::PodResourcesUpdated {
                sandbox,
                resources,
                result,
            } => {
                self.pod_resources_updated(sandbox, resources, result);
            }
            // The event tells users why the pod does not end. The planner kills the container again, and
            // finally kills the shim.
            Message::SignalFailed { container, message } => {
                let events = self.events.container(&self.pod, &container);
                events.warning("FailedKillPod", message);
            }
            Message::StatusWritten(result) => self.status_written(result),
            Message::ObjectRemoved(result) => self.object_removed(result),
        }
    }

    /// Records that the pod has failed, and sends an event. A pod that has ended does not change.
    pub(super) fn fail_pod(&mut self, failure: PodFailure) {
        let has_ended = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if has_ended || self.record.failure.is_some() {
            return;
        }
        self.events
            .warning(&failure.reason, failure.message.clone());
        self.record.failure = Some(failure);
    }

    fn pod_changed(&mut self, pod: Arc<Pod>) {
        if self.confirmation == PodConfirmation::Unconfirmed {
            self.confirmation = PodConfirmation::Bound;
        }
        let (before, after) = (&self.pod.metadata, &pod.metadata);
        if before.labels != after.labels || before.annotations != after.annotations {
            self.request_refresh();
        }
        if self.status_writes.record_watched(&pod) {
            self.restart_foreign_transitions();
        }
        if let (Some(before), Some(after)) = (&self.pod.spec, &pod.spec) {
            self.record.images_changed(before, after);
        }
        self.pod = pod;
        // The record is stored again, because the record on disk is the last copy of a pod that the API
        // server has lost.
        self.record_writes.object_changed();
    }

    /// Retries the steps that failed for a missing object, without a delay.
    fn sources_changed(&mut self) {
        if matches!(self.record.volumes, Volumes::Failed { .. }) {
            self.record.volumes = Volumes::Unknown;
        }
        for container in self.record.containers.values_mut() {
            if let Instance::Refused(refusal) = &mut container.instance {
                refusal.at = At::EARLIEST;
            }
        }
        self.request_refresh();
    }

    fn request_refresh(&mut self) {
        self.volume_refresh
            .request(self.context.node.clock.instant());
    }

    fn request_refresh_after(&mut self, delay: Option<SignedDuration>) {
        if let Some(delay) = delay {
            self.volume_refresh
                .request(self.context.node.clock.instant() + delay);
        }
    }

    fn sandbox_created(&mut self, result: Result<CreatedSandbox, SandboxError>) {
        match result {
            Ok(CreatedSandbox { sandbox, pod_ips }) => {
                self.sandbox = Some(sandbox);
                self.record.sandbox = Sandbox::Ready;
                self.record.sandboxes_made += 1;
                self.record.sandbox_failures = 0;
                self.record.pod_ips = pod_ips;
            }
            Err(error) => {
                let message = error.to_string();
                let text = format!("Failed to create pod sandbox: {message}");
                self.events.warning("FailedCreatePodSandBox", text);
                self.record.sandbox_failures += 1;
                self.record.sandbox = Sandbox::Failed {
                    message,
                    at: self.context.node.clock.instant(),
                };
            }
        }
    }

    fn sandbox_destroyed(&mut self, result: Result<(), SandboxError>) {
        match result {
            Ok(()) => {
                self.record.sandbox = Sandbox::None;
                self.sandbox = None;
            }
            Err(error) => {
                let message = error.to_string();
                self.events
                    .warning("FailedKillPod", format!("error killing pod: {message}"));
                self.record.sandbox_failures += 1;
                self.record.sandbox = Sandbox::Failed {
                    message,
                    at: self.context.node.clock.instant(),
                };
            }
        }
    }

    fn volumes_prepared(
        &mut self,
        result: Result<PreparedVolumes, NotPrepared>,
        read_objects: &ReadObjects,
    ) {
        match result {
            Ok(volumes) => {
                self.volumes = volumes;
                self.record.volumes = Volumes::Ready;
                self.record.volume_failures = 0;
                self.request_refresh_after(read_objects.refresh_in);
            }
            Err(error) => {
                let message = error.to_string();
                self.record.volume_failures += 1;
                self.record.volumes = Volumes::Failed {
                    message: message.clone(),
                    at: self.context.node.clock.instant(),
                };
                self.events.warning(error.reason(), message.clone());
                if error.is_final() {
                    let reason = error.reason().to_owned();
                    let failure = PodRejection { reason, message }.failure();
                    self.record.failure.get_or_insert(failure);
                }
            }
        }
        self.watch_sources(&read_objects.versions);
    }

    fn volumes_released(&mut self, result: Result<(), NotReleased>) {
        self.volume_refresh.cancel_request();
        match result {
            Ok(()) => {
                self.record.volumes = Volumes::None;
                self.record.volume_failures = 0;
                self.volumes.clear();
            }
            Err(error) => {
                let message = error.to_string();
                self.events.warning(error.reason(), message.clone());
                self.record.volume_failures += 1;
                self.record.volumes = Volumes::Failed {
                    message,
                    at: self.context.node.clock.instant(),
                };
            }
        }
    }

    fn image_ensured(&mut self, name: &str, image: &str, result: Result<(), ImageTrouble>) {
        let desired = self.container(name).and_then(|container| container.image);
        let now = self.context.node.clock.instant();
        let record = self.record.container(name);
        // The pod may name another image by now, which the planner ensures separately.
        if !record.image.is_ensuring() || desired.as_deref() != Some(image) {
            return;
        }
        record.image = match result {
            Ok(()) => Image::Present,
            Err(ImageTrouble { reason, message }) => {
                record.pull_backoff.advance(now, now);
                let reason = reason.to_owned();
                Image::Missing {
                    reason,
                    message,
                    at: now,
                    announced: false,
                }
            }
        };
    }

    fn container_started(&mut self, name: &str, result: StartResult) {
        let now = self.context.node.clock.instant();
        let early_exit = self.early_exits.remove(name);
        let record = self.record.container(name);
        if !matches!(record.instance, Instance::Starting { .. }) {
            return;
        }
        match result {
            StartResult::Running(running) => {
                record.started(*running);
                record.refusals = 0;
                if let Some(exit) = early_exit {
                    self.container_exited(name, &exit);
                }
            }
            StartResult::Failed(exit) => {
                record.refusals = 0;
                record.start_failed(exit);
            }
            StartResult::Refused { reason, message } => {
                record.refusals += 1;
                record.refused(reason, message, now);
                self.watch_sources(&Versions::new());
            }
        }
    }

    fn runtime_event(&mut self, event: SandboxEvent) {
        match event {
            SandboxEvent::Started { .. } | SandboxEvent::OutOfMemory { .. } => {}
            SandboxEvent::Exited { container, exit } => {
                let matching = self.record.containers.iter().find(|(name, record)| {
                    let number = match record.instance {
                        Instance::Starting { .. } => record.next_restart_count(),
                        _ => record.restart_count,
                    };
                    runtime_id(name, number) == container
                });
                if let Some((name, _)) = matching {
                    let name = name.clone();
                    self.container_exited(&name, &exit);
                }
            }
            SandboxEvent::Gone => {
                if self.record.sandbox == Sandbox::Ready {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    self.events.normal("SandboxChanged", message);
                    self.record.sandbox_lost(self.context.node.clock.now());
                }
            }
        }
    }

    pub(super) fn container_exited(&mut self, name: &str, exit: &RuntimeExit) {
        let container = self.container(name);
        let record = self.record.container(name);
        match &record.instance {
            Instance::Starting { .. } => {
                self.early_exits.insert(name.to_owned(), exit.clone());
            }
            Instance::Running(running) => {
                let message = container.and_then(|container| {
                    let restart_count = record.restart_count;
                    block_in_place(|| {
                        termination_message(&self.dir, &container, restart_count, exit.code)
                    })
                });
                let exit = exit_of(running, exit, message, self.context.node.clock.now());
                record.exited(exit);
            }
            Instance::Absent | Instance::Refused(_) | Instance::Exited(_) => {}
        }
    }

    fn post_start_ended(&mut self, name: &str, id: &str, result: Result<HookOutcome, HookError>) {
        let events = self.events.container(&self.pod, name);
        let Some(running) = self.running(name).filter(|running| running.id == id) else {
            return;
        };
        running.post_start = match result {
            Ok(outcome) => {
                report_hook(&events, outcome);
                Hook::Done
            }
            Err(error) => {
                // The output of a hook may be secret, and events have more readers than the pod's status.
                events.warning("FailedPostStartHook", "PostStartHook failed");
                Hook::Failed(error.to_string())
            }
        };
    }

    fn pre_stop_ended(&mut self, name: &str, id: &str, result: Result<HookOutcome, HookError>) {
        let events = self.events.container(&self.pod, name);
        let Some(running) = self.running(name).filter(|running| running.id == id) else {
            return;
        };
        match result {
            Ok(outcome) => report_hook(&events, outcome),
            Err(error) => {
                events.warning("FailedPreStopHook", "PreStopHook failed");
                tracing::debug!(container = name, %error, "preStop hook failed");
            }
        }
        if let Some(stop) = &mut running.stop {
            stop.pre_stop = Hook::Done;
        }
    }

    fn probe_completed(&mut self, name: &str, id: &str, kind: ProbeKind, outcome: &ProbeOutcome) {
        let Some(container) = self.container(name) else {
            return;
        };
        let pod = self.pod.clone();
        let events = self.events.container(&self.pod, name);
        let (counts, identity) = (self.context.clone(), self.identity.clone());
        let Some(running) = self.running(name).filter(|running| running.id == id) else {
            return;
        };
        let Some(probe) = spec::probe(&pod, &container, kind) else {
            // The annotation of the check was removed meanwhile, and may come again.
            running.probe_mut(kind).in_flight = false;
            return;
        };
        counts.probes.count(&identity, name, kind, outcome);
        let started = running.started_at.instant;
        let record = running.probe_mut(kind);
        let is_counted = record.record(kind, &probe, started, outcome);
        match outcome {
            ProbeOutcome::Failure(output) if is_counted => {
                events.warning("Unhealthy", messages::unhealthy(kind, output));
            }
            ProbeOutcome::Error(error) => {
                events.warning("Unhealthy", messages::probe_errored(kind, error));
            }
            ProbeOutcome::Warning(output) => {
                events.warning("ProbeWarning", messages::probe_warning(kind, output));
            }
            ProbeOutcome::Success | ProbeOutcome::Failure(_) => {}
        }
    }

    /// Sets the transition times of conditions that another program has changed: the node's value is
    /// written again, which is a transition now.
    fn restart_foreign_transitions(&mut self) {
        let now = self.context.node.clock.now().wall;
        if !self.status_writes.is_in_flight() {
            status_writer::begin_transitions(&mut self.status, self.status_writes.stored(), now);
        }
    }

    fn status_written(&mut self, result: StatusWriteResult) {
        if let StatusWriteResult::Failed(error) = &result {
            tracing::warn!(pod = self.name(), reason = %error, "pod status not written");
        }
        let now = self.context.node.clock.instant();
        self.status_writes.complete(result, &self.status, now);
    }

    fn object_removed(&mut self, result: Result<(), StatusWriteError>) {
        self.record.removal = match result {
            Ok(()) => Removal::Done,
            Err(error) => {
                tracing::warn!(pod = self.name(), reason = %error, "pod object not removed");
                self.removal_failures += 1;
                Removal::Failed {
                    at: self.context.node.clock.instant(),
                    failures: self.removal_failures,
                }
            }
        };
    }
}

/// Sends a warning event about a hook that succeeded in an unusual way.
fn report_hook(events: &PodEvents, outcome: HookOutcome) {
    match outcome {
        HookOutcome::Succeeded => {}
        HookOutcome::WithoutTls => events.warning(
            "LifecycleHTTPFallback",
            "request to HTTPS lifecycle hook got HTTP response, retry with HTTP succeeded",
        ),
    }
}
