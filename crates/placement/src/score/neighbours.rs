//! Preferences for and against neighbours (`InterPodAffinity`): those of the pod, and those of the pods that are
//! there, of which required affinity counts as a weak preference.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use crate::affinity::{AffinityTerm, affinity_terms, node_of};
use crate::labels::of_node;
use crate::snapshot::SchedulingSnapshot;

/// The weight of the required affinity of a pod that is there (`hardPodAffinityWeight`).
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
        let own: Vec<_> = preferences(pod).collect();
        if !own.is_empty() {
            for other in snapshot.pods() {
                let Some(node) = node_of(other, snapshot) else {
                    continue;
                };
                for (weight, term) in &own {
                    if term.selects(other, view) {
                        add(*term, *weight, node);
                    }
                }
            }
        }
        for other in view.pods.wishing() {
            let Some(node) = node_of(other, snapshot) else {
                continue;
            };
            let required = affinity_terms(other).iter();
            let required = required.map(|term| (REQUIRED, AffinityTerm::of(term, other)));
            for (weight, term) in required.chain(preferences(other)) {
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

/// The weighted terms of a pod; weights against neighbours are negative.
fn preferences(pod: &PodView) -> impl Iterator<Item = (i64, AffinityTerm<'_>)> {
    let affinity = pod.spec.affinity.as_ref();
    let near = affinity
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|terms| {
            terms
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        });
    let apart = affinity
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|terms| {
            terms
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        });
    let near = near.unwrap_or_default().iter().map(|term| (1, term));
    let apart = apart.unwrap_or_default().iter().map(|term| (-1, term));
    let weighted = near.chain(apart);
    weighted.map(move |(sign, one)| {
        let term = AffinityTerm::of(&one.pod_affinity_term, pod);
        (sign * i64::from(one.weight), term)
    })
}
