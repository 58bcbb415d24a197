//! Execution of the planner's actions: each action is recorded before it starts.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use host_kernel::block_in_place;
use host_kernel::blocking;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use object_model::Uid;
use pod_lifecycle::environment::downward::NodeFacts;
use pod_lifecycle::environment::references;
use pod_lifecycle::messages;
use pod_lifecycle::record::{Hook, Image, Instance, Removal, Running, Sandbox, Stop, Volumes};
use pod_lifecycle::spec::{self, ProbeKind};
use pod_lifecycle::{LifecycleAction, StopCause};

use super::{Worker, send};
use crate::api::events::PodEvents;
use crate::api::objects::ApiObjects;
use crate::api::objects::{ObjectKind, Versions};
use crate::api::status_writer::{self, StatusWriteResult};
use crate::containers::instance::{signal_number, stop_signal};
use crate::containers::lifecycle_hooks;
use crate::csi_volumes::CsiVolumes;
use crate::images::Puller;
use crate::limits::{POST_START_MAX, REFRESH_RETRY};
use crate::paths::{PodDir, runtime_id};
use crate::pods::message::{Message, RefreshResult};
use crate::probes::prober::{self, ProbeTarget};
use crate::volumes::device_claims::{self, NotReleased};
use crate::volumes::{self, ReadObjects, VolumeContext};

/// A [`VolumeContext`] with owned values, for a task.
struct VolumeInputs {
    api_objects: Arc<ApiObjects>,
    images: Arc<Puller>,
    csi: Arc<CsiVolumes>,
    pod: Arc<Pod>,
    dir: PodDir,
    facts: NodeFacts,
    events: PodEvents,
}

impl VolumeInputs {
    fn new(worker: &Worker) -> Self {
        Self {
            api_objects: Arc::clone(&worker.context.api_objects),
            images: Arc::clone(&worker.context.images),
            csi: Arc::clone(&worker.context.csi),
            pod: Arc::clone(&worker.pod),
            dir: worker.dir.clone(),
            facts: worker.context.node.facts(&worker.record.pod_ips),
            events: worker.events.clone(),
        }
    }

    fn context(&self) -> VolumeContext<'_> {
        VolumeContext {
            api_objects: &self.api_objects,
            pod: &self.pod,
            dir: &self.dir,
            facts: &self.facts,
            images: &self.images,
            csi: &self.csi,
            events: &self.events,
        }
    }
}

impl Worker {
    /// Starts the effect of a planned action. The result arrives as a message.
    pub(super) fn perform(&mut self, action: LifecycleAction) {
        tracing::debug!(pod = self.name(), ?action, "action");
        match action {
            LifecycleAction::PrepareVolumes => self.prepare_volumes(),
            LifecycleAction::ReleaseVolumes { comes_back } => self.release_volumes(comes_back),
            LifecycleAction::CreateSandbox => self.create_sandbox(),
            LifecycleAction::DestroySandbox => self.destroy_sandbox(),
            LifecycleAction::EnsureImage { container } => self.ensure_image(container),
            LifecycleAction::StartContainer {
                container,
                restart_count,
            } => {
                self.start_container(&container, restart_count);
            }
            LifecycleAction::RunPostStart { container } => self.run_post_start(container),
            LifecycleAction::Probe { container, kind } => self.probe(container, kind),
            LifecycleAction::BeginStop {
                container,
                cause,
                grace_seconds,
                message,
                pre_stop,
            } => {
                self.begin_stop(container, cause, grace_seconds, &message, pre_stop);
            }
            LifecycleAction::Terminate { container } => self.terminate(container),
            LifecycleAction::Kill { container } => self.kill(container),
            LifecycleAction::AnnounceBackOff { container } => {
                let message = messages::restart_back_off(&self.pod, &container);
                self.events
                    .container(&self.pod, &container)
                    .warning("BackOff", message);
                self.record.container(&container).backoff_announced = true;
            }
            LifecycleAction::AnnouncePullBackOff { container } => {
                self.announce_pull_back_off(&container)
            }
            LifecycleAction::FailPod(failure) => {
                self.events.normal(&failure.reason, failure.message.clone());
                self.record.failure = Some(failure);
            }
            LifecycleAction::RestartAll(request) => self.record.restart_all = Some(request),
            LifecycleAction::StartAnew { containers } => self.record.start_anew(&containers),
            LifecycleAction::Allocate { resources } => {
                self.record.resize.allocated = Some(resources)
            }
            LifecycleAction::StartResize {
                resources,
                generation,
            } => {
                self.start_resize(resources, generation);
            }
            LifecycleAction::PostponeResize(pending) => self.postpone_resize(pending),
            LifecycleAction::UpdateResources { container } => self.update_resources(container),
            LifecycleAction::UpdatePodResources => self.update_pod_resources(),
            LifecycleAction::CompleteResize => self.complete_resize(),
            LifecycleAction::RemoveObject => self.remove_object(),
        }
    }

