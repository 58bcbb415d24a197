//! `plan_pod`: from what a pod should be and what it is, to what to do next.
//!
//! **Goal.** Containers run in the order and under the policies that the pod asks for; its status
//! says what is; a pod that ends leaves nothing behind before its object goes.
//! **Rely.** The agent performs each action once, notes in the [`PodRecord`] that it has begun and
//! how it ended, and plans anew after each change and at `next_at`.
//! **Guarantee.** Total and deterministic; no container of a pod starts while a predecessor of the
//! same name is still here; nothing starts in a pod that is ending; the object is removed only
//! when containers, sandbox and volumes are gone. If there is no action, `waiting` says why.

pub mod restart_all;
mod starting;
mod stopping;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use serde::{Deserialize, Serialize};

use crate::limits::STOP_FAILURES_MAX;
use crate::messages;
use crate::monotonic::{Instant, Moment};
use crate::node::shutdown::NodeStop;
use crate::record::backoff;
use crate::record::{Dismissal, PodRecord, Removal, Sandbox, Volumes};
use crate::resources::resize::{Allocation, Pending, Room};
use crate::spec::{self, ProbeKind};
use crate::status::{self, phase};
use restart_all::RestartAll;

/// What the planner looks at.
#[derive(Clone, Copy, Debug)]
pub struct PodInput<'a> {
    /// The pod as the API has it, or last had it.
    pub pod: &'a Pod,
    /// What the node knows of it.
    pub record: &'a PodRecord,
    /// The status as last written, which keeps its transition times.
    pub previous: &'a PodStatus,
    /// Whether the object is gone from the API.
    pub removed: bool,
    /// Whether a pod of the same name, with another uid, is still here.
    pub predecessor: bool,
    /// That the node is shutting down, and all its pods with it.
    pub node_stops: Option<NodeStop>,
    /// The node's own addresses, the first the main one.
    pub host_ips: &'a [String],
    /// What the node can give; only looked at when the pod asks for new resources.
    pub room: Room,
}

/// What is to be done, said and waited for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodPlan {
    /// What to do now; independent of each other.
    pub actions: Vec<Action>,
    /// The pod's status.
    pub status: PodStatus,
    /// When to plan again if nothing happens before.
    pub next_at: Option<Instant>,
    /// What the pod waits for.
    pub waiting: Vec<Waiting>,
    /// Whether nothing of the pod is left and nothing remains to be done.
    pub finished: bool,
}

/// One thing that a pod waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The container, or empty for the pod as a whole.
    pub container: String,
    /// For what.
    pub reason: String,
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

/// One step for the executor.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Mount all volumes.
    PrepareVolumes,
    /// Unmount all volumes, and remove those that are the pod's own.
    ReleaseVolumes {
        /// Whether the pod will come back, and is to find what it left in its `emptyDir`s.
        comes_back: bool,
    },
    /// Make the sandbox and its network.
    CreateSandbox,
    /// Take the sandbox and its network down.
    DestroySandbox,
    /// Look for the container's image, pull it if its policy says so.
    EnsureImage {
        /// The container.
        container: String,
    },
    /// Create and start the container.
    StartContainer {
        /// The container.
        container: String,
        /// Number of the new instance.
        restart_count: u32,
    },
    /// Run the `postStart` hook.
    RunPostStart {
        /// The container.
        container: String,
    },
    /// Ask one of the container's probes.
    Probe {
        /// The container.
        container: String,
        /// Which probe.
        kind: ProbeKind,
    },
    /// Begin the container's end: note it, tell users, run the `preStop` hook if there is one.
    BeginStop {
        /// The container.
        container: String,
        /// Why.
        cause: StopCause,
        /// The grace period in seconds.
        grace_seconds: i64,
        /// Text of the `Killing` event.
        message: String,
        /// Whether there is a `preStop` hook.
        pre_stop: bool,
    },
    /// Send the stop signal.
    Terminate {
        /// The container.
        container: String,
    },
    /// Kill the container.
    Kill {
        /// The container.
        container: String,
    },
    /// Tell users that restarts of the container are delayed.
    AnnounceBackOff {
        /// The container.
        container: String,
    },
    /// Tell users that pulls of the container's image are delayed.
    AnnouncePullBackOff {
        /// The container.
        container: String,
    },
    /// Note, and tell users, that the node does not run the pod any longer.
    Dismiss(Dismissal),
    /// Note that all containers are to end, and to start anew.
    RestartAll(RestartAll),
    /// Note that these containers have ended, and begin as in a new pod.
    StartAnew {
        /// All but the ephemeral ones.
        containers: Vec<String>,
    },
    /// Note that the pod has these resources of the node, which it was taken with.
    Allocate {
        /// Resources by container.
        resources: Allocation,
    },
    /// Note, and tell users, that the pod has other resources of the node from now on.
    StartResize {
        /// Resources by container.
        resources: Allocation,
        /// The pod's generation that asks for them.
        generation: i64,
    },
    /// Note, and tell users, why the pod does not get what it asks for; `None` when it asks for
    /// nothing new any more.
    PostponeResize(Option<Pending>),
    /// Change the limits of the running container to what is allocated.
    UpdateResources {
        /// The container.
        container: String,
    },
    /// Change the limits of the pod as a whole to what is allocated.
    UpdatePodResources,
    /// Note, and tell users, that the pod and all containers have what is allocated.
    CompleteResize,
    /// Write the final status, then delete the object with grace 0 and its uid.
    RemoveObject,
}

/// Why a pod ends, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its object is being deleted, or is gone.
    Deleted,
    /// The node does not run it, or not any longer.
    Dismissed,
    /// Its containers have done what they were to do, or have failed for good.
    Complete,
    /// The node stops; the pod stays.
    NodeStops,
}

