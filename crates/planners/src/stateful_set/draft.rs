//! A plan in the making.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::plan::{Action, Notice, PodWork};
use super::waiting::{Cause, Waiting};

#[derive(Default)]
pub(super) struct Draft {
    pub prepare: Vec<Action>,
    pub pods: Vec<PodWork>,
    place: BTreeMap<i64, usize>,
    pub notices: Vec<Notice>,
    pub waiting: Vec<Waiting>,
    /// When something will be different without anything happening.
    pub wake_at: Option<Timestamp>,
    /// Pods that are deleted to be updated and counted as current.
    pub current_less: i32,
}

/// Whether to go on with the next part of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Stop,
}

impl Draft {
    /// Adds an action to the work on a pod.
    pub fn act(&mut self, ordinal: i64, action: Action) {
        let next = self.pods.len();
        let place = *self.place.entry(ordinal).or_insert(next);
        if place == next {
            self.pods.push(PodWork {
                ordinal,
                actions: Vec::new(),
            });
        }
        self.pods[place].actions.push(action);
    }

    pub fn wait(&mut self, ordinal: impl Into<Option<i64>>, cause: Cause) {
        self.waiting.push(Waiting {
            ordinal: ordinal.into(),
            cause,
        });
    }

    /// Plans anew at that time at the latest.
    pub fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }

    /// Whether any pod is created or deleted.
    pub fn changes_pods(&self) -> bool {
        self.pods
            .iter()
            .flat_map(|work| &work.actions)
            .any(|action| matches!(action, Action::CreatePod(_) | Action::DeletePod { .. }))
    }
}
