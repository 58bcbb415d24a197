//! A plan under construction.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::claim_edits::TemplateClaims;
use super::guard::PlanGuard;
use super::plan::{PodWork, SetEvent, StatefulSetAction};
use super::waiting::{Cause, Waiting};

#[derive(Default)]
pub(super) struct Draft {
    pub prepare: Vec<StatefulSetAction>,
    pub pods: Vec<PodWork>,
    /// The offset in `pods` of each ordinal.
    offsets: BTreeMap<i64, usize>,
    pub notices: Vec<SetEvent>,
    pub waiting: Vec<Waiting>,
    /// The pod that the other pods wait for.
    pub blocker: Option<String>,
    /// Claims whose owners this plan writes.
    claims_written: BTreeSet<String>,
    /// The next time at which the state changes without an event.
    pub wake_at: Option<Timestamp>,
    /// The number of pods of the current revision that this plan deletes to update them.
    pub current_less: i32,
    /// The places of the present step that this plan takes.
    pub updates: StepPlaces,
    /// Edits of claims that exist.
    pub claim_edits: Vec<StatefulSetAction>,
    /// How claims fit their templates; `None` if they do not follow them.
    pub template_claims: Option<Vec<TemplateClaims>>,
    /// The guard of the set's policy.
    pub guard: Option<PlanGuard>,
}

/// The pods that a plan releases for an update, and those that it creates at the update revision.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepPlaces {
    pub released: i64,
    pub created: i64,
}

/// Whether to continue with the next part of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlanFlow {
    Go,
    Stop,
}

impl Draft {
    /// An empty draft for a set with that guard.
    pub fn of(guard: Option<PlanGuard>) -> Self {
        Self {
            guard,
            ..Self::default()
        }
    }

    /// Adds an action to the work on the pod of that ordinal.
    pub fn act(&mut self, ordinal: i64, action: StatefulSetAction) {
        if let StatefulSetAction::SetClaimOwners { name, .. } = &action {
            self.claims_written.insert(name.clone());
        }
        let next = self.pods.len();
        let index = *self.offsets.entry(ordinal).or_insert(next);
        if index == next {
            self.pods.push(PodWork {
                ordinal,
                actions: Vec::new(),
            });
        }
        self.pods[index].actions.push(action);
    }

    pub fn wait(&mut self, ordinal: impl Into<Option<i64>>, cause: Cause) {
        self.waiting.push(Waiting {
            ordinal: ordinal.into(),
            cause,
        });
    }

    /// From this call on, all pods that are not in their desired state wait for `pod`, unless they wait for another pod
    /// already.
    pub fn block(&mut self, pod: &str) {
        self.blocker.get_or_insert_with(|| pod.to_owned());
    }

    /// Whether the plan writes the owners of that claim already. A second write would be refused, because the first
    /// write changes the resourceVersion.
    pub fn writes_claim(&self, name: &str) -> bool {
        self.claims_written.contains(name)
    }

    /// Schedules the next plan at `at`, or earlier.
    pub fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }

    /// Whether the plan has work on the pod of that ordinal.
    pub fn works_on(&self, ordinal: i64) -> bool {
        self.offsets.contains_key(&ordinal)
    }

    /// Whether any pod is created or deleted.
    pub fn changes_pods(&self) -> bool {
        self.pods.iter().any(changes_pod)
    }

    /// Whether the pod of that ordinal is created or deleted.
    pub fn changes(&self, ordinal: i64) -> bool {
        let index = self.offsets.get(&ordinal);
        index.is_some_and(|index| changes_pod(&self.pods[*index]))
    }
}

fn changes_pod(work: &PodWork) -> bool {
    work.actions.iter().any(StatefulSetAction::changes_pods)
}
