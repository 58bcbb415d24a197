//! node.k8s.io/v1 RuntimeClass.

use jiff::Timestamp;
use k8s_openapi::api::node::v1 as api;
use object_model::{FieldError, names};
use serde_json::Value;

use crate::at::{At, Rules};
use crate::decode::decode;
use crate::info::{Names, cluster};
use crate::kind::{Cell, Column, Kind, KindInfo};
use crate::{advice, metadata, table};

/// node.k8s.io/v1 RuntimeClass.
#[derive(Debug)]
pub struct RuntimeClass;

const INFO: KindInfo = cluster(Names {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    list_kind: "RuntimeClassList",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    short: &[],
});

const COLUMNS: &[Column] = &[
    table::NAME,
    table::column("Handler", "What runs the pods of the class."),
    table::AGE,
];

impl Kind for RuntimeClass {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn takes_unversioned_updates(&self) -> bool {
        false
    }

    fn decode(&self, object: Value) -> Result<Value, String> {
        decode::<api::RuntimeClass>(object)
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = metadata::validate(self, object);
        errors.extend(validate(object));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = metadata::validate_update(object);
        errors.extend(validate(object));
        errors.check_unchanged(
            &At::root(object).get("handler"),
            &At::root(old).get("handler"),
        );
        errors
    }

    fn warnings(&self, _object: &Value, old: Option<&Value>) -> Vec<String> {
        advice::not_acted_on(
            "RuntimeClass",
            "all pods run with the built-in runtime",
            old,
        )
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            table::text_or(&object["handler"], ""),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    errors.check_text(&At::root(object).get("handler"), names::dns_label);
    errors
}
