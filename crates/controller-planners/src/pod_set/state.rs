//! The state of a pod.

use jiff::{SignedDuration, Timestamp};
use object_model::Uid;
use resource_kinds::pod_view::{self, PodView};

/// The phase of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not all containers have started.
    Pending,
    /// The state is unknown, because the node is unreachable.
    Unknown,
    /// At least one container runs.
    Running,
    /// All containers have ended with success.
    Succeeded,
    /// All containers have ended, at least one with a failure.
    Failed,
}

/// A pod with the state that controllers count.
#[derive(Clone, Debug)]
pub struct PodState<'a> {
    /// The pod as the cache has it.
    pub pod: &'a PodView,
    pub uid: Uid,
    /// `status.phase`.
    pub phase: Phase,
    /// Whether the pod is being deleted.
    pub terminating: bool,
    /// Whether the pod has a node.
    pub assigned: bool,
    /// The last transition of the condition `Ready`, if it is true.
    pub ready_since: Option<Timestamp>,
    /// Whether the pod has been Ready for `minReadySeconds`.
    pub available: bool,
    /// The time at which the pod becomes available, if it stays Ready.
    pub available_at: Option<Timestamp>,
}

impl PodState<'_> {
    /// Whether the pod's phase is `Succeeded` or `Failed`.
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether the pod is active: neither ended nor being deleted.
    pub fn active(&self) -> bool {
        !self.ended() && !self.terminating
    }

    /// Whether the pod's condition `Ready` is true.
    pub fn ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.pod.name
    }

    /// The value of the pod's label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.pod.label(key)
    }

    /// `metadata.creationTimestamp`.
    pub fn created(&self) -> Option<Timestamp> {
        self.pod.created
    }

    /// The name of the pod's node; empty if the pod has no node.
    pub fn node(&self) -> &str {
        self.pod.node.as_deref().unwrap_or_default()
    }

    /// The restart count of its containers.
    pub fn restarts(&self) -> i32 {
        let containers = self.pod.containers.iter();
        containers.map(|container| container.restarts).sum()
    }
}

/// The state of a pod that becomes available after being Ready for `min_ready`.
pub fn state(pod: &PodView, min_ready: SignedDuration, now: Timestamp) -> PodState<'_> {
    let phase = match pod.phase {
        pod_view::Phase::Unset | pod_view::Phase::Pending => Phase::Pending,
        pod_view::Phase::Running => Phase::Running,
        pod_view::Phase::Succeeded => Phase::Succeeded,
        pod_view::Phase::Failed => Phase::Failed,
        pod_view::Phase::Unknown => Phase::Unknown,
    };
    // A Ready condition without a transition time counts as old.
    let ready_since = pod
        .ready()
        .map(|ready| ready.since.unwrap_or(Timestamp::MIN));
    let at = ready_since.map(|since| since.checked_add(min_ready).unwrap_or(Timestamp::MAX));
    // Without `minReadySeconds` a difference between clocks has no effect.
    let available = at.is_some_and(|at| min_ready <= SignedDuration::ZERO || at <= now);
    PodState {
        pod,
        uid: pod.uid.clone(),
        phase,
        terminating: pod.is_deleting(),
        assigned: pod.node.is_some(),
        ready_since,
        available,
        available_at: at.filter(|_| !available),
    }
}
