//! The pods that a pod is spread from: those that a constraint selects; for a pod without constraints,
//! those of its controller, or those that all its Services select.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{Service, TopologySpreadConstraint};
use resource_kinds::pod_view::{Controller, PodView, Text};

use crate::labels::{not_merged, selects};
use crate::snapshot::SchedulingSnapshot;
use crate::view::ClusterView;

/// The pods that count, all of the pod's namespace.
#[derive(Clone)]
pub(crate) enum Replicas<'v> {
    /// Those that the constraint selects.
    Selected(&'v TopologySpreadConstraint),
    /// Those with the controller of this uid, with their number on each node that has any.
    Controlled(&'v Text, Option<&'v IndexMap<Text, usize>>),
    /// Those with these labels, the selectors of all Services of the pod.
    Served(BTreeMap<&'v str, &'v str>),
}

impl<'v> Replicas<'v> {
    /// The pods that a pod without constraints is spread from; `None` for a pod that stands alone.
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

    /// Whether a pod counts, as far as its labels tell.
    pub fn have(&self, other: &PodView, asking: &PodView) -> bool {
        let label = |key: &str| other.label(key);
        match self {
            Self::Selected(constraint) => {
                let selector = constraint.label_selector.as_ref();
                let mut keys = not_merged(constraint.match_label_keys.as_ref(), selector);
                selects(selector, label)
                    && keys.all(|key| {
                        let wanted = asking.label(key);
                        wanted.is_none() || label(key) == wanted
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

    /// The number of them on a node.
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

/// The controllers whose pods are spread without a constraint, as by kube-scheduler's system default.
fn keeps_replicas(controller: &Controller) -> bool {
    matches!(
        (&*controller.api_version, &*controller.kind),
        ("apps/v1", "ReplicaSet" | "StatefulSet") | ("v1", "ReplicationController")
    )
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref()
}