/// A plan in the making.
pub(crate) struct Planner<'a> {
    pub input: PodInput<'a>,
    pub spec: &'a PodSpec,
    pub ephemeral: &'a [Container],
    pub now: Moment,
    pub plan: PodPlan,
}

impl Planner<'_> {
    pub fn act(&mut self, action: Action) {
        self.plan.actions.push(action);
    }

    /// Asks to be called again at `at`.
    pub fn wake(&mut self, at: Instant) {
        self.plan.next_at = Some(self.plan.next_at.map_or(at, |known| known.min(at)));
    }

    pub fn wait(&mut self, container: &str, reason: impl Into<String>) {
        let waiting = Waiting {
            container: container.to_owned(),
            reason: reason.into(),
        };
        self.plan.waiting.push(waiting);
    }
}

/// Decides what to do with a pod.
pub fn plan_pod(input: &PodInput<'_>, now: Moment) -> PodPlan {
    let empty = PodSpec::default();
    let spec = input.pod.spec.as_ref().unwrap_or(&empty);
    let ephemeral = spec::ephemeral_containers(spec);
    let mut planner = Planner {
        input: *input,
        spec,
        ephemeral: &ephemeral,
        now,
        plan: PodPlan::default(),
    };
    let ending = ending(input, spec);
    match ending {
        Some(ending) => stopping::end_pod(&mut planner, ending),
        // What follows is decided with the dismissal in the record.
        None if deadline(input, spec).is_some_and(|at| at <= now.instant) => {
            planner.act(Action::Dismiss(messages::deadline_exceeded()));
        }
        None => starting::run_pod(&mut planner),
    }
    let gone = match ending {
        Some(Ending::Deleted) if !planner.input.record.anything_runs() => phase::Final::Deleted,
        Some(Ending::Dismissed) if !planner.input.record.anything_runs() => phase::Final::Dismissed,
        _ => phase::Final::No,
    };
    planner.plan.status = status::pod_status(input, spec, gone, now);
    planner.plan
}

/// Whether, and why, the pod ends.
fn ending(input: &PodInput<'_>, spec: &PodSpec) -> Option<Ending> {
    if input.removed || input.pod.metadata.deletion_timestamp.is_some() {
        return Some(Ending::Deleted);
    }
    let told = |status: &PodStatus| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if told(input.previous) || input.pod.status.as_ref().is_some_and(told) {
        return Some(Ending::Complete);
    }
    if input.record.dismissal.is_some() {
        return Some(Ending::Dismissed);
    }
    if input.node_stops.is_some() {
        return Some(Ending::NodeStops);
    }
    phase::is_complete(spec, input.record).then_some(Ending::Complete)
}

/// When the pod's time is up.
pub(crate) fn deadline(input: &PodInput<'_>, spec: &PodSpec) -> Option<Instant> {
    let seconds = spec.active_deadline_seconds?;
    let started = input.record.started_at?;
    Some(started.instant + jiff::SignedDuration::from_secs(seconds))
}

/// Clears away what is left of a pod whose containers have all ended.
pub(crate) fn clear_away(planner: &mut Planner<'_>, ending: Ending) {
    let record = planner.input.record;
    let node_stops = planner.input.node_stops.is_some();
    let gives_up = |failures: u32| node_stops && failures >= STOP_FAILURES_MAX;
    match &record.sandbox {
        Sandbox::Ready | Sandbox::Gone => return planner.act(Action::DestroySandbox),
        Sandbox::Failed { .. } if gives_up(record.sandbox_failures) => {}
        Sandbox::Failed { at, .. } => {
            let due = backoff::retry_at(*at, record.sandbox_failures);
            if due <= planner.now.instant {
                return planner.act(Action::DestroySandbox);
            }
            planner.wake(due);
            return planner.wait("", "sandbox");
        }
        Sandbox::Creating | Sandbox::Destroying => return planner.wait("", "sandbox"),
        Sandbox::None => {}
    }
    let release = Action::ReleaseVolumes {
        comes_back: ending == Ending::NodeStops,
    };
    match &record.volumes {
        Volumes::Ready | Volumes::Unknown => planner.act(release),
        Volumes::Failed { .. } if gives_up(record.volume_failures) => planner.plan.finished = true,
        Volumes::Failed { at, .. } => {
            let due = backoff::retry_at(*at, record.volume_failures);
            if due <= planner.now.instant {
                planner.act(release);
            } else {
                planner.wake(due);
                planner.wait("", "volumes");
            }
        }
        Volumes::Preparing | Volumes::Releasing => planner.wait("", "volumes"),
        Volumes::None if ending == Ending::Deleted => remove_object(planner),
        Volumes::None => planner.plan.finished = node_stops,
    }
}

fn remove_object(planner: &mut Planner<'_>) {
    if planner.input.removed {
        planner.plan.finished = true;
        return;
    }
    match &planner.input.record.removal {
        Removal::None => planner.act(Action::RemoveObject),
        Removal::Asked => planner.wait("", "removal of the object"),
        // The object stays; the next agent finds it and removes it.
        Removal::Failed { .. } if planner.input.node_stops.is_some() => {
            planner.plan.finished = true
        }
        Removal::Failed { at, failures } => {
            let due = backoff::retry_at(*at, *failures);
            if due <= planner.now.instant {
                planner.act(Action::RemoveObject);
            } else {
                planner.wake(due);
                planner.wait("", "removal of the object");
            }
        }
        Removal::Done => planner.plan.finished = true,
    }
}
