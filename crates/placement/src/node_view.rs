//! A node with its resources in numbers: a decision compares a pod with all nodes, so their quantities are parsed
//! when a node changes and not by each decision.

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
    /// The resources that the node has for pods.
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
