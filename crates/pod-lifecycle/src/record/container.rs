//! The record of one container: its present or last instance, its delays and its image.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use resource_kinds::stateful_set_policy::CheckKind;
use serde::{Deserialize, Serialize};

use super::backoff::Backoff;
use super::probes::{ProbeRecord, ProbeVerdict};
use super::resize::ResourceUpdate;
use crate::monotonic::{Instant, Moment};
use crate::spec::{ProbeKind, check_run};

/// The record of one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub instance: Instance,
    /// The number of restarts, which is also the number of the present instance.
    pub restart_count: u32,
    /// The exit of the previous instance.
    pub last_exit: Option<Exit>,
    /// Whether the last exit is ignored, because all containers of the pod start again.
    #[serde(default)]
    pub anew: bool,
    /// Delay before the next start.
    #[serde(default)]
    pub backoff: Backoff,
    /// The number of consecutive failed creations.
    #[serde(default)]
    pub refusals: u32,
    /// Whether an event about the present delay was sent.
    #[serde(default)]
    pub backoff_announced: bool,
    /// The image of the next instance.
    #[serde(default)]
    pub image: Image,
    /// Delay before the next attempt to pull the image.
    #[serde(default)]
    pub pull_backoff: Backoff,
}

/// One run of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Instance {
    /// No instance was created yet.
    #[default]
    Absent,
    /// The instance is being created and started.
    Starting { previous: Option<Exit> },
    /// The instance could not be created, which does not count as a restart.
    Refused(CreateError),
    /// The instance runs.
    Running(Running),
    /// The instance has ended.
    Exited(Exit),
}

/// The error of a failed creation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateError {
    /// The reason in the container's status, for instance `CreateContainerConfigError`.
    pub reason: String,
    /// The error as a message for users.
    pub message: String,
    /// The time of the failure.
    pub at: Instant,
    pub failures: u32,
    pub previous: Option<Exit>,
}

/// The record of a container's running instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// The runtime's id of the instance.
    pub id: String,
    /// Number of the sandbox in which the instance runs.
    pub sandbox: u32,
    /// The name of the image in the pod's specification when the instance was created.
    pub image: String,
    /// The digest of the image.
    pub image_id: String,
    /// The stop signal of the image; `None` if unknown. It is stored, because the name may refer to another
    /// image when the container stops.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// The user of the first process; `None` if unknown.
    #[serde(default)]
    pub user: Option<User>,
    pub started_at: Moment,
    /// The progress of the `postStart` hook.
    pub post_start: Hook,
    #[serde(default)]
    pub startup: ProbeRecord,
    #[serde(default)]
    pub liveness: ProbeRecord,
    #[serde(default)]
    pub readiness: ProbeRecord,
    /// The checks of a guard, which few pods have.
    #[serde(default)]
    pub checks: Box<GuardChecks>,
    /// The progress of the termination; `None` before it starts.
    pub stop: Option<Stop>,
    /// The applied resources; `None` if unknown.
    #[serde(default)]
    pub resources: Option<Box<ResourceRequirements>>,
    /// The progress of a change of the resources.
    #[serde(default)]
    pub update: ResourceUpdate,
    /// The pod-level resources at the start of the instance; `None` if unknown.
    #[serde(default)]
    pub of_pod: Option<Box<ResourceRequirements>>,
}

/// The states of the actions of a policy in one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardChecks {
    pub health: ProbeRecord,
    pub recovery: ProbeRecord,
    #[serde(default)]
    pub hook: ProbeRecord,
    /// The run of the hook to which its state belongs.
    #[serde(default)]
    pub hook_run: String,
}

impl Running {
    /// The state of a probe.
    pub fn probe(&self, kind: ProbeKind) -> &ProbeRecord {
        match kind {
            ProbeKind::Startup => &self.startup,
            ProbeKind::Liveness => &self.liveness,
            ProbeKind::Readiness => &self.readiness,
            ProbeKind::Guard(CheckKind::Health) => &self.checks.health,
            ProbeKind::Guard(CheckKind::Recovery) => &self.checks.recovery,
            ProbeKind::Guard(CheckKind::Hook) => &self.checks.hook,
        }
    }

