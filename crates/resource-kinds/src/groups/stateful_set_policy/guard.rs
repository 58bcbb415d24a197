//! The guard of a policy: the number of pods that stay healthy after each voluntary deletion (rollouts.md R27–R31).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::IntOrPercent;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// The time for which an eviction counts whose pod is not deleted, as for PodDisruptionBudgets.
pub const EVICTION_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// `spec.guard` of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    pub min_healthy: MinHealthy,
}

/// The pods of `spec.replicas` that must stay healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinHealthy {
    /// More than half.
    Quorum,
    /// A number, or a percentage that is rounded up.
    Part(IntOrPercent),
}

impl MinHealthy {
    fn parse(value: &IntOrString) -> Option<Self> {
        let value = json_tree::to_value(value).ok()?;
        if value == "Quorum" {
            return Some(Self::Quorum);
        }
        IntOrPercent::from_json(&value).map(Self::Part)
    }

    /// The number of pods for a set of that many replicas.
    pub fn of(self, replicas: i64) -> i64 {
        let replicas = i32::try_from(replicas.max(0)).unwrap_or(i32::MAX);
        i64::from(match self {
            Self::Quorum if replicas == 0 => 0,
            Self::Quorum => replicas / 2 + 1,
            Self::Part(part) => part.of(replicas, true),
        })
    }
}

impl<'de> Deserialize<'de> for MinHealthy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = IntOrString::deserialize(deserializer)?;
        Self::parse(&value)
            .ok_or_else(|| D::Error::custom("minHealthy is no number, percentage or Quorum"))
    }
}

/// The facts of a pod that decide whether the guard counts it as healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthFacts {
    pub is_ready: bool,
    pub is_deleting: bool,
    /// The time of its true condition `DisruptionTarget`: the pod is about to be deleted.
    pub disrupted_at: Option<Timestamp>,
}

impl HealthFacts {
    /// Whether the pod counts as healthy. A pod counts as unhealthy from the write that announces its deletion
    /// (rollouts.md R29), for [`EVICTION_WITHIN`] if the deletion does not follow.
    pub fn is_healthy(self, now: Timestamp) -> bool {
        self.is_ready
            && !self.is_deleting
            && self.counts_again_at().is_none_or(|until| until <= now)
    }

    /// The time at which a pod counts again that was to be deleted, and was not.
    pub fn counts_again_at(self) -> Option<Timestamp> {
        let since = self.disrupted_at?;
        Some(since.checked_add(EVICTION_WITHIN).unwrap_or(Timestamp::MAX))
    }
}

/// The numbers by which a guard decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCount {
    /// The healthy pods among the desired ordinals. Surplus pods do not count (rollouts.md R27).
    pub healthy: i64,
    /// The pods that must stay healthy.
    pub needed: i64,
    /// `spec.replicas`: the base never depends on the pods that exist.
    pub replicas: i64,
}

impl HealthCount {
    pub fn new(guard: &Guard, replicas: i64, healthy: usize) -> Self {
        Self {
            healthy: i64::try_from(healthy).unwrap_or(i64::MAX),
            needed: guard.min_healthy.of(replicas),
            replicas,
        }
    }

    /// Whether a pod may be deleted now. A pod that is unhealthy may always go (rollouts.md R31).
    pub fn permits(self, is_healthy: bool, is_desired: bool) -> bool {
        !is_healthy || self.healthy - i64::from(is_desired) >= self.needed
    }

    /// The text for users: `2 of 3 pods must stay healthy, and 2 are`.
    pub fn text(self) -> String {
        let Self {
            healthy,
            needed,
            replicas,
        } = self;
        format!("{needed} of {replicas} pods must stay healthy, and {healthy} are")
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn min_healthy(value: json_tree::Value) -> Option<MinHealthy> {
        let guard = json_tree::from_value(json!({ "minHealthy": value })).ok();
        guard.map(|guard: Guard| guard.min_healthy)
    }

    /// rollouts.md R27
    #[test]
    fn the_needed_pods_are_a_part_of_the_replicas() {
        let needed = |value, replicas| min_healthy(value).map(|min| min.of(replicas));
        let quorum: Vec<_> = (0..8)
            .map(|n| needed(json!("Quorum"), n).unwrap())
            .collect();
        assert_eq!(quorum, [0, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(needed(json!(2), 5), Some(2));
        assert_eq!(needed(json!("50%"), 5), Some(3));
        assert_eq!(needed(json!("100%"), 3), Some(3));
        for refused in [
            json!("quorum"),
            json!("x%"),
            json!(""),
            json!(null),
            json!({}),
        ] {
            assert_eq!(needed(refused.clone(), 3), None, "{refused}");
        }
    }

    /// rollouts.md R29: a pod is unhealthy from the write that announces its deletion.
    #[test]
    fn an_announced_deletion_counts() {
        let now = Timestamp::from_second(10_000).unwrap();
        let ago = |seconds| Some(now - SignedDuration::from_secs(seconds));
        let ready = HealthFacts {
            is_ready: true,
            ..HealthFacts::default()
        };
        let disrupted = |disrupted_at| HealthFacts {
            disrupted_at,
            ..ready
        };
        assert!(ready.is_healthy(now));
        assert!(!HealthFacts::default().is_healthy(now));
        assert!(!disrupted(ago(0)).is_healthy(now));
        assert!(!disrupted(ago(119)).is_healthy(now));
        assert!(disrupted(ago(120)).is_healthy(now));
        let deleting = HealthFacts {
            is_deleting: true,
            ..ready
        };
        assert!(!deleting.is_healthy(now));
    }

    /// rollouts.md R27, R31
    #[test]
    fn a_guard_holds_the_last_needed_pods() {
        let guard = Guard {
            min_healthy: MinHealthy::Quorum,
        };
        let permits = |healthy, is_healthy, is_desired| {
            HealthCount::new(&guard, 3, healthy).permits(is_healthy, is_desired)
        };
        assert!(permits(3, true, true));
        assert!(!permits(2, true, true));
        assert!(permits(2, false, true), "an unhealthy pod may go");
        assert!(
            permits(2, true, false),
            "a surplus pod is no part of the quorum"
        );
        assert!(!permits(1, true, false));
        assert_eq!(
            HealthCount::new(&guard, 3, 2).text(),
            "2 of 3 pods must stay healthy, and 2 are"
        );
    }
}
