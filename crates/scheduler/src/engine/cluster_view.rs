//! The input of a decision: the caches, with the pending writes on top.

use std::collections::BTreeMap;
use std::sync::Arc;

use placement::ClusterView;
use reconcile::{Cache, Key, Object};

use super::{Engine, is_running};

impl Engine {
    /// The view for the decision about `pod`.
    pub(super) fn view(&self, pod: &Key) -> ClusterView {
        let caches = &self.caches;
        let (mut placed, mut nominated) = (Vec::new(), Vec::new());
        for pod in caches.pods.list() {
            if is_running(&pod) {
                placed.push(pod);
            } else if let Some(node) = self.nominated(&pod) {
                let mut there = (*pod).clone();
                there.node = Some(node.into());
                nominated.push(Arc::new(there));
            }
        }
        let mut view = ClusterView {
            nodes: by_name(&caches.nodes),
            pods: placed,
            nominated,
            budgets: caches.budgets.list(),
            namespaces: by_name(&caches.namespaces),
            claims: by_namespace_and_name(&caches.claims),
            volumes: by_name(&caches.volumes),
            classes: by_name(&caches.classes),
            device_claims: by_namespace_and_name(&caches.device_claims),
            device_slices: caches.device_slices.list(),
            device_classes: by_name(&caches.device_classes),
        };
        self.reservations.overlay(pod, &mut view);
        view
    }
}

fn by_namespace_and_name<K: Object>(cache: &Cache<K>) -> BTreeMap<(String, String), Arc<K>> {
    let named = |object: Arc<K>| {
        let meta = object.meta();
        let key = (
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        );
        (key, object)
    };
    cache.list().into_iter().map(named).collect()
}

fn by_name<K: Object>(cache: &Cache<K>) -> BTreeMap<String, Arc<K>> {
    let named = |object: Arc<K>| (object.meta().name.clone().unwrap_or_default(), object);
    cache.list().into_iter().map(named).collect()
}
