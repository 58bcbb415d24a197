//! Pods with terms of affinity or anti-affinity, indexed so that a search for the terms that may select a pod reads few
//! pods.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodAffinityTerm;
use object_model::Uid;
use resource_kinds::labels::{CONTROLLER_REVISION_HASH, POD_INDEX, POD_NAME, POD_TEMPLATE_HASH};
use resource_kinds::pod_view::PodView;

use crate::uid_index::UidIndex;

/// Labels that controllers give to pods. Each pod would have its own index entries for them, and terms that select only
/// by these labels are rare.
const NOT_INDEXED: [&str; 4] = [
    CONTROLLER_REVISION_HASH,
    POD_INDEX,
    POD_NAME,
    POD_TEMPLATE_HASH,
];

/// The UIDs of pods that have terms of one type, by the labels that their terms select.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TermOwners {
    /// By a label that a term demands.
    by_label: UidIndex,
    /// The pods with a term that demands no indexed label, or selects other namespaces.
    others: BTreeSet<Uid>,
}

impl TermOwners {
    pub fn add<'t>(
        &mut self,
        owner: &PodView,
        mut terms: impl Iterator<Item = &'t PodAffinityTerm>,
    ) {
        let labels: Option<Vec<_>> = terms.try_fold(Vec::new(), |mut labels, term| {
            labels.push(demanded_label(term, owner)?);
            Some(labels)
        });
        match labels {
            Some(labels) => {
                for label in labels {
                    self.by_label.add(label, &owner.uid);
                }
            }
            None => {
                self.others.insert(owner.uid.clone());
            }
        }
    }

    /// Removes a pod that was added with these terms.
    pub fn remove<'t>(
        &mut self,
        owner: &PodView,
        terms: impl Iterator<Item = &'t PodAffinityTerm>,
    ) {
        if self.others.remove(&owner.uid) {
            return;
        }
        for label in terms.filter_map(|term| demanded_label(term, owner)) {
            self.by_label.remove(&label, &owner.uid);
        }
    }

    /// The UIDs of all pods whose terms may select the pod, each once.
    pub fn of(&self, pod: &PodView) -> BTreeSet<&Uid> {
        let mut uids: BTreeSet<&Uid> = self.others.iter().collect();
        for label in indexed_labels(pod) {
            uids.extend(self.by_label.get(&label));
        }
        uids
    }
}

/// The labels by which a pod is indexed.
pub(crate) fn indexed_labels(pod: &PodView) -> impl Iterator<Item = String> {
    let labels = pod.labels.iter();
    let labels = labels.filter(|(key, _)| !NOT_INDEXED.contains(key));
    labels.map(|(key, value)| namespace_label(&pod.namespace, key, value))
}

/// A label that all pods have which the term selects; `None` if there is no such label, or the term selects namespaces
/// other than the owner's.
pub(crate) fn demanded_label(term: &PodAffinityTerm, owner: &PodView) -> Option<String> {
    let is_at_home =
        term.namespaces.as_ref().is_none_or(Vec::is_empty) && term.namespace_selector.is_none();
    let selector = term.label_selector.as_ref().filter(|_| is_at_home)?;
    let mut demanded = selector.match_labels.iter().flatten();
    let (key, value) = demanded.find(|(key, _)| !NOT_INDEXED.contains(&key.as_str()))?;
    Some(namespace_label(&owner.namespace, key, value))
}

