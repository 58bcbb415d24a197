//! core/v1 ResourceQuota.

use jiff::Timestamp;
use object_model::{FieldError, Quantity, names};
use serde_json::{Value, json};

use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

/// core/v1 ResourceQuota.
#[derive(Debug)]
pub struct ResourceQuota;

const INFO: KindInfo<'static> = KindInfo {
    subresources: &[STATUS],
    ..namespaced(Names {
        group: "",
        kind: "ResourceQuota",
        list_kind: "ResourceQuotaList",
        plural: "resourcequotas",
        singular: "resourcequota",
        short: &["quota"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Request", "What is used of what may be requested."),
    table::column("Limit", "What is used of the limits."),
    table::AGE,
];

impl Kind for ResourceQuota {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({}));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        errors.check_unchanged(
            &Field::of(object, "spec.scopes"),
            &Field::of(old, "spec.scopes"),
        );
        errors
    }
}

impl Printer for ResourceQuota {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let used = |limits: bool| {
            let hard = Field::of(object, "status.hard");
            let shown: Vec<String> = hard
                .entries()
                .filter(|(name, _)| name.starts_with("limits.") == limits)
                .map(|(name, amount)| {
                    let used = object["status"]["used"][name].as_str().unwrap_or("0");
                    format!("{name}: {used}/{}", amount.text())
                })
                .collect();
            json!(shown.join(", "))
        };
        vec![
            table::name(object),
            used(false),
            used(true),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, amount) in Field::of(object, "spec.hard").entries() {
        for clause in names::qualified_name(name) {
            errors.push(amount.invalid(clause));
        }
        if Quantity::from_json(amount.value).is_ok_and(|amount| amount.is_negative()) {
            errors.push(amount.invalid("must be greater than or equal to 0"));
        }
    }
    errors
}
