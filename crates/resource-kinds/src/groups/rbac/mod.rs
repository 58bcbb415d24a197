//! rbac.authorization.k8s.io: roles and their bindings.

mod binding;
mod role;

pub use binding::{ClusterRoleBinding, RoleBinding};
pub use role::{ClusterRole, Role};

/// The group's name.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
