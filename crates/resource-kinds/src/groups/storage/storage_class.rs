//! storage.k8s.io/v1 StorageClass.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::json::parts;
use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::well_known::annotations::DEFAULT_STORAGE_CLASS;

#[derive(Debug)]
pub struct StorageClass;

const INFO: KindInfo<'static> = cluster(Names {
    group: "storage.k8s.io",
    kind: "StorageClass",
    list_kind: "StorageClassList",
    plural: "storageclasses",
    singular: "storageclass",
    short: &["sc"],
});

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Provisioner", "Who makes volumes of the class."),
    table::column(
        "ReclaimPolicy",
        "What becomes of a volume when its claim is gone.",
    ),
    table::column("VolumeBindingMode", "When a claim gets its volume."),
    table::column("AllowVolumeExpansion", "Whether claims may grow."),
    table::AGE,
];

impl Kind for StorageClass {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        parts::fill(object, "reclaimPolicy", "Delete");
        parts::fill(object, "volumeBindingMode", "Immediate");
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            if object[field] != old[field] {
                let at = Field::of(object, field);
                errors.push(at.forbidden(format!("updates to {field} are forbidden.")));
            }
        }
        let (new, old) = (Field::root(object), Field::root(old));
        errors.check_unchanged(&new.get("volumeBindingMode"), &old.get("volumeBindingMode"));
        errors.extend(validate(object));
        errors
    }
}

impl Printer for StorageClass {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let expands = object["allowVolumeExpansion"].as_bool().unwrap_or_default();
        vec![
            name(object),
            table::text_or(&object["provisioner"], ""),
            table::text_or(&object["reclaimPolicy"], "Delete"),
            table::text_or(&object["volumeBindingMode"], "Immediate"),
            json!(expands),
            table::age(object, now),
        ]
    }
}

/// The cell with the name of a class. It contains a mark if the class is the default class.
pub(super) fn name(object: &Value) -> Cell {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if is_default(object) {
        json!(format!("{name} (default)"))
    } else {
        json!(name)
    }
}

/// Whether this class is the default class.
pub fn is_default(object: &Value) -> bool {
    let annotations = &object["metadata"]["annotations"];
    [
        DEFAULT_STORAGE_CLASS,
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| annotations[*key] == "true")
}

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let mut errors = Vec::new();
    let provisioner = root.get("provisioner");
    errors.check_required_text(&provisioner, |text| {
        names::qualified_name(&text.to_lowercase())
    });
    for (key, value) in root.get("parameters").entries() {
        if key.is_empty() {
            errors.push(value.invalid("field can not be empty."));
        }
    }
    errors.check_one_of(&root.get("reclaimPolicy"), &["Delete", "Retain"]);
    let modes = ["Immediate", "WaitForFirstConsumer"];
    errors.check_one_of(&root.get("volumeBindingMode"), &modes);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> Value {
        let mut object = json!({"metadata": {"name": "fast", "annotations":
            {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "a/b"});
        StorageClass.default(&mut object);
        object
    }

    #[test]
    fn the_default_class_is_marked() {
        assert_eq!(StorageClass.validate_create(&class()), []);
        let row = StorageClass.row(&class(), Timestamp::UNIX_EPOCH);
        let expected = ["fast (default)", "a/b", "Delete", "Immediate"];
        assert_eq!(row[..4], expected.map(|text| json!(text)));
    }

    #[test]
    fn what_volumes_were_made_with_stays() {
        let mut new = class();
        new["parameters"] = json!({"a": "b"});
        new["volumeBindingMode"] = json!("WaitForFirstConsumer");
        let errors: Vec<String> = StorageClass
            .validate_update(&new, &class())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors[0],
            "parameters: Forbidden: updates to parameters are forbidden."
        );
        assert!(errors[1].ends_with("field is immutable"));
    }
}