    /// The state of a probe, for a change.
    pub fn probe_mut(&mut self, kind: ProbeKind) -> &mut ProbeRecord {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Liveness => &mut self.liveness,
            ProbeKind::Readiness => &mut self.readiness,
            ProbeKind::Guard(CheckKind::Health) => &mut self.checks.health,
            ProbeKind::Guard(CheckKind::Recovery) => &mut self.checks.recovery,
            ProbeKind::Guard(CheckKind::Hook) => &mut self.checks.hook,
        }
    }

    /// Records the start of a probe in the pod. A new run of a hook begins without results.
    pub fn begin_probe(&mut self, pod: &Pod, kind: ProbeKind, now: Instant) {
        if let ProbeKind::Guard(check) = kind
            && !self.is_of_run(pod, check)
        {
            self.checks.hook = ProbeRecord::default();
            self.checks.hook_run = check_run(pod, check);
        }
        self.probe_mut(kind).begin(now);
    }

    /// Whether the state of a check belongs to the run that the pod's annotation has.
    pub fn is_of_run(&self, pod: &Pod, check: CheckKind) -> bool {
        check != CheckKind::Hook || self.checks.hook_run == check_run(pod, check)
    }

    /// The verdict of a check, in the run that the pod's annotation has.
    pub fn check_verdict(&self, pod: &Pod, check: CheckKind) -> ProbeVerdict {
        match self.is_of_run(pod, check) {
            true => self.probe(ProbeKind::Guard(check)).verdict,
            false => ProbeVerdict::Unknown,
        }
    }

    /// The states of all probes.
    pub(super) fn probes(&mut self) -> [&mut ProbeRecord; 6] {
        [
            &mut self.startup,
            &mut self.liveness,
            &mut self.readiness,
            &mut self.checks.health,
            &mut self.checks.recovery,
            &mut self.checks.hook,
        ]
    }
}

/// The user and groups of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// The progress of a lifecycle hook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Hook {
    /// There is no hook, or the hook has succeeded.
    #[default]
    Done,
    Pending,
    Running,
    /// The hook failed, with this message.
    Failed(String),
}

impl Hook {
    /// The initial progress of the `postStart` hook of a new instance.
    pub fn post_start(container: &Container) -> Self {
        let lifecycle = container.lifecycle.as_ref();
        match lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()) {
            Some(_) => Self::Pending,
            None => Self::Done,
        }
    }
}

/// The progress of a container's termination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    pub cause: StopCause,
    /// The start of the grace period.
    pub since: Instant,
    pub grace_seconds: i64,
    /// The progress of the `preStop` hook.
    pub pre_stop: Hook,
    /// The time of the stop signal.
    pub signalled_at: Option<Instant>,
    /// The time of the last kill.
    pub killed_at: Option<Instant>,
}

/// The cause of a termination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCause {
    PodEnds,
    /// The node shuts down; the pod returns afterwards.
    NodeStops,
    /// The liveness probe failed.
    Liveness,
    /// The startup probe failed.
    Startup,
    /// The `postStart` hook failed.
    PostStart,
    /// The specification of the container has changed.
    Changed,
    /// The container has new resources that it can apply only at its start.
    Resized,
    /// All containers of the pod are restarted.
    AllRestart,
}

/// The exit of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// The runtime's id of the instance.
    pub id: String,
    /// Number of the sandbox in which the instance ran.
    pub sandbox: u32,
    /// The name of the image in the pod's specification.
    pub image: String,
    /// The digest of the image.
    pub image_id: String,
    /// The exit code of the process; 128 + signal if a signal killed it.
    pub code: i32,
    /// The signal that killed the process; `None` if no signal did.
    pub signal: Option<i32>,
    /// The reason in the container's status: `Completed`, `Error`, `OOMKilled`, `StartError`, …
    pub reason: String,
    /// The termination message: the content of `terminationMessagePath`, or the end of the log.
    pub message: Option<String>,
    /// The start time; `None` if the instance never ran.
    pub started_at: Option<jiff::Timestamp>,
    /// The exit time.
    pub finished_at: Moment,
    /// Whether the node stopped the instance for a reason of the node, so that the restart is not delayed.
    #[serde(default)]
    pub by_node: bool,
    /// The error of the `postStart` hook, because of which the instance was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_failure: Option<String>,
}

