//! Topology spread: the number of matching pods in a domain may exceed that of the domain with the fewest pods by at
//! most `maxSkew` (`DoNotSchedule`), or should be small (`ScheduleAnyway`).

use std::collections::BTreeMap;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{Node, TopologySpreadConstraint};
use resource_kinds::labels::{HOSTNAME, ZONE};
use resource_kinds::pod_view::PodView;

use crate::labels::of_node;
use crate::node;
use crate::objection::FilterFailure;
use crate::replicas::Replicas;
use crate::snapshot::SchedulingSnapshot;

const SKEWED: &str = "node(s) didn't match pod topology spread constraints";
const UNLABELLED: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";

/// The topologies and skews for pods without constraints.
const BY_DEFAULT: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// A constraint of a pod.
struct Constraint<'v> {
    key: &'v str,
    max_skew: i32,
    min_domains: i32,
    replicas: Replicas<'v>,
    /// Whether nodes that the pod's affinity or tolerations exclude do not count.
    by_affinity: bool,
    by_taints: bool,
}

impl<'v> Constraint<'v> {
    fn of(constraint: &'v TopologySpreadConstraint) -> Self {
        Self {
            key: &constraint.topology_key,
            max_skew: constraint.max_skew,
            min_domains: constraint.min_domains.unwrap_or(1),
            replicas: Replicas::Selected(constraint),
            by_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            by_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// The constraints of a pod with that value of `whenUnsatisfiable`.
    fn all(pod: &'v PodView, when: &str) -> Vec<Self> {
        let all = pod.spec.topology_spread_constraints.iter().flatten();
        let meant = all.filter(|constraint| constraint.when_unsatisfiable == when);
        meant.map(Self::of).collect()
    }

    /// The default constraints of a pod without constraints.
    fn by_default(pod: &'v PodView, snapshot: &SchedulingSnapshot<'v>) -> Vec<Self> {
        let Some(replicas) = Replicas::by_default(pod, snapshot.view) else {
            return Vec::new();
        };
        let of_topology = |(key, max_skew)| Self {
            key,
            max_skew,
            min_domains: 1,
            replicas: replicas.clone(),
            by_affinity: true,
            by_taints: false,
        };
        BY_DEFAULT.map(of_topology).into()
    }

    /// Whether the node's pods count.
    fn counts(&self, pod: &PodView, node: &Node) -> bool {
        (!self.by_affinity || node::matches_affinity(&pod.spec, node))
            && (!self.by_taints || node::untolerated_taint(&pod.spec, node).is_none())
    }

    /// The number of replicas on a node.
    fn there(&self, node: &Node, pod: &PodView, snapshot: &SchedulingSnapshot<'v>) -> u32 {
        let name = node.metadata.name.as_deref();
        self.replicas.on(name.unwrap_or_default(), pod, snapshot)
    }
}

fn has_all_labels(node: &Node, constraints: &[Constraint<'_>]) -> bool {
    let mut all = constraints.iter();
    all.all(|constraint| of_node(node, constraint.key).is_some())
}

/// A pod's `DoNotSchedule` constraints, counted once for all nodes.
pub(crate) struct SpreadConstraints<'v>(Vec<Bound<'v>>);

struct Bound<'v> {
    key: &'v str,
    /// Maximum number of pods in a domain.
    most: i64,
    counts: BTreeMap<&'v str, u32>,
}

impl<'v> SpreadConstraints<'v> {
    /// Counts the pods of the snapshot.
    pub fn of(pod: &'v PodView, snapshot: &SchedulingSnapshot<'v>) -> Self {
        let constraints = Constraint::all(pod, "DoNotSchedule");
        let bound = |constraint: &Constraint<'v>| {
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            for node in snapshot.view.nodes.values() {
                if has_all_labels(node, &constraints)
                    && constraint.counts(pod, node)
                    && let Some(domain) = of_node(node, constraint.key)
                {
                    let count = counts.entry(domain).or_default();
                    *count = count.saturating_add(constraint.there(node, pod, snapshot));
                }
            }
            let domains = i64::try_from(counts.len()).unwrap_or(i64::MAX);
            let least = match domains >= i64::from(constraint.min_domains) {
                true => counts.values().min().copied().unwrap_or(0),
                false => 0,
            };
            let self_count = i64::from(constraint.replicas.have(pod, pod));
            Bound {
                key: constraint.key,
                most: i64::from(least) + i64::from(constraint.max_skew) - self_count,
                counts,
            }
        };
        Self(constraints.iter().map(bound).collect())
    }

