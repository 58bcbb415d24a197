//! apps/v1 DaemonSet.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, LabelSelector};

use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Kind, KindInfo, StatusUpdate, Words, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::workload;

#[derive(Debug)]
pub struct DaemonSet;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    categories: Words::Fixed(&["all"]),
    subresources: &[STATUS],
    ..namespaced(Names {
        group: "apps",
        kind: "DaemonSet",
        list_kind: "DaemonSetList",
        plural: "daemonsets",
        singular: "daemonset",
        short: &["ds"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::number("Desired", "Nodes that should have a pod."),
    table::number("Current", "Nodes that have a pod and should."),
    table::number("Ready", "Nodes whose pod is ready."),
    table::number("Up-to-date", "Nodes whose pod is of the wanted template."),
    table::number(
        "Available",
        "Nodes whose pod has been ready for long enough.",
    ),
    table::column("Node Selector", "Labels of the nodes that get a pod."),
    table::AGE,
    table::wide("Containers", "Names of the containers of the template."),
    table::wide("Images", "Images of the containers of the template."),
    table::wide("Selector", "What pods are selected by."),
];

/// Counts that are always written.
const COUNTS: &[&str] = &[
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
];
/// Counts that are not written if they are zero.
const LESSER_COUNTS: &[&str] = &[
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
];

impl Kind for DaemonSet {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut set = workload::decode(self.info().kind, object)?;
        workload::drop_zero_counts(&mut set, LESSER_COUNTS);
        Ok(set)
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "revisionHistoryLimit", workload::REVISION_HISTORY);
        if let Some(strategy) = parts::entry(spec, "updateStrategy") {
            parts::fill(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = parts::entry(strategy, "rollingUpdate")
            {
                parts::fill(rolling, "maxUnavailable", 1);
                parts::fill(rolling, "maxSurge", 0);
            }
        }
        workload::default_template(spec);
    }

    fn prepare_create(&self, object: &mut Value) {
        let counts = COUNTS.iter().map(|count| ((*count).to_owned(), json!(0)));
        parts::set(object, "status", Value::Object(counts.collect()));
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
}

impl Printer for DaemonSet {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let [names, images] = workload::containers(&Field::of(object, "spec.template"));
        let count = |field| json!(workload::count(object, "status", field));
        let nodes = Field::of(object, "spec.template.spec.nodeSelector");
        vec![
            table::name(object),
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            json!(table::labels(nodes.value)),
            table::age(object, now),
            names,
            images,
            workload::selector_cell(&object["spec"]["selector"]),
        ]
    }
}

impl StatusUpdate for DaemonSet {
    fn validate_status_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        let status = Field::of(object, "status");
        let mut errors = Vec::new();
        for count in COUNTS.iter().chain(LESSER_COUNTS) {
            errors.check_not_negative(&status.get_path(count));
        }
        errors.check_not_negative(&status.get("observedGeneration"));
        errors.check_not_negative(&status.get("collisionCount"));
        errors
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    workload::check_selector(&spec.get("selector"), "daemonset", &mut errors);
    let selector = LabelSelector::from_json(spec.get("selector").value).ok();
    workload::check_labels(&spec, selector.as_ref(), &mut errors);
    let whole = workload::has_new_template(object, old);
    workload::check_template(&spec, "DaemonSet", &[], whole, &mut errors);
    errors.check_not_negative(&spec.get("minReadySeconds"));
    errors.check_not_negative(&spec.get("revisionHistoryLimit"));
    let strategy = spec.get("updateStrategy");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" => rolling(&strategy.get("rollingUpdate"), &mut errors),
        _ => errors.push(strategy.not_supported(&["OnDelete", "RollingUpdate"])),
    }
    errors
}

fn rolling(rolling: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (less, more) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    for at in [&less, &more] {
        workload::check_int_or_percent(at, errors);
        workload::check_share(at, errors);
    }
    match (workload::is_none(less.value), workload::is_none(more.value)) {
        (true, true) => errors.push(less.required("cannot be 0 when maxSurge is 0")),
        (false, false) => {
            errors.push(more.invalid("may not be set when maxUnavailable is non-zero"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(strategy: Value) -> Vec<String> {
        let object = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {
            "selector": {"matchLabels": {"app": "a"}}, "updateStrategy": strategy, "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        let mut object = DaemonSet.decode(object).unwrap();
        DaemonSet.default(&mut object);
        let errors = DaemonSet.validate_create(&object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_update_takes_away_or_adds_but_not_both() {
        assert!(checked(json!({})).is_empty());
        assert!(checked(json!({"type": "OnDelete"})).is_empty());
        let rolling = |less, more| {
            checked(json!({"rollingUpdate": {"maxUnavailable": less, "maxSurge": more}}))
        };
        assert!(rolling(0, 1).is_empty());
        assert_eq!(
            rolling(1, 1),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set \
                 when maxUnavailable is non-zero"
            ]
        );
        assert_eq!(
            rolling(0, 0),
            [
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 \
                 when maxSurge is 0"
            ]
        );
        assert_eq!(checked(json!({"type": "Recreate"})).len(), 1);
    }
}
