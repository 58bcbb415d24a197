//! What a fresh cluster has: namespaces, default roles and bindings, a storage class.

use serde_json::{Value, json};

use crate::annotations::{DEFAULT_STORAGE_CLASS, RBAC_AUTOUPDATE};
use crate::labels::RBAC_DEFAULTS;
use crate::parts;
use crate::rbac::GROUP;

/// Default roles and bindings of the API, and those of this program's own parts (their names
/// begin with `mainstay:`): each with kind, name, namespace, labels, and what it grants to whom.
const RBAC: &str = include_str!("../data/default-rbac.json");

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// The class of volumes that claims without a class get.
pub const DEFAULT_CLASS: &str = "local";
/// Who makes volumes of that class.
pub const LOCAL_PROVISIONER: &str = "mainstay.dev/local";

/// The objects that a fresh cluster starts with, namespaces first.
pub fn default_objects() -> Vec<Value> {
    let mut all: Vec<Value> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    all.extend(roles_and_bindings());
    all.push(storage_class());
    all
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn storage_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": DEFAULT_CLASS,
            "annotations": {DEFAULT_STORAGE_CLASS: "true"},
        },
        "provisioner": LOCAL_PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": false,
    })
}

fn roles_and_bindings() -> Vec<Value> {
    let rows: Vec<Value> = serde_json::from_str(RBAC).unwrap_or_default();
    rows.into_iter().map(role_or_binding).collect()
}

fn role_or_binding(row: Value) -> Value {
    let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": row["kind"]});
    let mut metadata = json!({
        "name": row["name"],
        "labels": {RBAC_DEFAULTS: "rbac-defaults"},
        "annotations": {RBAC_AUTOUPDATE: "true"},
    });
    parts::restore(&mut metadata, &row, "namespace");
    for (key, value) in row["labels"].as_object().into_iter().flatten() {
        metadata["labels"][key] = value.clone();
    }
    parts::set(&mut object, "metadata", metadata);
    for part in ["aggregationRule", "roleRef", "rules", "subjects"] {
        if row.get(part).is_some() {
            parts::restore(&mut object, &row, part);
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kind::Scope;
    use crate::{ClusterConfig, all};

    #[test]
    fn every_object_is_accepted_by_its_kind() {
        let kinds = all(&ClusterConfig::default());
        let objects = default_objects();
        assert!(objects.len() > 100);
        let mut seen = BTreeSet::new();
        for object in objects {
            let kind = kinds
                .iter()
                .find(|kind| {
                    kind.info().kind == object["kind"]
                        && kind.info().api_version() == object["apiVersion"]
                })
                .unwrap_or_else(|| panic!("no kind for {object}"));
            let mut accepted = kind.decode(object.clone()).unwrap();
            kind.default(&mut accepted);
            kind.prepare_create(&mut accepted);
            let errors = kind.validate_create(&accepted);
            assert_eq!(errors, [], "{object}");
            let namespaced = accepted["metadata"]["namespace"].is_string();
            assert_eq!(namespaced, kind.info().scope == Scope::Namespaced);
            let place = (
                object["kind"].to_string(),
                object["metadata"]["namespace"].to_string(),
                object["metadata"]["name"].to_string(),
            );
            assert!(seen.insert(place), "{object} is there twice");
        }
    }

    #[test]
    fn strangers_see_health_and_version_only() {
        let objects = default_objects();
        let given: Vec<&Value> = objects
            .iter()
            .filter(|object| {
                let subjects = object["subjects"].as_array().into_iter().flatten();
                let mut names = subjects.filter_map(|subject| subject["name"].as_str());
                names.any(|name| name == "system:unauthenticated" || name == "system:anonymous")
            })
            .map(|object| &object["roleRef"]["name"])
            .collect();
        assert_eq!(given, ["system:public-info-viewer"]);
    }
}
