//! core/v1 ConfigMap.

use std::collections::BTreeSet;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;
use crate::well_known::limits;

#[derive(Debug)]
pub struct ConfigMap;

const INFO: KindInfo<'static> = namespaced(Names {
    group: "",
    kind: "ConfigMap",
    list_kind: "ConfigMapList",
    plural: "configmaps",
    singular: "configmap",
    short: &["cm"],
});

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::number("Data", "Number of keys."),
    table::AGE,
];

impl Kind for ConfigMap {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = immutable(object, old, &["data", "binaryData"]);
        errors.extend(validate(object));
        errors
    }
}

impl Printer for ConfigMap {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let data = table::count(&object["data"]) + table::count(&object["binaryData"]);
        vec![table::name(object), json!(data), table::age(object, now)]
    }
}

/// Checks that these fields are unchanged if the old object is immutable.
pub(super) fn immutable(object: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old["immutable"].as_bool() != Some(true) {
        return errors;
    }
    let (new, old) = (Field::root(object), Field::root(old));
    let detail = "field is immutable when `immutable` is set";
    if !new.get("immutable").is_true() {
        errors.push(new.get("immutable").forbidden(detail));
    }
    for field in fields {
        if new.get(field).value != old.get(field).value {
            errors.push(new.get(field).forbidden(detail));
        }
    }
    errors
}

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let mut errors = Vec::new();
    let mut bytes = 0;
    let mut text_keys = BTreeSet::new();
    for (key, value) in root.get("data").entries() {
        text_keys.insert(key);
        errors.check_text(&value.with(&json!(key)), names::config_key);
        bytes += value.text().len();
    }
    for (key, value) in root.get("binaryData").entries() {
        errors.check_text(&value.with(&json!(key)), names::config_key);
        if text_keys.contains(key) {
            let detail = "duplicate of key present in data";
            errors.push(FieldError::invalid(
                &root.get("data").path().key(key),
                key,
                detail,
            ));
        }
        bytes += value.text().len() / 4 * 3;
    }
    if bytes > limits::SECRET_BYTES_MAX {
        // The error concerns the whole object; upstream writes its path as `[]`.
        let whole = metadata::path("[]");
        errors.push(FieldError::too_long(&whole, limits::SECRET_BYTES_MAX));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(data: Value) -> Value {
        json!({"metadata": {"name": "a", "namespace": "default"}, "data": data})
    }

    #[test]
    fn keys_must_be_file_names() {
        assert_eq!(
            ConfigMap.validate_create(&config_map(json!({"a.conf": "x"}))),
            []
        );
        let errors = ConfigMap.validate_create(&config_map(json!({"a b": "x"})));
        assert!(
            errors[0]
                .to_string()
                .starts_with("data[a b]: Invalid value: \"a b\": a valid")
        );
    }

    #[test]
    fn immutable_data_stays() {
        let mut old = config_map(json!({"a": "1"}));
        old["immutable"] = json!(true);
        let mut new = old.clone();
        new["data"]["a"] = json!("2");
        let errors = ConfigMap.validate_update(&new, &old);
        assert_eq!(
            errors[0].to_string(),
            "data: Forbidden: field is immutable when `immutable` is set"
        );
    }

    #[test]
    fn size_is_limited() {
        let big = "x".repeat(limits::SECRET_BYTES_MAX + 1);
        assert_eq!(
            ConfigMap
                .validate_create(&config_map(json!({"a": big})))
                .len(),
            1
        );
    }
}
