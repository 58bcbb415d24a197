//! The record of one container: its current or last instance, its delays and its image.

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use serde::{Deserialize, Serialize};

use super::backoff::Backoff;
use super::probes::ProbeRecord;
use super::resize::ResourceUpdate;
use crate::monotonic::{Instant, Moment};

/// What is known of one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The current or last instance.
    pub instance: Instance,
    /// How often the container was started again; the number of the current instance.
    pub restart_count: u32,
    /// How the instance before the current one ended.
    pub last_exit: Option<Exit>,
    /// Its last exit counts for nothing: it starts anew with all containers of the pod.
    #[serde(default)]
    pub anew: bool,
    /// Delay between restarts.
    #[serde(default)]
    pub backoff: Backoff,
    /// How often in a row it could not be created.
    #[serde(default)]
    pub refusals: u32,
    /// Whether the current delay was announced by an event.
    #[serde(default)]
    pub backoff_announced: bool,
    /// The image of the next instance.
    #[serde(default)]
    pub image: Image,
    /// Delay between pulls.
    #[serde(default)]
    pub pull_backoff: Backoff,
}

/// One life of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Instance {
    /// It never ran.
    #[default]
    Absent,
    /// It is being created and started.
    Starting {
        /// How the instance before ended, when there was one.
        previous: Option<Exit>,
    },
    /// It could not be created; nothing ran and nothing counts as a restart.
    Refused(Refusal),
    /// It runs.
    Running(Running),
    /// It ended.
    Exited(Exit),
}

/// Why a container could not be created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// Status reason, for instance `CreateContainerConfigError`.
    pub reason: String,
    /// The error.
    pub message: String,
    /// When it was found.
    pub at: Instant,
    /// The number of consecutive occurrences.
    pub failures: u32,
    /// How the instance before ended, when there was one.
    pub previous: Option<Exit>,
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// The runtime's id.
    pub id: String,
    /// Number of the sandbox it runs in.
    pub sandbox: u32,
    /// The image as the pod named it when the container was created.
    pub image: String,
    /// The image's digest.
    pub image_id: String,
    /// The signal that its image is stopped by, when that is known: by the time that it is stopped the
    /// image's name may be another's.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Whom its first process runs as, when that is known.
    #[serde(default)]
    pub user: Option<User>,
    /// When its process started.
    pub started_at: Moment,
    /// The `postStart` hook.
    pub post_start: Hook,
    /// Its three probes.
    #[serde(default)]
    pub startup: ProbeRecord,
    /// Its three probes.
    #[serde(default)]
    pub liveness: ProbeRecord,
    /// Its three probes.
    #[serde(default)]
    pub readiness: ProbeRecord,
    /// How far its end has come, once that has begun.
    pub stop: Option<Stop>,
    /// The resources it has, when that is known.
    #[serde(default)]
    pub resources: Option<Box<ResourceRequirements>>,
    /// How their change gets on.
    #[serde(default)]
    pub update: ResourceUpdate,
    /// The resources of the pod as a whole that it runs in, when that is known.
    #[serde(default)]
    pub of_pod: Option<Box<ResourceRequirements>>,
}

/// The numbers that a process runs under.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A hook's progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Hook {
    /// There is none, or it has ended well.
    #[default]
    Done,
    /// It has yet to run.
    Pending,
    /// It runs.
    Running,
    /// It failed.
    Failed(String),
}

impl Hook {
    /// The `postStart` hook of an instance that has just started.
    pub fn post_start(container: &Container) -> Self {
        let lifecycle = container.lifecycle.as_ref();
        match lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()) {
            Some(_) => Self::Pending,
            None => Self::Done,
        }
    }
}

/// A container's end, step by step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// Why it is stopped.
    pub cause: StopCause,
    /// When the grace period began.
    pub since: Instant,
    /// Length of the grace period.
    pub grace_seconds: i64,
    /// The `preStop` hook.
    pub pre_stop: Hook,
    /// When the stop signal was sent.
    pub signalled_at: Option<Instant>,
    /// When it was killed, the last time.
    pub killed_at: Option<Instant>,
}

/// Why a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCause {
    /// The pod ends.
    PodEnds,
    /// The node shuts down; the pod will come back.
    NodeStops,
    /// The liveness probe failed.
    Liveness,
    /// The startup probe failed.
    Startup,
    /// The `postStart` hook failed.
    PostStart,
    /// The container's specification was changed.
    Changed,
    /// It has new resources, and takes them at its start.
    Resized,
    /// All containers of the pod start anew.
    AllRestart,
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// The runtime's id of the instance.
    pub id: String,
    /// Number of the sandbox it ran in.
    pub sandbox: u32,
    /// The image as the pod named it.
    pub image: String,
    /// The image's digest.
    pub image_id: String,
    /// The process's exit code, 128 + signal when it was killed.
    pub code: i32,
    /// The signal that ended it, if any.
    pub signal: Option<i32>,
    /// Status reason: `Completed`, `Error`, `OOMKilled`, `StartError`, …
    pub reason: String,
    /// Termination message.
    pub message: Option<String>,
    /// When it started.
    pub started_at: Option<jiff::Timestamp>,
    /// The time of its end.
    pub finished_at: Moment,
    /// Whether the node ended it on its own account, so that no delay applies to the restart.
    #[serde(default)]
    pub by_node: bool,
    /// What went wrong in its `postStart` hook, which ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_failure: Option<String>,
}

