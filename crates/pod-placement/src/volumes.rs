//! The pod's claims: the bound claims, the claims that wait for a node, and whether a node can have their volumes
//! (statefulset.md §11.3, 11.6, 11.11, 11.14, 11.15).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm,
};
use k8s_openapi::api::storage::v1::StorageClass;
use resource_kinds::annotations::{BIND_COMPLETED, SELECTED_NODE};
use resource_kinds::pod_view::PodView;
use resource_kinds::storage::volume_move::VolumeMove;
use resource_kinds::storage::volume_replication::VolumeReplication;
use resource_kinds::volume_fit::{find, may_be_bound, requested_class, requested_size};

use crate::labels::node_selector_matches;
use crate::objection::FilterFailure;
use crate::snapshot::SchedulingSnapshot;
use crate::storage_capacity::has_room;
use crate::view::{ClaimStep, ClusterView};

const NO_MATCH: &str = "node(s) didn't find available persistent volumes to bind";
const WRONG_NODE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_ROOM: &str = "node(s) did not have enough free storage";
const REFUSED: &str = "node(s) could not make a volume of the pod a moment ago";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const IN_USE: &str = "node has pod using PersistentVolumeClaim with the same name and \
    ReadWriteOncePod access mode";

/// The pod's claims by their state.
#[derive(Debug, Default)]
pub(crate) struct Claims<'v> {
    bound: Vec<&'v PersistentVolumeClaim>,
    /// Claims with `WaitForFirstConsumer`; the smallest first, so that small claims do not use large volumes that
    /// others need.
    waiting: Vec<WaitingClaim<'v>>,
    /// Whether a bound claim's status is not `Bound` yet. Nodes read the status, and would report an unbound claim.
    settling: bool,
    /// Claims that only one pod at a time may use.
    exclusive: Vec<&'v str>,
}

/// A claim that is bound when the pod's node is chosen.
#[derive(Debug)]
struct WaitingClaim<'v> {
    claim: &'v PersistentVolumeClaim,
    /// The volumes that may be bound to the claim, on any node. The list is computed once and is short, so that the
    /// check of each node is quick.
    candidates: Vec<&'v PersistentVolume>,
}

impl<'v> WaitingClaim<'v> {
    fn of(claim: &'v PersistentVolumeClaim, view: &'v ClusterView) -> Self {
        let volumes = view.volumes.values().map(AsRef::as_ref);
        Self {
            claim,
            candidates: volumes
                .filter(|volume| may_be_bound(volume, claim))
                .collect(),
        }
    }
}