    /// The specification of a container. The planner names only containers that exist.
    pub(super) fn container(&self, name: &str) -> Option<Container> {
        let spec = self.pod.spec.as_ref()?;
        spec::find(spec, name).map(|(_, container)| container.into_owned())
    }

    pub(super) fn running(&mut self, name: &str) -> Option<&mut Running> {
        match &mut self.record.container(name).instance {
            Instance::Running(running) => Some(running),
            _ => None,
        }
    }

    fn prepare_volumes(&mut self) {
        self.record.volumes = Volumes::Preparing;
        // The view with the pod's images is published before the images are looked up, so that they are not
        // removed.
        self.publish();
        let (inputs, sender) = (VolumeInputs::new(self), self.sender.clone());
        let (devices, pods) = (self.context.devices.clone(), self.context.pods.clone());
        self.tasks.delay(async move {
            let context = inputs.context();
            let mut read_objects = ReadObjects::default();
            let has_ended = |uid: &Uid| pods.has_ended(uid);
            let (objects, pod, dir) = (context.api_objects, context.pod, context.dir);
            let result = match device_claims::prepare(&devices, objects, pod, dir, &has_ended).await
            {
                Ok(()) => volumes::prepare(context, &mut read_objects)
                    .await
                    .map_err(Into::into),
                Err(error) => Err(error),
            };
            send(&sender, Message::VolumesPrepared(result, read_objects)).await;
        });
    }

    fn release_volumes(&mut self, comes_back: bool) {
        self.record.volumes = Volumes::Releasing;
        for watch in std::mem::take(&mut self.watches).into_values() {
            watch.abort();
        }
        let (dir, sender) = (self.dir.clone(), self.sender.clone());
        let (csi, devices) = (self.context.csi.clone(), self.context.devices.clone());
        let uid = self.identity.uid.clone();
        let retained = match comes_back {
            true => volumes::empty_dirs(&self.pod),
            false => BTreeSet::new(),
        };
        self.tasks.spawn(async move {
            let released = async {
                // The pod of a node that stops keeps its devices: their drivers may have been stopped already.
                if !comes_back {
                    device_claims::release(&devices, &uid, &dir).await?;
                }
                let csi_released = csi.release(&uid, comes_back).await;
                csi_released.map_err(|error| NotReleased::Volumes(error.to_string()))?;
                let release = move || volumes::release(&dir, &retained);
                let released = blocking(move || release().map_err(|error| error.to_string()));
                released.await.map_err(NotReleased::Volumes)
            };
            let result = released.await;
            send(&sender, Message::VolumesReleased(result)).await;
        });
    }

    /// Refreshes the files of volumes, unless a refresh is in progress.
    pub(super) fn refresh_volumes(&mut self) {
        // The objects of a terminating pod's volumes may be deleted before the pod.
        let is_ending = self.is_removed() || self.pod.metadata.deletion_timestamp.is_some();
        if is_ending || self.record.volumes != Volumes::Ready {
            return;
        }
        let Some(last_result) = self.volume_refresh.begin() else {
            return;
        };
        let (inputs, sender) = (VolumeInputs::new(self), self.sender.clone());
        self.tasks.spawn(async move {
            let context = inputs.context();
            let mut read_objects = ReadObjects::default();
            let result = volumes::refresh(context, &mut read_objects).await;
            if let Err(error) = &result {
                // Mounted volumes do not change; a change of an object or the next attempt may succeed. A
                // first failure is not logged, because an object and its pod may be deleted together, in
                // either order.
                if last_result == RefreshResult::Failed {
                    tracing::warn!(%error, "volumes not refreshed");
                } else {
                    tracing::debug!(%error, "volumes not refreshed yet");
                }
                read_objects.replace_in(REFRESH_RETRY);
            }
            let result = match result {
                Ok(()) => RefreshResult::Succeeded,
                Err(_) => RefreshResult::Failed,
            };
            send(
                &sender,
                Message::VolumesRefreshed {
                    read_objects,
                    result,
                },
            )
            .await;
        });
    }

