//! core/v1 Namespace.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{
    Body, Deletion, Kind, KindInfo, Selectable, StatusUpdate, Subresource, Verb, Words,
};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::Field;
use crate::well_known::labels;

#[derive(Debug)]
pub struct Namespace;

const INFO: KindInfo<'static> = KindInfo {
    verbs: &[
        Verb::Create,
        Verb::Delete,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ],
    subresources: &[
        Subresource {
            name: "finalize",
            body: Body::Object,
            verbs: &[Verb::Update],
        },
        STATUS,
    ],
    ..cluster(Names {
        group: "",
        kind: "Namespace",
        list_kind: "NamespaceList",
        plural: "namespaces",
        singular: "namespace",
        short: &["ns"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column(
        "Status",
        "Active, or Terminating while its objects are being deleted.",
    ),
    table::AGE,
];

impl Kind for Namespace {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        if let Some(status) = parts::entry(object, "status") {
            parts::fill(status, "phase", "Active");
        }
        let name = object["metadata"]["name"].clone();
        if name.is_string()
            && let Some(metadata) = parts::entry(object, "metadata")
            && let Some(map) = parts::entry(metadata, "labels")
        {
            parts::set(map, labels::METADATA_NAME, name);
        }
    }

    /// Adds the finalizer `kubernetes`, which delays the deletion until the namespace is empty.
    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({"phase": "Active"}));
        if let Some(spec) = parts::entry(object, "spec") {
            let mut finalizers = spec["finalizers"].as_array().cloned().unwrap_or_default();
            if !finalizers.contains(&json!("kubernetes")) {
                finalizers.push(json!("kubernetes"));
            }
            parts::set(spec, "finalizers", finalizers);
        }
    }

    /// The finalizers can only change through the sub-resource `finalize`.
    fn prepare_update(&self, object: &mut Value, old: &Value) {
        parts::restore(object, old, "spec");
        parts::restore(object, old, "status");
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns_label(name)
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for finalizer in Field::of(object, "spec.finalizers").items() {
            let clauses = names::qualified_name(finalizer.text());
            errors.extend(clauses.into_iter().map(|clause| finalizer.invalid(clause)));
        }
        errors
    }

    fn validate_content_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }

    fn deletion(&self) -> &dyn Deletion {
        self
    }
}

impl Deletion for Namespace {
    /// The namespace registry of Kubernetes sets the time of the deletion alone.
    fn sets_grace(&self) -> bool {
        false
    }
}

impl Printer for Namespace {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let phase = table::text_or(&object["status"]["phase"], "");
        vec![table::name(object), phase, table::age(object, now)]
    }
}

impl StatusUpdate for Namespace {
    fn validate_status_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        let deleting = !object["metadata"]["deletionTimestamp"].is_null();
        let phase = Field::of(object, "status.Phase");
        let detail = match (deleting, object["status"]["phase"].as_str()) {
            (false, Some("Active")) | (true, Some("Terminating")) => return Vec::new(),
            (false, _) => "may only be 'Active' if `deletionTimestamp` is empty",
            (true, _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
        };
        let value = object["status"]["phase"].clone();
        vec![FieldError::invalid(&phase.path(), value, detail)]
    }
}

impl Selectable for Namespace {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        (field == "status.phase").then(|| phase.to_owned())
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&["status.phase"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_carries_its_name_as_a_label() {
        let mut object = json!({"metadata": {"name": "a"}});
        Namespace.default(&mut object);
        Namespace.prepare_create(&mut object);
        assert_eq!(
            object["metadata"]["labels"]["kubernetes.io/metadata.name"],
            "a"
        );
        assert_eq!(object["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(object["status"]["phase"], "Active");
    }

    #[test]
    fn a_name_has_no_dots() {
        let errors = Namespace.validate_create(&json!({"metadata": {"name": "a.b"}}));
        let expected = "metadata.name: Invalid value: \"a.b\": must not contain dots";
        assert_eq!(errors[0].to_string(), expected);
    }
}
