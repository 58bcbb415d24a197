//! Creation and start of one instance of a container.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use container_runtime::spec::{Resources, StartError, StartErrorKind};
use container_runtime::{RuntimeError, Sandbox};
use host_kernel::{block_in_place, blocking};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use pod_lifecycle::environment::{environment, files, references};
use pod_lifecycle::record::{Exit, Hook, Instance, Running, User};
use pod_lifecycle::spec;
use pod_lifecycle::{Moment, PodIdentity, messages};

use super::{Worker, WorkerContext, pod_sandbox, send};
use crate::api::environments::StoredEnvironments;
use crate::api::events::PodEvents;
use crate::containers::instance::{create_message_file, image_id, public_id, stop_signal, user_of};
use crate::containers::logs;
use crate::containers::runtime_spec::{ContainerInputs, container_spec};
use crate::containers::service_variables;
use crate::devices::cdi::{self, CdiEdits};
use crate::devices::container::{self, ContainerDevices};
use crate::paths::{PodDir, runtime_id, seccomp_dir};
use crate::pods::message::{Message, StartResult};
use crate::volumes::{BlockVolume, Prepared, PreparedVolumes, block, text_file};

/// The inputs of the start of an instance.
struct Start {
    context: Arc<WorkerContext>,
    identity: PodIdentity,
    pod: Arc<Pod>,
    container: Container,
    restart_count: u32,
    sandbox: Sandbox,
    sandbox_number: u32,
    pod_ips: Vec<String>,
    volumes: PreparedVolumes,
    environments: StoredEnvironments,
    dir: PodDir,
    events: PodEvents,
    target: Target,
    /// New limits of the pod, which must be applied before the start; `None` if they are unchanged.
    pod_limits: Option<Resources>,
}

/// The container whose process namespace this container shares.
enum Target {
    None,
    /// The running instance with this id.
    Running(String),
    /// The container with this name, which does not run.
    Missing(String),
}

impl Worker {
    pub(super) fn start_container(&mut self, name: &str, restart_count: u32) {
        let now = self.context.node.clock.instant();
        self.record.container(name).starting(now);
        let pod = self.allocated_pod();
        let container = pod.spec.as_ref().and_then(|spec| spec::find(spec, name));
        let container = container.map(|(_, container)| container.into_owned());
        let (Some(container), Some(sandbox)) = (container, self.sandbox.clone()) else {
            return;
        };
        let target = self.target(name);
        let start = Start {
            pod_limits: self.new_pod_limits(),
            target,
            context: self.context.clone(),
            identity: self.identity.clone(),
            pod,
            container,
            restart_count,
            sandbox,
            sandbox_number: self.record.sandboxes_made,
            pod_ips: self.record.pod_ips.clone(),
            volumes: self.volumes.clone(),
            environments: self.environments.clone(),
            dir: self.dir.clone(),
            events: self.events.container(&self.pod, name),
        };
        let sender = self.sender.clone();
        self.tasks.delay(async move {
            let container = start.container.name.clone();
            let result = start.run().await;
            send(&sender, Message::Started { container, result }).await;
        });
    }
}

impl Worker {
    fn target(&self, name: &str) -> Target {
        let spec = self.pod.spec.as_ref();
        let Some(target) = spec.and_then(|spec| spec::target_of(spec, name)) else {
            return Target::None;
        };
        match self.record.containers.get(target) {
            Some(record) if matches!(record.instance, Instance::Running(_)) => {
                Target::Running(runtime_id(target, record.restart_count))
            }
            _ => Target::Missing(target.to_owned()),
        }
    }
}

/// The reason why a container is not created.
struct Refusal {
    /// The reason in the container's status.
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn config(error: impl ToString) -> Self {
        Self {
            reason: messages::CREATE_CONTAINER_CONFIG_ERROR,
            message: error.to_string(),
        }
    }

    fn creation(error: impl ToString) -> Self {
        Self {
            reason: messages::CREATE_CONTAINER_ERROR,
            message: error.to_string(),
        }
    }
}

