//! The pod's claims: the bound claims, the claims that wait for a node, and whether a node can have their volumes
//! (statefulset.md §11.3, 11.6, 11.11, 11.14, 11.15).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm,
};
use k8s_openapi::api::storage::v1::StorageClass;
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{BIND_COMPLETED, SELECTED_NODE};
use resource_kinds::pod_view::PodView;
use resource_kinds::storage::volume_move::VolumeMove;
use resource_kinds::storage::volume_replication::VolumeReplication;
use resource_kinds::volume_fit::{find, may_be_bound, requested_class, requested_size};
use thiserror::Error;

use crate::labels::node_selector_matches;
use crate::objection::FilterFailure;
use crate::snapshot::SchedulingSnapshot;
use crate::storage_capacity::has_capacity;
use crate::view::{ClaimStep, ClusterView};

const NO_MATCH: &str = "node(s) didn't find available persistent volumes to bind";
const WRONG_NODE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_CAPACITY: &str = "node(s) did not have enough free storage";
const REFUSED: &str = "node(s) could not make a volume of the pod a moment ago";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const IN_USE: &str = "node has pod using PersistentVolumeClaim with the same name and \
    ReadWriteOncePod access mode";

/// The reason why the claims of a pod cannot be used on any node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ClaimRefusal {
    #[error("waiting for ephemeral volume controller to create the persistentvolumeclaim {0:?}")]
    NotCreated(String),
    #[error("persistentvolumeclaim {0:?} not found")]
    NotFound(String),
    #[error("PVC {namespace}/{claim} was not created for pod {namespace}/{pod} (pod is not owner)")]
    OtherOwner {
        namespace: String,
        claim: String,
        pod: String,
    },
    #[error("persistentvolumeclaim {claim:?} bound to non-existent persistentvolume {volume:?}")]
    Lost { claim: String, volume: String },
    #[error("persistentvolumeclaim {0:?} is being deleted")]
    Deleting(String),
    /// The replicas of the volume permit no pod now.
    #[error("persistentvolumeclaim {claim:?}: {why}")]
    Replication { claim: String, why: String },
    #[error(
        "the volume of persistentvolumeclaim {claim:?} is being moved from node {from:?} to node {to:?}"
    )]
    Moving {
        claim: String,
        from: String,
        to: String,
    },
    #[error("pod has unbound immediate PersistentVolumeClaims")]
    UnboundImmediate,
    #[error("identity of a claim or a volume: {0}")]
    Identity(#[from] IncompleteMetadata),
}

/// The reason why the claims of a pod cannot be bound on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub(crate) enum BindingRefusal {
    #[error("{NO_MATCH}")]
    NoMatch,
    #[error("{NO_CAPACITY}")]
    NoCapacity,
    /// The creation of the volume on the node failed recently.
    #[error("{REFUSED}")]
    Refused,
}

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
    claim_name: String,
    claim: &'v PersistentVolumeClaim,
    /// The volumes that may be bound to the claim, on any node. The list is computed once and is short, so that the
    /// check of each node is quick.
    candidates: Vec<&'v PersistentVolume>,
}

impl<'v> WaitingClaim<'v> {
    fn of(
        claim: &'v PersistentVolumeClaim,
        view: &'v ClusterView,
    ) -> Result<Self, IncompleteMetadata> {
        let volumes = view.volumes.values().map(AsRef::as_ref);
        Ok(Self {
            claim_name: claim.metadata.object_name()?.to_owned(),
            claim,
            candidates: volumes
                .filter(|volume| may_be_bound(volume, claim))
                .collect(),
        })
    }
}

