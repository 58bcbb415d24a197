//! The planner's state: the actions so far, the time of the next plan, and the things that the pod
//! waits for.

use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};

use super::action::Action;
use crate::input::PodInput;
use crate::monotonic::{Instant, Moment};

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

/// Why a pod ends, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its object is being deleted, or is gone.
    Deleted,
    /// The node does not run it, or not any longer.
    FailedByNode,
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

/// When the pod's time is up.
pub(crate) fn deadline(input: &PodInput<'_>, spec: &PodSpec) -> Option<Instant> {
    let seconds = spec.active_deadline_seconds?;
    let started = input.record.started_at?;
    Some(started.instant + jiff::SignedDuration::from_secs(seconds))
}
