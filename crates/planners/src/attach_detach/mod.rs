//! Attachment of volumes to nodes (the attach/detach controller of kube-controller-manager).
//!
//! **Goal**: each volume of a driver that attaches is attached to the nodes of its pods, and to no
//! other. **Relies on**: the driver's attacher, which acts on VolumeAttachments, and the node, which
//! lists in `volumesInUse` the volumes that it may have mounted *before* it reads `volumesAttached`.
//! **Guarantees**: a volume is detached from a node only after it left `volumesAttached` over a version
//! of the Node in which it was not in use, so never under a pod; or with a [`DetachProof`] that nothing runs
//! on the node, also if the Node was deleted. A volume for one node is not attached to a second one while
//! an attachment to another is there. An attachment is deleted in the version that was observed, and
//! comes into `volumesAttached` only after this leader has made or [claimed](AttachDetachAction::Claim) it: a
//! deletion that a former leader has on its way then finds another version. Nothing is detached from a node
//! before this leader has written the Node ([AttachDetachAction::SetAttached], [AttachDetachAction::ClaimNode]): a write of
//! `volumesAttached` that a former leader has on its way, which would give the volume back to the node, then
//! finds another version.

use std::collections::{BTreeMap, BTreeSet};

/// Names of volumes in the status of Nodes that this controller writes begin so.
const OF_DRIVERS: &str = "kubernetes.io/csi/";

/// A volume that a pod of the node uses, of a driver that attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name of the PersistentVolume.
    pub volume: String,
    /// Its name in the status of Nodes.
    pub unique_name: String,
    /// Name of the CSI driver.
    pub driver: String,
    /// Whether it may be attached to one node only.
    pub is_exclusive: bool,
}

/// A VolumeAttachment with the facts that decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the VolumeAttachment.
    pub name: String,
    /// UID of the VolumeAttachment.
    pub uid: String,
    /// Its resourceVersion.
    pub version: String,
    /// This leader has made or claimed it.
    pub is_own: bool,
    /// Name of the node.
    pub node: String,
    /// Name of the PersistentVolume.
    pub volume: String,
    /// The volume's name in the status of Nodes; `None` if the PersistentVolume is gone.
    pub unique_name: Option<String>,
    /// `status.attached`: the driver has attached the volume.
    pub is_attached: bool,
    /// The driver's last error of attaching it.
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
    /// This leader has written the Node, and has the answer.
    pub is_own: bool,
}

/// The reason why nothing that used a volume on the node can be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachProof {
    /// The node's lease was taken, and its agent ends pods with it.
    Fenced,
    /// An administrator, or an agent that has switched the machine off, says so by the taint
    /// `node.kubernetes.io/out-of-service`.
    OutOfService,
}

/// The observed state of a node.
#[derive(Clone, Debug, Default)]
pub struct ObservedNode {
    /// Name of the node.
    pub name: String,
    /// The Node; `None` if it was deleted.
    pub node: Option<Node>,
    /// The volumes of the pods bound to it, once each, by the names of their attachments.
    pub wanted: BTreeMap<String, Volume>,
    /// The attachments to this node.
    pub attachments: Vec<Attachment>,
    /// The nodes with attachments of a volume, by PersistentVolume, other than this node.
    pub elsewhere: BTreeMap<String, BTreeSet<String>>,
    /// A proof that nothing runs on it.
    pub proof: Option<DetachProof>,
}

