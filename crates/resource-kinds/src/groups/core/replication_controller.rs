//! core/v1 ReplicationController.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, LabelSelector};

use crate::groups::apps::replica_set::{COLUMNS, PARTS, row};
use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, SCALE, STATUS, namespaced};
use crate::kind::{
    Deletion, Kind, KindInfo, Scalable, Selectable, StatusUpdate, Words, WriteRules,
};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::workload;

#[derive(Debug)]
pub struct ReplicationController;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    categories: Words::Fixed(&["all"]),
    subresources: &[SCALE, STATUS],
    ..namespaced(Names {
        group: "",
        kind: "ReplicationController",
        list_kind: "ReplicationControllerList",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short: &["rc"],
    })
};

impl Kind for ReplicationController {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut set = self.info().decode(object)?;
        workload::decode_template(set.get_mut("spec"));
        workload::drop_zero_counts(&mut set, PARTS);
        Ok(set)
    }

    /// An absent selector, and absent labels, are copied from the labels of the template.
    fn default(&self, object: &mut Value) {
        let labels = object
            .pointer("/spec/template/metadata/labels")
            .filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()))
            .cloned();
        if let Some(labels) = &labels
            && let Some(metadata) = parts::entry(object, "metadata")
        {
            parts::fill(metadata, "labels", labels.clone());
        }
        if let Some(spec) = parts::entry(object, "spec") {
            parts::fill(spec, "replicas", 1);
            let selects = spec["selector"]
                .as_object()
                .is_some_and(|map| !map.is_empty());
            if let Some(labels) = labels.filter(|_| !selects) {
                parts::set(spec, "selector", labels);
            }
            workload::default_template(spec);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({"replicas": 0}));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object, None)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        validate(object, Some(old))
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        workload::warnings(object, old)
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }

    fn scalable(&self) -> Option<&dyn Scalable> {
        Some(self)
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }

    fn deletion(&self) -> &dyn Deletion {
        self
    }
}

impl Printer for ReplicationController {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let selector = json!(table::labels(&object["spec"]["selector"]));
        row(object, selector, now)
    }
}

impl StatusUpdate for ReplicationController {
    fn validate_status_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        workload::check_counts(object, PARTS)
    }
}

impl Scalable for ReplicationController {
    fn scale(&self, object: &Value) -> Value {
        let selector = LabelSelector::from_labels(&object["spec"]["selector"]);
        workload::scale(object, &selector.to_string())
    }

    fn set_scale(&self, object: &mut Value, scale: &Value) -> Vec<FieldError> {
        workload::set_scale(object, scale)
    }
}

impl Selectable for ReplicationController {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let count = workload::count(object, "status", "replicas");
        (field == "status.replicas").then(|| count.to_string())
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&["status.replicas"])
    }
}

impl Deletion for ReplicationController {
    /// Dependents are orphaned by default, as before Kubernetes had garbage collection.
    fn orphans_by_default(&self) -> bool {
        true
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    errors.check_not_negative(&spec.get("minReadySeconds"));
    let selector = spec.get("selector");
    if selector.is_empty() {
        errors.push(selector.required(""));
    }
    errors.check_not_negative(&spec.get("replicas"));
    if !spec.get("template").is_set() {
        errors.push(spec.get("template").required(""));
        return errors;
    }
    let labels = LabelSelector::from_labels(selector.value);
    workload::check_labels(&spec, Some(&labels), &mut errors);
    let whole = workload::has_new_template(object, old);
    workload::check_template(&spec, "ReplicationController", &[], whole, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_the_templates() {
        let mut object = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"template": {
            "metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        ReplicationController.default(&mut object);
        assert_eq!(object["spec"]["selector"], json!({"app": "a"}));
        assert_eq!(object["metadata"]["labels"], json!({"app": "a"}));
        assert_eq!(ReplicationController.validate_create(&object), []);
        object["spec"]["selector"] = json!({});
        let errors = ReplicationController.validate_create(&object);
        assert_eq!(errors[0].to_string(), "spec.selector: Required value");
        let scale = ReplicationController.scale(&object);
        assert_eq!(scale["spec"]["replicas"], 1);
    }
}
