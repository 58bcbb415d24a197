//! `PodRecord`: the state of one pod on this node: its sandbox, volumes and containers.
//!
//! The node agent has one [`PodRecord`] per pod, changes it with the methods of this module, and stores it
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

/// The planner's input about a pod, in addition to its API object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The pod's sandbox (namespaces and network).
    pub sandbox: Sandbox,
    /// The number of sandboxes that were created for this pod.
    pub sandboxes_made: u32,
    /// Consecutive failures of the sandbox.
    #[serde(default)]
    pub sandbox_failures: u32,
    /// Whether the pod's volumes are prepared.
    pub volumes: Volumes,
    /// Consecutive failures of the volumes.
    #[serde(default)]
    pub volume_failures: u32,
    /// The pod's addresses, which are retained after its sandbox is removed.
    pub pod_ips: Vec<String>,
    /// The time at which this node admitted the pod (`status.startTime`).
    pub started_at: Option<Moment>,
    /// The containers by name: init containers, main containers and ephemeral containers.
    pub containers: BTreeMap<String, ContainerRecord>,
    /// The removal of the API object.
    #[serde(default)]
    pub removal: Removal,
    /// The allocated and the requested resources.
    #[serde(default)]
    pub resize: Resize,
    /// The reason why the node rejects or stops the pod.
    #[serde(default, rename = "dismissal")]
    pub failure: Option<PodFailure>,
    /// The reason why all containers are restarted.
    #[serde(default)]
    pub restart_all: Option<RestartAll>,
}

/// The state of a pod's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Sandbox {
    #[default]
    None,
    /// The sandbox is being created.
    Creating,
    /// The sandbox exists and has an address.
    Ready,
    /// The sandbox could not be created.
    Failed { message: String, at: Instant },
    /// The process of the sandbox has exited; its remains must be removed.
    Gone,
    /// The sandbox is being removed.
    Destroying,
}

/// The state of a pod's volumes, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Volumes {
    /// No volume is mounted.
    #[default]
    None,
    /// The volumes are being mounted.
    Preparing,
    /// All volumes are prepared.
    Ready,
    /// At least one volume could not be mounted.
    Failed { message: String, at: Instant },
    /// The volumes are being unmounted.
    Releasing,
    /// A former agent had mounted the volumes, or was about to mount them. Their state is unknown.
    Unknown,
}

/// The state of the last step: the removal of the API object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Removal {
    #[default]
    None,
    Asked,
    Failed {
        at: Instant,
        failures: u32,
    },
    /// The object is removed.
    Done,
}

/// The node's decision to reject or to stop a pod: the pod becomes `Failed` after all its containers have
/// exited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFailure {
    /// The reason in the pod's status: `Evicted`, `SysctlForbidden`, `DeadlineExceeded`, …
    pub reason: String,
    pub message: String,
    /// The grace period in seconds; `None` for the pod's grace period. The shorter of both is used.
    pub grace_seconds: Option<i64>,
    /// Whether the failure is a disruption, so that the status has the condition `DisruptionTarget`.
    pub disrupts: bool,
}

/// The container that requested the restart, and its exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartAll {
    /// Name of the container whose exit caused the restart.
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
    /// The container's record, which is created if there is none.
    pub fn container(&mut self, name: &str) -> &mut ContainerRecord {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// Records that these containers have ended and start as in a new pod.
    pub fn start_anew(&mut self, containers: &[String]) {
        self.restart_all = None;
        for name in containers {
            if let Some(record) = self.containers.get_mut(name) {
                record.anew = record.ended().is_some();
            }
        }
    }

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

    /// Records the exit of the sandbox's process: all containers of the sandbox have exited with it.
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

    /// The part of the record that is stored on disk: without the state of probes, which changes often.
    pub fn durable(&self) -> Self {
        let mut record = self.clone();
        for container in record.containers.values_mut() {
            if let Instance::Running(running) = &mut container.instance {
                for probe in running.probes() {
                    *probe = ProbeRecord {
                        verdict: probe.verdict,
                        ..ProbeRecord::default()
                    };
                }
            }
        }
        record
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
            cov_mark::hit!(findings_r7);
        }
        self
    }
}