/// An action of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachDetachAction {
    /// Writes the driver's volumes in `status.volumesAttached`, over the version of the Node that was
    /// observed. No step follows it: the next plan relies on the write.
    SetAttached(BTreeSet<String>),
    /// Creates the attachment of that name.
    Attach {
        /// Name of the VolumeAttachment.
        name: String,
        volume: Volume,
    },
    /// Writes an attachment of a former leader, in the version that was observed. No step follows it: the
    /// next plan relies on the write.
    Claim {
        /// Name of the VolumeAttachment.
        name: String,
        /// UID of the VolumeAttachment.
        uid: String,
        /// Its resourceVersion.
        version: String,
    },
    /// Writes the Node over the version that was observed, as nothing of this leader is in it yet. No step
    /// follows it: the next plan relies on the write.
    ClaimNode,
    /// Deletes an attachment, in the version that was observed.
    Detach {
        /// Name of the VolumeAttachment.
        name: String,
        /// UID of the VolumeAttachment.
        uid: String,
        /// Its resourceVersion.
        version: String,
    },
    /// Tells the pods the driver's error.
    Failed { volume: Volume, error: String },
    /// Tells the pods that the volume is attached elsewhere.
    Refuse {
        volume: Volume,
        nodes: BTreeSet<String>,
    },
}

/// Whether something can only be decided with or without a proof: an attachment that no pod wants is
/// still in use, or its Node is gone.
pub fn needs_proof(view: &ObservedNode) -> bool {
    unwanted(view).any(|attachment| match &view.node {
        Some(node) => is_in_use(node, attachment),
        None => true,
    })
}

/// The steps for a node. Total.
pub fn plan(view: &ObservedNode) -> Vec<AttachDetachAction> {
    let Some(node) = &view.node else {
        // It is not known any more which volumes it has mounted.
        let is_proven = view.proof.is_some();
        return unwanted(view).filter(|_| is_proven).map(detach).collect();
    };
    let wanted: BTreeSet<&str> = view
        .wanted
        .values()
        .map(|volume| volume.unique_name.as_str())
        .collect();
    let stays = |attachment: &&Attachment| {
        let name = attachment.unique_name.as_deref().unwrap_or_default();
        // What no pod wants is not given to the node, and is taken only when it is not in use.
        let is_kept = node.in_use.contains(name) && node.attached.contains(name);
        let is_used = wanted.contains(name) || is_kept;
        attachment.is_attached && !attachment.is_deleting && is_used
    };
    let attached = view.attachments.iter().filter(stays);
    let mut attached: BTreeSet<String> = attached
        .filter_map(|attachment| attachment.unique_name.clone())
        .collect();
    if view.proof.is_some() {
        attached.retain(|name| wanted.contains(name.as_str()));
    }
    // Others may write names that are not ours.
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
    let unclaimed: Vec<AttachDetachAction> = new.filter(|one| !one.is_own).map(claim).collect();
    if !unclaimed.is_empty() {
        return unclaimed;
    }
    if attached != node.attached {
        return vec![AttachDetachAction::SetAttached(attached)];
    }
    let mut actions: Vec<AttachDetachAction> = unwanted(view)
        .filter(|attachment| view.proof.is_some() || !is_in_use(node, attachment))
        .map(detach)
        .collect();
    if !actions.is_empty() && !node.is_own {
        return vec![AttachDetachAction::ClaimNode];
    }
    let present: BTreeMap<&str, &Attachment> = view
        .attachments
        .iter()
        .map(|attachment| (attachment.name.as_str(), attachment))
        .collect();
    for (name, volume) in &view.wanted {
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

/// The attachments that no pod of the node wants, and that are not being deleted.
fn unwanted(view: &ObservedNode) -> impl Iterator<Item = &Attachment> {
    let all = view.attachments.iter();
    all.filter(|one| !one.is_deleting && !view.wanted.contains_key(&one.name))
}

fn is_in_use(node: &Node, attachment: &Attachment) -> bool {
    match &attachment.unique_name {
        Some(name) => node.in_use.contains(name),
        // It is not known which of them it is.
        None => node.in_use.iter().any(|name| name.starts_with(OF_DRIVERS)),
    }
}

fn claim(attachment: &Attachment) -> AttachDetachAction {
    AttachDetachAction::Claim {
        name: attachment.name.clone(),
        uid: attachment.uid.clone(),
        version: attachment.version.clone(),
    }
}

fn detach(attachment: &Attachment) -> AttachDetachAction {
    AttachDetachAction::Detach {
        name: attachment.name.clone(),
        uid: attachment.uid.clone(),
        version: attachment.version.clone(),
    }
}

#[cfg(test)]
mod tests;
