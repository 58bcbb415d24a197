//! The content of the status screen, computed from the objects that were read: a pure function.

use std::collections::BTreeSet;

use controller_planners::node_lifecycle::reach::KUBELET_REACHABLE;
use controller_planners::stateful_set::identity;
use diagnosis::{Explanation, ObservedNamespace, Overview, claim_ordinal};
use jiff::Timestamp;
use json_tree::Value;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use resource_kinds::pod_view::PodView;
use serde::Serialize;

use super::objects::StatusObjects;
use super::workloads;
use crate::node_summaries;
use crate::pod_row::{PodRow, PodRows};

/// The output of `mainstay status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The API server that responded.
    pub server: ServerStatus,
    /// The nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// The only namespace of the screen; `None` for all namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The StatefulSets with their pods and claims.
    pub sets: Vec<SetStatus>,
    /// Other workloads, and bare pods.
    pub workloads: Vec<Workload>,
    /// Claims that are not of a set.
    pub claims: Vec<ClaimStatus>,
    /// The waiting objects by root cause.
    pub waiting: Vec<Waiting>,
    /// Errors of the reads, one line each.
    pub notes: Vec<String>,
}

/// An API server.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    /// Its URL, for instance `https://127.0.0.1:6443`.
    pub url: String,
    /// The version of the server, in the form of Kubernetes.
    pub version: String,
    /// The data directory of the server, if it is on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<String>,
}

/// A node with its state and disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Name of the Node object.
    pub name: String,
    /// Its `InternalIP`.
    pub address: String,
    /// `Ready`, or the reason why the node is not ready.
    pub state: String,
    /// The usage of its disk, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
}

/// The usage of a node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    pub used_bytes: i64,
    /// Bytes that pods can still use.
    pub available_bytes: i64,
    /// Size of the file system in bytes.
    pub capacity_bytes: i64,
}

/// A StatefulSet with its pods and claims.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetStatus {
    /// Namespace of the set.
    pub namespace: String,
    /// Name of the set.
    pub name: String,
    /// The desired number of pods.
    pub replicas: i32,
    /// The number of ready pods.
    pub ready: usize,
    /// The pods of the set by ordinal, including pods that do not exist yet.
    pub pods: Vec<PodRow>,
    /// The claims of its pods.
    pub claims: Vec<ClaimStatus>,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimStatus {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub name: String,
    /// `Bound`, `Pending`, `Lost` or `Terminating`.
    pub state: String,
    /// Its size, present or requested.
    pub size: String,
    /// The used bytes, if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<i64>,
    /// Name of its storage class.
    pub class: String,
}

/// A workload that is no StatefulSet, or a pod without a controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// The kind in lower case, for instance `deployment`.
    pub kind: String,
    /// Namespace of the workload.
    pub namespace: String,
    /// Name of the workload.
    pub name: String,
    /// Its state in a word or two, for instance `2/3 ready`.
    pub state: String,
    /// Whether the desired state is reached.
    pub fine: bool,
    /// The reason why the desired state is not reached, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An object that is not in its desired state, with the root cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// The object, in the form that `mainstay why` accepts.
    pub object: String,
    /// The namespace of the object, if it has a namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The awaited event, and the root cause.
    pub cause: String,
}

impl Waiting {
    fn of(explanation: &Explanation) -> Self {
        let links = explanation
            .chains
            .first()
            .map(|chain| chain.links.as_slice());
        let cause = match links.unwrap_or_default() {
            [] => explanation.summary.clone(),
            [only] => only.message.clone(),
            [first, .., last] => format!("{} ← {}", first.message, last.message),
        };
        Self {
            object: explanation.object.short(),
            namespace: explanation.object.namespace.clone(),
            cause,
        }
    }
}

/// The overview of all objects, and of the waiting objects.
pub fn status(
    server: ServerStatus,
    observed: &StatusObjects,
    overview: &Overview,
    rows: &PodRows<'_>,
    now: Timestamp,
) -> ClusterStatus {
    let objects = &observed.objects;
    let sets = objects.namespaces.iter().flat_map(|evidence| {
        let sets = evidence.sets.iter();
        sets.map(move |object| set(object, evidence, observed, rows, now))
    });
    let sets: Vec<SetStatus> = sets.collect();
    let of_sets: BTreeSet<(&str, &str)> = sets
        .iter()
        .flat_map(|set| &set.claims)
        .map(|claim| (claim.namespace.as_str(), claim.name.as_str()))
        .collect();
    let others = objects
        .each(|evidence| &evidence.claims)
        .filter(|claim| !of_sets.contains(&key(&claim.metadata)));
    let nodes = objects.cluster.nodes.iter().flatten();
    ClusterStatus {
        server,
        nodes: nodes.map(|node| self::node(node, observed)).collect(),
        namespace: objects.namespace.clone(),
        claims: others.map(|object| claim(object, observed)).collect(),
        workloads: workloads::all(observed, rows, now),
        sets,
        waiting: overview.explanations.iter().map(Waiting::of).collect(),
        notes: objects.unread.clone(),
    }
}

