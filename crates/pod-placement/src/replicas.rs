//! The pods from which a pod is spread: the pods that a constraint selects; for a pod without constraints, the pods of
//! its controller, or the pods that all its Services select.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{Service, TopologySpreadConstraint};
use object_model::Uid;
use resource_kinds::pod_view::{Controller, PodView, Text};

use crate::labels::{not_merged, selects};
use crate::snapshot::SchedulingSnapshot;
use crate::view::ClusterView;

/// The counted pods; all are in the pod's namespace.
#[derive(Clone)]
pub(crate) enum Replicas<'v> {
    /// The pods that the constraint selects.
    Selected(&'v TopologySpreadConstraint),
    /// The pods with the controller of this UID, with their number on each node with such pods.
    Controlled(&'v Uid, Option<&'v IndexMap<Text, usize>>),
    /// The pods with these labels, the selectors of all Services of the pod.
    Served(BTreeMap<&'v str, &'v str>),
}

impl<'v> Replicas<'v> {
    /// The pods from which a pod without constraints is spread; `None` for a pod without controller and Service.
    pub fn by_default(pod: &'v PodView, view: &'v ClusterView) -> Option<Self> {
        let controller = pod.controller.as_deref();
        if let Some(controller) = controller.filter(|controller| keeps_replicas(controller)) {
            let present = view.pods.of_controller(&pod.namespace, &controller.uid);
            return Some(Self::Controlled(&controller.uid, present));
        }
        let mut labels = BTreeMap::new();
        let from = (pod.namespace.to_string(), String::new());
        let services = view.services.range(from..);
        let services = services.take_while(|((namespace, _), _)| **namespace == *pod.namespace);
        for selector in services.filter_map(|(_, service)| selector(service)) {
            let mut all = selector.iter();
            if all.all(|(key, value)| pod.label(key) == Some(value)) {
                labels.extend(selector.iter().map(|(key, value)| (&**key, &**value)));
            }
        }
        (!labels.is_empty()).then_some(Self::Served(labels))
    }

    /// Whether a pod counts, judged only by its labels.
    pub fn have(&self, other: &PodView, asking: &PodView) -> bool {
        let label = |key: &str| other.label(key);
        match self {
            Self::Selected(constraint) => {
                let selector = constraint.label_selector.as_ref();
                let mut keys = not_merged(constraint.match_label_keys.as_ref(), selector);
                selects(selector, label)
                    && keys.all(|key| {
                        let value_of_asking = asking.label(key);
                        value_of_asking.is_none() || label(key) == value_of_asking
                    })
            }
            Self::Controlled(uid, _) => {
                let controller = other.controller.as_ref();
                controller.is_some_and(|controller| controller.uid == **uid)
            }
            Self::Served(labels) => {
                let mut all = labels.iter();
                all.all(|(key, value)| label(key) == Some(value))
            }
        }
    }

    /// The number of counted pods on a node.
    pub fn on(&self, node: &str, asking: &PodView, snapshot: &SchedulingSnapshot<'_>) -> u32 {
        let count = match self {
            Self::Controlled(_, present) if snapshot.is_present() => {
                let count = present.and_then(|present| present.get(node));
                count.copied().unwrap_or_default()
            }
            _ => {
                let there = snapshot.there(node);
                let like = there.filter(|other| {
                    other.namespace == asking.namespace
                        && !other.is_deleting()
                        && self.have(other, asking)
                });
                like.count()
            }
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// Whether pods of this controller are spread without a constraint; as kube-scheduler's system default.
fn keeps_replicas(controller: &Controller) -> bool {
    matches!(
        (&*controller.api_version, &*controller.kind),
        ("apps/v1", "ReplicaSet" | "StatefulSet") | ("v1", "ReplicationController")
    )
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref()
}
