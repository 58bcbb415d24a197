//! The namespaces of every cluster.

/// The namespace of system objects.
pub const KUBE_SYSTEM: &str = "kube-system";
/// Namespace of the Leases of nodes.
pub const NODE_LEASES: &str = "kube-node-lease";
