//! How a pod does.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

/// Where in its life a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not all containers have started.
    Pending,
    /// Nobody can tell.
    Unknown,
    /// At least one container runs.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
}

/// A pod and how it does.
#[derive(Clone, Debug)]
pub struct PodState<'a> {
    /// The pod.
    pub pod: &'a Arc<Pod>,
    /// Its phase.
    pub phase: Phase,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it has a node.
    pub assigned: bool,
    /// Since when it is Ready.
    pub ready_since: Option<Timestamp>,
    /// Whether it has been Ready for long enough.
    pub available: bool,
    /// When it will be available, if nothing happens.
    pub available_at: Option<Timestamp>,
}

impl PodState<'_> {
    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it counts: it has neither ended nor is it being deleted.
    pub fn active(&self) -> bool {
        !self.ended() && !self.terminating
    }

    /// Whether it takes requests.
    pub fn ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// The value of one of its labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = self.pod.metadata.labels.as_ref()?;
        labels.get(key).map(String::as_str)
    }

    /// When it was made.
    pub fn created(&self) -> Option<Timestamp> {
        let time = self.pod.metadata.creation_timestamp.as_ref();
        time.map(|time| time.0)
    }

    /// The name of its node, empty if it has none.
    pub fn node(&self) -> &str {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.node_name.as_deref())
            .unwrap_or_default()
    }

    /// How often its containers were started again.
    pub fn restarts(&self) -> i32 {
        let status = self.pod.status.as_ref();
        let containers = status
            .into_iter()
            .flat_map(|s| s.container_statuses.iter().flatten());
        containers.map(|container| container.restart_count).sum()
    }
}

/// How a pod does at a moment, if it has to be Ready for `min_ready` to be available.
pub fn state<'a>(pod: &'a Arc<Pod>, min_ready: SignedDuration, now: Timestamp) -> PodState<'a> {
    let status = pod.status.as_ref();
    let phase = match status.and_then(|status| status.phase.as_deref()) {
        None | Some("" | "Pending") => Phase::Pending,
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some(_) => Phase::Unknown,
    };
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let ready = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True");
    // Without a time it has been Ready for ever, as far as anyone can tell.
    let ready_since = ready.map(|condition| {
        let time = condition.last_transition_time.as_ref();
        time.map_or(Timestamp::MIN, |time| time.0)
    });
    let at = ready_since.map(|since| since.checked_add(min_ready).unwrap_or(Timestamp::MAX));
    // Without a minimum a clock that runs ahead elsewhere does not matter.
    let available = at.is_some_and(|at| min_ready <= SignedDuration::ZERO || at <= now);
    let spec = pod.spec.as_ref();
    PodState {
        pod,
        phase,
        terminating: pod.metadata.deletion_timestamp.is_some(),
        assigned: spec
            .and_then(|spec| spec.node_name.as_deref())
            .is_some_and(|node| !node.is_empty()),
        ready_since,
        available,
        available_at: at.filter(|_| !available),
    }
}
