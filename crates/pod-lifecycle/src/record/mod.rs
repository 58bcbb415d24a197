//! `PodRecord`: the state of one pod on this node: its sandbox, volumes and containers.
//!
//! The node agent owns one [`PodRecord`] per pod, changes it when something has happened (the
//! methods here), and keeps it on disk, so that restart counts and exits survive the agent.
//! [`PodRecord::without_work_in_flight`] is what a new agent makes of a record that it finds.

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
    ContainerRecord, Exit, Hook, Image, Instance, Refusal, Running, Stop, StopCause, User,
};
use probes::ProbeRecord;
use resize::{PodLevelResources, Resize, ResourceUpdate};

/// Everything the planner knows of a pod beyond its API object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The pod's sandbox (namespaces and network).
    pub sandbox: Sandbox,
    /// How many sandboxes were made for this pod.
    pub sandboxes_made: u32,
    /// Failures of the sandbox in a row.
    #[serde(default)]
    pub sandbox_failures: u32,
    /// The pod's volumes.
    pub volumes: Volumes,
    /// Failures of the volumes in a row.
    #[serde(default)]
    pub volume_failures: u32,
    /// The pod's address, kept after its sandbox is gone.
    pub pod_ips: Vec<String>,
    /// When this node took the pod (`status.startTime`).
    pub started_at: Option<Moment>,
    /// The containers by name, of all three kinds.
    pub containers: BTreeMap<String, ContainerRecord>,
    /// The removal of the API object.
    #[serde(default)]
    pub removal: Removal,
    /// The resources it has of the node, and those it asks for.
    #[serde(default)]
    pub resize: Resize,
    /// Why the node does not run the pod, or not any longer.
    #[serde(default, rename = "dismissal")]
    pub failure: Option<PodFailure>,
    /// Why all containers end, to start anew.
    #[serde(default)]
    pub restart_all: Option<RestartAll>,
}

/// The state of a pod's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Sandbox {
    /// There is none.
    #[default]
    None,
    /// It is being made.
    Creating,
    /// It is there, with an address.
    Ready,
    /// It could not be made.
    Failed {
        /// Why.
        message: String,
        /// When.
        at: Instant,
    },
    /// Its process is gone; what is left of it must be cleared away.
    Gone,
    /// It is being taken down.
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
    /// All are there.
    Ready,
    /// At least one could not be mounted.
    Failed {
        /// Why.
        message: String,
        /// When.
        at: Instant,
    },
    /// They are being unmounted.
    Releasing,
    /// A former agent had them, or was at work on them; what of that is still there is not known.
    Unknown,
}

/// The state of the last step, the removal of the API object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Removal {
    /// It was not asked for yet.
    #[default]
    None,
    /// The request is under way.
    Asked,
    /// The request failed.
    Failed {
        /// When.
        at: Instant,
        /// The number of consecutive occurrences.
        failures: u32,
    },
    /// The object is gone.
    Done,
}

/// The node's decision not to run a pod, or not any longer: the pod ends as `Failed`, once nothing
/// of it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFailure {
    /// Status reason: `Evicted`, `SysctlForbidden`, `DeadlineExceeded`, …
    pub reason: String,
    /// Status message.
    pub message: String,
    /// The grace period in seconds, where it is shorter than the pod's own.
    pub grace_seconds: Option<i64>,
    /// Whether it is a disruption, and the status says so by a condition (`DisruptionTarget`).
    pub disrupts: bool,
}

/// Which container wants it, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartAll {
    /// The container.
    pub container: String,
    /// Its exit code.
    pub code: i32,
}

impl RestartAll {
    /// Message of the condition.
    pub(crate) fn message(&self) -> String {
        let RestartAll { container, code } = self;
        format!("Container {container} exited with code {code}, triggering pod restart")
    }
}

impl PodRecord {
    /// The container's record, made when there is none.
    pub fn container(&mut self, name: &str) -> &mut ContainerRecord {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// The containers of these names have ended, and begin as in a new pod.
    pub fn start_anew(&mut self, containers: &[String]) {
        self.restart_all = None;
        for name in containers {
            if let Some(record) = self.containers.get_mut(name) {
                record.anew = record.ended().is_some();
            }
        }
    }

    /// Whether any container runs or is about to.
    pub fn anything_runs(&self) -> bool {
        self.containers
            .values()
            .any(|c| matches!(c.instance, Instance::Running(_) | Instance::Starting { .. }))
    }

    /// The pod as a whole has these resources now, and with it all that runs in it.
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

    /// The sandbox's process ended: everything in it has ended with it.
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

    /// The part that is worth keeping: without what each probe changes.
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

    /// What an agent that has just started makes of a record that it found: nothing is under way
    /// any more, whatever was is begun again.
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
