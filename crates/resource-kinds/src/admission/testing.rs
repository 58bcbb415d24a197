//! Common parts of the tests of plug-ins.

use std::collections::BTreeMap;
use std::sync::Arc;

use json_tree::{Value, json};

use super::plugin::{AdmissionRequest, Operation};
use crate::admission::{ObjectReader, ResourceAttributes};

/// The key is plural, namespace and name.
#[derive(Default)]
pub(super) struct Objects(BTreeMap<(String, String, String), Value>);

impl Objects {
    pub(super) fn with(mut self, plural: &str, object: Value) -> Self {
        let text = |key: &str| {
            object["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        self.0
            .insert((plural.to_owned(), text("namespace"), text("name")), object);
        self
    }
}

impl ObjectReader for Objects {
    fn get(&self, _: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.0.get(&key).cloned().map(Arc::new)
    }

    fn list(&self, _: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
        let all = self.0.iter();
        all.filter(|(key, _)| key.0 == plural && (namespace.is_empty() || key.1 == namespace))
            .map(|(_, object)| Arc::new(object.clone()))
            .collect()
    }
}

pub(super) fn request(operation: Operation, plural: &'static str) -> AdmissionRequest<'static> {
    AdmissionRequest {
        operation,
        group: "",
        plural,
        subresource: "",
        namespace: "d",
        name: "",
        user: "me",
        old: None,
    }
}

/// A cluster without objects in which the user has one right; without rights if the attributes are empty.
pub(super) struct Granted(pub(super) ResourceAttributes<'static>);

impl Granted {
    pub(super) fn nothing() -> Self {
        Self(ResourceAttributes::default())
    }
}

impl ObjectReader for Granted {
    fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<Value>> {
        None
    }

    fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<Value>> {
        Vec::new()
    }

    fn requester(&self) -> Value {
        json!({"username": "me", "groups": ["us"], "uid": "7"})
    }

    fn allows(&self, right: &ResourceAttributes<'_>) -> bool {
        *right == self.0
    }
}
