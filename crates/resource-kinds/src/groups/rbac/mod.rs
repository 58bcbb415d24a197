//! rbac.authorization.k8s.io: roles and their bindings.

mod role;
mod role_binding;

pub use role::{ClusterRole, Role};
pub use role_binding::{ClusterRoleBinding, RoleBinding};

/// The API group of Roles and RoleBindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
