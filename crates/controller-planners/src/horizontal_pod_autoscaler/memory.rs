//! Earlier results, for the windows of a scaler's behaviour.

use jiff::{SignedDuration, Timestamp};

/// The state of an autoscaler between decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The recommended numbers of replicas, with their times.
    recommendations: Vec<(Timestamp, i32)>,
    /// The changes of the number of replicas, with their times.
    changes: Vec<(Timestamp, i32)>,
}

impl Memory {
    /// Starts with the target's current number, so that a new autoscaler does not scale down at
    /// once.
    pub(super) fn begin(&mut self, replicas: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, replicas));
        }
    }

    /// Adds a recommendation, and drops those older than `window`.
    pub(super) fn recommend(&mut self, replicas: i32, window: SignedDuration, now: Timestamp) {
        self.recommendations
            .retain(|(at, _)| since(*at, now) <= window);
        self.recommendations.push((now, replicas));
    }

    /// The recommendations of the last `window`.
    pub(super) fn recommended(
        &self,
        window: SignedDuration,
        now: Timestamp,
    ) -> impl Iterator<Item = i32> {
        let recent = self.recommendations.iter();
        recent
            .filter(move |(at, _)| since(*at, now) < window)
            .map(|(_, replicas)| *replicas)
    }

    /// Adds a change of the target, and drops those older than `window`.
    pub(super) fn change(&mut self, by: i32, window: SignedDuration, now: Timestamp) {
        self.changes.retain(|(at, _)| since(*at, now) <= window);
        self.changes.push((now, by));
    }

    /// The sum of the changes within `window`.
    pub(super) fn changed(&self, window: SignedDuration, now: Timestamp) -> i64 {
        let recent = self.changes.iter();
        recent
            .filter(|(at, _)| since(*at, now) < window)
            .map(|(_, by)| i64::from(*by))
            .sum()
    }
}

fn since(at: Timestamp, now: Timestamp) -> SignedDuration {
    now.duration_since(at)
}
