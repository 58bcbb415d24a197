//! The guard that the sets of a group share: its numbers are of the pods of all sets together (rollouts.md R28).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::guard::{Guard, HealthCount, HealthFacts, MinHealthy};
use super::{StatefulSetPolicy, in_force};

/// The maximum number of sets that a message names.
const NAMED_MAX: usize = 3;

/// A set of a group with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetHealth {
    /// The name of the set.
    pub name: String,
    min_healthy: MinHealthy,
    /// Judged by the guard of the set's own policy.
    count: HealthCount,
}

impl SetHealth {
    /// Counts the pods of the desired ordinals of a set with that guard.
    pub fn of(
        name: &str,
        guard: &Guard,
        replicas: i64,
        desired: impl IntoIterator<Item = HealthFacts>,
        now: Timestamp,
    ) -> Self {
        Self {
            name: name.to_owned(),
            min_healthy: guard.min_healthy,
            count: guard.count(replicas, desired, now),
        }
    }
}

/// The numbers by which a guard decides about the pods of a set, and of the other sets of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardCount {
    /// The pods of all sets together.
    pub pods: HealthCount,
    group: Option<GroupShortage>,
}

/// The sets of a group that lack healthy pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupShortage {
    group: String,
    short: Vec<SetHealth>,
}

impl GuardCount {
    /// The numbers of a set and of the other sets of its group. `minHealthy` is of the pods of all sets together; where
    /// the policies of the sets differ, the largest number decides.
    pub fn of(guard: &Guard, set: SetHealth, others: Vec<SetHealth>) -> Self {
        let Some(group) = guard.group.clone() else {
            return Self {
                pods: set.count,
                group: None,
            };
        };
        let all = || others.iter().chain([&set]);
        let sum = |number: fn(&HealthCount) -> i64| {
            let numbers = all().map(|set| number(&set.count));
            numbers.fold(0, i64::saturating_add)
        };
        let replicas = sum(|count| count.replicas.max(0));
        let needed = all().map(|set| set.min_healthy.of(replicas)).max();
        let pods = HealthCount {
            healthy: sum(|count| count.healthy),
            recovering: sum(|count| count.recovering),
            needed: needed.unwrap_or_default(),
            replicas,
        };
        let mut short = others;
        short.retain(|set| set.count.healthy < set.count.replicas);
        short.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            pods,
            group: Some(GroupShortage { group, short }),
        }
    }

    /// The text for users: `4 of 6 pods of group bank must stay healthy, and 4 are; StatefulSet cache has 2 of 3`.
    pub fn text(&self) -> String {
        let Some(GroupShortage { group, short }) = &self.group else {
            return self.pods.text();
        };
        let mut text = self.pods.text_of(&format!("pods of group {group}"));
        for SetHealth { name, count, .. } in short.iter().take(NAMED_MAX) {
            let HealthCount {
                healthy, replicas, ..
            } = count;
            let _ = write!(text, "; StatefulSet {name} has {healthy} of {replicas}");
        }
        match short.len().saturating_sub(NAMED_MAX) {
            0 => text,
            more => format!("{text}; {more} more StatefulSets lack pods"),
        }
    }
}

/// The labels of an object.
type Labels = BTreeMap<String, String>;

/// The sets that share the guard of this group, each with its policy.
pub fn sets_of_group<S, P: AsRef<StatefulSetPolicy> + Clone>(
    group: &str,
    sets: impl IntoIterator<Item = S>,
    name_and_labels: impl Fn(&S) -> (&str, Option<&Labels>),
    policies: &[P],
) -> Vec<(S, P)> {
    // A policy that is not in force for a set may be of the group, and the one in force may not.
    let has_group = |policy: &P| policy.as_ref().group() == Some(group);
    if !policies.iter().any(has_group) {
        return Vec::new();
    }
    let with_policy = sets.into_iter().filter_map(|set| {
        let (name, labels) = name_and_labels(&set);
        let policy = in_force(name, labels, policies.iter().cloned())?;
        has_group(&policy).then_some((set, policy))
    });
    with_policy.collect()
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn guard(min_healthy: json_tree::Value) -> Guard {
        json_tree::from_value(json!({ "minHealthy": min_healthy, "group": "bank" })).unwrap()
    }

    fn set(name: &str, guard: &Guard, replicas: i64, healthy: usize) -> SetHealth {
        let ready = HealthFacts {
            is_ready: true,
            ..HealthFacts::default()
        };
        let pods = vec![ready; healthy];
        SetHealth::of(name, guard, replicas, pods, Timestamp::UNIX_EPOCH)
    }

    /// rollouts.md R28: the numbers are of all sets together.
    #[test]
    fn a_group_counts_the_pods_of_all_its_sets() {
        let quorum = guard(json!("Quorum"));
        let db = || set("db", &quorum, 3, 3);
        let count = GuardCount::of(&quorum, db(), vec![set("cache", &quorum, 3, 2)]);
        let HealthCount {
            healthy,
            needed,
            replicas,
            ..
        } = count.pods;
        assert_eq!((healthy, needed, replicas), (5, 4, 6));
        assert_eq!(
            count.text(),
            "4 of 6 pods of group bank must stay healthy, and 5 are; StatefulSet cache has 2 of 3"
        );
        let alone = GuardCount::of(&quorum, db(), Vec::new());
        assert_eq!(
            alone.text(),
            "2 of 3 pods of group bank must stay healthy, and 3 are"
        );
        let parts = [(json!(5), 5), (json!("60%"), 4), (json!("0%"), 0)];
        for (min_healthy, needed) in parts {
            let guard = guard(min_healthy);
            let count = GuardCount::of(&guard, db(), vec![set("cache", &guard, 3, 3)]);
            // The stricter of two policies decides.
            assert_eq!(count.pods.needed, needed.max(4));
        }
    }

    #[test]
    fn a_message_names_a_few_sets() {
        let quorum = guard(json!("Quorum"));
        let others = ["e", "d", "c", "b", "a"].map(|name| set(name, &quorum, 1, 0));
        let count = GuardCount::of(&quorum, set("db", &quorum, 1, 1), others.into());
        let text = count.text();
        let end = "1 are; StatefulSet a has 0 of 1; StatefulSet b has 0 of 1; StatefulSet c has 0 of 1; \
                   2 more StatefulSets lack pods";
        assert!(text.ends_with(end), "{text}");
    }

    /// rollouts.md S1, R28: the policy in force alone decides about the group of a set.
    #[test]
    fn the_policy_in_force_decides_about_the_group() {
        let policy = |name: &str, spec: json_tree::Value| -> StatefulSetPolicy {
            json_tree::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
        };
        let of_group = |group: &str| json!({"minHealthy": 1, "group": group});
        let policies = [
            policy("all", json!({"selector": {}, "guard": of_group("bank")})),
            policy(
                "b",
                json!({"setRef": {"name": "b"}, "guard": of_group("other")}),
            ),
            policy("c", json!({"setRef": {"name": "c"}})),
        ];
        let sets = |group| {
            let sets = sets_of_group(group, ["a", "b", "c"], |set| (*set, None), &policies);
            let named = sets
                .into_iter()
                .map(|(set, policy)| (set, policy.name().to_owned()));
            named.collect::<Vec<_>>()
        };
        assert_eq!(sets("bank"), [("a", "all".to_owned())]);
        assert_eq!(sets("other"), [("b", "b".to_owned())]);
        assert_eq!(sets("none"), []);
    }
}
