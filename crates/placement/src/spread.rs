//! Topology spread: the number of matching pods in a domain may exceed that of the emptiest domain
//! by at most `maxSkew` (`DoNotSchedule`), or should be small (`ScheduleAnyway`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PodSpec, TopologySpreadConstraint};
use object_model::LabelSelector;
use object_model::selector::{Match, Requirement};
use resource_kinds::pod_view::PodView;

use crate::affinity::node_of;
use crate::labels::parsed;
use crate::node;
use crate::objection::Objection;
use crate::snapshot::SchedulingSnapshot;

const SKEWED: &str = "node(s) didn't match pod topology spread constraints";
const UNLABELLED: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";

/// The reason why a `DoNotSchedule` constraint forbids the node, or `None`.
pub(crate) fn objection(
    pod: &PodView,
    node: &Node,
    snapshot: &SchedulingSnapshot<'_>,
) -> Option<Objection> {
    let spec = &pod.spec;
    let constraints = constraints(spec, "DoNotSchedule");
    if constraints
        .iter()
        .any(|constraint| domain(constraint, node).is_none())
    {
        return Some(Objection::lasting(UNLABELLED));
    }
    let holds = |constraint: &&TopologySpreadConstraint| {
        let counts = counts(pod, spec, constraint, &constraints, snapshot);
        let selected = selector(constraint, pod).matches_by(|key| pod.label(key));
        let here = domain(constraint, node)
            .and_then(|domain| counts.get(domain))
            .copied();
        let domains = i64::try_from(counts.len()).unwrap_or(i64::MAX);
        let enough = domains >= i64::from(constraint.min_domains.unwrap_or(1));
        let least = if enough {
            counts.values().min().copied().unwrap_or(0)
        } else {
            0
        };
        let after = here.unwrap_or(0) + i64::from(selected);
        after - least <= i64::from(constraint.max_skew)
    };
    if constraints.iter().all(holds) {
        None
    } else {
        Some(Objection::of_pods(SKEWED))
    }
}

/// A pod's `ScheduleAnyway` constraints, counted once for all nodes.
pub(crate) struct Preference<'v> {
    terms: Vec<Term<'v>>,
}

struct Term<'v> {
    key: &'v str,
    /// Tolerance: differences below it hardly count.
    max_skew: i64,
    /// The cost of one matching pod, in thousandths.
    weight: i64,
    counts: BTreeMap<&'v str, i64>,
}

impl<'v> Preference<'v> {
    /// Counts the pods of the snapshot.
    pub fn of(pod: &'v PodView, snapshot: &SchedulingSnapshot<'v>) -> Self {
        let spec = &pod.spec;
        let all = constraints(spec, "ScheduleAnyway");
        let term = |constraint: &&'v TopologySpreadConstraint| {
            let counts = counts(pod, spec, constraint, &all, snapshot);
            Term {
                key: &constraint.topology_key,
                max_skew: i64::from(constraint.max_skew),
                weight: weight(counts.len()),
                counts,
            }
        };
        Self {
            terms: all.iter().map(term).collect(),
        }
    }

    /// The cost of a node; the lowest is preferred. `None` without one of the labels: such a node comes last. As
    /// kube-scheduler's PodTopologySpread: the sum over the constraints of the matching pods in the
    /// node's domain times the constraint's weight, plus `maxSkew - 1`.
    pub fn cost(&self, node: &Node) -> Option<i64> {
        let cost = |term: &Term<'_>| {
            let count = term.counts.get(label(node, term.key)?)?;
            Some(count * term.weight + (term.max_skew - 1) * 1000)
        };
        self.terms.iter().map(cost).sum()
    }
}

/// The natural logarithm of the number of domains plus two, in thousandths: it balances constraints
/// with few and with many domains.
fn weight(domains: usize) -> i64 {
    let domains = u32::try_from(domains).unwrap_or(u32::MAX);
    ((f64::from(domains) + 2.0).ln() * 1000.0).round() as i64
}

/// The constraints of a pod that are meant so.
fn constraints<'s>(spec: &'s PodSpec, when: &str) -> Vec<&'s TopologySpreadConstraint> {
    let all = spec.topology_spread_constraints.iter().flatten();
    all.filter(|constraint| constraint.when_unsatisfiable == when)
        .collect()
}

fn label<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    let labels = node.metadata.labels.as_ref()?;
    labels.get(key).map(String::as_str)
}

fn domain<'n>(constraint: &TopologySpreadConstraint, node: &'n Node) -> Option<&'n str> {
    label(node, &constraint.topology_key)
}

fn selector(constraint: &TopologySpreadConstraint, pod: &PodView) -> LabelSelector {
    let base = parsed(constraint.label_selector.as_ref());
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    if keys.is_empty() {
        return base;
    }
    let mut all = base.requirements().to_vec();
    all.extend(keys.iter().filter_map(|key| {
        let value = pod.label(key)?.to_owned();
        Some(Requirement {
            key: key.clone(),
            condition: Match::In([value].into()),
        })
    }));
    LabelSelector::all_of(all)
}

/// The number of matching pods in each eligible domain.
fn counts<'v>(
    pod: &PodView,
    spec: &PodSpec,
    constraint: &TopologySpreadConstraint,
    all: &[&TopologySpreadConstraint],
    snapshot: &SchedulingSnapshot<'v>,
) -> BTreeMap<&'v str, i64> {
    let by_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let by_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let eligible = |node: &Node| {
        all.iter().all(|other| domain(other, node).is_some())
            && (!by_affinity || node::matches_affinity(spec, node))
            && (!by_taints || node::untolerated_taint(spec, node).is_none())
    };
    let mut counts: BTreeMap<&str, i64> = snapshot
        .view
        .nodes
        .values()
        .filter(|node| eligible(node))
        .filter_map(|node| Some((domain(constraint, node)?, 0)))
        .collect();
    let selector = selector(constraint, pod);
    for other in snapshot.pods() {
        let like = other.namespace == pod.namespace
            && !other.is_deleting()
            && selector.matches_by(|key| other.label(key));
        let node = node_of(other, snapshot).filter(|node| like && eligible(node));
        if let Some(count) = node
            .and_then(|node| domain(constraint, node))
            .and_then(|domain| counts.get_mut(domain))
        {
            *count += 1;
        }
    }
    counts
}
