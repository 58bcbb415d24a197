//! Earlier results, for the windows of a scaler's behaviour.

use jiff::{SignedDuration, Timestamp};

/// What is remembered of a scaler from one decision to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// How many replicas the metrics asked for, and when.
    recommendations: Vec<(Timestamp, i32)>,
    /// By how many replicas the target was changed, and when.
    changes: Vec<(Timestamp, i32)>,
}

impl Memory {
    /// Begins with what the target has, so that a scaler that is new does not scale down at once.
    pub(super) fn begin(&mut self, replicas: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, replicas));
        }
    }

    /// Adds what the metrics ask for now, and forgets what is older than `window`.
    pub(super) fn recommend(&mut self, replicas: i32, window: SignedDuration, now: Timestamp) {
        self.recommendations
            .retain(|(at, _)| since(*at, now) <= window);
        self.recommendations.push((now, replicas));
    }

    /// What the metrics asked for in the time before.
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

    /// Adds a change of the target, and forgets what is older than `window`.
    pub(super) fn change(&mut self, by: i32, window: SignedDuration, now: Timestamp) {
        self.changes.retain(|(at, _)| since(*at, now) <= window);
        self.changes.push((now, by));
    }

    /// By how many replicas the target was changed in the time before, all in all.
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
