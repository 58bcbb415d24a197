//! The phase of a pod, from the states of its containers.
//!
//! As kubelet's `getPhase`: init containers keep a pod Pending; a pod whose main containers have all ended
//! without a restart is Succeeded or Failed; a pod whose containers will be restarted is Running.

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, PodSpec};

use crate::record::{Exit, Instance, PodRecord};
use crate::restart_policy;
use crate::spec::{Kind, containers, init_containers, init_kind};

/// Whether a pod's status is final, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinalStatus {
    /// The status is not final.
    No,
    /// The pod was deleted, and all containers have exited.
    Deleted,
    /// The node has stopped the pod, and all containers have exited.
    FailedByNode,
}

/// Whether the pod is complete: an init container failed without a restart, or all main containers have
/// exited and no container is restarted.
pub(crate) fn is_complete(spec: &PodSpec, record: &PodRecord) -> bool {
    let over = |kind: Kind, container: &Container| match record.containers.get(&container.name) {
        Some(record) => match &record.instance {
            Instance::Exited(exit) => {
                !record.anew && !restart_policy::wants_restart(spec, kind, container, exit)
            }
            _ => false,
        },
        None => false,
    };
    let failed = |container: &Container| match record.containers.get(&container.name) {
        Some(record) => matches!(&record.instance, Instance::Exited(exit) if exit.code != 0),
        None => false,
    };
    if record.restart_all.is_some() || restart_policy::asks_for_restart_all(spec, record).is_some()
    {
        return false;
    }
    let init_failed = containers(spec)
        .any(|(kind, container)| kind == Kind::Init && failed(container) && over(kind, container));
    let mains_over = spec
        .containers
        .iter()
        .all(|container| over(Kind::Main, container));
    init_failed || (mains_over && !spec.containers.is_empty())
}

/// Whether any main container has started in the current sandbox.
pub(crate) fn main_begun(spec: &PodSpec, record: &PodRecord) -> bool {
    let begun = |container: &Container| match record.containers.get(&container.name) {
        Some(container_record) => match &container_record.instance {
            Instance::Running(running) => running.sandbox == record.sandboxes_made,
            Instance::Exited(exit) => {
                exit.sandbox == record.sandboxes_made && !container_record.anew
            }
            Instance::Starting { .. } => true,
            Instance::Refused(_) | Instance::Absent => false,
        },
        None => false,
    };
    spec.containers.iter().any(begun)
}

#[derive(Default)]
struct Count {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    for_good: usize,
    unknown: usize,
}

/// The container statuses and the specification that the phase is computed from.
pub(crate) struct PhaseInput<'a> {
    pub spec: &'a PodSpec,
    pub init: &'a [ContainerStatus],
    pub main: &'a [ContainerStatus],
    /// Whether no container will be restarted, independent of the policy.
    pub terminal: bool,
    /// Whether a main container has started.
    pub initialized: bool,
    pub record: &'a PodRecord,
}

impl PhaseInput<'_> {
    /// Whether the container is restarted, independent of its exit.
    fn starts_anew(&self, container: &Container) -> bool {
        let container_record = self.record.containers.get(&container.name);
        !self.terminal && container_record.is_some_and(|container_record| container_record.anew)
    }

    /// Whether all containers are being restarted.
    fn restarts(&self) -> bool {
        !self.terminal && self.record.restart_all.is_some()
    }
}

