//! core/v1 LimitRange.

use jiff::Timestamp;
use json_tree::Value;
use object_model::{FieldError, Quantity};

use crate::json::parts;
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::Field;

#[derive(Debug)]
pub struct LimitRange;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        create_on_update: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: "",
        kind: "LimitRange",
        list_kind: "LimitRangeList",
        plural: "limitranges",
        singular: "limitrange",
        short: &["limits"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Created Field", "When the object was created."),
];

impl Kind for LimitRange {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    /// Sets missing defaults of a container from its maximum and minimum.
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else {
            return;
        };
        for item in parts::each(spec, "limits").filter(|item| item["type"] == "Container") {
            take_over(item, "default", "max");
            take_over(item, "defaultRequest", "default");
            take_over(item, "defaultRequest", "min");
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }
}

impl Printer for LimitRange {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            table::text_or(&object["metadata"]["creationTimestamp"], "<unknown>"),
        ]
    }
}

/// For each resource without a value in `to`, copies the value from `from`.
fn take_over(item: &mut Value, to: &str, from: &str) {
    let amounts = item[from].clone();
    for (resource, amount) in amounts.as_object().into_iter().flatten() {
        if let Some(map) = parts::entry(item, to) {
            parts::fill(map, resource, amount.clone());
        }
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for item in Field::of(object, "spec.limits").items() {
        let kind = item.get("type");
        if kind.is_empty() {
            errors.push(kind.required(""));
        }
        let pod = kind.text() == "Pod";
        for field in ["default", "defaultRequest"] {
            let at = item.get_path(field);
            if pod && !at.is_empty() {
                errors.push(at.forbidden("may not be specified when `type` is 'Pod'"));
            }
        }
        order(&item, "min", "max", &mut errors);
        order(&item, "min", "default", &mut errors);
        order(&item, "min", "defaultRequest", &mut errors);
        order(&item, "default", "max", &mut errors);
        order(&item, "defaultRequest", "max", &mut errors);
        order(&item, "defaultRequest", "default", &mut errors);
    }
    errors
}

/// Checks that the value `less` is not larger than the value `more`, if both are present.
fn order(item: &Field<'_, '_>, less: &str, more: &str, errors: &mut Vec<FieldError>) {
    for (resource, low) in item.get_path(less).entries() {
        let high = item.get_path(more);
        let (Ok(low_amount), Ok(high_amount)) = (
            Quantity::from_json(low.value),
            Quantity::from_json(&high.value[resource]),
        ) else {
            continue;
        };
        if low_amount > high_amount {
            let printed = |name: &str| match name {
                "defaultRequest" => "default request".to_owned(),
                other => other.to_owned(),
            };
            let (low_name, high_name) = (printed(less), printed(more));
            let detail = format!(
                "{low_name} value {low_amount} is greater than {high_name} value {high_amount}"
            );
            errors.push(low.invalid(detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn limits_do_not_contradict_each_other() {
        let mut range = json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {"limits": [
            {"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}}]}});
        LimitRange.default(&mut range);
        assert_eq!(
            range["spec"]["limits"][0]["defaultRequest"],
            json!({"cpu": "1"})
        );
        assert_eq!(LimitRange.validate_create(&range), []);
        range["spec"]["limits"][0]["min"]["cpu"] = json!("2");
        let errors = LimitRange.validate_create(&range);
        assert_eq!(
            errors[0].to_string(),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
        );
    }
}
