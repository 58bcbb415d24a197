//! `PodInput`: the input of the planner and of the status computation.

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::node::shutdown::NodeStop;
use crate::record::PodRecord;
use crate::resources::amounts::NodeResources;

/// The state of the pod's object in the API, as far as the node has read it since the agent started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodConfirmation {
    /// The pod is bound to this node.
    Bound,
    /// The object is deleted.
    Removed,
    /// Unknown: only the disk has the pod. An unconfirmed pod keeps its sandbox, but gets no new sandbox.
    Unconfirmed,
}

/// The input of the planner.
#[derive(Clone, Copy, Debug)]
pub struct PodInput<'a> {
    /// The pod's API object, as the node last read it.
    pub pod: &'a Pod,
    /// The node's record of the pod.
    pub record: &'a PodRecord,
    /// The last written status; its transition times are retained.
    pub previous: &'a PodStatus,
    pub confirmation: PodConfirmation,
    /// Whether another pod with this name, and another UID, is still on the node.
    pub predecessor: bool,
    /// Set while the node shuts down.
    pub node_stops: Option<NodeStop>,
    /// The node's addresses, the primary address first.
    pub host_ips: &'a [String],
    /// The node's resources, which are used only for a resize.
    pub node_resources: NodeResources,
}

impl PodInput<'_> {
    /// Whether the API object is deleted.
    pub fn is_removed(&self) -> bool {
        self.confirmation == PodConfirmation::Removed
    }
}
