//! Attachment of volumes to nodes (the attach/detach controller of kube-controller-manager).
//!
//! **Goal**: each volume of a driver that attaches is attached to the nodes of its pods, and to no other node. **Relies
//! on**: the driver's attacher, which acts on VolumeAttachments, and the node, which lists in `volumesInUse` the
//! volumes that may be mounted on the node *before* the node reads `volumesAttached`. **Guarantees**: a volume is
//! detached from a node only after the volume was removed from `volumesAttached` in a version of the Node in which the
//! volume was not in use, so never under a pod; or with a [`DetachProof`] that nothing runs on the node, even if the
//! Node was deleted. A volume for one node is not attached to a second node while an attachment to another node exists.
//! An attachment is deleted only in the observed version, and a volume is added to `volumesAttached` only after this
//! leader has created or [claimed](AttachDetachAction::Claim) the attachment: a late deletion by a former leader then
//! fails, because the version has changed. Nothing is detached from a node before this leader has written the Node
//! ([AttachDetachAction::SetAttached], [AttachDetachAction::ClaimNode]): a late write of `volumesAttached` by a former
//! leader, which would return the volume to the node, then fails, because the version has changed.

use std::collections::{BTreeMap, BTreeSet};

use object_model::{ResourceVersion, Uid};

/// Prefix of the names of volumes that this controller writes into the status of Nodes.
const OF_DRIVERS: &str = "kubernetes.io/csi/";

/// A volume that a pod of the node uses, of a driver that attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name of the PersistentVolume.
    pub volume: String,
    /// Name of the volume in the status of Nodes.
    pub unique_name: String,
    /// Name of the CSI driver.
    pub driver: String,
    /// Whether the volume can be attached to one node only.
    pub is_exclusive: bool,
}

/// The parts of a VolumeAttachment that the plan depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the VolumeAttachment.
    pub name: String,
    pub uid: Uid,
    pub version: ResourceVersion,
    /// Whether this controller has created or claimed the attachment since it leads.
    pub is_claimed: bool,
    /// Name of the node.
    pub node: String,
    /// Name of the PersistentVolume.
    pub volume: String,
    /// The volume's name in the status of Nodes; `None` if the PersistentVolume was deleted.
    pub unique_name: Option<String>,
    /// `status.attached`: the driver has attached the volume.
    pub is_attached: bool,
    /// The driver's last error when it attached the volume.
    pub error: Option<String>,
    /// Whether it has a deletion timestamp.
    pub is_deleting: bool,
}

/// The state of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The names in `status.volumesInUse`, which the node's agent writes.
    pub in_use: BTreeSet<String>,
    /// The names in `status.volumesAttached`.
    pub attached: BTreeSet<String>,
    /// This leader has written the Node, and the write was acknowledged.
    pub is_claimed: bool,
}

/// The reason why nothing that used a volume on the node can be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachProof {
    /// The node's lease was fenced, and the node's agent ends the pods when the lease lapses.
    Fenced,
    /// The Node has the taint `node.kubernetes.io/out-of-service`, which an administrator sets, or an agent that has
    /// switched the machine off.
    OutOfService,
}

/// The observed state of a node.
#[derive(Clone, Debug, Default)]
pub struct ObservedNode {
    /// Name of the node.
    pub name: String,
    /// The Node; `None` if it was deleted.
    pub node: Option<Node>,
    /// The volumes of the pods bound to the node, once each, by the names of their attachments.
    pub desired: BTreeMap<String, Volume>,
    /// The attachments to this node.
    pub attachments: Vec<Attachment>,
    /// The nodes with attachments of a volume, by PersistentVolume, other than this node.
    pub elsewhere: BTreeMap<String, BTreeSet<String>>,
    /// A proof that nothing runs on the node.
    pub proof: Option<DetachProof>,
}

/// An action of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachDetachAction {
    /// Writes the driver's volumes in `status.volumesAttached`, over the observed version of the Node. This action is
    /// the last of its plan, because the next plan relies on the write.
    SetAttached(BTreeSet<String>),
    /// Creates the attachment of that name.
    Attach {
        /// Name of the VolumeAttachment.
        name: String,
        volume: Volume,
    },
    /// Writes an attachment of a former leader, in the observed version. This action is the last of its plan, because
    /// the next plan relies on the write.
    Claim {
        /// Name of the VolumeAttachment.
        name: String,
        uid: Uid,
        version: ResourceVersion,
    },
    /// Writes the Node over the observed version, because this leader has not written the Node yet. This action is the
    /// last of its plan, because the next plan relies on the write.
    ClaimNode,
    /// Deletes an attachment, in the observed version.
    Detach {
        /// Name of the VolumeAttachment.
        name: String,
        uid: Uid,
        version: ResourceVersion,
    },
    /// Reports the driver's error to the pods.
    Failed { volume: Volume, error: String },
    /// Reports to the pods that the volume is attached to another node.
    Refuse {
        volume: Volume,
        nodes: BTreeSet<String>,
    },
}

