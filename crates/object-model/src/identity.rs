//! The identity of an API object: namespace and name, UID, resourceVersion. Each is parsed once, when the object arrives; an
//! empty UID and an empty resourceVersion cannot be represented.

use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Metadata that the server always writes is absent or malformed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IncompleteMetadata {
    #[error("metadata.name: the object has no name")]
    Name,
    #[error("metadata.namespace: the object has no namespace")]
    Namespace,
    #[error("metadata.uid: the object has no UID")]
    Uid,
    #[error("metadata.resourceVersion: {0:?} is not a positive number")]
    ResourceVersion(String),
}

/// The UID of an object, which no other object ever has. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Uid(Arc<str>);

impl Uid {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Uid {
    type Err = IncompleteMetadata;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err(IncompleteMetadata::Uid),
            text => Ok(Self(text.into())),
        }
    }
}

impl TryFrom<String> for Uid {
    type Error = IncompleteMetadata;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<Arc<str>> for Uid {
    type Error = IncompleteMetadata;

    fn try_from(text: Arc<str>) -> Result<Self, Self::Error> {
        match text.is_empty() {
            true => Err(IncompleteMetadata::Uid),
            false => Ok(Self(text)),
        }
    }
}

impl From<Uid> for String {
    fn from(uid: Uid) -> Self {
        uid.0.as_ref().to_owned()
    }
}

impl PartialEq<str> for Uid {
    fn eq(&self, text: &str) -> bool {
        &*self.0 == text
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The state of an object, as a number that grows with each write to the store.
///
/// Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>, KEP-5504.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ResourceVersion(NonZeroU64);

impl ResourceVersion {
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for ResourceVersion {
    type Err = IncompleteMetadata;

    /// Accepts the decimal digits that [`fmt::Display`] writes, and no other spelling of the number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `parse` accepts a sign and leading zeros, too.
        let is_canonical = text.starts_with(|first| ('1'..='9').contains(&first));
        let version = is_canonical.then(|| text.parse().ok()).flatten();
        version
            .map(Self)
            .ok_or_else(|| IncompleteMetadata::ResourceVersion(text.to_owned()))
    }
}

impl TryFrom<String> for ResourceVersion {
    type Error = IncompleteMetadata;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ResourceVersion> for String {
    fn from(version: ResourceVersion) -> Self {
        version.to_string()
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds. Clones share the strings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
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
}

impl Ord for ObjectKey {
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

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectKey {
    /// `namespace/name`; the name alone for cluster-scoped kinds.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => formatter.write_str(&self.name),
            false => write!(formatter, "{}/{}", self.namespace, self.name),
        }
    }
}

/// The identity of an object, and the state that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectIdentity {
    pub key: ObjectKey,
    pub uid: Uid,
    pub version: ResourceVersion,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_uid_and_a_version_that_is_no_positive_number_are_refused() {
        assert_eq!("".parse::<Uid>(), Err(IncompleteMetadata::Uid));
        assert_eq!("a-b".parse::<Uid>().unwrap().as_str(), "a-b");
        for text in ["", "0", "-1", "+1", "01", "1 ", "18446744073709551616"] {
            let error = IncompleteMetadata::ResourceVersion(text.to_owned());
            assert_eq!(text.parse::<ResourceVersion>(), Err(error));
        }
        let versions = ["9", "10"].map(|text| text.parse::<ResourceVersion>().unwrap());
        assert!(versions[0] < versions[1]);
        assert_eq!(versions[1].to_string(), "10");
    }

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
        let keys = namespaces.into_iter().flat_map(|namespace| {
            ["", "x", "y"].map(|name| ObjectKey::new(namespace.clone(), name))
        });
        let keys: Vec<ObjectKey> = keys.collect();
        for one in &keys {
            for other in &keys {
                let texts = |key: &ObjectKey| (key.namespace.to_string(), key.name.to_string());
                assert_eq!(one.cmp(other), texts(one).cmp(&texts(other)));
                assert_eq!(one == other, one.cmp(other).is_eq());
            }
        }
        assert_eq!(ObjectKey::cluster("z").to_string(), "z");
        assert_eq!(ObjectKey::new("a", "z").to_string(), "a/z");
    }
}
