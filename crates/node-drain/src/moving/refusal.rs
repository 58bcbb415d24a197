//! The reasons why a volume is not moved, in words for the user.

use object_model::IncompleteMetadata;
use thiserror::Error;

/// A node gets no volumes and no pods.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeRefusal {
    #[error("node {0:?} is not ready")]
    NotReady(String),
    #[error("node {0:?} takes no pods: it is cordoned")]
    Cordoned(String),
}

/// A volume cannot be moved to a node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MoveRefusal {
    #[error("claim {0:?} is not bound")]
    UnboundClaim(String),
    #[error("the volume of claim {0:?} does not exist")]
    NoVolume(String),
    #[error("claim {0:?} or its volume is being deleted")]
    Deleting(String),
    #[error("volume {volume} is being moved to node {to:?}; --cancel abandons that")]
    MovingElsewhere { volume: String, to: String },
    #[error("the volume of claim {claim:?} is on node {node:?} already")]
    SameNode { claim: String, node: String },
    #[error("node {0:?} does not exist")]
    NoNode(String),
    #[error(transparent)]
    Node(#[from] NodeRefusal),
    #[error(
        "the volume of claim {claim:?} has a replica on another node, and is not moved: it goes there \
         when node {from:?} is lost"
    )]
    Replicated { claim: String, from: String },
    #[error(
        "the volume of claim {claim:?} has snapshots ({}), which stay on node {from:?}. To keep one, make \
         a claim from it (spec.dataSource) and move that claim as well. Then delete the VolumeSnapshots",
        snapshots.join(", ")
    )]
    Snapshots {
        claim: String,
        snapshots: Vec<String>,
        from: String,
    },
    #[error(
        "pod {pod:?} uses claim {claim:?} and has no controller that would start it again: delete it \
         first"
    )]
    PodWithoutController { pod: String, claim: String },
    #[error(
        "the volume of claim {claim:?} is of the class {class:?}: only volumes of the classes local \
         and local-cow can be moved"
    )]
    OtherClass { claim: String, class: String },
    #[error("the volume of claim {0:?} is a block device: only volumes with files can be moved")]
    BlockDevice(String),
    #[error("the volume of claim {0:?} is not on one node")]
    NotOnOneNode(String),
    #[error(transparent)]
    Identity(#[from] IncompleteMetadata),
}
