//! policy/v1 PodDisruptionBudget.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Kind, KindInfo, StatusUpdate, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::{metadata, workload};

#[derive(Debug)]
pub struct PodDisruptionBudget;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        unconditional_update: false,
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    subresources: &[STATUS],
    ..namespaced(Names {
        group: "policy",
        kind: "PodDisruptionBudget",
        list_kind: "PodDisruptionBudgetList",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short: &["pdb"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Min Available", "Pods that must stay."),
    table::column("Max Unavailable", "Pods that may be missing."),
    table::number("Allowed Disruptions", "Pods that may be evicted now."),
    table::AGE,
];

const COUNTS: &[&str] = &[
    "disruptionsAllowed",
    "currentHealthy",
    "desiredHealthy",
    "expectedPods",
];

impl Kind for PodDisruptionBudget {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        let counts = COUNTS.iter().map(|count| ((*count).to_owned(), json!(0)));
        parts::set(object, "status", Value::Object(counts.collect()));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }
}

impl Printer for PodDisruptionBudget {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let amount = |field: &str| match &object["spec"][field] {
            Value::Null => json!("N/A"),
            Value::String(text) => json!(text),
            other => json!(other.to_string()),
        };
        vec![
            table::name(object),
            amount("minAvailable"),
            amount("maxUnavailable"),
            json!(workload::count(object, "status", "disruptionsAllowed")),
            table::age(object, now),
        ]
    }
}

impl StatusUpdate for PodDisruptionBudget {
    fn validate_status_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        let status = Field::of(object, "status");
        let mut errors = Vec::new();
        for count in COUNTS {
            errors.check_not_negative(&status.get_path(count));
        }
        errors
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    let mut errors = Vec::new();
    if least.is_set() && most.is_set() {
        errors.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
    }
    for at in [&least, &most] {
        workload::check_int_or_percent(at, &mut errors);
        workload::check_share(at, &mut errors);
    }
    errors.extend(metadata::label_selector(&spec.get("selector")));
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    errors.check_one_of_if_set(&spec.get("unhealthyPodEvictionPolicy"), &policies);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(spec: Value) -> Vec<String> {
        let budget = json!({"metadata": {"name": "b", "namespace": "d"}, "spec": spec});
        let errors = PodDisruptionBudget.validate_create(&budget);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_budget_counts_one_way() {
        assert!(checked(json!({"minAvailable": "50%", "selector": {}})).is_empty());
        let both = checked(json!({"minAvailable": 1, "maxUnavailable": 1}));
        assert_eq!(both.len(), 1);
        assert!(both[0].ends_with("minAvailable and maxUnavailable cannot be both set"));
        assert_eq!(
            checked(json!({"maxUnavailable": "101%"})),
            ["spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"]
        );
    }

    #[test]
    fn a_row_shows_what_is_allowed() {
        let budget = json!({"spec": {"minAvailable": 2}, "status": {"disruptionsAllowed": 1}});
        let row = PodDisruptionBudget.row(&budget, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], [json!("2"), json!("N/A"), json!(1)]);
    }
}
