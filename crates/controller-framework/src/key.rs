//! The name of an object within its kind.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use kube_api_client::Resource;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds. Clones share the strings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Name of the object.
    pub name: Arc<str>,
}

impl Ord for Key {
    /// Compares the namespaces, then the names. Two keys that share the memory of their namespace need no comparison of
    /// it.
    fn cmp(&self, other: &Self) -> Ordering {
        let namespaces = match Arc::ptr_eq(&self.namespace, &other.namespace) {
            true => Ordering::Equal,
            false => self.namespace.cmp(&other.namespace),
        };
        namespaces.then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Key {
    /// The key of a namespaced object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<Arc<str>>) -> Self {
        Self::new("", name)
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        Identity::of(object).key()
    }
}

/// The identity of an object and of its state. Each field may be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity<'o> {
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: &'o str,
    /// Name of the object.
    pub name: &'o str,
    /// UID of the object.
    pub uid: &'o str,
    /// resourceVersion of the object.
    pub resource_version: &'o str,
}

impl<'o> Identity<'o> {
    /// The identity of an object.
    pub fn of<K: Resource>(object: &'o K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            name: meta.name.as_deref().unwrap_or_default(),
            uid: meta.uid.as_deref().unwrap_or_default(),
            resource_version: meta.resource_version.as_deref().unwrap_or_default(),
        }
    }

    /// The namespace and the name.
    pub fn key(&self) -> Key {
        Key::new(self.namespace, self.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_by_namespace_and_name_whether_they_share_texts_or_not() {
        let shared: Arc<str> = "b".into();
        let namespaces = [
            Arc::from("a"),
            shared.clone(),
            shared,
            Arc::from("b"),
            Arc::from("ba"),
        ];
        let keys = namespaces
            .into_iter()
            .flat_map(|namespace| ["", "x", "y"].map(|name| Key::new(namespace.clone(), name)));
        let keys: Vec<Key> = keys.collect();
        for one in &keys {
            for other in &keys {
                let texts = |key: &Key| (key.namespace.to_string(), key.name.to_string());
                assert_eq!(one.cmp(other), texts(one).cmp(&texts(other)));
                assert_eq!(one == other, one.cmp(other).is_eq());
            }
        }
    }
}
