//! The guard of a policy: the number of pods that stay healthy after each voluntary deletion (rollouts.md R27–R31).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::IntOrPercent;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::check::{CheckKind, GuardCheck};

/// The time for which an eviction counts whose pod is not deleted, as for PodDisruptionBudgets.
pub const EVICTION_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// `spec.guard` of a policy.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    pub min_healthy: MinHealthy,
    /// The check that a healthy pod passes, beside its readiness.
    #[serde(default)]
    pub health: Option<GuardCheck>,
    /// The check that all healthy pods pass before the next one is deleted.
    #[serde(default)]
    pub recovered: Option<GuardCheck>,
    /// Whether PodDisruptionBudgets hold updates and scale-downs, too (rollouts.md R28).
    #[serde(default)]
    pub budgets: bool,
    /// The group of sets that share the guard; `None` for a guard of the set alone (rollouts.md R28).
    #[serde(default)]
    pub group: Option<String>,
}

impl Guard {
    /// The check of this kind.
    pub fn check(&self, kind: CheckKind) -> Option<&GuardCheck> {
        match kind {
            CheckKind::Health => self.health.as_ref(),
            CheckKind::Recovery => self.recovered.as_ref(),
            CheckKind::Hook => None,
        }
    }

    /// The health of a pod. A pod counts as unhealthy from the write that announces its deletion (rollouts.md R29), for
    /// [`EVICTION_WITHIN`] if the deletion does not follow. A result that a lost node left behind does not count,
    /// because the pod is not ready then.
    pub fn judge(&self, facts: HealthFacts, now: Timestamp) -> PodHealth {
        let passes = self.health.is_none() || facts.passes_health;
        if facts.is_deleting || !facts.is_ready || !passes {
            PodHealth::Unhealthy
        } else if facts.counts_again_at().is_some_and(|until| until > now) {
            PodHealth::Announced
        } else if self.recovered.is_some() && !facts.passes_recovery {
            PodHealth::Recovering
        } else {
            PodHealth::Recovered
        }
    }

    /// Counts the pods of the desired ordinals of a set.
    pub fn count(
        &self,
        replicas: i64,
        desired: impl IntoIterator<Item = HealthFacts>,
        now: Timestamp,
    ) -> HealthCount {
        let mut count = HealthCount {
            healthy: 0,
            recovering: 0,
            needed: self.min_healthy.of(replicas),
            replicas,
        };
        for facts in desired {
            count.add(self.judge(facts, now), 1);
        }
        count
    }
}

/// The health of a pod for a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodHealth {
    Unhealthy,
    /// Healthy, but its deletion was announced a moment ago: no other pod relies on it.
    Announced,
    /// Healthy, but the recovery check has not succeeded yet.
    Recovering,
    /// Healthy, and not recovering.
    Recovered,
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

/// The facts of a pod from which a guard judges its health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthFacts {
    pub is_ready: bool,
    pub is_deleting: bool,
    /// The time of its true condition `DisruptionTarget`: the pod is about to be deleted.
    pub disrupted_at: Option<Timestamp>,
    /// Whether the health check of the guard has succeeded.
    pub passes_health: bool,
    /// Whether the recovery check of the guard has succeeded.
    pub passes_recovery: bool,
}

impl HealthFacts {
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
    /// Those of the healthy pods that have not recovered.
    pub recovering: i64,
    /// The pods that must stay healthy.
    pub needed: i64,
    /// `spec.replicas`: the base never depends on the pods that exist.
    pub replicas: i64,
}

impl HealthCount {
    /// Whether a pod may be deleted now. An unhealthy pod may always go (rollouts.md R31), any other pod only after all
    /// others have recovered (R30) and while enough others are healthy, also if its deletion was announced before.
    pub fn permits(self, health: PodHealth, is_desired: bool) -> bool {
        let mut rest = self;
        if is_desired {
            rest.add(health, -1);
        }
        health == PodHealth::Unhealthy || (rest.recovering == 0 && rest.healthy >= self.needed)
    }

    /// Counts a pod of a desired ordinal, `by` times.
    pub fn add(&mut self, health: PodHealth, by: i64) {
        self.healthy += match health {
            PodHealth::Unhealthy | PodHealth::Announced => 0,
            PodHealth::Recovering | PodHealth::Recovered => by,
        };
        self.recovering += match health {
            PodHealth::Recovering => by,
            PodHealth::Unhealthy | PodHealth::Announced | PodHealth::Recovered => 0,
        };
    }

    /// The text for users: `2 of 3 pods must stay healthy, and 2 are`.
    pub fn text(self) -> String {
        self.text_of("pods")
    }