pub(crate) fn phase(facts: &PhaseInput<'_>) -> &'static str {
    let mut init_pending = false;
    let mut sidecar_pending = false;
    let mut count = Count::default();
    for container in init_containers(facts.spec) {
        let state = state_of(facts.init, &container.name);
        match init_kind(container) {
            Kind::Sidecar => match state {
                Some((state, last, started)) => {
                    let (pending, waits) = sidecar_pends(state, last, started);
                    sidecar_pending |= pending;
                    count.running += usize::from(state.running.is_some());
                    count.waiting += usize::from(waits);
                }
                None => count.unknown += 1,
            },
            _ if facts.starts_anew(container) => init_pending = true,
            kind => match init_progress(facts.spec, kind, container, state) {
                InitProgress::Failed => return "Failed",
                InitProgress::Pending => init_pending = true,
                InitProgress::Done => {}
            },
        }
    }
    for container in &facts.spec.containers {
        match state_of(facts.main, &container.name) {
            Some((state, last, _)) => count.add(facts, container, state, last),
            None => count.unknown += 1,
        }
    }
    if facts.restarts()
        || init_pending
        || (sidecar_pending && !facts.initialized)
        || count.waiting > 0
    {
        return "Pending";
    }
    count.phase(facts.terminal)
}

type ObservedState<'a> = (&'a ContainerState, Option<&'a ContainerState>, bool);

fn state_of<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<ObservedState<'a>> {
    let status = statuses.iter().find(|status| status.name == name)?;
    let started = status.started == Some(true);
    status
        .state
        .as_ref()
        .map(|state| (state, status.last_state.as_ref(), started))
}

fn sidecar_pends(
    state: &ContainerState,
    last: Option<&ContainerState>,
    started: bool,
) -> (bool, bool) {
    if state.running.is_some() {
        return (!started, false);
    }
    let waits = state.waiting.is_some() && last.is_none_or(|l| l.terminated.is_none());
    (waits, waits)
}

enum InitProgress {
    Pending,
    Failed,
    Done,
}

fn init_progress(
    spec: &PodSpec,
    kind: Kind,
    container: &Container,
    state: Option<ObservedState<'_>>,
) -> InitProgress {
    let Some((state, last, _)) = state else {
        return InitProgress::Pending;
    };
    let ended = state.terminated.as_ref().or_else(|| {
        let last = last.and_then(|last| last.terminated.as_ref());
        state.waiting.as_ref().and(last)
    });
    let Some(ended) = ended else {
        return InitProgress::Pending;
    };
    let again = restart_policy::wants_restart(spec, kind, container, &exit_of(ended.exit_code));
    match (ended.exit_code, again) {
        (0, _) => InitProgress::Done,
        (_, false) => InitProgress::Failed,
        (_, true) => InitProgress::Pending,
    }
}

/// An exit with the fields that policies depend on.
fn exit_of(code: i32) -> Exit {
    Exit {
        id: String::new(),
        sandbox: 0,
        image: String::new(),
        image_id: String::new(),
        code,
        signal: None,
        reason: String::new(),
        message: None,
        started_at: None,
        finished_at: crate::monotonic::Moment::aligned(jiff::Timestamp::UNIX_EPOCH),
        by_node: false,
        hook_failure: None,
    }
}

impl Count {
    fn add(
        &mut self,
        facts: &PhaseInput<'_>,
        container: &Container,
        state: &ContainerState,
        last: Option<&ContainerState>,
    ) {
        if state.running.is_some() {
            self.running += 1;
            return;
        }
        let last = last.and_then(|last| last.terminated.as_ref());
        let ended = state.terminated.as_ref().or(last);
        let Some(ended) = ended else {
            self.waiting += 1;
            return;
        };
        self.stopped += 1;
        let again = facts.starts_anew(container)
            || restart_policy::wants_restart(
                facts.spec,
                Kind::Main,
                container,
                &exit_of(ended.exit_code),
            );
        self.for_good += usize::from(!again);
        self.succeeded += usize::from(ended.exit_code == 0 && state.terminated.is_some());
    }

    fn phase(&self, terminal: bool) -> &'static str {
        if self.unknown > 0 {
            return "Pending";
        }
        if self.running > 0 {
            return "Running";
        }
        if self.stopped == 0 {
            return "Pending";
        }
        if !terminal && self.for_good != self.stopped {
            return "Running";
        }
        if self.stopped == self.succeeded {
            "Succeeded"
        } else {
            "Failed"
        }
    }
}
