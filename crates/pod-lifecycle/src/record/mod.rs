//! `PodRecord`: the state of one pod on this node: its sandbox, volumes and containers.
//!
//! The node agent owns one [`PodRecord`] per pod, changes it with the methods here, and stores it
//! on disk, so that restart counts and exits survive a restart of the agent.
//! [`PodRecord::without_work_in_flight`] is applied to a record after a restart.

pub mod backoff;
mod container;
mod image_change;
pub mod probes;
pub mod resize;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Serialize};

use crate::monotonic::{Instant, Moment};
pub use container::{
    ContainerRecord, CreateError, Exit, Hook, Image, Instance, Running, Stop, StopCause, User,
};
use probes::ProbeRecord;
use resize::{PodLevelResources, Resize, ResourceUpdate};

/// The planner's knowledge about a pod, beside its API object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The pod's sandbox (namespaces and network).
    pub sandbox: Sandbox,
    /// The number of sandboxes created for this pod.
    pub sandboxes_made: u32,
    /// Consecutive failures of the sandbox.
    #[serde(default)]
    pub sandbox_failures: u32,
    /// Whether the pod's volumes are prepared.
    pub volumes: Volumes,
    /// Consecutive failures of the volumes.
    #[serde(default)]
    pub volume_failures: u32,
    /// The pod's addresses, kept after its sandbox is removed.
    pub pod_ips: Vec<String>,
    /// The time at which this node admitted the pod (`status.startTime`).
    pub started_at: Option<Moment>,
    /// The containers by name, of all three kinds.
    pub containers: BTreeMap<String, ContainerRecord>,
    /// The removal of the API object.
    #[serde(default)]
    pub removal: Removal,
    /// The allocated and the requested resources.
    #[serde(default)]
    pub resize: Resize,
    /// The reason why the node does not run the pod, or no longer.
    #[serde(default, rename = "dismissal")]
    pub failure: Option<PodFailure>,
    /// The reason why all containers are restarted.
    #[serde(default)]
    pub restart_all: Option<RestartAll>,
}

/// The state of a pod's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Sandbox {
    /// The pod has no sandbox.
    #[default]
    None,
    /// The sandbox is being created.
    Creating,
    /// The sandbox exists and has an address.
    Ready,
    /// The sandbox could not be created.
    Failed {
        /// The error message.
        message: String,
        /// The time of the failure.
        at: Instant,
    },
    /// Its process has ended; its rest must be cleaned up.
    Gone,
    /// The sandbox is being removed.
    Destroying,
}

/// The state of a pod's volumes, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Volumes {
    /// Nothing is mounted.
    #[default]
    None,
    /// They are being mounted.
    Preparing,
    /// All volumes are prepared.
    Ready,
    /// At least one could not be mounted.
    Failed {
        /// The error message.
        message: String,
        /// The time of the failure.
        at: Instant,
    },
    /// They are being unmounted.
    Releasing,
    /// A former agent had mounted them, or was about to; their state is unknown.
    Unknown,
}

/// The state of the last step: the removal of the API object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Removal {
    /// The removal was not requested yet.
    #[default]
    None,
    /// The request is in progress.
    Asked,
    /// The request failed.
    Failed {
        /// The time of the failure.
        at: Instant,
        /// The number of consecutive occurrences.
        failures: u32,
    },
    /// The object is removed.
    Done,
}

/// The node's decision not to run a pod, or no longer: the pod becomes `Failed` once all its
/// containers have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFailure {
    /// Status reason: `Evicted`, `SysctlForbidden`, `DeadlineExceeded`, …
    pub reason: String,
    /// Status message for users.
    pub message: String,
    /// The grace period in seconds, if it is shorter than the pod's own.
    pub grace_seconds: Option<i64>,
    /// Whether it is a disruption, so that the status has the condition `DisruptionTarget`.
    pub disrupts: bool,
}

/// The container that requested the restart, and its exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartAll {
    /// Name of the container whose exit triggered the restart.
    pub container: String,
    /// The exit code of that container.
    pub code: i32,
}

impl RestartAll {
    /// Message of the condition `AllContainersRestarting`.
    pub(crate) fn message(&self) -> String {
        let RestartAll { container, code } = self;
        format!("Container {container} exited with code {code}, triggering pod restart")
    }
}

impl PodRecord {
    /// The container's record; it is created if there is none.
    pub fn container(&mut self, name: &str) -> &mut ContainerRecord {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// Records that the containers of these names have ended and start as in a new pod.
    pub fn start_anew(&mut self, containers: &[String]) {
        self.restart_all = None;
        for name in containers {
            if let Some(record) = self.containers.get_mut(name) {
                record.anew = record.ended().is_some();
            }
        }
    }

    /// Whether any container runs or is being started.
    pub fn anything_runs(&self) -> bool {
        self.containers
            .values()
            .any(|c| matches!(c.instance, Instance::Running(_) | Instance::Starting { .. }))
    }

    /// Records new resources of the pod as a whole.
    pub fn pod_resized(&mut self, resources: Option<ResourceRequirements>) {
        for container in self.containers.values_mut() {
            if let Instance::Running(running) = &mut container.instance {
                running.of_pod = Some(Box::new(resources.clone().unwrap_or_default()));
            }
        }
        self.resize.pod = PodLevelResources {
            applied: resources,
            ..PodLevelResources::default()
        };
    }

    /// Records the end of the sandbox's process: all its containers have ended with it.
    pub fn sandbox_lost(&mut self, now: Moment) {
        self.sandbox = Sandbox::Gone;
        for container in self.containers.values_mut() {
            if let Instance::Running(running) = &container.instance {
                let exit = running.lost(now);
                container.exited(exit);
            } else {
                container.abandon_start();
            }
        }
    }

    /// The part of the record to store: without the frequently changing state of probes.
    pub fn durable(&self) -> Self {
        let mut kept = self.clone();
        for container in kept.containers.values_mut() {
            if let Instance::Running(running) = &mut container.instance {
                for probe in [
                    &mut running.startup,
                    &mut running.liveness,
                    &mut running.readiness,
                ] {
                    *probe = ProbeRecord {
                        verdict: probe.verdict,
                        ..ProbeRecord::default()
                    };
                }
            }
        }
        kept
    }

    /// The record after a restart of the agent: work in progress is reset, so that it starts again.
    pub fn without_work_in_flight(mut self) -> Self {
        if matches!(
            self.sandbox,
            Sandbox::Creating | Sandbox::Destroying | Sandbox::Failed { .. }
        ) {
            self.sandbox = Sandbox::Gone;
        }
        match self.volumes {
            Volumes::Preparing | Volumes::Failed { .. } | Volumes::Releasing => {
                self.volumes = Volumes::Unknown;
            }
            Volumes::None | Volumes::Ready | Volumes::Unknown => {}
        }
        self.resize.pod.update = ResourceUpdate::None;
        if self.removal == Removal::Asked {
            self.removal = Removal::None;
        }
        for container in self.containers.values_mut() {
            container.forget_work_in_flight();
        }
        self
    }
}