/// The image of a container's next instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Image {
    /// The image was not looked up yet.
    #[default]
    Unknown,
    /// The image is being looked up or pulled.
    Ensuring,
    /// The image is being looked up or pulled again after a failure; the status still reports the failure.
    EnsuringAgain {
        /// The reason in the status, as in [`Missing`](Self::Missing).
        reason: String,
        message: String,
    },
    /// The image is present.
    Present,
    /// The image is absent and cannot be pulled now.
    Missing {
        /// The reason in the status: `ErrImagePull`, `InvalidImageName`, `ErrImageNeverPull`.
        reason: String,
        message: String,
        at: Instant,
        /// Whether an event about the delay was sent.
        announced: bool,
    },
}

impl Image {
    /// Marks the image as being looked up or pulled.
    pub fn ensure(&mut self) {
        *self = match std::mem::take(self) {
            Self::Missing {
                reason, message, ..
            }
            | Self::EnsuringAgain { reason, message } => Self::EnsuringAgain { reason, message },
            Self::Unknown | Self::Ensuring | Self::Present => Self::Ensuring,
        };
    }

    pub fn is_ensuring(&self) -> bool {
        matches!(self, Self::Ensuring | Self::EnsuringAgain { .. })
    }
}

impl ContainerRecord {
    /// The number of the next instance.
    pub fn next_restart_count(&self) -> u32 {
        self.restart_count + u32::from(self.ended().is_some())
    }

    /// The exit of the last instance; `None` if the container runs.
    pub fn ended(&self) -> Option<&Exit> {
        match &self.instance {
            Instance::Exited(exit) => Some(exit),
            Instance::Refused(refusal) => refusal.previous.as_ref(),
            Instance::Starting { previous } => previous.as_ref(),
            Instance::Absent | Instance::Running(_) => None,
        }
    }

    /// Records that a new instance is being created.
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

    /// Records that the new instance could not be created.
    pub fn refused(&mut self, reason: &str, message: String, now: Instant) {
        self.instance = Instance::Refused(CreateError {
            reason: reason.to_owned(),
            message,
            at: now,
            failures: self.refusals,
            previous: self.ended().cloned(),
        });
        self.image = Image::Unknown;
    }

    /// Records that a new instance runs.
    pub fn started(&mut self, running: Running) {
        self.restart_count = self.next_restart_count();
        if let Some(exit) = self.ended().cloned() {
            self.last_exit = Some(exit);
        }
        self.instance = Instance::Running(running);
        self.anew = false;
        self.backoff_announced = false;
    }

    /// Records the exit of the instance.
    pub fn exited(&mut self, exit: Exit) {
        self.instance = Instance::Exited(exit);
        self.image = Image::Unknown;
        self.backoff_announced = false;
    }

    /// Records an instance that was created but whose process could not be started. The instance counts as
    /// a run.
    pub fn start_failed(&mut self, exit: Exit) {
        self.restart_count = self.next_restart_count();
        if let Some(previous) = self.ended().cloned() {
            self.last_exit = Some(previous);
        }
        self.anew = false;
        self.exited(exit);
    }

    /// Cancels a start: the container returns to its previous state.
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
            for probe in running.probes() {
                probe.in_flight = false;
            }
            if running.post_start == Hook::Running {
                running.post_start = Hook::Pending;
            }
            running.update = ResourceUpdate::None;
            // The termination starts again with the hook and the complete grace period, as after a restart
            // of kubelet.
            let cut_off = |stop: &mut Stop| matches!(stop.pre_stop, Hook::Running | Hook::Pending);
            let waits = |stop: &mut Stop| stop.signalled_at.is_none() && cut_off(stop);
            running.stop.take_if(waits);
        }
    }
}

impl Running {
    /// The exit of an instance that disappeared without an exit code.
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