impl<'v> Claims<'v> {
    /// Reads the pod's claims.
    ///
    /// *Errors.* A message that applies to all nodes.
    pub fn of(pod: &PodView, view: &'v ClusterView) -> Result<Self, ClaimRefusal> {
        let mut claims = Self::default();
        let mut immediate = false;
        for used in &pod.claims {
            let name = &*used.name;
            let key = (pod.namespace.to_string(), name.to_owned());
            let Some(claim) = view.claims.get(&key) else {
                return Err(match used.ephemeral {
                    true => ClaimRefusal::NotCreated(name.to_owned()),
                    false => ClaimRefusal::NotFound(name.to_owned()),
                });
            };
            if used.ephemeral && !is_of_pod(claim, pod) {
                return Err(ClaimRefusal::OtherOwner {
                    namespace: pod.namespace.to_string(),
                    claim: name.to_owned(),
                    pod: pod.name.to_string(),
                });
            }
            check_claim(claim, name)?;
            if is_bound(claim) {
                check_transfers(claim, name, view)?;
                claims.bound.push(claim);
                claims.settling |= phase(claim) != Some("Bound");
            } else if waits_for_consumer(claim, view) && !names_volume(claim) {
                claims.waiting.push(WaitingClaim::of(claim, view)?);
            } else {
                immediate = true;
            }
            if is_exclusive(claim) {
                claims.exclusive.extend(claim.metadata.name.as_deref());
            }
        }
        if immediate {
            return Err(ClaimRefusal::UnboundImmediate);
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
        let refusal = self
            .steps(node, view)
            .err()
            .map(|refusal| refusal.to_string());
        let mut objections: BTreeSet<String> = objections.into_iter().map(str::to_owned).collect();
        objections.extend(refusal);
        FilterFailure::all_lasting(objections)
    }

    /// The writes that bind all waiting claims on the node.
    pub fn steps(&self, node: &Node, view: &ClusterView) -> Result<Vec<ClaimStep>, BindingRefusal> {
        let mut chosen: BTreeSet<&str> = BTreeSet::new();
        let mut steps = Vec::new();
        for waiting in &self.waiting {
            let WaitingClaim {
                claim_name,
                claim,
                candidates,
            } = waiting;
            let name = claim_name.clone();
            match selected_node(claim, view) {
                // The volume is being provisioned on this node.
                Some(selected) if Some(selected) == node.metadata.name.as_deref() => continue,
                Some(_) => return Err(BindingRefusal::NoMatch),
                None => {}
            }
            let permitted = |volume: &PersistentVolume| {
                let name = volume.metadata.name.as_deref();
                usable_on(volume, node) && name.is_some_and(|name| !chosen.contains(name))
            };
            match find(claim, candidates.iter().copied(), permitted, false) {
                Some(volume) => {
                    let Some(volume_name) = volume.metadata.name.as_deref() else {
                        continue;
                    };
                    chosen.insert(volume_name);
                    let reserved = volume.spec.as_ref().is_some_and(|spec| {
                        let uid = spec
                            .claim_ref
                            .as_ref()
                            .and_then(|claim| claim.uid.as_deref());
                        let claim = claim.metadata.object_uid();
                        uid.is_some_and(|uid| claim.is_ok_and(|claim| claim == *uid))
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
    owners.any(|owner| owner.controller == Some(true) && pod.uid == *owner.uid)
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

fn check_claim(claim: &PersistentVolumeClaim, name: &str) -> Result<(), ClaimRefusal> {
    if phase(claim) == Some("Lost") {
        let volume = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_deref());
        return Err(ClaimRefusal::Lost {
            claim: name.to_owned(),
            volume: volume.unwrap_or_default().to_owned(),
        });
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(ClaimRefusal::Deleting(name.to_owned()));
    }
    Ok(())
}

/// Fails if the claim's volume is being moved to another node, or its replicas permit no pod.
fn check_transfers(
    claim: &PersistentVolumeClaim,
    name: &str,
    view: &ClusterView,
) -> Result<(), ClaimRefusal> {
    let volume = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_ref());
    let volume = volume.and_then(|volume| view.volumes.get(volume));
    let replication = volume.and_then(|volume| VolumeReplication::of(volume));
    if let Some(why) = replication.and_then(|record| record.refusal(&record.primary)) {
        return Err(ClaimRefusal::Replication {
            claim: name.to_owned(),
            why,
        });
    }
    let record = volume.and_then(|volume| VolumeMove::of(volume));
    match record.filter(|record| record.stage.holds_pods()) {
        Some(record) => Err(ClaimRefusal::Moving {
            claim: name.to_owned(),
            from: record.from,
            to: record.to,
        }),
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
fn can_provision(
    claim: &PersistentVolumeClaim,
    node: &Node,
    view: &ClusterView,
) -> Result<(), BindingRefusal> {
    let class = class_of(claim, view).ok_or(BindingRefusal::NoMatch)?;
    let provisions =
        !class.provisioner.is_empty() && class.provisioner != "kubernetes.io/no-provisioner";
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let allowed = topologies.is_empty() || topologies.iter().any(|term| allows(term, node));
    match provisions && allowed {
        false => Err(BindingRefusal::NoMatch),
        true if !has_capacity(claim, class, node, view) => Err(BindingRefusal::NoCapacity),
        true if has_refused(claim, node, view) => {
            cov_mark::hit!(findings_2_r30);
            Err(BindingRefusal::Refused)
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