    /// Watches the objects that volumes are built from for changes after the versions in `read`. Also
    /// watches the objects that containers wait for.
    pub(super) fn watch_sources(&mut self, read: &Versions) {
        let mut objects = volumes::watched_objects(&self.pod);
        let records = self.record.containers.iter();
        let refused = records.filter(|(_, c)| matches!(c.instance, Instance::Refused(_)));
        for container in refused.filter_map(|(name, _)| self.container(name)) {
            let references = references(&container);
            let config_maps = references.config_maps.into_keys();
            objects.extend(config_maps.map(|name| (ObjectKind::ConfigMap, name)));
            let secrets = references.secrets.into_keys();
            objects.extend(secrets.map(|name| (ObjectKind::Secret, name)));
        }
        self.watches.retain(|object, watch| {
            let is_needed = objects.contains(object);
            if !is_needed {
                watch.abort();
            }
            is_needed
        });
        for object in objects {
            if self.watches.contains_key(&object) {
                continue;
            }
            let watch =
                self.context
                    .api_objects
                    .watch(object.0, self.identity.namespace(), &object.1);
            let mut changes = watch.changes(read.get(&object).cloned());
            let sender = self.sender.clone();
            let task = self.tasks.spawn(async move {
                while changes.next().await {
                    send(&sender, Message::VolumesOutdated).await;
                }
            });
            self.watches.insert(object, task);
        }
    }

    fn ensure_image(&mut self, name: String) {
        let Some(container) = self.container(&name) else {
            return;
        };
        self.record.container(&name).image.ensure();
        // The view with the pod's image is published before the image is looked up, so that the image is
        // not removed.
        self.publish();
        let (context, pod, sender) = (self.context.clone(), self.pod.clone(), self.sender.clone());
        let events = self.events.container(&pod, &name);
        self.tasks.delay(async move {
            let image = container.image.clone().unwrap_or_default();
            let policy = container.image_pull_policy.as_deref();
            let ensured = context.images.ensure(&pod, &image, policy, &events).await;
            let result = ensured.map(|_| ());
            send(
                &sender,
                Message::Image {
                    container: name,
                    image,
                    result,
                },
            )
            .await;
        });
    }

    fn announce_pull_back_off(&mut self, name: &str) {
        let image = self
            .container(name)
            .and_then(|c| c.image)
            .unwrap_or_default();
        let events = self.events.container(&self.pod, name);
        events.normal("BackOff", messages::pull_back_off(&image));
        events.warning(
            "Failed",
            format!("Error: {}", messages::IMAGE_PULL_BACK_OFF),
        );
        if let Image::Missing { announced, .. } = &mut self.record.container(name).image {
            *announced = true;
        }
    }

    /// The container that a probe or a hook runs in, and the id of its instance.
    fn probe_target(&mut self, name: &str) -> Option<(ProbeTarget, String)> {
        let container = self.container(name)?;
        let sandbox = self.sandbox.clone()?;
        let id = self.running(name)?.id.clone();
        let runtime_id = runtime_id(name, self.record.container(name).restart_count);
        let pod_ip = match self.record.pod_ips.first() {
            Some(ip) => ip.clone(),
            None => self.context.node.config.node_ip().to_string(),
        };
        Some((
            ProbeTarget {
                sandbox,
                runtime_id,
                container,
                pod_ip,
            },
            id,
        ))
    }

    fn run_post_start(&mut self, name: String) {
        if let Some(running) = self.running(&name) {
            running.post_start = Hook::Running;
        }
        let Some((target, id)) = self.probe_target(&name) else {
            return;
        };
        let sender = self.sender.clone();
        let hook = target
            .container
            .lifecycle
            .clone()
            .and_then(|l| l.post_start);
        let pod = self.identity.to_string();
        self.tasks.delay(async move {
            let hook = hook.unwrap_or_default();
            let result = lifecycle_hooks::run(&target, &pod, &hook, POST_START_MAX).await;
            send(
                &sender,
                Message::PostStart {
                    container: name,
                    id,
                    result,
                },
            )
            .await;
        });
    }

