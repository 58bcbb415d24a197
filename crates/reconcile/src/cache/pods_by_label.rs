//! The pods that a label selector selects, without a walk over the other pods of the namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_model::LabelSelector;
use object_model::selector::Match;
use resource_kinds::pod_view::PodView;

use super::{Cache, Index};

/// An index of pods by the values of their labels; clones share it.
///
/// The cost of a selection is that of the rarest label that it requires. A selector that requires
/// no value, such as `!canary`, is compared with each pod of the namespace.
#[derive(Clone)]
pub struct PodsByLabel {
    pods: Cache<PodView>,
    by_value: Index<PodView>,
}

impl PodsByLabel {
    /// Adds the index to a cache.
    pub fn new(pods: &Cache<PodView>) -> Self {
        let terms = |pod: &PodView| {
            let labels = pod.labels.iter();
            let terms = labels.map(|(key, value)| term(&pod.namespace, key, value));
            terms.collect()
        };
        Self {
            by_value: pods.index_unless(|old, new| old.labels == new.labels, terms),
            pods: pods.clone(),
        }
    }

    /// The pods of the namespace that the selector selects, sorted by name.
    pub fn selected(&self, namespace: &str, selector: &LabelSelector) -> Vec<Arc<PodView>> {
        let requirements = selector.requirements().iter();
        let sets = requirements.filter_map(|requirement| match &requirement.condition {
            Match::In(values) => {
                let values = values.iter();
                let terms = values.map(|value| term(namespace, &requirement.key, value));
                Some(terms.collect())
            }
            _ => None,
        });
        let sets: Vec<Vec<String>> = sets.collect();
        let mut found = match sets.as_slice() {
            [] => self.pods.list_in(namespace),
            sets => self.by_value.of_smallest(sets),
        };
        found.retain(|pod| selector.matches_by(|key| pod.label(key)));
        found
    }

    /// The pods of the namespace with all of these labels, sorted by name; none if there are no
    /// labels, as with the selector of a Service.
    pub fn labelled(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<PodView>> {
        let terms = labels
            .iter()
            .map(|(key, value)| term(namespace, key, value));
        let sets: Vec<Vec<String>> = terms.map(|term| vec![term]).collect();
        let mut found = self.by_value.of_smallest(&sets);
        found.retain(|pod| {
            let mut labels = labels.iter();
            labels.all(|(key, value)| pod.label(key) == Some(value))
        });
        found
    }
}

/// A namespace has no `/` in its name, and a key of a label no `=`.
fn term(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use api_client::Event;
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::Identity;

    const SELECTORS: [&str; 10] = [
        "",
        "app=web",
        "app=web,tier=a",
        "app in (web,db)",
        "app in (web,db),tier=b",
        "app=web,!tier",
        "app!=web",
        "tier",
        "!app",
        "app=none",
    ];

    fn identity(pod: &PodView) -> Identity<'_> {
        Identity {
            namespace: &pod.namespace,
            name: &pod.name,
            uid: &pod.uid,
            resource_version: &pod.resource_version,
        }
    }

    fn pod(namespace: &str, name: &str, labels: BTreeMap<String, String>) -> PodView {
        let metadata =
            json!({ "namespace": namespace, "name": name, "uid": name, "labels": labels });
        let pod: Pod = serde_json::from_value(json!({ "metadata": metadata })).expect("a pod");
        PodView::from(pod)
    }

    fn some_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        let app = prop::option::of(prop::sample::select(vec!["web", "db", "cache"]));
        let tier = prop::option::of(prop::sample::select(vec!["a", "b"]));
        (app, tier).prop_map(|(app, tier)| {
            let pairs = [("app", app), ("tier", tier)].into_iter();
            let pairs = pairs.filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
            pairs.collect()
        })
    }

    proptest! {
        /// Whatever is created, changed and deleted, the index finds the pods that a filter over all
        /// of them finds.
        #[test]
        fn the_index_finds_the_pods_that_a_filter_finds(
            events in prop::collection::vec(
                (prop::bool::weighted(0.8), 0..2usize, 0..6usize, some_labels()),
                0..60,
            ),
            early in any::<bool>(),
        ) {
            let cache = Cache::empty(identity);
            let index = early.then(|| PodsByLabel::new(&cache));
            for (applies, namespace, name, labels) in events {
                let pod = pod(["one", "two"][namespace], &format!("pod-{name}"), labels);
                let event = if applies { Event::Apply(pod) } else { Event::Delete(pod) };
                cache.shared.take_event(event, &mut BTreeSet::new());
            }
            let index = index.unwrap_or_else(|| PodsByLabel::new(&cache));
            for text in SELECTORS {
                let selector = LabelSelector::parse(text).expect("a selector");
                let mut all = cache.list_in("one");
                all.retain(|pod| selector.matches_by(|key| pod.label(key)));
                prop_assert_eq!(index.selected("one", &selector), all, "{}", text);
            }
            let nothing = index.selected("one", &LabelSelector::nothing());
            prop_assert!(nothing.is_empty());
        }

        /// The same for the selector of a Service.
        #[test]
        fn labels_select_the_pods_that_have_all_of_them(
            pods in prop::collection::vec(some_labels(), 0..12),
            wanted in some_labels(),
        ) {
            let cache = Cache::empty(identity);
            let index = PodsByLabel::new(&cache);
            for (number, labels) in pods.into_iter().enumerate() {
                let event = Event::Apply(pod("one", &format!("pod-{number}"), labels));
                cache.shared.take_event(event, &mut BTreeSet::new());
            }
            let has_all = |pod: &PodView| {
                let mut wanted = wanted.iter();
                wanted.all(|(key, value)| pod.label(key) == Some(value))
            };
            let mut all = cache.list_in("one");
            all.retain(|pod| !wanted.is_empty() && has_all(pod));
            prop_assert_eq!(index.labelled("one", &wanted), all);
            prop_assert!(index.labelled("two", &wanted).is_empty());
        }
    }
}
