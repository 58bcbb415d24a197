//! The plan of a DaemonSet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration,
};
use object_model::IncompleteMetadata;
use resource_kinds::labels::CONTROLLER_REVISION_HASH;
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::taint;

use super::history::{self, RevisionAction, RevisionHash};
use super::{nodes, status};
use crate::pod_set::{self, Owner, OwnerKind, PodAction, PodState, pod_of};

/// API version and kind of a DaemonSet.
pub const DAEMON_SET: OwnerKind = OwnerKind {
    api_version: "apps/v1",
    kind: "DaemonSet",
};

/// The scheduler's decision about the set's pod on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFit {
    /// Whether a new pod may start on the node.
    pub starts: bool,
    /// Whether an existing pod may stay on the node.
    pub stays: bool,
}

/// The observed state of one DaemonSet.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The DaemonSet.
    pub set: Arc<DaemonSet>,
    /// Pods of its namespace: at least those it owns, and those without an owner.
    pub pods: Vec<Arc<PodView>>,
    /// Revisions of its namespace: at least those it owns, and those without an owner.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// All nodes, each with the scheduler's decision about [`daemon_pod`].
    pub nodes: BTreeMap<String, NodeFit>,
}

/// The planned writes, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DaemonSetPlan {
    /// Writes to revisions, before all other writes.
    pub revisions: Vec<RevisionAction>,
    /// Pods to create and delete.
    pub pods: Vec<PodAction>,
    /// The new status, if it differs from the stored one.
    pub status: Option<DaemonSetStatus>,
    /// Deletions of revisions beyond `revisionHistoryLimit`.
    pub cleanup: Vec<RevisionAction>,
    /// The time after which to plan again even without an event.
    pub requeue_after: Option<Duration>,
}

impl DaemonSetPlan {
    /// Whether there is nothing to write.
    pub fn is_idle(&self) -> bool {
        self.revisions.is_empty()
            && self.pods.is_empty()
            && self.cleanup.is_empty()
            && self.status.is_none()
    }
}

/// The parsed set and its pods.
pub(super) struct ParsedDaemonSet<'a> {
    pub observed: &'a Observed,
    pub owner: Owner<'a>,
    pub spec: DaemonSetSpec,
    pub now: Timestamp,
    /// The pods by node, oldest first, without ended pods that are being deleted.
    pub by_node: BTreeMap<String, Vec<PodState<'a>>>,
    pub names: Vec<String>,
}

/// Plans the writes for a DaemonSet. Any specification gives a plan.
pub fn plan(observed: &Observed, now: Timestamp) -> Result<DaemonSetPlan, IncompleteMetadata> {
    let set = &observed.set;
    let spec = set.spec.clone().unwrap_or_default();
    let owner = Owner::new(DAEMON_SET, &set.metadata, &spec.selector)?;
    if owner.deleting || owner.selector.is_none() {
        return Ok(DaemonSetPlan::default());
    }
    let sorted = owner.sort(&observed.pods);
    let min_ready = SignedDuration::from_secs(spec.min_ready_seconds.unwrap_or_default().into());
    let mut by_node: BTreeMap<String, Vec<PodState<'_>>> = BTreeMap::new();
    for pod in sorted.mine.iter().copied() {
        let state = pod_set::state(pod, min_ready, now);
        if let Some(node) = node_of(pod).filter(|_| !(state.ended() && state.terminating)) {
            by_node.entry(node).or_default().push(state);
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_unstable_by_key(|pod| (pod.created(), pod.name().to_owned()));
    }
    let parsed = ParsedDaemonSet {
        observed,
        owner,
        spec,
        now,
        by_node,
        names: sorted.names,
    };
    let chosen = history::choose(&parsed)?;
    let (actions, wake) = nodes::decide(&parsed, &chosen.hash)?;
    let available = parsed.by_node.values().flatten();
    let wake = available
        .filter_map(|pod| pod.available_at)
        .chain(wake)
        .min();
    let mut pods = sorted.actions;
    pods.extend(actions);
    Ok(DaemonSetPlan {
        status: status::next(&parsed, &chosen),
        cleanup: history::surplus(&parsed, &chosen.hash)?,
        revisions: chosen.actions,
        pods,
        requeue_after: wake
            .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default()),
    })
}

/// A pod of the set without name, node and revision; the input for the check of nodes.
pub fn daemon_pod(set: &DaemonSet) -> Result<Pod, IncompleteMetadata> {
    let spec = set.spec.clone().unwrap_or_default();
    let owner = Owner::new(DAEMON_SET, &set.metadata, &spec.selector)?;
    let mut pod = pod_of(&owner, &spec.template);
    let Some(pod_spec) = &mut pod.spec else {
        return Ok(pod);
    };
    let mut tolerated = vec![
        (taint::NOT_READY, "NoExecute"),
        (taint::UNREACHABLE, "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        (taint::UNSCHEDULABLE, "NoSchedule"),
    ];
    if pod_spec.host_network == Some(true) {
        tolerated.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let tolerations = pod_spec.tolerations.get_or_insert_default();
    for (key, effect) in tolerated {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    Ok(pod)
}

/// The pod of the set for a node.
pub(super) fn pod_for(
    set: &DaemonSet,
    node: &str,
    hash: &RevisionHash,
) -> Result<Pod, IncompleteMetadata> {
    let mut pod = daemon_pod(set)?;
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(
        CONTROLLER_REVISION_HASH.to_owned(),
        hash.as_str().to_owned(),
    );
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    if let Some(spec) = &mut pod.spec {
        let affinity = spec.affinity.get_or_insert_default();
        let affinity = affinity.node_affinity.get_or_insert_default();
        // The node already passed the template's own node affinity.
        affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: None,
                match_fields: Some(vec![by_name]),
            }],
        });
    }
    Ok(pod)
}

/// The node of a pod, or the node that its affinity requires.
fn node_of(pod: &PodView) -> Option<String> {
    if let Some(name) = &pod.node {
        return Some(name.to_string());
    }
    let affinity = pod.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let mut fields = required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten());
    let name = fields.find(|field| field.key == "metadata.name" && field.operator == "In")?;
    name.values.as_ref()?.first().cloned()
}