    fn probe(&mut self, name: String, kind: ProbeKind) {
        let now = self.context.node.clock.instant();
        let pod = self.pod.clone();
        if let Some(running) = self.running(&name) {
            running.begin_probe(&pod, kind, now);
        }
        let Some((target, id)) = self.probe_target(&name) else {
            return;
        };
        let probe = spec::probe(&self.pod, &target.container, kind).map(Cow::into_owned);
        let Some(probe) = probe else {
            return;
        };
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let outcome = prober::probe(&target, &probe).await;
            send(
                &sender,
                Message::Probe {
                    container: name,
                    id,
                    kind,
                    outcome,
                },
            )
            .await;
        });
    }

    fn begin_stop(
        &mut self,
        name: String,
        cause: StopCause,
        grace_seconds: i64,
        message: &str,
        pre_stop: bool,
    ) {
        self.events
            .container(&self.pod, &name)
            .normal("Killing", message);
        let target = self.probe_target(&name);
        let since = self.context.node.clock.instant();
        if let Some(running) = self.running(&name) {
            running.stop = Some(Stop {
                cause,
                since,
                grace_seconds,
                pre_stop: if pre_stop { Hook::Running } else { Hook::Done },
                signalled_at: None,
                killed_at: None,
            });
        }
        let hook = self
            .container(&name)
            .and_then(|c| c.lifecycle)
            .and_then(|l| l.pre_stop);
        let (Some((target, id)), Some(hook), true) = (target, hook, pre_stop) else {
            return;
        };
        self.run_pre_stop(name, target, id, hook, grace_seconds);
    }

    fn run_pre_stop(
        &mut self,
        container: String,
        target: ProbeTarget,
        id: String,
        hook: LifecycleHandler,
        grace_seconds: i64,
    ) {
        let sender = self.sender.clone();
        let limit = Duration::from_secs(grace_seconds.max(0).unsigned_abs());
        let pod = self.identity.to_string();
        self.tasks.spawn(async move {
            let result = lifecycle_hooks::run(&target, &pod, &hook, limit).await;
            send(
                &sender,
                Message::PreStop {
                    container,
                    id,
                    result,
                },
            )
            .await;
        });
    }

    fn terminate(&mut self, name: String) {
        let now = self.context.node.clock.instant();
        let (mut image, mut image_signal) = (String::new(), None);
        if let Some(running) = self.running(&name) {
            image.clone_from(&running.image);
            image_signal.clone_from(&running.stop_signal);
            if let Some(stop) = &mut running.stop {
                stop.signalled_at = Some(now);
            }
        }
        let container_signal = self
            .container(&name)
            .and_then(|c| c.lifecycle)
            .and_then(|l| l.stop_signal);
        let stored_image_signal = || {
            let image = block_in_place(|| self.context.node.config.images.get(&image));
            let image = image.ok().flatten();
            image.map(|image| stop_signal(&image))
        };
        let signal = container_signal
            .or(image_signal)
            .or_else(stored_image_signal);
        let number = signal.and_then(|name| signal_number(&name));
        self.signal(&name, number.unwrap_or(nix::libc::SIGTERM));
    }

    fn kill(&mut self, name: String) {
        let now = self.context.node.clock.instant();
        if let Some(stop) = self
            .running(&name)
            .and_then(|running| running.stop.as_mut())
        {
            stop.killed_at = Some(now);
        }
        self.signal(&name, nix::libc::SIGKILL);
    }

    fn signal(&mut self, name: &str, signal: i32) {
        let Some(sandbox) = self.sandbox.clone() else {
            return;
        };
        let id = runtime_id(name, self.record.container(name).restart_count);
        let (container, sender) = (name.to_owned(), self.sender.clone());
        self.tasks.spawn(async move {
            if let Err(error) = sandbox.signal(&id, signal).await {
                tracing::warn!(sandbox = sandbox.id(), id, signal, %error, "signal not sent");
                let message = format!("error killing container {container:?}: {error}");
                send(&sender, Message::SignalFailed { container, message }).await;
            }
        });
    }

    fn remove_object(&mut self) {
        self.record.removal = Removal::Asked;
        let (client, identity) = (self.context.client.clone(), self.identity.clone());
        let sender = self.sender.clone();
        let final_patch = status_writer::difference(self.status_writes.stored(), &self.status);
        self.tasks.spawn(async move {
            if let Some(patch) = final_patch
                && let StatusWriteResult::Failed(error) =
                    status_writer::write(&client, &identity, patch).await
            {
                return send(&sender, Message::ObjectRemoved(Err(error))).await;
            }
            let result = status_writer::remove(&client, &identity).await;
            send(&sender, Message::ObjectRemoved(result)).await;
        });
    }

    pub(super) fn destroy_sandbox(&mut self) {
        self.record.sandbox = Sandbox::Destroying;
        let (context, sender) = (self.context.clone(), self.sender.clone());
        let (uid, sandbox) = (self.identity.uid.clone(), self.sandbox.take());
        self.tasks.spawn(async move {
            let result = super::pod_sandbox::destroy(&context, &uid, sandbox).await;
            send(&sender, Message::SandboxDestroyed(result)).await;
        });
    }
}