    /// The text about pods of that name.
    pub(super) fn text_of(self, pods: &str) -> String {
        let Self {
            healthy,
            recovering,
            needed,
            replicas,
        } = self;
        let text = format!("{needed} of {replicas} {pods} must stay healthy, and {healthy} are");
        match recovering {
            0 => text,
            1 => text + "; 1 of these has not recovered",
            many => format!("{text}; {many} of these have not recovered"),
        }
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

    fn guard(checks: json_tree::Value) -> Guard {
        let mut guard = checks;
        guard["minHealthy"] = json!("Quorum");
        json_tree::from_value(guard).unwrap()
    }

    const READY: HealthFacts = HealthFacts {
        is_ready: true,
        is_deleting: false,
        disrupted_at: None,
        passes_health: false,
        passes_recovery: false,
    };

    /// rollouts.md R29: a pod is unhealthy from the write that announces its deletion.
    #[test]
    fn an_announced_deletion_counts() {
        let now = Timestamp::from_second(10_000).unwrap();
        let guard = guard(json!({}));
        let is_healthy = |facts| guard.judge(facts, now) == PodHealth::Recovered;
        let disrupted = |seconds| HealthFacts {
            disrupted_at: Some(now - SignedDuration::from_secs(seconds)),
            ..READY
        };
        assert!(is_healthy(READY));
        assert!(!is_healthy(HealthFacts::default()));
        assert!(!is_healthy(disrupted(0)));
        assert!(!is_healthy(disrupted(119)));
        assert!(is_healthy(disrupted(120)));
        assert!(!is_healthy(HealthFacts {
            is_deleting: true,
            ..READY
        }));
    }

    /// rollouts.md R27, R29: an announced deletion that did not follow is decided again, with the pods that are healthy now.
    #[test]
    fn an_announced_deletion_is_decided_again() {
        let now = Timestamp::from_second(10_000).unwrap();
        let guard = guard(json!({}));
        let announced = HealthFacts {
            disrupted_at: Some(now),
            ..READY
        };
        let permits = |others: &[HealthFacts]| {
            let desired = [&[announced], others].concat();
            let count = guard.count(3, desired, now);
            count.permits(guard.judge(announced, now), true)
        };
        assert!(permits(&[READY, READY]));
        assert!(!permits(&[READY, HealthFacts::default()]));
        assert!(!permits(&[READY, announced]));
    }

    /// rollouts.md R29, R30: both checks count beside the readiness of the pod.
    #[test]
    fn checks_count_beside_readiness() {
        let now = Timestamp::UNIX_EPOCH;
        let check = json!({"exec": {"command": ["true"]}});
        let guard = guard(json!({"health": check, "recovered": check}));
        let health = |is_ready, passes_health, passes_recovery| {
            let facts = HealthFacts {
                is_ready,
                passes_health,
                passes_recovery,
                ..HealthFacts::default()
            };
            guard.judge(facts, now)
        };
        assert_eq!(health(true, false, true), PodHealth::Unhealthy);
        // The results that a lost node left behind.
        assert_eq!(health(false, true, true), PodHealth::Unhealthy);
        assert_eq!(health(true, true, false), PodHealth::Recovering);
        assert_eq!(health(true, true, true), PodHealth::Recovered);
    }

    /// rollouts.md R27, R31
    #[test]
    fn a_guard_holds_the_last_needed_pods() {
        let guard = guard(json!({}));
        let count = |healthy| guard.count(3, vec![READY; healthy], Timestamp::UNIX_EPOCH);
        let (healthy, unhealthy) = (PodHealth::Recovered, PodHealth::Unhealthy);
        assert!(count(3).permits(healthy, true));
        assert!(!count(2).permits(healthy, true));
        assert!(count(2).permits(unhealthy, true), "an unhealthy pod may go");
        assert!(
            count(2).permits(healthy, false),
            "a surplus pod is no part of the quorum"
        );
        assert!(!count(1).permits(healthy, false));
        assert_eq!(count(2).text(), "2 of 3 pods must stay healthy, and 2 are");
    }

    /// rollouts.md R30: the next pod waits until all others have recovered.
    #[test]
    fn the_next_pod_waits_for_the_recovery_of_the_others() {
        let guard = guard(json!({"recovered": {"exec": {"command": ["true"]}}}));
        let recovered = HealthFacts {
            passes_recovery: true,
            ..READY
        };
        let count = guard.count(3, [READY, recovered, recovered], Timestamp::UNIX_EPOCH);
        assert!(!count.permits(PodHealth::Recovered, true));
        assert!(!count.permits(PodHealth::Recovered, false));
        assert!(count.permits(PodHealth::Recovering, true));
        assert!(count.permits(PodHealth::Unhealthy, true));
        let text = "2 of 3 pods must stay healthy, and 3 are; 1 of these has not recovered";
        assert_eq!(count.text(), text);
    }
}
