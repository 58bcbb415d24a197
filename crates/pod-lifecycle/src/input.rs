//! `PodInput`: the input of the planner and of the status computation.

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::node::shutdown::NodeStop;
use crate::record::PodRecord;
use crate::resources::amounts::NodeResources;

/// The input of the planner.
#[derive(Clone, Copy, Debug)]
pub struct PodInput<'a> {
    /// The pod's API object, as the node last read it.
    pub pod: &'a Pod,
    /// The node's record of the pod.
    pub record: &'a PodRecord,
    /// The last written status; its transition times are retained.
    pub previous: &'a PodStatus,
    /// Whether the API object is deleted.
    pub removed: bool,
    /// Whether another pod with this name, and another UID, is still on the node.
    pub predecessor: bool,
    /// Whether the API has confirmed, since the agent started, that the pod is still bound to this node. An
    /// unconfirmed pod was read only from the disk; it keeps its sandbox, but gets no new sandbox.
    pub confirmed: bool,
    /// Set while the node shuts down.
    pub node_stops: Option<NodeStop>,
    /// The node's addresses, the primary address first.
    pub host_ips: &'a [String],
    /// The node's resources, which are used only for a resize.
    pub node_resources: NodeResources,
}
