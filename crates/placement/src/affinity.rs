//! Pods that want to be near each other, or apart, within a topology (a node, a zone).

use k8s_openapi::api::core::v1::{Node, PodAffinityTerm};
use object_model::LabelSelector;
use resource_kinds::pod_view::PodView;

use crate::labels::{matches, parsed};
use crate::objection::Objection;
use crate::placed::anti_affinity_terms;
use crate::snapshot::SchedulingSnapshot;

const AFFINITY: &str = "node(s) didn't match pod affinity rules";
const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// A term, ready to be compared.
pub(crate) struct Term<'t> {
    selector: LabelSelector,
    namespaces: Vec<&'t str>,
    namespace_selector: Option<LabelSelector>,
    topology_key: &'t str,
}

impl<'t> Term<'t> {
    pub fn of(term: &'t PodAffinityTerm, owner: &'t PodView) -> Self {
        let mut selector = parsed(term.label_selector.as_ref());
        let with = merged(term.match_label_keys.as_deref(), owner, false);
        let without = merged(term.mismatch_label_keys.as_deref(), owner, true);
        if !with.is_empty() || !without.is_empty() {
            let mut all = selector.requirements().to_vec();
            all.extend(with);
            all.extend(without);
            selector = LabelSelector::all_of(all);
        }
        let mut namespaces: Vec<&str> = term
            .namespaces
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(&owner.namespace);
        }
        let namespace_selector = term.namespace_selector.as_ref();
        Self {
            selector,
            namespaces,
            namespace_selector: namespace_selector.map(|selector| parsed(Some(selector))),
            topology_key: &term.topology_key,
        }
    }

    pub fn selects(&self, pod: &PodView, snapshot: &SchedulingSnapshot<'_>) -> bool {
        let namespace: &str = &pod.namespace;
        let in_namespace = self.namespaces.contains(&namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                let known = snapshot.view.namespaces.get(namespace);
                matches(
                    selector,
                    known.and_then(|known| known.metadata.labels.as_ref()),
                )
            });
        in_namespace && self.selector.matches_by(|key| pod.label(key))
    }

    /// The node's value of the topology.
    pub fn domain<'n>(&self, node: &'n Node) -> Option<&'n str> {
        let labels = node.metadata.labels.as_ref()?;
        labels.get(self.topology_key).map(String::as_str)
    }
}

fn merged(
    keys: Option<&[String]>,
    owner: &PodView,
    unequal: bool,
) -> Vec<object_model::selector::Requirement> {
    use object_model::selector::{Match, Requirement};
    keys.unwrap_or_default()
        .iter()
        .filter_map(|key| {
            let value = owner.label(key)?.to_owned();
            let values = [value].into();
            let condition = if unequal {
                Match::NotIn(values)
            } else {
                Match::In(values)
            };
            Some(Requirement {
                key: key.clone(),
                condition,
            })
        })
        .collect()
}

/// The reason why affinity or anti-affinity forbids the node; `None` if it is allowed.
pub(crate) fn objection(
    pod: &PodView,
    node: &Node,
    snapshot: &SchedulingSnapshot<'_>,
) -> Option<Objection> {
    if !affinity_holds(pod, node, snapshot) {
        Some(Objection::lasting(AFFINITY))
    } else if !anti_affinity_holds(pod, node, snapshot) {
        Some(Objection::of_pods(ANTI_AFFINITY))
    } else if !others_agree(pod, node, snapshot) {
        Some(Objection::of_pods(EXISTING))
    } else {
        None
    }
}

fn affinity_terms(pod: &PodView) -> &[PodAffinityTerm] {
    let affinity = pod.spec.affinity.as_ref();
    let affinity = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let terms = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    terms.unwrap_or_default()
}

/// Whether some placed pod matches the term in the node's domain.
fn has_neighbour(term: &Term<'_>, domain: &str, snapshot: &SchedulingSnapshot<'_>) -> bool {
    snapshot.pods().any(|other| {
        let node = node_of(other, snapshot);
        node.and_then(|node| term.domain(node)) == Some(domain) && term.selects(other, snapshot)
    })
}

fn affinity_holds(pod: &PodView, node: &Node, snapshot: &SchedulingSnapshot<'_>) -> bool {
    let terms: Vec<Term<'_>> = affinity_terms(pod)
        .iter()
        .map(|term| Term::of(term, pod))
        .collect();
    if terms.is_empty() {
        return true;
    }
    let Some(domains): Option<Vec<&str>> = terms.iter().map(|term| term.domain(node)).collect()
    else {
        return false;
    };
    let near = terms
        .iter()
        .zip(&domains)
        .all(|(term, domain)| has_neighbour(term, domain, snapshot));
    // The first of a group that wants to be together matches itself.
    let alone = || {
        let nobody = !snapshot.pods().any(|other| {
            let placed = node_of(other, snapshot);
            terms.iter().all(|term| term.selects(other, snapshot))
                && placed.is_some_and(|node| terms.iter().all(|term| term.domain(node).is_some()))
        });
        nobody && terms.iter().all(|term| term.selects(pod, snapshot))
    };
    near || alone()
}

fn anti_affinity_holds(pod: &PodView, node: &Node, snapshot: &SchedulingSnapshot<'_>) -> bool {
    anti_affinity_terms(pod)
        .iter()
        .map(|term| Term::of(term, pod))
        .all(|term| {
            term.domain(node)
                .is_none_or(|domain| !has_neighbour(&term, domain, snapshot))
        })
}

fn others_agree(pod: &PodView, node: &Node, snapshot: &SchedulingSnapshot<'_>) -> bool {
    snapshot.repelling().all(|other| {
        anti_affinity_terms(other)
            .iter()
            .map(|term| Term::of(term, other))
            .all(|term| {
                let Some(domain) = term.domain(node) else {
                    return true;
                };
                let theirs = node_of(other, snapshot).and_then(|node| term.domain(node));
                theirs != Some(domain) || !term.selects(pod, snapshot)
            })
    })
}

pub(crate) fn node_of<'v>(pod: &PodView, snapshot: &SchedulingSnapshot<'v>) -> Option<&'v Node> {
    snapshot
        .view
        .nodes
        .get(pod.node.as_deref()?)
        .map(AsRef::as_ref)
}
