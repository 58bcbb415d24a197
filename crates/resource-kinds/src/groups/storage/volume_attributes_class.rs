//! storage.k8s.io/v1 VolumeAttributesClass.

use jiff::Timestamp;
use json_tree::Value;
use object_model::{FieldError, names};

use super::storage_class;
use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct VolumeAttributesClass;

const INFO: KindInfo<'static> = cluster(Names {
    group: "storage.k8s.io",
    kind: "VolumeAttributesClass",
    list_kind: "VolumeAttributesClassList",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short: &["vac"],
});

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("DriverName", "The driver whose volumes are changed."),
    table::AGE,
];

impl Kind for VolumeAttributesClass {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for field in ["driverName", "parameters"] {
            if object[field] != old[field] {
                let at = Field::of(object, field);
                errors.push(at.forbidden(format!("updates to {field} are forbidden.")));
            }
        }
        errors
    }
}

impl Printer for VolumeAttributesClass {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            storage_class::name(object),
            table::text_or(&object["driverName"], ""),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let mut errors = Vec::new();
    let driver = root.get("driverName");
    errors.check_required_text(&driver, |text| names::qualified_name(&text.to_lowercase()));
    let parameters = root.get("parameters");
    if parameters.is_empty() {
        errors.push(parameters.required("must contain at least one key/value pair"));
    }
    for (key, value) in parameters.entries() {
        if key.is_empty() {
            errors.push(value.invalid("field can not be empty."));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_class_says_what_to_change_and_stays() {
        let class = json!({"metadata": {"name": "gold"}, "driverName": "a.example",
            "parameters": {"iops": "1"}});
        assert_eq!(VolumeAttributesClass.validate_create(&class), []);
        let mut other = class.clone();
        other["parameters"] = json!({});
        let message = |errors: Vec<FieldError>| errors[0].to_string();
        assert_eq!(
            message(VolumeAttributesClass.validate_create(&other)),
            "parameters: Required value: must contain at least one key/value pair"
        );
        assert_eq!(
            message(VolumeAttributesClass.validate_update(&other, &class)),
            "parameters: Forbidden: updates to parameters are forbidden."
        );
    }
}
