//! The pods that match a label selector, found without a walk over the other pods of the namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_model::LabelSelector;
use object_model::selector::Match;
use resource_kinds::pod_view::PodView;

use super::{Cache, Index};

/// An index of pods by the values of their labels; clones share it.
///
/// The cost of a selection is the number of pods with the rarest label that the selector requires. A selector without a
/// required value, such as `!canary`, is compared with each pod of the namespace.
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
            let terms = labels.map(|(key, value)| label_term(&pod.namespace, key, value));
            terms.collect()
        };
        Self {
            by_value: pods.index_unless(|old, new| old.labels == new.labels, terms),
            pods: pods.clone(),
        }
    }

    /// The pods of the namespace that match the selector, sorted by name.
    pub fn selected(&self, namespace: &str, selector: &LabelSelector) -> Vec<Arc<PodView>> {
        let requirements = selector.requirements().iter();
        let sets = requirements.filter_map(|requirement| match &requirement.condition {
            Match::In(values) => {
                let values = values.iter();
                let terms = values.map(|value| label_term(namespace, &requirement.key, value));
                Some(terms.collect())
            }
            _ => None,
        });
        let sets: Vec<Vec<String>> = sets.collect();
        let mut pods = match sets.as_slice() {
            [] => self.pods.list_in(namespace),
            sets => self.by_value.of_smallest(sets),
        };
        pods.retain(|pod| selector.matches_by(|key| pod.label(key)));
        pods
    }

    /// The pods of the namespace with all of these labels, sorted by name. Without labels the result is empty, as for
    /// the selector of a Service.
    pub fn labelled(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<PodView>> {
        let terms = labels
            .iter()
            .map(|(key, value)| label_term(namespace, key, value));
        let sets: Vec<Vec<String>> = terms.map(|term| vec![term]).collect();
        let mut pods = self.by_value.of_smallest(&sets);
        pods.retain(|pod| {
            let mut labels = labels.iter();
            labels.all(|(key, value)| pod.label(key) == Some(value))
        });
        pods
    }
}

