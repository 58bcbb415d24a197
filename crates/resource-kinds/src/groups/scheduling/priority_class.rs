//! scheduling.k8s.io/v1 PriorityClass.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::json::parts;
use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct PriorityClass;

const INFO: KindInfo<'static> = cluster(Names {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    list_kind: "PriorityClassList",
    plural: "priorityclasses",
    singular: "priorityclass",
    short: &["pc"],
});

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::number("Value", "Priority of the pods of the class."),
    Column {
        kind: "boolean",
        ..table::column(
            "Global-Default",
            "Whether pods without a class get this one.",
        )
    },
    table::AGE,
    table::column("PreemptionPolicy", "Whether its pods may drive others out."),
];

impl Kind for PriorityClass {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        parts::fill(object, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        for field in ["value", "preemptionPolicy"] {
            if object[field] != old[field] {
                let at = Field::of(object, field);
                errors.push(at.forbidden("may not be changed in an update."));
            }
        }
        errors
    }
}

impl Printer for PriorityClass {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            json!(object["value"].as_i64().unwrap_or_default()),
            json!(object["globalDefault"].as_bool().unwrap_or_default()),
            table::age(object, now),
            table::text_or(&object["preemptionPolicy"], ""),
        ]
    }
}

/// The built-in classes with their priorities.
pub(crate) const SYSTEM: &[(&str, i64)] = &[
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];
/// The highest priority of a class that a user may create.
const USER_MAX: i64 = 1_000_000_000;

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let (name, value) = (root.get_path("metadata.name"), root.get("value"));
    let mut errors = Vec::new();
    let is_system = SYSTEM
        .iter()
        .any(|(system, priority)| *system == name.text() && Some(*priority) == value.int());
    if !is_system && name.text().starts_with("system-") {
        let detail = "priority class names with 'system-' prefix are reserved for system use only";
        errors.push(name.forbidden(detail));
    } else if !is_system && value.int() > Some(USER_MAX) {
        let detail = format!("maximum allowed value of a user defined priority is {USER_MAX}");
        errors.push(value.forbidden(detail));
    }
    let policies = ["Never", "PreemptLowerPriority"];
    errors.check_one_of_if_set(&root.get("preemptionPolicy"), &policies);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_priorities_are_the_systems() {
        let class = |name: &str, value: i64| {
            let class = json!({"metadata": {"name": name}, "value": value});
            PriorityClass.validate_create(&class).len()
        };
        assert_eq!(class("mine", 1_000_000_000), 0);
        assert_eq!(class("mine", 1_000_000_001), 1);
        assert_eq!(class("system-mine", 1), 1);
        assert_eq!(class("system-node-critical", 2_000_001_000), 0);
    }
}
