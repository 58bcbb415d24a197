//! The length of a node's lease, and the times that follow from it.

use std::time::Duration;

/// The length of a node's lease: whole seconds, from [`LeaseLength::MIN`] to [`LeaseLength::MAX`].
///
/// A renewal is sent every quarter of the length, and three consecutive renewals may fail. Pods that end with the Lease
/// are asked to stop a quarter of the length before the end of the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseLength(u32);

impl LeaseLength {
    /// The shortest length: a stalled disk or a busy machine must not stop pods.
    pub const MIN: Self = Self(12);
    /// The node is fenced 47.5 s after its last renewal, which leaves 2.5 s of the 50 s within which the pod must run
    /// on another node.
    pub const DEFAULT: Self = Self(38);
    /// The Lease duration of kubelet (`nodeLeaseDurationSeconds`).
    pub const MAX: Self = Self(40);

    /// A length of the given seconds; `None` if it is out of range.
    pub fn from_seconds(seconds: u32) -> Option<Self> {
        let length = Self(seconds);
        (Self::MIN..=Self::MAX).contains(&length).then_some(length)
    }

    /// This length, or a longer one if running pods are asked to stop earlier. `warnings` are the times between these
    /// requests and the end of the Lease. A node that renews its Lease must not reach such a time.
    pub fn covering(self, warnings: impl IntoIterator<Item = Duration>) -> Self {
        let earliest = warnings.into_iter().max().unwrap_or_default();
        let seconds = earliest.saturating_mul(4).as_secs_f64().ceil() as u32;
        Self(seconds).clamp(self, Self::MAX)
    }

    /// The length in seconds, as `leaseDurationSeconds`.
    pub fn seconds(self) -> u32 {
        self.0
    }

    /// The length as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }

    /// The time between two renewals.
    pub fn renewal_period(self) -> Duration {
        self.duration() / 4
    }

    /// The time between the request to stop a pod and the end of the Lease.
    pub fn warning(self) -> Duration {
        self.duration() / 4
    }

    /// The longest wait for the response to a renewal.
    pub fn renewal_timeout(self) -> Duration {
        self.duration() * 3 / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_from_the_shortest_to_kubelets() {
        for (seconds, is_valid) in [(0, false), (11, false), (12, true), (40, true), (41, false)] {
            assert_eq!(
                LeaseLength::from_seconds(seconds).is_some(),
                is_valid,
                "{seconds}"
            );
        }
    }

    /// docs/node-failure.md: after the fence, 2.5 s are left for the start of the replacement.
    #[test]
    fn pods_of_a_node_that_dies_right_after_a_renewal_run_elsewhere_within_50_seconds() {
        let fenced = LeaseLength::DEFAULT.duration() * 5 / 4;
        assert_eq!(fenced, Duration::from_millis(47_500));
    }

    /// A healthy node with a shorter Lease does not stop a pod that was started with a longer Lease.
    #[test]
    fn a_renewal_comes_before_the_warning_of_a_former_length() {
        assert_eq!(LeaseLength::MIN.covering([]), LeaseLength::MIN);
        for former in 12..=40 {
            let warning = LeaseLength(former).warning();
            let length = LeaseLength::MIN.covering([warning, Duration::ZERO]);
            assert_eq!(length, LeaseLength(former));
            assert!(length.renewal_period() + warning < length.duration());
            assert_eq!(
                LeaseLength::DEFAULT.covering([warning]),
                length.max(LeaseLength::DEFAULT)
            );
        }
        assert_eq!(LeaseLength::MIN.covering([Duration::MAX]), LeaseLength::MAX);
    }
}
