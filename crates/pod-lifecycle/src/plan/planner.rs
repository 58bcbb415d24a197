//! The planner's state: the actions so far, the time of the next plan, and the reasons for waiting.

use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};

use super::action::LifecycleAction;
use crate::input::PodInput;
use crate::monotonic::{Instant, Moment};

/// The planned actions, the status and the reasons for waiting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodPlan {
    /// Actions to perform now, in any order.
    pub actions: Vec<LifecycleAction>,
    /// The pod's status, computed from its record.
    pub status: PodStatus,
    /// The time of the next plan, if nothing changes before.
    pub next_at: Option<Instant>,
    /// The reasons why containers do not start or end yet.
    pub waiting: Vec<Waiting>,
    /// Whether the pod has been cleaned up completely.
    pub finished: bool,
}

/// The reason why a container, or the pod, waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The container; empty for the pod as a whole.
    pub container: String,
    /// A readable reason, for logs and tests.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodEndReason {
    /// The pod's object is being deleted, or is deleted.
    Deleted,
    /// The node rejects the pod, or stops it.
    FailedByNode,
    /// The pod's containers have completed, or have failed and are not restarted.
    Complete,
    /// The node shuts down; the pod returns afterwards.
    NodeStops,
}

/// The state of the planner.
pub(crate) struct Planner<'a> {
    pub input: PodInput<'a>,
    pub spec: &'a PodSpec,
    pub ephemeral: &'a [Container],
    pub now: Moment,
    pub plan: PodPlan,
}

impl Planner<'_> {
    pub fn act(&mut self, action: LifecycleAction) {
        self.plan.actions.push(action);
    }

    /// Requests a plan at the time `at`.
    pub fn wake(&mut self, at: Instant) {
        self.plan.next_at = Some(self.plan.next_at.map_or(at, |next| next.min(at)));
    }

    pub fn wait(&mut self, container: &str, reason: impl Into<String>) {
        let waiting = Waiting {
            container: container.to_owned(),
            reason: reason.into(),
        };
        self.plan.waiting.push(waiting);
    }
}

/// The time at which `activeDeadlineSeconds` has passed.
pub(crate) fn deadline(input: &PodInput<'_>, spec: &PodSpec) -> Option<Instant> {
    let seconds = spec.active_deadline_seconds?;
    let started = input.record.started_at?;
    Some(started.instant + jiff::SignedDuration::from_secs(seconds))
}
