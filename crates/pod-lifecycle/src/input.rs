//! `PodInput`: the input of the planner and of the status.

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::node::shutdown::NodeStop;
use crate::record::PodRecord;
use crate::resources::amounts::NodeResources;

/// The input of the planner.
#[derive(Clone, Copy, Debug)]
pub struct PodInput<'a> {
    /// The last known API object of the pod.
    pub pod: &'a Pod,
    /// The node's record of it.
    pub record: &'a PodRecord,
    /// The status as last written; its transition times are kept.
    pub previous: &'a PodStatus,
    /// Whether the API object is deleted.
    pub removed: bool,
    /// Whether a pod of the same name, with another UID, is still on the node.
    pub predecessor: bool,
    /// Whether the API has confirmed since the agent started that the pod is still bound to this node. A
    /// pod that is known from the disk alone keeps its sandbox, but gets no other one.
    pub confirmed: bool,
    /// Set while the node shuts down.
    pub node_stops: Option<NodeStop>,
    /// The node's addresses, the primary one first.
    pub host_ips: &'a [String],
    /// The node's resources; used only for a resize.
    pub node_resources: NodeResources,
}