/// The separators are valid neither in a namespace nor in a key, so keys of the index are unique.
fn namespace_label(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}:{key}={value}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use json_tree::{Value, json};
    use k8s_openapi::api::core::v1::{Namespace, Pod};
    use proptest::prelude::*;

    use super::*;
    use crate::affinity::AffinityTerm;
    use crate::terms::anti_affinity_terms;
    use crate::view::ClusterView;

    /// Namespace, values of two labels, terms.
    type Spec = (u8, [Option<u8>; 2], Vec<Term>);
    /// Demanded values of the labels, whether they are an expression, the namespaces.
    type Term = ([Option<u8>; 2], bool, Option<u8>);

    fn labels(values: [Option<u8>; 2], keys: [&str; 2]) -> Value {
        let pairs = keys.into_iter().zip(values);
        let pairs =
            pairs.filter_map(|(key, value)| Some((key.to_owned(), json!(value?.to_string()))));
        Value::Object(pairs.collect())
    }

    fn pod(uid: usize, (namespace, values, terms): &Spec) -> Arc<PodView> {
        // One key that is in the index, and one key that is not.
        let keys = ["app", POD_INDEX];
        let term = |(values, is_expression, namespaces): &Term| {
            let expression = json!({"key": "app", "operator": "Exists"});
            let mut term = json!({"topologyKey": "zone",
                "labelSelector": {"matchLabels": labels(*values, keys)}});
            if *is_expression {
                term["labelSelector"] = json!({"matchExpressions": [expression]});
            }
            match namespaces {
                Some(0) => term["namespaceSelector"] = json!({}),
                Some(name) => term["namespaces"] = json!([name.to_string()]),
                None => {}
            }
            term
        };
        let terms: Vec<Value> = terms.iter().map(term).collect();
        let pod: Pod = json_tree::from_value(json!({
            "metadata": {"name": uid.to_string(), "namespace": namespace.to_string(),
                "uid": uid.to_string(), "resourceVersion": "1",
                "labels": labels(*values, keys)},
            "spec": {"containers": [], "nodeName": "n", "affinity": {"podAntiAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": terms}}},
        }))
        .unwrap();
        Arc::new(pod.try_into().unwrap())
    }

    fn spec() -> impl Strategy<Value = Spec> {
        let values = || [prop::option::of(0..2u8), prop::option::of(0..2u8)];
        let term = (
            values(),
            prop::bool::weighted(0.2),
            prop::option::weighted(0.2, 0..3u8),
        );
        (1..3u8, values(), prop::collection::vec(term, 0..3))
    }

    fn uids<'p>(pods: impl Iterator<Item = &'p Arc<PodView>>) -> BTreeSet<&'p str> {
        pods.map(|pod| pod.uid.as_str()).collect()
    }

    proptest! {
        /// The indexes find all pods that the terms select.
        #[test]
        fn no_selected_pod_is_left_out(
            specs in prop::collection::vec(spec(), 1..8),
            changed in prop::collection::vec((0..8usize, prop::option::of(spec())), 0..8),
        ) {
            let mut view = ClusterView::default();
            for name in ["1", "2"] {
                let namespace = json!({"metadata": {"name": name}});
                let namespace: Namespace = json_tree::from_value(namespace).unwrap();
                view.namespaces.insert(name.to_owned(), Arc::new(namespace));
            }
            for (uid, spec) in specs.iter().enumerate() {
                view.pods.push(pod(uid, spec));
            }
            for (uid, spec) in &changed {
                match spec {
                    Some(spec) => view.pods.push(pod(*uid, spec)),
                    None => drop(view.pods.remove(&uid.to_string().parse().unwrap())),
                }
            }
            let selects = |owner: &PodView, other: &PodView| {
                let mut terms = anti_affinity_terms(owner).iter();
                terms.any(|term| AffinityTerm::of(term, owner).selects(other, &view))
            };
            for pod in view.pods.iter() {
                let all = uids(view.pods.iter().filter(|other| selects(other, pod)));
                let repelling = view.pods.repelling(pod).filter(|other| selects(other, pod));
                prop_assert_eq!(uids(repelling), all);
                let all = uids(view.pods.iter().filter(|other| selects(pod, other)));
                let terms = &mut anti_affinity_terms(pod).iter();
                if let Some(repelling) = view.pods.selectable(terms, pod) {
                    prop_assert_eq!(uids(repelling.filter(|other| selects(pod, other))), all);
                }
            }
        }
    }
}