pub(super) fn name(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn namespace(meta: &ObjectMeta) -> String {
    meta.namespace.clone().unwrap_or_default()
}

fn key(meta: &ObjectMeta) -> (&str, &str) {
    (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

fn set(
    object: &StatefulSet,
    evidence: &ObservedNamespace,
    observed: &StatusObjects,
    rows: &PodRows<'_>,
    now: Timestamp,
) -> SetStatus {
    let (namespace, name) = key(&object.metadata);
    let spec = object.spec.as_ref();
    let replicas = spec.map_or(1, |spec| spec.replicas.unwrap_or(1));
    let start = spec
        .and_then(|spec| spec.ordinals.as_ref()?.start)
        .unwrap_or(0);
    let start = i64::from(start);
    let is_of_set = |view: &PodView| {
        let controller = view.controller.as_ref();
        controller.is_some_and(|owner| Some(owner.uid.as_str()) == object.metadata.uid.as_deref())
    };
    let pods = evidence.viewed_pods().filter(|(view, _)| is_of_set(view));
    let pods = pods.filter_map(|(view, pod)| Some((identity::ordinal(name, &view.name)?, pod)));
    let pods: Vec<(i64, &Pod)> = pods.collect();
    let desired = start..start.saturating_add(i64::from(replicas));
    let mut ordinals: BTreeSet<i64> = desired.collect();
    ordinals.extend(pods.iter().map(|(ordinal, _)| ordinal));
    let row = |ordinal: &i64| match pods.iter().find(|(of, _)| of == ordinal) {
        Some((_, pod)) => rows.of(pod, now),
        None => PodRow::missing(identity::pod_name(name, *ordinal), Some(object)),
    };
    let pods: Vec<PodRow> = ordinals.iter().map(row).collect();
    let claims = evidence.claims.iter();
    let claims = claims.filter(|claim| claim_ordinal(object, key(&claim.metadata).1).is_some());
    SetStatus {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        replicas,
        ready: pods.iter().filter(|pod| pod.ready).count(),
        pods,
        claims: claims.map(|object| claim(object, observed)).collect(),
    }
}

fn claim(object: &PersistentVolumeClaim, observed: &StatusObjects) -> ClaimStatus {
    let status = object.status.as_ref();
    let spec = object.spec.as_ref();
    let phase = status.and_then(|status| status.phase.clone());
    let has = status.and_then(|status| status.capacity.as_ref()?.get("storage"));
    let wants = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    let state = match object.metadata.deletion_timestamp {
        Some(_) => "Terminating".to_owned(),
        None => phase.unwrap_or_else(|| "Pending".to_owned()),
    };
    let size = has.or(wants);
    ClaimStatus {
        namespace: namespace(&object.metadata),
        name: name(&object.metadata),
        state,
        size: size.map(|size| size.0.clone()).unwrap_or_default(),
        used_bytes: used(object, observed),
        class: spec
            .and_then(|spec| spec.storage_class_name.clone())
            .unwrap_or_default(),
    }
}

/// The usage of the volume of a claim.
fn used(claim: &PersistentVolumeClaim, observed: &StatusObjects) -> Option<i64> {
    let named = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_ref());
    let mut volumes = observed.objects.cluster.volumes.iter().flatten();
    let volume = volumes.find(|volume| volume.metadata.name.as_ref() == named);
    let volume = volume.map(AsRef::as_ref).filter(|_| named.is_some());
    node_summaries::usage(&claim.metadata, volume, &observed.figures).used
}

fn node(object: &Node, observed: &StatusObjects) -> NodeStatus {
    let name = name(&object.metadata);
    let status = object.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_deref());
    let mut addresses = addresses.unwrap_or_default().iter();
    let address = addresses.find(|address| address.type_ == "InternalIP");
    let mut figures = observed.figures.iter();
    let figures = figures.find(|figures| figures["node"]["nodeName"] == *name);
    NodeStatus {
        address: address
            .map(|address| address.address.clone())
            .unwrap_or_default(),
        state: node_state(object),
        disk: figures.and_then(|figures| disk(&figures["node"]["fs"])),
        name,
    }
}

fn disk(figures: &Value) -> Option<Disk> {
    Some(Disk {
        used_bytes: figures["usedBytes"].as_i64()?,
        available_bytes: figures["availableBytes"].as_i64()?,
        capacity_bytes: figures["capacityBytes"].as_i64()?,
    })
}

/// `Ready`, and other unusual conditions.
fn node_state(node: &Node) -> String {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let conditions = conditions.unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let mut state = match ready {
        Some(ready) if ready.status == "True" => "Ready".to_owned(),
        Some(ready) => match ready.message.as_deref() {
            Some(message) if !message.is_empty() => format!("not ready: {message}"),
            _ => "not ready".to_owned(),
        },
        None => "has not reported its state".to_owned(),
    };
    for condition in conditions {
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("Ready", _) | (KUBELET_REACHABLE, "True") => {}
            (KUBELET_REACHABLE, "False") => state.push_str(", not reachable from the server"),
            (type_, "True") => state.push_str(&format!(", {type_}")),
            _ => {}
        }
    }
    let spec = node.spec.as_ref();
    if spec.and_then(|spec| spec.unschedulable) == Some(true) {
        state.push_str(", takes no new pods (kubectl uncordon)");
    }
    state
}
