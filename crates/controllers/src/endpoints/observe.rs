//! The observed state of a Service, from caches only.

use std::collections::BTreeMap;

use controller_framework::{Cache, Index, PodsByLabel, label_term, object_key, service_of};
use controller_planners::endpoints::Observed;
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use object_model::ObjectKey;
use resource_kinds::labels;
use resource_kinds::pod_view::PodView;

use crate::Context;

const MANAGER: &str = "endpointslice-controller.k8s.io";
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";

pub(super) struct Observer {
    services: Cache<Service>,
    /// Services by the first label of their selector.
    services_by_label: Index<Service>,
    pods: Cache<PodView>,
    pub slices: Cache<EndpointSlice>,
    pub endpoints: Cache<Endpoints>,
    nodes: Cache<Node>,
    pods_by_label: PodsByLabel,
    slices_by_service: Index<EndpointSlice>,
    mirrored_by_service: Index<EndpointSlice>,
}

impl Observer {
    pub fn new(context: &Context) -> Self {
        let caches = context.caches.clone();
        Self {
            slices_by_service: caches.slices.index(|slice| managed_by(MANAGER, slice)),
            mirrored_by_service: caches.slices.index(|slice| managed_by(MIRROR, slice)),
            services_by_label: caches.services.index(first_label),
            services: caches.services,
            pods: caches.pods,
            slices: caches.slices,
            endpoints: caches.endpoints,
            nodes: caches.nodes,
            pods_by_label: context.pods_by_label.clone(),
        }
    }

    pub async fn wait_synced(&self) -> bool {
        self.services.wait_synced().await
            && self.pods.wait_synced().await
            && self.slices.wait_synced().await
            && self.endpoints.wait_synced().await
            && self.nodes.wait_synced().await
    }

    pub fn observe(&self, key: &ObjectKey) -> Observed {
        let service = self.services.get_key(key);
        let selector = service.as_deref().and_then(selector);
        let pods = selector.map(|labels| self.pods_by_label.labelled(&key.namespace, labels));
        let nodes = self.nodes.list();
        let zones = nodes
            .iter()
            .filter_map(|node| Some((node.metadata.name.clone()?, zone(node)?.to_owned())));
        Observed {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            service,
            pods: pods.unwrap_or_default(),
            zones: zones.collect::<BTreeMap<_, _>>(),
            slices: self.slices_by_service.get(&term(key)),
            mirrored: self.mirrored_by_service.get(&term(key)),
            endpoints: self.endpoints.get_key(key),
        }
    }

    /// The Services that select the pod. The index avoids a check of all other Services.
    pub fn services_of(&self, pod: &PodView) -> Vec<ObjectKey> {
        let terms = pod
            .labels
            .iter()
            .map(|(key, value)| label_term(&pod.namespace, key, value));
        let services = terms.flat_map(|term| self.services_by_label.get(&term));
        services
            .filter(|service| selects(service, pod))
            .map(|s| object_key(s.as_ref()))
            .collect()
    }

    pub fn all_services(&self) -> Vec<ObjectKey> {
        self.services
            .list()
            .into_iter()
            .map(|service| object_key(service.as_ref()))
            .collect()
    }
}

/// The labels of the pods that a Service selects; `None` if the Service selects no pods.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let selector = service.spec.as_ref()?.selector.as_ref();
    selector.filter(|selector| !selector.is_empty())
}

/// The index term of a Service that selects pods.
fn first_label(service: &Service) -> Vec<String> {
    let namespace = object_key(service).namespace;
    let first = selector(service).and_then(BTreeMap::first_key_value);
    let term = first.map(|(key, value)| label_term(&namespace, key, value));
    term.into_iter().collect()
}

fn selects(service: &Service, pod: &PodView) -> bool {
    selector(service).is_some_and(|selector| {
        let mut labels = selector.iter();
        labels.all(|(key, value)| pod.label(key) == Some(value))
    })
}

pub(super) fn zone(node: &Node) -> Option<&str> {
    node.metadata
        .labels
        .as_ref()?
        .get(labels::ZONE)
        .map(String::as_str)
}

/// The Service of a slice with this manager.
fn managed_by(manager_name: &str, slice: &EndpointSlice) -> Vec<String> {
    let labels = slice.metadata.labels.as_ref();
    let manager = labels.and_then(|labels| labels.get(labels::SLICE_MANAGED_BY));
    if manager.map(String::as_str) != Some(manager_name) {
        return Vec::new();
    }
    service_of(slice).iter().map(term).collect()
}

/// The index term of a Service's slices.
pub(crate) fn term(service: &ObjectKey) -> String {
    format!("{}/{}", service.namespace, service.name)
}