impl<'v> Claims<'v> {
    /// Reads the pod's claims.
    ///
    /// *Errors.* A message that applies to all nodes.
    pub fn of(pod: &PodView, view: &'v ClusterView) -> Result<Self, String> {
        let mut claims = Self::default();
        let mut immediate = false;
        for used in &pod.claims {
            let name = &*used.name;
            let key = (pod.namespace.to_string(), name.to_owned());
            let Some(claim) = view.claims.get(&key) else {
                return Err(if used.ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the \
                         persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                });
            };
            if used.ephemeral && !is_of_pod(claim, pod) {
                return Err(format!(
                    "PVC {0}/{name} was not created for pod {0}/{1} (pod is not owner)",
                    pod.namespace, pod.name
                ));
            }
            usable(claim, name)?;
            if is_bound(claim) {
                at_rest(claim, name, view)?;
                claims.bound.push(claim);
                claims.settling |= phase(claim) != Some("Bound");
            } else if waits_for_consumer(claim, view) && !names_volume(claim) {
                claims.waiting.push(WaitingClaim::of(claim, view));
            } else {
                immediate = true;
            }
            if is_exclusive(claim) {
                claims.exclusive.extend(claim.metadata.name.as_deref());
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        claims.waiting.sort_by(|a, b| {
            let (a, b) = (a.claim, b.claim);
            let order = requested_size(a).cmp(&requested_size(b));
            order.then_with(|| a.metadata.name.cmp(&b.metadata.name))
        });
        Ok(claims)
    }

    /// Whether no claim has to be bound before the pod is bound.
    pub fn are_bound(&self) -> bool {
        self.waiting.is_empty() && !self.settling
    }

    /// The reason why the pod's claims cannot be used on any node while another pod uses them.
    pub fn restriction(
        &self,
        pod: &PodView,
        snapshot: &SchedulingSnapshot<'_>,
    ) -> Option<FilterFailure> {
        let mut exclusive = self.exclusive.iter();
        let is_used = exclusive.any(|name| is_used(name, pod, snapshot));
        is_used.then(|| FilterFailure::of_pods(IN_USE))
    }

    /// The reason why the pod's claims cannot be used on the node; `None` if they can be used.
    pub fn objection(&self, node: &Node, view: &ClusterView) -> Option<FilterFailure> {
        let mut objections = BTreeSet::new();
        for claim in &self.bound {
            let name = claim
                .spec
                .as_ref()
                .and_then(|spec| spec.volume_name.as_ref());
            match name.and_then(|name| view.volumes.get(name)) {
                None => {
                    objections.insert(NO_VOLUME);
                }
                Some(volume) if !usable_on(volume, node) => {
                    objections.insert(WRONG_NODE);
                }
                Some(_) => {}
            }
        }
        if let Err(text) = self.steps(node, view) {
            objections.insert(text);
        }
        FilterFailure::all_lasting(objections.into_iter().map(str::to_owned))
    }

    /// The writes that bind all waiting claims on the node.
    ///
    /// *Errors.* The reason why the claims cannot be bound there.
    pub fn steps(&self, node: &Node, view: &ClusterView) -> Result<Vec<ClaimStep>, &'static str> {
        let mut chosen: BTreeSet<&str> = BTreeSet::new();
        let mut steps = Vec::new();
        for WaitingClaim { claim, candidates } in &self.waiting {
            let name = claim.metadata.name.clone().unwrap_or_default();
            match selected_node(claim, view) {
                // The volume is being provisioned on this node.
                Some(selected) if Some(selected) == node.metadata.name.as_deref() => continue,
                Some(_) => return Err(NO_MATCH),
                None => {}
            }
            let permitted = |volume: &PersistentVolume| {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                usable_on(volume, node) && !chosen.contains(name)
            };
            match find(claim, candidates.iter().copied(), permitted, false) {
                Some(volume) => {
                    let volume_name = volume.metadata.name.as_deref().unwrap_or_default();
                    chosen.insert(volume_name);
                    let reserved = volume.spec.as_ref().is_some_and(|spec| {
                        let uid = spec.claim_ref.as_ref().and_then(|claim| claim.uid.as_ref());
                        uid.is_some() && uid == claim.metadata.uid.as_ref()
                    });
                    if !reserved {
                        let volume = volume_name.to_owned();
                        steps.push(ClaimStep::Reserve {
                            claim: name,
                            volume,
                        });
                    }
                }
                None => {
                    can_provision(claim, node, view)?;
                    steps.push(ClaimStep::SelectNode { claim: name });
                }
            }
        }
        Ok(steps)
    }
}

/// Whether the claim was created for the pod.
fn is_of_pod(claim: &PersistentVolumeClaim, pod: &PodView) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && *owner.uid == *pod.uid)
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

fn usable(claim: &PersistentVolumeClaim, name: &str) -> Result<(), String> {
    if phase(claim) == Some("Lost") {
        let volume = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_deref());
        return Err(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}",
            volume.unwrap_or_default()
        ));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    Ok(())
}