/// The index term of a label in a namespace. A namespace has no `/` in its name, and a key of a label no `=`.
pub fn label_term(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use k8s_openapi::api::core::v1::Pod;
    use kube_api_client::Event;
    use object_model::selector::Requirement;
    use proptest::prelude::*;

    use super::super::listing::Listing;
    use super::*;
    use crate::changes::stored;
    use crate::pods::identity;

    const KEYS: [&str; 3] = ["app", "tier", "canary"];
    const VALUES: [&str; 3] = ["", "a", "b"];

    type Labels = BTreeMap<String, String>;

    fn one_key() -> impl Strategy<Value = String> {
        prop::sample::select(&KEYS[..]).prop_map(str::to_owned)
    }

    fn one_value() -> impl Strategy<Value = String> {
        prop::sample::select(&VALUES[..]).prop_map(str::to_owned)
    }

    fn some_labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map(one_key(), one_value(), 0..=3)
    }

    fn pod(namespace: &str, name: &str, uid: &str, version: u64, labels: &Labels) -> PodView {
        let metadata = json!({ "namespace": namespace, "name": name, "uid": uid,
            "resourceVersion": version.to_string(), "labels": labels });
        let pod: Pod = json_tree::from_value(json!({ "metadata": metadata })).expect("a pod");
        pod.try_into().expect("a pod")
    }

    /// One of six pods in two namespaces, in some state.
    fn some_pod() -> impl Strategy<Value = PodView> {
        let namespace = prop::sample::select(&["one", "two"][..]);
        let name = prop::sample::select(&["x", "y", "z"][..]);
        let uid = prop::sample::select(&["1", "2"][..]);
        let all = (namespace, name, uid, 1..=u64::MAX, some_labels());
        all.prop_map(|(namespace, name, uid, version, labels)| {
            pod(namespace, name, uid, version, &labels)
        })
    }

    /// The events of a change, of a deletion, or of a new list.
    fn some_events() -> impl Strategy<Value = Vec<Event<PodView>>> {
        prop_oneof![
            6 => some_pod().prop_map(|pod| vec![Event::Apply(pod)]),
            2 => some_pod().prop_map(|pod| vec![Event::Delete(pod)]),
            1 => prop::collection::vec(some_pod(), 0..4).prop_map(|listed| {
                let mut events: Vec<_> = listed.into_iter().map(Event::InitApply).collect();
                events.insert(0, Event::Init);
                events.push(Event::InitDone);
                events
            }),
        ]
    }

    /// A selector with any conditions, `In ()` and no condition at all among them.
    fn some_selector() -> impl Strategy<Value = LabelSelector> {
        let values = || prop::collection::btree_set(one_value(), 0..=2);
        let condition = prop_oneof![
            4 => values().prop_map(Match::In),
            2 => values().prop_map(Match::NotIn),
            1 => Just(Match::Exists),
            1 => Just(Match::DoesNotExist),
        ];
        let requirement =
            (one_key(), condition).prop_map(|(key, condition)| Requirement { key, condition });
        prop_oneof![
            15 => prop::collection::vec(requirement, 0..4).prop_map(LabelSelector::all_of),
            1 => Just(LabelSelector::nothing()),
        ]
    }

    fn take(cache: &Cache<PodView>, events: Vec<Vec<Event<PodView>>>) {
        let mut listing = Listing::default();
        for event in events.into_iter().flatten() {
            let event = event.try_map(|pod| Ok::<_, ()>(stored(pod)));
            let taken = cache
                .store
                .process_event(event.expect("a pod"), &mut listing);
            taken.expect("a pod with an identity");
            while cache.store.sweep(&mut listing) > 0 {}
        }
    }

    proptest! {
        /// After any creations, changes and deletions, with and without an index, the result equals the result of a
        /// filter over all pods.
        #[test]
        fn the_index_finds_the_pods_that_a_filter_finds(
            before in prop::collection::vec(some_events(), 0..10),
            after in prop::collection::vec(some_events(), 0..20),
            selectors in prop::collection::vec(some_selector(), 20),
            labels in prop::collection::vec(some_labels(), 5),
        ) {
            let cache = Cache::empty(identity);
            take(&cache, before);
            let index = PodsByLabel::new(&cache);
            take(&cache, after);
            for selector in selectors {
                let mut all = cache.list_in("one");
                all.retain(|pod| selector.matches_by(|key| pod.label(key)));
                prop_assert_eq!(index.selected("one", &selector), all, "{}", selector);
            }
            for labels in labels {
                let has_all = |pod: &PodView| {
                    let mut labels = labels.iter();
                    labels.all(|(key, value)| pod.label(key) == Some(value))
                };
                let mut all = cache.list_in("two");
                all.retain(|pod| !labels.is_empty() && has_all(pod));
                prop_assert_eq!(index.labelled("two", &labels), all, "{:?}", labels);
            }
        }
    }

    /// A selector with values is not compared with the other pods of the namespace.
    #[test]
    fn the_rarest_label_is_looked_up() {
        let cache = Cache::empty(identity);
        let index = PodsByLabel::new(&cache);
        let labels = |app: &str, tier: &str| {
            let labels = [("app", app), ("tier", tier)];
            let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
            BTreeMap::from(labels)
        };
        let events = ["x", "y", "z"].map(|name| {
            let tier = if name == "y" { "b" } else { "a" };
            vec![Event::Apply(pod(
                "one",
                name,
                name,
                1,
                &labels("web", tier),
            ))]
        });
        take(&cache, events.into());
        let sets = ["app=web", "tier=b"].map(|label| vec![format!("one/{label}")]);
        let names = |pods: Vec<Arc<PodView>>| -> Vec<String> {
            pods.iter().map(|pod| pod.name.to_string()).collect()
        };
        assert_eq!(names(index.by_value.of_smallest(&sets)), ["y"]);
        let both = [vec!["one/tier=a".to_owned(), "one/tier=b".to_owned()]];
        assert_eq!(names(index.by_value.of_smallest(&both)), ["x", "y", "z"]);
    }
}