/// The image of a container's next instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Image {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// It is looked for, or pulled.
    Ensuring,
    /// The same, after it could not be had; the status goes on to say so.
    EnsuringAgain {
        /// Status reason, as of [`Missing`](Self::Missing).
        reason: String,
        /// Why.
        message: String,
    },
    /// It is here.
    Present,
    /// It is not here and cannot be had now.
    Missing {
        /// Status reason: `ErrImagePull`, `InvalidImageName`, `ErrImageNeverPull`.
        reason: String,
        /// Why.
        message: String,
        /// When.
        at: Instant,
        /// Whether the delay was announced by an event.
        announced: bool,
    },
}

impl Image {
    /// Begins to look for it.
    pub fn ensure(&mut self) {
        *self = match std::mem::take(self) {
            Self::Missing {
                reason, message, ..
            }
            | Self::EnsuringAgain { reason, message } => Self::EnsuringAgain { reason, message },
            Self::Unknown | Self::Ensuring | Self::Present => Self::Ensuring,
        };
    }

    /// Whether it is looked for, or pulled.
    pub fn is_ensuring(&self) -> bool {
        matches!(self, Self::Ensuring | Self::EnsuringAgain { .. })
    }
}

impl ContainerRecord {
    /// The number of the next instance.
    pub fn next_restart_count(&self) -> u32 {
        self.restart_count + u32::from(self.ended().is_some())
    }

    /// How the last instance ended, if the container does not run now.
    pub fn ended(&self) -> Option<&Exit> {
        match &self.instance {
            Instance::Exited(exit) => Some(exit),
            Instance::Refused(refusal) => refusal.previous.as_ref(),
            Instance::Starting { previous } => previous.as_ref(),
            Instance::Absent | Instance::Running(_) => None,
        }
    }

    /// A new instance is about to be created.
    pub fn starting(&mut self, now: Instant) {
        if let Instance::Exited(exit) = &self.instance
            && !exit.by_node
        {
            self.backoff.advance(exit.finished_at.instant, now);
        }
        self.instance = Instance::Starting {
            previous: self.ended().cloned(),
        };
    }

    /// The new instance could not be created.
    pub fn refused(&mut self, reason: &str, message: String, now: Instant) {
        self.instance = Instance::Refused(Refusal {
            reason: reason.to_owned(),
            message,
            at: now,
            failures: self.refusals,
            previous: self.ended().cloned(),
        });
        self.image = Image::Unknown;
    }

    /// A new instance runs.
    pub fn started(&mut self, running: Running) {
        self.restart_count = self.next_restart_count();
        if let Some(exit) = self.ended().cloned() {
            self.last_exit = Some(exit);
        }
        self.instance = Instance::Running(running);
        self.anew = false;
        self.backoff_announced = false;
    }

    /// The instance ended.
    pub fn exited(&mut self, exit: Exit) {
        self.instance = Instance::Exited(exit);
        self.image = Image::Unknown;
        self.backoff_announced = false;
    }

    /// An instance was created but its process could not be started: it counts as one that ran.
    pub fn start_failed(&mut self, exit: Exit) {
        self.restart_count = self.next_restart_count();
        if let Some(previous) = self.ended().cloned() {
            self.last_exit = Some(previous);
        }
        self.anew = false;
        self.exited(exit);
    }

    /// Whatever was being started is not there: the container is as it was before.
    pub(super) fn abandon_start(&mut self) {
        if let Instance::Starting { previous } = &mut self.instance {
            self.instance = match previous.take() {
                Some(exit) => Instance::Exited(exit),
                None => Instance::Absent,
            };
        }
    }

    pub(super) fn forget_work_in_flight(&mut self) {
        if self.image.is_ensuring() {
            self.image = Image::Unknown;
        }
        self.abandon_start();
        if let Instance::Running(running) = &mut self.instance {
            for probe in [
                &mut running.startup,
                &mut running.liveness,
                &mut running.readiness,
            ] {
                probe.in_flight = false;
            }
            if running.post_start == Hook::Running {
                running.post_start = Hook::Pending;
            }
            running.update = ResourceUpdate::None;
            // The end begins anew, with the hook and the whole grace period, as after a restart of
            // kubelet.
            let cut_off = |stop: &mut Stop| matches!(stop.pre_stop, Hook::Running | Hook::Pending);
            let waits = |stop: &mut Stop| stop.signalled_at.is_none() && cut_off(stop);
            running.stop.take_if(waits);
        }
    }
}

impl Running {
    /// The instance vanished with nobody to tell how.
    pub fn lost(&self, now: Moment) -> Exit {
        Exit {
            id: self.id.clone(),
            sandbox: self.sandbox,
            image: self.image.clone(),
            image_id: self.image_id.clone(),
            code: 255,
            signal: None,
            reason: "Unknown".to_owned(),
            message: None,
            started_at: Some(self.started_at.wall),
            finished_at: now,
            by_node: true,
            hook_failure: match &self.post_start {
                Hook::Failed(message) => Some(message.clone()),
                _ => None,
            },
        }
    }
}
