//! core/v1 Secret.

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::ByteString;
use object_model::{FieldError, names};

use super::config_map::immutable;
use crate::json::parts;
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, Selectable, Words};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::well_known::limits;

#[derive(Debug)]
pub struct Secret;

const INFO: KindInfo<'static> = namespaced(Names {
    group: "",
    kind: "Secret",
    list_kind: "SecretList",
    plural: "secrets",
    singular: "secret",
    short: &[],
});

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Type", "What the data is for."),
    table::number("Data", "Number of keys."),
    table::AGE,
];

/// Keys that a type of Secret must have.
const REQUIRED_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

impl Kind for Secret {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    /// Copies `stringData` to `data`, over existing values.
    fn default(&self, object: &mut Value) {
        parts::fill(object, "type", "Opaque");
        let texts = object
            .as_object_mut()
            .and_then(|map| map.shift_remove("stringData"));
        let Some(Value::Object(texts)) = texts else {
            return;
        };
        if let Some(data) = parts::entry(object, "data") {
            for (key, text) in texts {
                let bytes = ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
                parts::set(data, &key, json!(bytes));
            }
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        errors.check_unchanged(&Field::of(object, "type"), &Field::of(old, "type"));
        errors.extend(immutable(object, old, &["data"]));
        errors.extend(validate(object));
        errors
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }
}

impl Printer for Secret {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            object["type"].clone(),
            json!(table::count(&object["data"])),
            table::age(object, now),
        ]
    }
}

impl Selectable for Secret {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        (field == "type").then(|| object["type"].as_str().unwrap_or_default().to_owned())
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&["type"])
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let data = Field::of(object, "data");
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in data.entries() {
        errors.check_text(&value.with(&json!(key)), names::config_key);
        bytes += value.text().len() / 4 * 3;
    }
    if bytes > limits::SECRET_BYTES_MAX + 2 {
        errors.push(FieldError::too_long(&data.path(), limits::SECRET_BYTES_MAX));
    }
    let kind = object["type"].as_str().unwrap_or_default();
    for (_, keys) in REQUIRED_KEYS.iter().filter(|(name, _)| *name == kind) {
        for key in *keys {
            if data.value.get(*key).is_none() {
                errors.push(FieldError::required(&data.path().key(key), ""));
            }
        }
    }
    let service_account = "kubernetes.io/service-account.name";
    if kind == "kubernetes.io/service-account-token" {
        let annotations = Field::of(object, "metadata.annotations");
        if annotations.value.get(service_account).is_none() {
            errors.push(FieldError::required(
                &annotations.path().key(service_account),
                "",
            ));
        }
    }
    if kind == "kubernetes.io/basic-auth" {
        let is_set = |key: &str| data.value.get(key).is_some();
        if !is_set("username") && !is_set("password") {
            errors.push(FieldError::required(&data.path().key("username"), ""));
            errors.push(FieldError::required(&data.path().key("password"), ""));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_data() {
        let mut object = json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
        Secret.default(&mut object);
        assert_eq!(
            object,
            json!({"data": {"a": "eQ==", "b": "eg=="}, "type": "Opaque"})
        );
    }

    #[test]
    fn a_tls_secret_has_its_two_keys() {
        let object = json!({"metadata": {"name": "a", "namespace": "b"},
            "type": "kubernetes.io/tls", "data": {"tls.crt": ""}});
        let errors = Secret.validate_create(&object);
        assert_eq!(errors[0].to_string(), "data[tls.key]: Required value");
    }
}
