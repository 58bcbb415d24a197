//! Graceful node shutdown: the order in which pods stop, and their grace periods (statefulset.md §12.17).
//!
//! As kubelet's graceful shutdown: pods of low priority first, critical pods last. Without configuration,
//! each pod has the grace period of its specification.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;

use crate::spec::CRITICAL_PRIORITY;

/// Pods that stop together. The next wave begins after they have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownWave {
    /// The lowest priority of the wave's pods. The priority of the next wave is the upper bound.
    pub priority: i32,
    /// Maximum grace period in seconds, even if the pod's grace period is longer.
    pub grace_seconds: Option<i64>,
}

/// The shutdown of the node, for one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStop {
    /// Maximum grace period in seconds, even if the pod's grace period is longer.
    pub grace_seconds: Option<i64>,
}

/// The waves of a shutdown.
///
/// *Invariant*: there is at least one wave, and each wave has a higher priority than the wave before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownOrder {
    waves: Vec<ShutdownWave>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidShutdownOrder {
    /// Critical pods would have more time than all pods together.
    CriticalLongerThanAll,
    /// Two waves have this priority.
    SamePriority(i32),
    /// A wave has a negative time.
    NegativeGrace(i64),
}

impl fmt::Display for InvalidShutdownOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidShutdownOrder::CriticalLongerThanAll => write!(
                f,
                "the shutdown grace period of critical pods is part of that of all pods and cannot \
                 be longer"
            ),
            InvalidShutdownOrder::SamePriority(priority) => write!(
                f,
                "there are two shutdown grace periods for pods from priority {priority} on"
            ),
            InvalidShutdownOrder::NegativeGrace(seconds) => {
                write!(
                    f,
                    "a shutdown grace period of {seconds} seconds is negative"
                )
            }
        }
    }
}

impl std::error::Error for InvalidShutdownOrder {}

impl Default for ShutdownOrder {
    /// Critical pods last; each pod has the grace period of its specification.
    fn default() -> Self {
        let wave = |priority| ShutdownWave {
            priority,
            grace_seconds: None,
        };
        Self {
            waves: vec![wave(i32::MIN), wave(CRITICAL_PRIORITY)],
        }
    }
}

impl ShutdownOrder {
    /// Critical pods last. All pods share `all` seconds, of which the last `critical` seconds are for
    /// critical pods (kubelet's `shutdownGracePeriod` and `shutdownGracePeriodCriticalPods`).
    ///
    /// # Errors
    /// A time is negative, or `critical` is larger than `all`.
    pub fn of_periods(all: i64, critical: i64) -> Result<Self, InvalidShutdownOrder> {
        if critical > all {
            return Err(InvalidShutdownOrder::CriticalLongerThanAll);
        }
        Self::by_priority([(i32::MIN, all - critical), (CRITICAL_PRIORITY, critical)])
    }

    /// Pairs of a priority and the seconds for pods of this priority or higher (kubelet's
    /// `shutdownGracePeriodByPodPriority`). Waves of lower priorities stop first; pods below the lowest
    /// priority belong to the first wave.
    ///
    /// # Errors
    /// A priority occurs twice, or a time is negative.
    pub fn by_priority(
        periods: impl IntoIterator<Item = (i32, i64)>,
    ) -> Result<Self, InvalidShutdownOrder> {
        let mut waves: Vec<ShutdownWave> = Vec::new();
        for (priority, seconds) in periods {
            if seconds < 0 {
                return Err(InvalidShutdownOrder::NegativeGrace(seconds));
            }
            if waves.iter().any(|wave| wave.priority == priority) {
                return Err(InvalidShutdownOrder::SamePriority(priority));
            }
            waves.push(ShutdownWave {
                priority,
                grace_seconds: Some(seconds),
            });
        }
        waves.sort_by_key(|wave| wave.priority);
        match waves.is_empty() {
            true => Ok(Self::default()),
            false => Ok(Self { waves }),
        }
    }

    /// The waves of the shutdown, in order.
    pub fn waves(&self) -> &[ShutdownWave] {
        &self.waves
    }

    /// The index in [`waves`](Self::waves) of the pod's wave.
    pub fn wave_of(&self, pod: &Pod) -> usize {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
        let priority = priority.unwrap_or_default();
        let reached = self.waves.partition_point(|wave| wave.priority <= priority);
        reached.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_priority(priority: Option<i32>) -> Pod {
        let spec = json_tree::json!({"containers": [], "priority": priority});
        json_tree::from_value(json_tree::json!({"spec": spec})).unwrap()
    }

    #[test]
    fn critical_pods_end_last() {
        // statefulset.md 12.17
        let order = ShutdownOrder::default();
        let of = |priority| order.wave_of(&of_priority(priority));
        assert_eq!(of(None), 0);
        assert_eq!(of(Some(-5)), 0);
        assert_eq!(of(Some(1_000_000_000)), 0);
        assert_eq!(of(Some(2_000_000_000)), 1);
        assert!(
            order
                .waves()
                .iter()
                .all(|wave| wave.grace_seconds.is_none())
        );
    }

    #[test]
    fn critical_pods_have_a_part_of_the_time() {
        // statefulset.md 12.17
        let order = ShutdownOrder::of_periods(30, 10).unwrap();
        let seconds: Vec<_> = order
            .waves()
            .iter()
            .map(|wave| wave.grace_seconds)
            .collect();
        assert_eq!(seconds, [Some(20), Some(10)]);
        assert_eq!(order.wave_of(&of_priority(Some(2_000_001_000))), 1);
        let longer = ShutdownOrder::of_periods(10, 30);
        assert_eq!(longer, Err(InvalidShutdownOrder::CriticalLongerThanAll));
    }

    #[test]
    fn waves_go_by_priority() {
        // statefulset.md 12.17
        let order = ShutdownOrder::by_priority([(100_000, 10), (0, 60), (10_000, 20)]).unwrap();
        let of = |priority| order.waves()[order.wave_of(&of_priority(Some(priority)))];
        assert_eq!(of(-1).grace_seconds, Some(60));
        assert_eq!(of(9_999).grace_seconds, Some(60));
        assert_eq!(of(10_000).grace_seconds, Some(20));
        assert_eq!(of(i32::MAX).grace_seconds, Some(10));
        let twice = ShutdownOrder::by_priority([(1, 1), (1, 2)]);
        assert_eq!(twice, Err(InvalidShutdownOrder::SamePriority(1)));
        let negative = ShutdownOrder::by_priority([(1, -1)]);
        assert_eq!(negative, Err(InvalidShutdownOrder::NegativeGrace(-1)));
        assert_eq!(ShutdownOrder::by_priority([]), Ok(ShutdownOrder::default()));
    }

    proptest! {
        #[test]
        fn who_is_more_important_never_ends_before(
            periods in proptest::collection::btree_map(-9..9, 0..100_i64, 0..5),
            (a, b) in (-12..12, -12..12),
        ) {
            let order = ShutdownOrder::by_priority(periods).unwrap();
            let wave = |priority| order.wave_of(&of_priority(Some(priority)));
            prop_assert!(a > b || wave(a) <= wave(b));
            prop_assert!(wave(a) < order.waves().len());
        }
    }
}
