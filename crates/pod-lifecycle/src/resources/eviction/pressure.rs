//! Pressure conditions of the node, and their transition period.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use super::thresholds::{Signal, Thresholds};
use crate::monotonic::Instant;

/// A pressure condition of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The disk is about to run out.
    DiskPressure,
    /// Memory is about to run out.
    MemoryPressure,
}

impl Condition {
    /// The type of the Node condition.
    pub fn name(self) -> &'static str {
        match self {
            Self::DiskPressure => "DiskPressure",
            Self::MemoryPressure => "MemoryPressure",
        }
    }
}

/// The available amount of a resource and its capacity, in bytes or inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceObservation {
    pub available: i64,
    pub capacity: i64,
}

/// An observation of the node; unknown values are absent.
pub type ResourceObservations = BTreeMap<Signal, ResourceObservation>;

/// A threshold that is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub signal: Signal,
    /// The threshold, in bytes or inodes.
    pub threshold: i64,
    pub available: i64,
}

/// The node's shortages, the most important first.
pub fn shortages(thresholds: &Thresholds, observations: &ResourceObservations) -> Vec<Shortage> {
    let each = thresholds.iter().filter_map(|(signal, amount)| {
        let observation = observations.get(&signal)?;
        let threshold = amount.for_capacity(observation.capacity);
        (observation.available < threshold).then_some(Shortage {
            signal,
            threshold,
            available: observation.available,
        })
    });
    each.collect()
}

/// The node's pressure conditions. A condition is true from a shortage until the transition period has
/// passed without a shortage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePressure {
    /// The time of the last shortage for each condition.
    last_seen: BTreeMap<Condition, Instant>,
}

impl NodePressure {
    /// The conditions after a new observation.
    #[must_use]
    pub fn after(&self, shortages: &[Shortage], period: SignedDuration, now: Instant) -> Self {
        let lasting = self.last_seen.iter().filter_map(|(condition, last)| {
            (now.since(*last) < period).then_some((*condition, *last))
        });
        let mut last_seen: BTreeMap<Condition, Instant> = lasting.collect();
        last_seen.extend(
            shortages
                .iter()
                .map(|shortage| (shortage.signal.condition(), now)),
        );
        Self { last_seen }
    }

    pub fn has(&self, condition: Condition) -> bool {
        self.last_seen.contains_key(&condition)
    }

    pub fn conditions(&self) -> BTreeSet<Condition> {
        self.last_seen.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortages_at(memory: i64, disk: i64, image_disk: i64) -> Vec<Shortage> {
        let observation = |available| ResourceObservation {
            available,
            capacity: 1000,
        };
        let observations = ResourceObservations::from([
            (Signal::MemoryAvailable, observation(memory)),
            (Signal::NodefsAvailable, observation(disk)),
            (Signal::ImagefsAvailable, observation(image_disk)),
        ]);
        let text =
            "memory.available<100,nodefs.available<10%,imagefs.available<15%,nodefs.inodesFree<5%";
        shortages(&text.parse().unwrap(), &observations)
    }

    fn signals(shortages: &[Shortage]) -> Vec<Signal> {
        shortages.iter().map(|shortage| shortage.signal).collect()
    }

    #[test]
    fn less_than_the_threshold_is_a_shortage_and_memory_comes_first() {
        // statefulset.md 12.16
        assert_eq!(shortages_at(100, 100, 150), []);
        assert_eq!(
            signals(&shortages_at(99, 99, 149)),
            [
                Signal::MemoryAvailable,
                Signal::NodefsAvailable,
                Signal::ImagefsAvailable
            ]
        );
        let shortages = shortages_at(500, 500, 120);
        assert_eq!(
            shortages,
            [Shortage {
                signal: Signal::ImagefsAvailable,
                threshold: 150,
                available: 120
            }]
        );
    }

    #[test]
    fn conditions_last_for_the_transition_period() {
        // statefulset.md 12.16
        let at = |second| Instant::reading(jiff::Timestamp::from_second(second).unwrap());
        let period = SignedDuration::from_mins(5);
        let none = NodePressure::default();
        let short = none.after(&shortages_at(1, 500, 500), period, at(1000));
        assert!(short.has(Condition::MemoryPressure) && !short.has(Condition::DiskPressure));
        let both = short.after(&shortages_at(500, 1, 500), period, at(1100));
        assert_eq!(
            both.conditions(),
            BTreeSet::from([Condition::DiskPressure, Condition::MemoryPressure])
        );
        let disk = both.after(&[], period, at(1300));
        assert_eq!(disk.conditions(), BTreeSet::from([Condition::DiskPressure]));
        assert_eq!(disk.after(&[], period, at(1400)), none);
        // Without a transition period, only the present shortages count.
        let zero = SignedDuration::ZERO;
        let now = none.after(&shortages_at(1, 500, 500), zero, at(10));
        assert!(now.has(Condition::MemoryPressure));
        assert_eq!(now.after(&[], zero, at(10)), none);
    }
}