/// Whether the plan depends on a proof: the node has an attachment that no pod needs, and the volume is still in use or
/// the Node was deleted.
pub fn needs_proof(view: &ObservedNode) -> bool {
    unneeded(view).any(|attachment| match &view.node {
        Some(node) => is_in_use(node, attachment),
        None => true,
    })
}

/// Plans the actions for a node. Total.
pub fn plan(view: &ObservedNode) -> Vec<AttachDetachAction> {
    let Some(node) = &view.node else {
        // The kubelet no longer reports which volumes are mounted on the node.
        let is_proven = view.proof.is_some();
        return unneeded(view).filter(|_| is_proven).map(detach).collect();
    };
    let needed: BTreeSet<&str> = view
        .desired
        .values()
        .map(|volume| volume.unique_name.as_str())
        .collect();
    let stays = |attachment: &&Attachment| {
        let name = attachment.unique_name.as_deref().unwrap_or_default();
        // A volume that no pod needs is not added to `volumesAttached`, and is removed from there only when the volume
        // is not in use.
        let is_still_attached = node.in_use.contains(name) && node.attached.contains(name);
        let is_used = needed.contains(name) || is_still_attached;
        attachment.is_attached && !attachment.is_deleting && is_used
    };
    let attached = view.attachments.iter().filter(stays);
    let mut attached: BTreeSet<String> = attached
        .filter_map(|attachment| attachment.unique_name.clone())
        .collect();
    if view.proof.is_some() {
        attached.retain(|name| needed.contains(name.as_str()));
    }
    // Other controllers may write names without this controller's prefix.
    let of_others = node
        .attached
        .iter()
        .filter(|name| !name.starts_with(OF_DRIVERS));
    attached.extend(of_others.cloned());
    let is_new = |attachment: &&Attachment| {
        let name = attachment.unique_name.as_ref();
        name.is_some_and(|name| attached.contains(name) && !node.attached.contains(name))
    };
    let new = view.attachments.iter().filter(stays).filter(is_new);
    let unclaimed: Vec<AttachDetachAction> = new.filter(|one| !one.is_claimed).map(claim).collect();
    if !unclaimed.is_empty() {
        return unclaimed;
    }
    if attached != node.attached {
        return vec![AttachDetachAction::SetAttached(attached)];
    }
    let mut actions: Vec<AttachDetachAction> = unneeded(view)
        .filter(|attachment| view.proof.is_some() || !is_in_use(node, attachment))
        .map(detach)
        .collect();
    if !actions.is_empty() && !node.is_claimed {
        return vec![AttachDetachAction::ClaimNode];
    }
    let present: BTreeMap<&str, &Attachment> = view
        .attachments
        .iter()
        .map(|attachment| (attachment.name.as_str(), attachment))
        .collect();
    for (name, volume) in &view.desired {
        if let Some(attachment) = present.get(name.as_str()) {
            let error = attachment.error.clone();
            actions.extend(error.filter(|_| !attachment.is_attached).map(|error| {
                let volume = volume.clone();
                AttachDetachAction::Failed { volume, error }
            }));
            continue;
        }
        let elsewhere = view.elsewhere.get(&volume.volume);
        let elsewhere = elsewhere.filter(|nodes| volume.is_exclusive && !nodes.is_empty());
        actions.push(match elsewhere {
            Some(nodes) => AttachDetachAction::Refuse {
                volume: volume.clone(),
                nodes: nodes.clone(),
            },
            None => AttachDetachAction::Attach {
                name: name.clone(),
                volume: volume.clone(),
            },
        });
    }
    actions
}

/// The attachments that no pod of the node needs, and that are not being deleted.
fn unneeded(view: &ObservedNode) -> impl Iterator<Item = &Attachment> {
    let all = view.attachments.iter();
    all.filter(|one| !one.is_deleting && !view.desired.contains_key(&one.name))
}

fn is_in_use(node: &Node, attachment: &Attachment) -> bool {
    match &attachment.unique_name {
        Some(name) => node.in_use.contains(name),
        // The name of the volume in use is unknown, so any volume of a driver counts.
        None => node.in_use.iter().any(|name| name.starts_with(OF_DRIVERS)),
    }
}

fn claim(attachment: &Attachment) -> AttachDetachAction {
    AttachDetachAction::Claim {
        name: attachment.name.clone(),
        uid: attachment.uid.clone(),
        version: attachment.version,
    }
}

fn detach(attachment: &Attachment) -> AttachDetachAction {
    AttachDetachAction::Detach {
        name: attachment.name.clone(),
        uid: attachment.uid.clone(),
        version: attachment.version,
    }
}

#[cfg(test)]
mod tests;
