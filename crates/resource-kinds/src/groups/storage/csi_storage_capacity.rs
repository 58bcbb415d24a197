//! storage.k8s.io/v1 CSIStorageCapacity.

use jiff::Timestamp;
use json_tree::Value;
use object_model::{FieldError, Quantity, names};

use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, NEGATIVE, Rules};
use crate::validation::metadata;

#[derive(Debug)]
pub struct CSIStorageCapacity;

const INFO: KindInfo<'static> = namespaced(Names {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    list_kind: "CSIStorageCapacityList",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    short: &[],
});

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("StorageClassName", "The class whose volumes would fit."),
    table::column("Capacity", "How much is free."),
];

impl Kind for CSIStorageCapacity {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (new, old) = (Field::root(object), Field::root(old));
        for field in ["nodeTopology", "storageClassName"] {
            errors.check_unchanged(&new.get_path(field), &old.get_path(field));
        }
        errors.extend(validate(object));
        errors
    }
}

impl Printer for CSIStorageCapacity {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            table::text_or(&object["storageClassName"], ""),
            table::text_or(&object["capacity"], "<unset>"),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let mut errors = metadata::label_selector(&root.get("nodeTopology"));
    errors.check_text(&root.get("storageClassName"), names::dns_subdomain);
    let capacity = root.get("capacity");
    if Quantity::from_json(capacity.value).is_ok_and(|amount| amount.is_negative()) {
        errors.push(capacity.invalid(NEGATIVE));
    }
    errors
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn capacity() -> Value {
        let object = json!({"metadata": {"name": "a", "namespace": "d"}, "capacity": "1024Mi",
            "storageClassName": "fast", "nodeTopology": {}});
        CSIStorageCapacity.decode(object).unwrap()
    }

    #[test]
    fn capacity_is_an_amount() {
        let object = capacity();
        assert_eq!(CSIStorageCapacity.validate_create(&object), []);
        assert_eq!(object["capacity"], "1Gi");
        let mut less = object.clone();
        less["capacity"] = json!("-1");
        let errors = CSIStorageCapacity.validate_update(&less, &object);
        assert_eq!(
            errors[0].to_string(),
            "capacity: Invalid value: \"-1\": must be greater than or equal to 0"
        );
    }

    #[test]
    fn what_it_is_about_stays() {
        let mut other = capacity();
        other["storageClassName"] = json!("slow");
        let errors = CSIStorageCapacity.validate_update(&other, &capacity());
        assert!(errors[0].to_string().ends_with("field is immutable"));
    }
}
