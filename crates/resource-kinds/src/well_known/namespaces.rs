//! Namespaces that every cluster has.

/// Namespace of the cluster's own objects.
pub const KUBE_SYSTEM: &str = "kube-system";
/// Namespace of the Leases of nodes.
pub const NODE_LEASES: &str = "kube-node-lease";
