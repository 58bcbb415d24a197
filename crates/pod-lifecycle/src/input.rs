//! `PodInput`: the input of the planner and of the status.

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::node::shutdown::NodeStop;
use crate::record::PodRecord;
use crate::resources::amounts::NodeResources;

/// What the planner looks at.
#[derive(Clone, Copy, Debug)]
pub struct PodInput<'a> {
    /// The pod as the API has it, or last had it.
    pub pod: &'a Pod,
    /// The node's record of it.
    pub record: &'a PodRecord,
    /// The status as last written, which keeps its transition times.
    pub previous: &'a PodStatus,
    /// Whether the object is gone from the API.
    pub removed: bool,
    /// Whether a pod of the same name, with another uid, is still here.
    pub predecessor: bool,
    /// That the node is shutting down, and all its pods with it.
    pub node_stops: Option<NodeStop>,
    /// The node's own addresses, the first the main one.
    pub host_ips: &'a [String],
    /// What the node can give; only looked at when the pod asks for new resources.
    pub node_resources: NodeResources,
}
