//! A node with its resources as numbers: a decision compares a pod with all nodes, so the quantities are parsed when a
//! node changes and not for each decision.

use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::resources::Allocatable;

/// A node of a [`ClusterView`](crate::ClusterView).
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    node: Arc<Node>,
    allocatable: Allocatable,
}

impl NodeView {
    /// The resources of the node that pods can use.
    pub(crate) fn allocatable(&self) -> &Allocatable {
        &self.allocatable
    }
}

impl From<Arc<Node>> for NodeView {
    fn from(node: Arc<Node>) -> Self {
        let allocatable = Allocatable::of(&node);
        Self { node, allocatable }
    }
}

impl From<Node> for NodeView {
    fn from(node: Node) -> Self {
        Arc::new(node).into()
    }
}

impl Deref for NodeView {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}
