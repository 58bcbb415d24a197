//! Reads of other objects during admission.

use std::net::IpAddr;
use std::sync::Arc;

use json_tree::Value;

/// Reads of other objects by admission and defaulting. The results are the state of the store at the time of the
/// request. They are shared, because many requests read the same few objects.
pub trait ObjectReader {
    /// One object, by group, plural, namespace (empty for cluster scope) and name.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;
    /// All objects of a kind in a namespace (empty for all or cluster scope).
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>>;
    /// The `uid`, `groups` and `extra` of the requesting user, if present.
    fn requester(&self) -> Value {
        Value::Null
    }
    /// The address of the client; `None` for a component of the server's process.
    fn source(&self) -> Option<IpAddr> {
        None
    }
    /// Whether the requesting user is authorised.
    fn allows(&self, _attributes: &ResourceAttributes<'_>) -> bool {
        false
    }
}

/// The attributes of an authorisation, as in a SubjectAccessReview.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceAttributes<'a> {
    /// The verb, for instance `get`.
    pub verb: &'a str,
    /// API group, empty for core.
    pub group: &'a str,
    /// Resource in the plural, for instance `pods`.
    pub resource: &'a str,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// Name of the object; empty for all.
    pub name: &'a str,
}
