//! storage.k8s.io/v1 CSINode.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;

#[derive(Debug)]
pub struct CSINode;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        unconditional_update: false,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: "storage.k8s.io",
        kind: "CSINode",
        list_kind: "CSINodeList",
        plural: "csinodes",
        singular: "csinode",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::number("Drivers", "Drivers on the node."),
    table::AGE,
];

impl Kind for CSINode {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }
}

impl Printer for CSINode {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            json!(table::count(&object["spec"]["drivers"])),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let drivers = Field::of(object, "spec.drivers");
    let mut errors = metadata::duplicates(&drivers, "name");
    for driver in drivers.items() {
        errors.check_text(&driver.get("name"), names::dns_subdomain);
        let node = driver.get("nodeID");
        if node.is_empty() {
            errors.push(node.required(""));
        }
    }
    errors
}
