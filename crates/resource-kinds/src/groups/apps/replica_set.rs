//! apps/v1 ReplicaSet.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, LabelSelector};

use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, SCALE, STATUS, namespaced};
use crate::kind::{Kind, KindInfo, Scalable, Selectable, StatusUpdate, Words, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::workload;

#[derive(Debug)]
pub struct ReplicaSet;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    categories: Words::Fixed(&["all"]),
    subresources: &[SCALE, STATUS],
    ..namespaced(Names {
        group: "apps",
        kind: "ReplicaSet",
        list_kind: "ReplicaSetList",
        plural: "replicasets",
        singular: "replicaset",
        short: &["rs"],
    })
};

/// The columns of ReplicaSets and ReplicationControllers.
pub(crate) const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::number("Desired", "Pods that are wanted."),
    table::number("Current", "Pods that there are."),
    table::number("Ready", "Pods that are ready."),
    table::AGE,
    table::wide("Containers", "Names of the containers of the template."),
    table::wide("Images", "Images of the containers of the template."),
    table::wide("Selector", "What pods are selected by."),
];

/// Counts of pods that `status.replicas` includes.
pub(crate) const PARTS: &[&str] = &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];

impl Kind for ReplicaSet {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut set = workload::decode(self.info().kind, object)?;
        workload::drop_zero_counts(&mut set, PARTS);
        Ok(set)
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = parts::entry(object, "spec") {
            parts::fill(spec, "replicas", 1);
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
        let mut errors = validate(object, Some(old));
        let selector = |object| Field::of(object, "spec.selector");
        errors.check_unchanged(&selector(object), &selector(old));
        errors
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
}

impl Printer for ReplicaSet {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let selector = workload::selector_cell(&object["spec"]["selector"]);
        row(object, selector, now)
    }
}

impl StatusUpdate for ReplicaSet {
    fn validate_status_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        workload::check_counts(object, PARTS)
    }
}

impl Scalable for ReplicaSet {
    fn scale(&self, object: &Value) -> Value {
        let selector = workload::selector_text(&object["spec"]["selector"]);
        workload::scale(object, &selector)
    }

    fn set_scale(&self, object: &mut Value, scale: &Value) -> Vec<FieldError> {
        workload::set_scale(object, scale)
    }
}

impl Selectable for ReplicaSet {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let count = workload::count(object, "status", "replicas");
        (field == "status.replicas").then(|| count.to_string())
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&["status.replicas"])
    }
}

/// The row of a ReplicaSet or ReplicationController.
pub(crate) fn row(object: &Value, selector: Cell, now: Timestamp) -> Vec<Cell> {
    let [names, images] = workload::containers(&Field::of(object, "spec.template"));
    vec![
        table::name(object),
        json!(workload::count(object, "spec", "replicas")),
        json!(workload::count(object, "status", "replicas")),
        json!(workload::count(object, "status", "readyReplicas")),
        table::age(object, now),
        names,
        images,
        selector,
    ]
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    errors.check_not_negative(&spec.get("replicas"));
    errors.check_not_negative(&spec.get("minReadySeconds"));
    workload::check_selector(&spec.get("selector"), "replicaset", &mut errors);
    let selector = LabelSelector::from_json(spec.get("selector").value).ok();
    workload::check_labels(&spec, selector.as_ref(), &mut errors);
    let whole = workload::has_new_template(object, old);
    workload::check_template(&spec, "ReplicaSet", &[], whole, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut set = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {
            "selector": {"matchLabels": {"app": "a"}}, "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        change(&mut set["spec"]);
        let mut set = ReplicaSet.decode(set).unwrap();
        ReplicaSet.default(&mut set);
        let errors = ReplicaSet.validate_create(&set);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_set_selects_its_own_pods() {
        assert!(checked(|_| {}).is_empty());
        assert_eq!(
            checked(|spec| spec["selector"]["matchLabels"] = json!({"app": "b"})),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does \
                 not match template `labels`"
            ]
        );
        assert_eq!(
            checked(|spec| spec["selector"] = json!({})),
            ["spec.selector: Invalid value: {}: empty selector is invalid for replicaset"]
        );
    }

    #[test]
    fn pods_of_a_set_run_for_ever() {
        assert_eq!(
            checked(|spec| {
                spec["template"]["spec"]["restartPolicy"] = json!("Never");
                spec["template"]["spec"]["activeDeadlineSeconds"] = json!(5);
            }),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported \
                 values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in \
                 ReplicaSet is not Supported",
            ]
        );
    }
}