/// Checks that the claim's volume is not being moved.
///
/// *Errors.* The claim's volume is being moved to another node.
fn at_rest(claim: &PersistentVolumeClaim, name: &str, view: &ClusterView) -> Result<(), String> {
    let volume = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_ref());
    let volume = volume.and_then(|volume| view.volumes.get(volume));
    let replication = volume.and_then(|volume| VolumeReplication::of(volume));
    if let Some(why) = replication.and_then(|record| record.refusal(&record.primary)) {
        return Err(format!("persistentvolumeclaim {name:?}: {why}"));
    }
    let record = volume.and_then(|volume| VolumeMove::of(volume));
    match record.filter(|record| record.stage.holds_pods()) {
        Some(record) => Err(format!(
            "the volume of persistentvolumeclaim {name:?} is being moved from node {:?} to node {:?}",
            record.from, record.to
        )),
        None => Ok(()),
    }
}

/// Whether the binding is complete: the claim names a volume, and has the binder's annotation that the volume agrees.
fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    names_volume(claim) && annotation(claim, BIND_COMPLETED).is_some()
}

fn names_volume(claim: &PersistentVolumeClaim) -> bool {
    let name = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref());
    name.is_some_and(|name| !name.is_empty())
}

fn waits_for_consumer(claim: &PersistentVolumeClaim, view: &ClusterView) -> bool {
    class_of(claim, view)
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

fn class_of<'v>(claim: &PersistentVolumeClaim, view: &'v ClusterView) -> Option<&'v StorageClass> {
    view.classes.get(requested_class(claim)?).map(AsRef::as_ref)
}

fn annotation<'c>(claim: &'c PersistentVolumeClaim, key: &str) -> Option<&'c str> {
    claim
        .metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// The selected node of the claim. A deleted node is ignored, because it will not provision the volume.
fn selected_node<'c>(claim: &'c PersistentVolumeClaim, view: &ClusterView) -> Option<&'c str> {
    annotation(claim, SELECTED_NODE).filter(|node| view.nodes.contains_key(*node))
}

fn is_exclusive(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.as_deref());
    modes
        .unwrap_or_default()
        .iter()
        .any(|mode| mode == "ReadWriteOncePod")
}

fn is_used(claim: &str, pod: &PodView, snapshot: &SchedulingSnapshot<'_>) -> bool {
    let mut users = snapshot.users_of(&pod.namespace, claim);
    users.any(|other| other.uid != pod.uid)
}

/// Whether the volume can be mounted on the node.
fn usable_on(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| node_selector_matches(required, node))
}

/// Whether the claim's volume can be created on the node.
///
/// *Errors.* The reason why the volume cannot be created.
fn can_provision(
    claim: &PersistentVolumeClaim,
    node: &Node,
    view: &ClusterView,
) -> Result<(), &'static str> {
    let class = class_of(claim, view).ok_or(NO_MATCH)?;
    let provisions =
        !class.provisioner.is_empty() && class.provisioner != "kubernetes.io/no-provisioner";
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let allowed = topologies.is_empty() || topologies.iter().any(|term| allows(term, node));
    match provisions && allowed {
        false => Err(NO_MATCH),
        true if !has_room(claim, class, node, view) => Err(NO_ROOM),
        true if has_refused(claim, node, view) => {
            cov_mark::hit!(findings_2_r30);
            Err(REFUSED)
        }
        true => Ok(()),
    }
}

/// Whether the creation of the volume on the node failed recently.
fn has_refused(claim: &PersistentVolumeClaim, node: &Node, view: &ClusterView) -> bool {
    let meta = &claim.metadata;
    let key = meta.namespace.clone().zip(meta.name.clone());
    let nodes = key.and_then(|key| view.refusals.get(&key));
    let name = node.metadata.name.as_deref();
    nodes.is_some_and(|nodes| name.is_some_and(|name| nodes.contains(name)))
}

fn allows(term: &TopologySelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    term.match_label_expressions
        .iter()
        .flatten()
        .all(|expression| {
            let value = labels.and_then(|labels| labels.get(&expression.key));
            value.is_some_and(|value| expression.values.contains(value))
        })
}