impl Start {
    async fn run(self) -> StartResult {
        self.remove_former_instances().await;
        // The lock prevents the removal of the image until it is mounted.
        let lookup = self.context.images.lookups.read().await;
        let (spec, image) = match self.spec().await {
            Ok(spec) => spec,
            Err(refusal) => return self.refuse(refusal),
        };
        let id = spec.id.clone();
        if let Some(limits) = self.pod_limits.clone()
            && let Err(error) = self.sandbox.update_pod(limits).await
        {
            return self.refuse(Refusal::creation(error));
        }
        if let Err(error) = self.sandbox.create_container(spec).await {
            block_in_place(|| self.context.monitor.check_groups());
            // A container that fails here counts as failed to start: a mount or the user is missing.
            return self.refuse(self.creation_refusal(&error));
        }
        drop(lookup);
        self.events.normal("Created", "Container created");
        let started_at = self.context.node.clock.now();
        match self.sandbox.start(&id).await {
            Ok(()) => {
                self.events.normal("Started", "Container started");
                let user = self.user(&id).await;
                let running = self.running(&image, started_at);
                StartResult::Running(Box::new(Running { user, ..running }))
            }
            Err(RuntimeError::Start(error)) => {
                self.events
                    .warning("Failed", format!("Error: {}", error.message));
                StartResult::Failed(self.start_error(&image, error.message, started_at))
            }
            Err(error) => {
                self.events.warning("Failed", format!("Error: {error}"));
                StartResult::Failed(self.start_error(&image, error.to_string(), started_at))
            }
        }
    }

    /// The refusal of a container that cannot be created. An error of a `subPath` counts as an
    /// error of the configuration. The message does not contain the volume's path on the node.
    fn creation_refusal(&self, error: &RuntimeError) -> Refusal {
        let RuntimeError::Start(StartError {
            kind: StartErrorKind::SubPath,
            message,
        }) = error
        else {
            return Refusal::creation(error);
        };
        tracing::warn!(sandbox = self.sandbox.id(), message, "subPath not prepared");
        let mut mounts = self.container.volume_mounts.iter().flatten();
        let mount = mounts.find(|mount| {
            let path = mount.sub_path.as_deref().filter(|path| !path.is_empty());
            path.is_some_and(|path| message.contains(path)) || mount.sub_path_expr.is_some()
        });
        let volume = mount.map_or("", |mount| mount.name.as_str());
        let cause = message.rsplit(": ").next().unwrap_or_default();
        Refusal::config(messages::sub_path_failed(
            volume,
            &self.container.name,
            cause,
        ))
    }

    /// The user of the container. Names are looked up in the image.
    async fn user(&self, id: &str) -> Option<User> {
        let state = self.sandbox.state().await.ok()?;
        let container = state.containers.get(id);
        container.map(|container| user_of(&container.user))
    }

    fn refuse(&self, Refusal { reason, message }: Refusal) -> StartResult {
        self.events.warning("Failed", format!("Error: {message}"));
        StartResult::Refused { reason, message }
    }