    /// The reason why a constraint forbids the node; `None` if no constraint forbids it.
    pub fn objection(&self, node: &Node) -> Option<FilterFailure> {
        let (mut labelled, mut holds) = (true, true);
        for bound in &self.0 {
            match of_node(node, bound.key) {
                None => labelled = false,
                Some(domain) => {
                    let there = bound.counts.get(domain).copied().unwrap_or(0);
                    holds &= i64::from(there) <= bound.most;
                }
            }
        }
        match (labelled, holds) {
            (false, _) => Some(FilterFailure::lasting(UNLABELLED)),
            (true, false) => Some(FilterFailure::of_pods(SKEWED)),
            (true, true) => None,
        }
    }
}

/// A pod's `ScheduleAnyway` constraints, or the default constraints of kube-scheduler's default profile for a pod
/// without constraints, counted once for all feasible nodes.
pub(crate) struct SpreadPreferences {
    wishes: Vec<Wish>,
    /// Whether a node without one of the labels is last.
    needs_labels: bool,
}

/// A constraint with the pods of each domain.
struct Wish {
    /// The cost of each pod, and of the domain itself: the larger the weight, the less a difference counts.
    weight: f64,
    base: f64,
    /// The domain of each feasible node, as an index of `counts`.
    domains: Vec<Option<usize>>,
    /// The number of pods in each domain.
    counts: Vec<u32>,
}

impl SpreadPreferences {
    /// Counts the pods of the snapshot in the domains of the feasible nodes.
    pub fn of<'v>(
        pod: &'v PodView,
        feasible: &[&'v Node],
        snapshot: &SchedulingSnapshot<'v>,
    ) -> Self {
        let pod_constraints = pod.spec.topology_spread_constraints.as_deref();
        let needs_labels =
            pod_constraints.is_some_and(|pod_constraints| !pod_constraints.is_empty());
        let constraints = match needs_labels {
            true => {
                cov_mark::hit!(findings_c21);
                Constraint::all(pod, "ScheduleAnyway")
            }
            false => Constraint::by_default(pod, snapshot),
        };
        let is_labelled = |node: &Node| !needs_labels || has_all_labels(node, &constraints);
        let wish = |constraint: &Constraint<'v>| {
            let mut indexes: IndexMap<&str, usize> = IndexMap::new();
            // One additional domain for the nodes without the label.
            let mut nowhere = false;
            let mut domain_of = |node: &'v Node| {
                if !is_labelled(node) {
                    return None;
                }
                let Some(domain) = of_node(node, constraint.key) else {
                    nowhere = true;
                    return None;
                };
                let next = indexes.len();
                Some(*indexes.entry(domain).or_insert(next))
            };
            let domains: Vec<_> = feasible.iter().map(|node| domain_of(node)).collect();
            let mut counts = vec![0_u32; indexes.len()];
            for node in snapshot.view.nodes.values() {
                if is_labelled(node)
                    && let Some(domain) = of_node(node, constraint.key)
                    && let Some(domain) = indexes.get(domain)
                    && constraint.counts(pod, node)
                {
                    let count = &mut counts[*domain];
                    *count = count.saturating_add(constraint.there(node, pod, snapshot));
                }
            }
            // The weight balances constraints with few and with many domains.
            let size = u32::try_from(indexes.len() + usize::from(nowhere)).unwrap_or(u32::MAX);
            Wish {
                weight: (f64::from(size) + 2.0).ln(),
                base: f64::from(constraint.max_skew) - 1.0,
                domains,
                counts,
            }
        };
        Self {
            wishes: constraints.iter().map(wish).collect(),
            needs_labels,
        }
    }

    /// Whether there are no preferences.
    pub fn is_empty(&self) -> bool {
        self.wishes.is_empty()
    }

    /// The cost of a feasible node, by its index; the lowest cost is preferred. `None` if the node lacks a required
    /// label.
    pub fn cost(&self, feasible: usize) -> Option<i64> {
        let mut cost = 0.0;
        for wish in &self.wishes {
            match wish.domains[feasible] {
                Some(domain) => {
                    cost += f64::from(wish.counts[domain]) * wish.weight + wish.base;
                }
                None if self.needs_labels => return None,
                None => {}
            }
        }
        Some(cost.round() as i64)
    }
}
