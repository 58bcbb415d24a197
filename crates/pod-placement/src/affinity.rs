//! Pods that require or prefer nodes near to other pods, or away from them, within a topology (a node, a zone).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, PodAffinityTerm};
use resource_kinds::pod_view::PodView;

use crate::labels::{not_merged, of_node, selects};
use crate::objection::FilterFailure;
use crate::snapshot::SchedulingSnapshot;
use crate::terms::{affinity_terms, anti_affinity_terms};
use crate::view::ClusterView;

const AFFINITY: &str = "node(s) didn't match pod affinity rules";
const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// A domain: the key of a topology, and the value of this key on its nodes.
pub(crate) type TopologyDomain<'v> = (&'v str, &'v str);

/// A term of a pod's affinity or anti-affinity.
#[derive(Clone, Copy)]
pub(crate) struct AffinityTerm<'t> {
    term: &'t PodAffinityTerm,
    owner: &'t PodView,
}

impl<'t> AffinityTerm<'t> {
    pub fn of(term: &'t PodAffinityTerm, owner: &'t PodView) -> Self {
        Self { term, owner }
    }

    pub fn selects(&self, pod: &PodView, view: &ClusterView) -> bool {
        self.is_about(&pod.namespace, view)
            && selects(self.term.label_selector.as_ref(), |key| pod.label(key))
            && self.has_labels_of_owner(pod)
    }

    /// Whether the term selects pods of the namespace: a listed or selected namespace; if the term has neither, the
    /// owner's namespace.
    fn is_about(&self, namespace: &str, view: &ClusterView) -> bool {
        let listed = self.term.namespaces.as_deref().unwrap_or_default();
        let selector = self.term.namespace_selector.as_ref();
        if listed.is_empty() && selector.is_none() {
            return *self.owner.namespace == *namespace;
        }
        let labels_of_namespace = view.namespaces.get(namespace);
        let labels = labels_of_namespace
            .and_then(|labels_of_namespace| labels_of_namespace.metadata.labels.as_ref());
        let label = |key: &str| {
            labels
                .and_then(|labels| labels.get(key))
                .map(String::as_str)
        };
        listed.iter().any(|one| one == namespace) || selects(selector, label)
    }

    /// Whether the owner's labels match `matchLabelKeys` and `mismatchLabelKeys`, which are checked in addition to the
    /// selector; keys that the owner does not have are ignored.
    fn has_labels_of_owner(&self, pod: &PodView) -> bool {
        let term = self.term;
        let selector = term.label_selector.as_ref();
        let mut equal = not_merged(term.match_label_keys.as_ref(), selector);
        let mut unequal = not_merged(term.mismatch_label_keys.as_ref(), selector);
        let is_same = |key: &String| pod.label(key) == self.owner.label(key);
        let is_present = |key: &String| self.owner.label(key).is_some();
        equal.all(|key| !is_present(key) || is_same(key))
            && unequal.all(|key| !is_present(key) || !is_same(key))
    }

    /// The domain of a node in the term's topology.
    pub fn domain<'d>(&self, node: &'d Node) -> Option<TopologyDomain<'d>>
    where
        't: 'd,
    {
        let key = self.term.topology_key.as_str();
        Some((key, of_node(node, key)?))
    }
}

/// Domains, by the key of their topology.
#[derive(Default)]
struct Domains<'v>(BTreeMap<&'v str, BTreeSet<&'v str>>);

impl<'v> Domains<'v> {
    fn add(&mut self, domains: impl Iterator<Item = TopologyDomain<'v>>) {
        for (key, value) in domains {
            self.0.entry(key).or_default().insert(value);
        }
    }

    fn has(&self, (key, value): TopologyDomain<'_>) -> bool {
        let values_of_key = self.0.get(key);
        values_of_key.is_some_and(|values| values.contains(value))
    }

    /// Whether the node is in one of the domains.
    fn have(&self, node: &Node) -> bool {
        let mut all = self.0.iter();
        all.any(|(key, values)| of_node(node, key).is_some_and(|value| values.contains(value)))
    }
}

/// The domains in which the pods of a snapshot allow or forbid a pod.
pub(crate) struct Neighbours<'v> {
    /// The terms of required affinity.
    required: Vec<AffinityTerm<'v>>,
    /// The domains of the pods that all these terms select.
    near: Domains<'v>,
    /// Whether the terms select the pod itself, which may then be the first pod of its group.
    starts_group: bool,
    /// The domains of the pods that the pod's anti-affinity selects.
    avoided: Domains<'v>,
    /// The domains of the pods whose anti-affinity selects the pod.
    closed: Domains<'v>,
}

impl<'v> Neighbours<'v> {
    pub fn of(pod: &'v PodView, snapshot: &SchedulingSnapshot<'v>) -> Self {
        let view = snapshot.view;
        let of_pod = |term| AffinityTerm::of(term, pod);
        let required: Vec<AffinityTerm<'v>> = affinity_terms(pod).iter().map(of_pod).collect();
        let unwanted: Vec<AffinityTerm<'v>> = anti_affinity_terms(pod).iter().map(of_pod).collect();
        let (mut near, mut avoided) = (Domains::default(), Domains::default());
        if !required.is_empty() || !unwanted.is_empty() {
            let mut terms = affinity_terms(pod).iter().chain(anti_affinity_terms(pod));
            for other in snapshot.selectable(&mut terms, pod) {
                let Some(node) = node_of(other, snapshot) else {
                    continue;
                };
                if required.iter().all(|term| term.selects(other, view)) {
                    near.add(required.iter().filter_map(|term| term.domain(node)));
                }
                let against = unwanted.iter().filter(|term| term.selects(other, view));
                avoided.add(against.filter_map(|term| term.domain(node)));
            }
        }
        let mut closed = Domains::default();
        for other in snapshot.repelling(pod) {
            let Some(node) = node_of(other, snapshot) else {
                continue;
            };
            let terms = anti_affinity_terms(other);
            let terms = terms.iter().map(|term| AffinityTerm::of(term, other));
            let against = terms.filter(|term| term.selects(pod, view));
            closed.add(against.filter_map(|term| term.domain(node)));
        }
        Self {
            starts_group: near.0.is_empty() && required.iter().all(|term| term.selects(pod, view)),
            required,
            near,
            avoided,
            closed,
        }
    }

    /// The reason why affinity or anti-affinity forbids the node; `None` if the node is allowed.
    pub fn objection(&self, node: &Node) -> Option<FilterFailure> {
        let is_near = |term: &AffinityTerm<'v>| {
            let domain = term.domain(node);
            domain.is_some_and(|domain| self.starts_group || self.near.has(domain))
        };
        if !self.required.iter().all(is_near) {
            Some(FilterFailure::lasting(AFFINITY))
        } else if self.avoided.have(node) {
            Some(FilterFailure::of_pods(ANTI_AFFINITY))
        } else if self.closed.have(node) {
            Some(FilterFailure::of_pods(EXISTING))
        } else {
            None
        }
    }
}

pub(crate) fn node_of<'v>(pod: &PodView, snapshot: &SchedulingSnapshot<'v>) -> Option<&'v Node> {
    snapshot
        .view
        .nodes
        .get(pod.node.as_deref()?)
        .map(|node| &**node)
}
