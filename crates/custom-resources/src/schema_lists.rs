//! The rules for the types of lists and maps in a schema. Rules and texts are those of
//! k8s.io/apiextensions-apiserver.

use std::collections::BTreeSet;

use json_tree::Value;
use object_model::{FieldError, FieldPath};

use crate::schema_node::Node;

const LIST_TYPE: &str = "x-kubernetes-list-type";
const MAP_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";

/// Adds the errors of the keywords of one schema.
pub(crate) fn check(node: Node<'_>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let map_type = node.get(MAP_TYPE).and_then(Value::as_str);
    if let Some(name) = map_type {
        check_type(node, "object", MAP_TYPE, path, errors);
        let allowed = ["atomic", "granular"];
        if !allowed.contains(&name) {
            let at = path.child(MAP_TYPE);
            errors.push(FieldError::not_among(&at, name, &allowed));
        }
    }
    let list_type = node.get(LIST_TYPE).and_then(Value::as_str);
    let at = path.child(LIST_TYPE);
    if let Some(name) = list_type {
        let is_list = check_type(node, "array", LIST_TYPE, path, errors);
        if is_list && name == "set" {
            check_set(node, path, errors);
        }
        let allowed = ["atomic", "set", "map"];
        if !allowed.contains(&name) {
            errors.push(FieldError::not_among(&at, name, &allowed));
        }
    }
    if !node.list(MAP_KEYS).is_empty() && list_type != Some("map") {
        let detail = format!("must be map if {MAP_KEYS} is non-empty");
        errors.push(match list_type {
            None => FieldError::required(&at, detail),
            Some(name) => FieldError::invalid(&at, name, detail),
        });
    }
    if list_type == Some("map") {
        check_map(node, path, errors);
    }
    if matches!(list_type, Some("set" | "map")) {
        check_elements(node, list_type.unwrap_or_default(), path, errors);
    }
}

/// Checks that a value with this keyword has this type.
fn check_type(
    node: Node<'_>,
    expected: &str,
    keyword: &str,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) -> bool {
    let kind = node.text("type");
    let at = path.child("type");
    let detail = format!("must be {expected} if {keyword} is specified");
    match kind {
        "" => errors.push(FieldError::required(&at, detail)),
        _ if kind != expected => errors.push(FieldError::invalid(&at, kind, detail)),
        _ => return true,
    }
    false
}

/// Checks that the elements of a set are single values.
fn check_set(node: Node<'_>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(items) = node.part("items") else {
        return;
    };
    let (keyword, is_atomic) = match items.text("type") {
        "array" => (LIST_TYPE, matches!(items.text(LIST_TYPE), "" | "atomic")),
        "object" => (MAP_TYPE, items.text(MAP_TYPE) == "atomic"),
        _ => return,
    };
    if !is_atomic {
        let at = path.child("items").child(keyword);
        let value = items.get(LIST_TYPE).cloned().unwrap_or_default();
        let detail = format!("must be atomic as item of a list with {LIST_TYPE}=set");
        errors.push(FieldError::invalid(&at, value, detail));
    }
}

/// Checks the keys of a list with keys.
fn check_map(node: Node<'_>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let (items_at, keys_at) = (path.child("items"), path.child(MAP_KEYS));
    let keys = node.list(MAP_KEYS);
    if keys.is_empty() {
        let detail = format!("must not be empty if {LIST_TYPE} is map");
        errors.push(FieldError::required(&keys_at, detail));
    }
    let Some(value) = node.get("items") else {
        let detail = format!("must have a schema if {LIST_TYPE} is map");
        errors.push(FieldError::required(&items_at, detail));
        return;
    };
    let Some(items) = node.part("items") else {
        let detail = format!("must only have a single schema if {LIST_TYPE} is map");
        errors.push(FieldError::invalid(&items_at, value.clone(), detail));
        return;
    };
    let kind = items.text("type");
    if kind != "object" {
        let detail = format!("must be object if parent array's {LIST_TYPE} is map");
        errors.push(FieldError::invalid(&items_at.child("type"), kind, detail));
        return;
    }
    let mut unique = BTreeSet::new();
    let all = Value::Array(keys.to_vec());
    for key in node.texts(MAP_KEYS) {
        match items.property(key) {
            Some(field) if matches!(field.text("type"), "array" | "object") => {
                let at = items_at.child("properties").key(key).child("type");
                let detail = format!("must be a scalar type if parent array's {LIST_TYPE} is map");
                errors.push(FieldError::invalid(&at, kind, detail));
            }
            Some(_) => {}
            None => {
                let detail = "entries must all be names of item properties";
                errors.push(FieldError::invalid(&keys_at, all.clone(), detail));
            }
        }
        if !unique.insert(key) {
            let detail = "must not contain duplicate entries";
            errors.push(FieldError::invalid(&keys_at, all.clone(), detail));
        }
    }
}

/// Checks that each element has a key that an object always has.
fn check_elements(node: Node<'_>, list_type: &str, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(items) = node.part("items") else {
        return;
    };
    let at = path.child("items");
    if items.flag("nullable") {
        let detail = format!("cannot be nullable when {LIST_TYPE} is {list_type}");
        errors.push(FieldError::forbidden(&at.child("nullable"), detail));
    }
    if list_type != "map" {
        return;
    }
    for key in node.texts(MAP_KEYS) {
        let Some(field) = items.property(key) else {
            continue;
        };
        let at = at.child("properties").key(key);
        let is_required = items.texts("required").any(|name| name == key);
        if !is_required && field.get("default").is_none() {
            let detail = format!(
                "this property is in {MAP_KEYS}, so it must have a default or be a required property"
            );
            errors.push(FieldError::required(&at.child("default"), detail));
        }
        if field.flag("nullable") {
            let detail = format!("this property is in {MAP_KEYS}, so it cannot be nullable");
            errors.push(FieldError::forbidden(&at.child("nullable"), detail));
        }
    }
}