    /// Removes the previous instance, and the logs of instances before the previous one.
    async fn remove_former_instances(&self) {
        let name = &self.container.name;
        if let Some(former) = self.restart_count.checked_sub(1) {
            let id = runtime_id(name, former);
            if let Err(error) = self.sandbox.remove(&id).await {
                tracing::warn!(sandbox = self.sandbox.id(), id, %error, "instance not removed");
            }
            let path = self.dir.termination_log(name, former);
            if let Err(error) = block_in_place(|| fs::remove_file(&path))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "file not removed");
            }
        }
        if let Some(old) = self.restart_count.checked_sub(2) {
            block_in_place(|| logs::remove(&self.dir.log(name, old)));
        }
    }

    async fn spec(
        &self,
    ) -> Result<(container_runtime::spec::ContainerSpec, image_store::Image), Refusal> {
        let process_target = match &self.target {
            Target::None => None,
            Target::Running(id) => Some(id.as_str()),
            Target::Missing(name) => {
                let message = format!("unable to find target container {name}");
                return Err(Refusal::config(message));
            }
        };
        let name = self.container.image.as_deref().unwrap_or_default();
        let image = match block_in_place(|| self.context.node.config.images.get(name)) {
            Ok(Some(image)) => image,
            Ok(None) => return Err(Refusal::config(format!("image \"{name}\" is gone"))),
            Err(error) => return Err(Refusal::config(error)),
        };
        let env = self.environment().await?;
        let names = pod_sandbox::names(&self.context, &self.pod).map_err(Refusal::config)?;
        let message_file = self
            .dir
            .termination_log(&self.container.name, self.restart_count);
        block_in_place(|| create_message_file(&message_file))
            .map_err(|error| Refusal::creation(format!("make the termination log: {error}")))?;
        let volumes = self.attached_volumes().await.map_err(Refusal::config)?;
        let (devices, cdi_edits) = self.devices().await?;
        let spec = container_spec(&ContainerInputs {
            pod: &self.pod,
            container: &self.container,
            restart_count: self.restart_count,
            image: &image.config,
            layers: &image.layers,
            env: &env,
            volumes: &volumes,
            dir: &self.dir,
            names: &names,
            logs: self.context.node.config.logs,
            seccomp_profiles: &seccomp_dir(&self.context.node.config.data_dir),
            node_memory_bytes: self.context.node.machine.memory_bytes,
            process_target,
        });
        let mut spec = spec.map_err(Refusal::config)?;
        let directory = self.context.csi.directory();
        let node_path = |path: &Path| directory.node_path(path).unwrap_or_else(|| path.to_owned());
        container::add(&mut spec, &devices, &cdi_edits, &env, &node_path)
            .map_err(Refusal::creation)?;
        Ok((spec, image))
    }

    /// The devices of the container, and the effect of those that are named by CDI. Plugins are called before the start
    /// if they request it.
    async fn devices(&self) -> Result<(ContainerDevices, CdiEdits), Refusal> {
        let (uid, devices) = (&self.identity.uid, &self.context.devices);
        let claimed = devices.claims.of_container(uid, &self.container);
        let edits = devices
            .plugins
            .before_start(uid, &self.container.name)
            .await;
        let devices = ContainerDevices {
            claimed: claimed.map_err(Refusal::creation)?,
            edits: edits.map_err(Refusal::creation)?,
        };
        let names = devices.cdi_devices();
        if names.is_empty() {
            return Ok((devices, CdiEdits::default()));
        }
        let edits = blocking(move || {
            let edits = cdi::read().and_then(|index| index.edits(&names));
            edits.map_err(|error| error.to_string())
        });
        Ok((devices, edits.await.map_err(Refusal::creation)?))
    }

    /// The environment variables of the container.
    async fn environment(&self) -> Result<Vec<(String, String)>, Refusal> {
        let facts = self.context.node.facts(&self.pod_ips);
        let references = references(&self.container);
        let sources = self
            .context
            .api_objects
            .environment(
                self.identity.namespace(),
                &self.container.name,
                references,
                facts,
                &self.environments,
            )
            .await;
        let mut sources = sources.map_err(Refusal::config)?;
        let variables = self.context.api_objects.service_variables(&self.pod);
        let variables = block_in_place(|| service_variables::latest(&self.dir, variables));
        sources.services = variables.map_err(Refusal::config)?;
        for (volume, path) in files(&self.container) {
            let text = block_in_place(|| self.file(&volume, &path)).map_err(Refusal::config)?;
            sources
                .files
                .extend(text.map(|text| ((volume, path), text)));
        }
        environment(&self.pod, &self.container, &sources)
            .map_err(|error| Refusal::config(error.message))
    }

    /// The pod's volumes with loop devices in place of image files. The container's image files are
    /// attached if they are not, for instance after a reboot.
    async fn attached_volumes(&self) -> Result<PreparedVolumes, String> {
        let mut volumes = self.volumes.clone();
        for device in self.container.volume_devices.iter().flatten() {
            let volume = volumes.get_mut(&device.name);
            let is_image = |volume: &&mut Prepared| volume.block == Some(BlockVolume::Image);
            let Some(volume) = volume.filter(is_image) else {
                continue;
            };
            let image = volume.path.clone();
            let path = blocking(move || block::device(&image)).await;
            volume.path =
                path.map_err(|error| format!("attach volume \"{}\": {error}", device.name))?;
        }
        Ok(volumes)
    }

    fn file(&self, volume: &str, path: &str) -> Result<Option<String>, String> {
        let Some(prepared) = self.volumes.get(volume) else {
            return Err(format!("volume \"{volume}\" is not mounted"));
        };
        text_file::read(&prepared.path, path)
            .map_err(|error| format!("read {path} of volume \"{volume}\": {error}"))
    }

    fn running(&self, image: &image_store::Image, started_at: Moment) -> Running {
        Running {
            id: public_id(&self.identity.uid, &self.container.name, self.restart_count),
            sandbox: self.sandbox_number,
            image: self.container.image.clone().unwrap_or_default(),
            image_id: image_id(image),
            stop_signal: Some(stop_signal(image)),
            user: None,
            started_at,
            post_start: Hook::post_start(&self.container),
            startup: Default::default(),
            liveness: Default::default(),
            readiness: Default::default(),
            checks: Default::default(),
            stop: None,
            resources: Some(Box::new(
                self.container.resources.clone().unwrap_or_default(),
            )),
            update: Default::default(),
            of_pod: Some(Box::new(self.pod_resources())),
        }
    }

    /// The allocated resources of the pod as a whole.
    fn pod_resources(&self) -> ResourceRequirements {
        let spec = self.pod.spec.as_ref();
        let resources = spec.and_then(|spec| spec.resources.clone());
        resources.unwrap_or_default()
    }

    fn start_error(&self, image: &image_store::Image, message: String, at: Moment) -> Exit {
        Exit {
            code: 128,
            reason: messages::START_ERROR.to_owned(),
            message: Some(message),
            by_node: false,
            ..self.running(image, at).lost(at)
        }
    }
}
