//! Preferences about neighbours (`InterPodAffinity`): the preferences of the pod and those of the existing pods, whose
//! required affinity counts as a weak preference.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use crate::affinity::{AffinityTerm, node_of};
use crate::labels::of_node;
use crate::snapshot::SchedulingSnapshot;
use crate::terms::{affinity_terms, preferences};

/// The weight of the required affinity of an existing pod (`hardPodAffinityWeight`).
const REQUIRED: i64 = 1;

/// The sum of the weights for each domain, by the key of its topology.
pub(super) struct AffinityWeights<'v>(BTreeMap<&'v str, BTreeMap<&'v str, i64>>);

impl<'v> AffinityWeights<'v> {
    pub fn of(pod: &'v PodView, snapshot: &SchedulingSnapshot<'v>) -> Self {
        let view = snapshot.view;
        let mut sums: BTreeMap<&str, BTreeMap<&str, i64>> = BTreeMap::new();
        let mut add = |term: AffinityTerm<'v>, weight: i64, node: &'v Node| {
            if let Some((key, value)) = term.domain(node) {
                let sum = sums.entry(key).or_default().entry(value).or_default();
                *sum = sum.saturating_add(weight);
            }
        };
        let pod_terms: Vec<_> = weighted(pod).collect();
        if !pod_terms.is_empty() {
            let (near, apart) = preferences(pod);
            let mut terms = near.iter().chain(apart).map(|one| &one.pod_affinity_term);
            for other in snapshot.selectable(&mut terms, pod) {
                let Some(node) = node_of(other, snapshot) else {
                    continue;
                };
                for (weight, term) in &pod_terms {
                    if term.selects(other, view) {
                        add(*term, *weight, node);
                    }
                }
            }
        }
        for other in view.pods.wishing(pod) {
            let Some(node) = node_of(other, snapshot) else {
                continue;
            };
            let required = affinity_terms(other).iter();
            let required = required.map(|term| (REQUIRED, AffinityTerm::of(term, other)));
            for (weight, term) in required.chain(weighted(other)) {
                if term.selects(pod, view) {
                    add(term, weight, node);
                }
            }
        }
        Self(sums)
    }

    /// The sum of the weights for the domains of a node.
    pub fn of_node(&self, node: &Node) -> i64 {
        let there = self
            .0
            .iter()
            .filter_map(|(key, sums)| sums.get(of_node(node, key)?));
        there.fold(0, |sum, weight| sum.saturating_add(*weight))
    }
}

/// The weighted terms of a pod; weights of anti-affinity are negative.
fn weighted(pod: &PodView) -> impl Iterator<Item = (i64, AffinityTerm<'_>)> {
    let (near, apart) = preferences(pod);
    let near = near.iter().map(|term| (1, term));
    let apart = apart.iter().map(|term| (-1, term));
    near.chain(apart).map(move |(sign, one)| {
        let term = AffinityTerm::of(&one.pod_affinity_term, pod);
        (sign * i64::from(one.weight), term)
    })
}
