//! apps/v1 ControllerRevision.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct ControllerRevision;

const INFO: KindInfo<'static> = namespaced(Names {
    group: "apps",
    kind: "ControllerRevision",
    list_kind: "ControllerRevisionList",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    short: &[],
});

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Controller", "The object whose revision this is."),
    table::number("Revision", "Number of the revision."),
    table::AGE,
];

impl Kind for ControllerRevision {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    /// No defaults: the revision number is written even if it is zero.
    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    /// `statefulset.md` 4.13
    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        errors.check_unchanged(&Field::of(object, "data"), &Field::of(old, "data"));
        errors
    }
}

impl Printer for ControllerRevision {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let owners = Field::of(object, "metadata.ownerReferences");
        let controller = owners
            .items()
            .find(|owner| owner.get("controller").is_true());
        let owner_text = controller.map_or_else(|| "<none>".to_owned(), |owner| owner_text(&owner));
        let revision = object["revision"].as_i64().unwrap_or_default();
        vec![
            table::name(object),
            json!(owner_text),
            json!(revision),
            table::age(object, now),
        ]
    }
}

/// For example `statefulset.apps/web`.
fn owner_text(owner: &Field<'_, '_>) -> String {
    let kind = owner.get("kind").text().to_lowercase();
    let name = owner.get("name").text();
    match owner.get("apiVersion").text().split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let mut errors = Vec::new();
    if !root.get("data").is_set() {
        errors.push(root.get("data").required("data is mandatory"));
    }
    errors.check_not_negative(&root.get("revision"));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 0,
            "metadata": {"name": "web-1", "namespace": "d", "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u",
                "controller": true}]},
            "data": {"spec": {"template": {"$patch": "replace",
                "metadata": {"creationTimestamp": null, "labels": {}}}}}})
    }

    /// `statefulset.md` 4.3: the data's bytes determine the name.
    #[test]
    fn data_is_kept_as_it_is() {
        let decoded = ControllerRevision.decode(revision()).unwrap();
        assert_eq!(decoded["data"].to_string(), revision()["data"].to_string());
        assert_eq!(decoded["revision"], 0);
    }

    /// `statefulset.md` 4.13
    #[test]
    fn the_number_changes_and_the_data_does_not() {
        let mut new = revision();
        new["revision"] = json!(5);
        assert_eq!(ControllerRevision.validate_update(&new, &revision()), []);
        new["data"] = json!({"spec": {}});
        let errors = ControllerRevision.validate_update(&new, &revision());
        assert!(errors[0].to_string().ends_with("field is immutable"));
    }

    #[test]
    fn a_row_names_the_controller() {
        let row = ControllerRevision.row(&revision(), Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "statefulset.apps/web");
    }
}
