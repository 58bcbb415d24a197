//! Validation of a HorizontalPodAutoscaler.

use json_tree::Value;
use object_model::{FieldError, Quantity, names};

use crate::validation::field::{Field, Rules};

/// Maximum stabilisation window of a direction, in seconds.
const WINDOW_MAX: i64 = 3600;
/// Maximum period of a policy, in seconds.
const PERIOD_MAX: i64 = 1800;
/// The types of metrics, each with the field that contains its details.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
const NO_METRIC_NAME: &str = "must specify a metric name";

pub(super) fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    let mut errors = Vec::new();
    if least.int().is_some_and(|number| number < 1) {
        errors.push(least.invalid("must be greater than or equal to 1"));
    }
    if most.int().unwrap_or_default() < 1 {
        errors.push(most.invalid("must be greater than 0"));
    }
    if least
        .int()
        .is_some_and(|least| most.int().unwrap_or_default() < least)
    {
        errors.push(most.invalid("must be greater than or equal to `minReplicas`"));
    }
    check_reference(&mut errors, &spec.get("scaleTargetRef"));
    for metric in spec.get("metrics").items() {
        check_metric(&mut errors, &metric);
    }
    for direction in ["scaleUp", "scaleDown"] {
        check_direction(&mut errors, &spec.get("behavior").get_path(direction));
    }
    errors
}

fn check_reference(errors: &mut Vec<FieldError>, reference: &Field<'_, '_>) {
    for field in ["kind", "name"] {
        let at = reference.get_path(field);
        errors.check_required_text(&at, names::path_segment);
    }
}

fn check_metric(errors: &mut Vec<FieldError>, metric: &Field<'_, '_>) {
    let kind = metric.get("type");
    if kind.is_empty() {
        errors.push(kind.required("must specify a metric source type"));
    }
    let supported = SOURCES.iter().find(|(name, _)| *name == kind.text());
    let Some((_, expected)) = supported else {
        let names: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
        errors.push(kind.not_supported(&names));
        return;
    };
    for (_, field) in SOURCES {
        let source = metric.get_path(field);
        match (field == expected, source.is_set()) {
            (true, true) => check_source(errors, field, &source),
            (true, false) => errors
                .push(source.required("must populate information for the given metric source")),
            (false, true) => {
                errors.push(source.forbidden("must populate the given metric source only"));
            }
            (false, false) => {}
        }
    }
}

fn check_source(errors: &mut Vec<FieldError>, kind: &str, source: &Field<'_, '_>) {
    let target = source.get("target");
    match kind {
        "resource" | "containerResource" => {
            let (name, container) = (source.get("name"), source.get("container"));
            if name.is_empty() {
                errors.push(name.required("must specify a resource name"));
            }
            if kind == "containerResource" && container.is_empty() {
                errors.push(container.required("must specify a container"));
            }
        }
        _ => check_identifier(errors, &source.get("metric")),
    }
    if kind == "object" {
        check_reference(errors, &source.get("describedObject"));
    }
    check_target(errors, &target);
    let (average, share) = (target.get("averageValue"), target.get("averageUtilization"));
    let value = target.get("value");
    match kind {
        "resource" | "containerResource" if share.is_set() && average.is_set() => {
            let text = "may not set both a target raw value and a target utilization";
            errors.push(average.forbidden(text));
        }
        "resource" | "containerResource" if !share.is_set() && !average.is_set() => {
            let text = "must set either a target raw value or a target utilization";
            errors.push(share.required(text));
        }
        "pods" if !is_positive(&average) => {
            let text = "must specify a positive target averageValue";
            errors.push(average.required(text));
        }
        "object" if !value.is_set() && !average.is_set() => {
            errors.push(average.required("must set either a target value or averageValue"));
        }
        "external" if value.is_set() && average.is_set() => {
            let text = "may not set both a target value for metric and a per-pod target";
            errors.push(value.forbidden(text));
        }
        "external" if !value.is_set() && !average.is_set() => {
            let text = "must set either a target value for metric or a per-pod target";
            errors.push(average.required(text));
        }
        _ => {}
    }
}

fn check_identifier(errors: &mut Vec<FieldError>, metric: &Field<'_, '_>) {
    let name = metric.get("name");
    if name.is_empty() {
        errors.push(name.required(NO_METRIC_NAME));
    } else {
        errors.check_text(&name, names::path_segment);
    }
}

fn check_target(errors: &mut Vec<FieldError>, target: &Field<'_, '_>) {
    let kind = target.get("type");
    if kind.is_empty() {
        errors.push(kind.required("must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind.text()) {
        errors.push(kind.invalid("must be either Utilization, Value, or AverageValue"));
    }
    for field in ["value", "averageValue"] {
        let at = target.get_path(field);
        if at.is_set() && !is_positive(&at) {
            errors.push(at.invalid("must be positive"));
        }
    }
    let share = target.get("averageUtilization");
    if share.int().is_some_and(|share| share < 1) {
        errors.push(share.invalid("must be greater than 0"));
    }
}

fn is_positive(at: &Field<'_, '_>) -> bool {
    Quantity::from_json(at.value).is_ok_and(|amount| !amount.is_negative() && !amount.is_zero())
}

fn check_direction(errors: &mut Vec<FieldError>, rules: &Field<'_, '_>) {
    if !rules.is_set() {
        return;
    }
    let window = rules.get("stabilizationWindowSeconds");
    match window.int() {
        Some(seconds) if seconds < 0 => {
            errors.push(window.invalid("must be greater than or equal to zero"));
        }
        Some(seconds) if seconds > WINDOW_MAX => {
            let text = format!("must be less than or equal to {WINDOW_MAX}");
            errors.push(window.invalid(text));
        }
        _ => {}
    }
    let select = rules.get("selectPolicy");
    errors.check_one_of_if_set(&select, &["Disabled", "Max", "Min"]);
    let policies = rules.get("policies");
    if policies.is_empty() {
        errors.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        check_policy(errors, &policy);
    }
    let tolerance = rules.get("tolerance");
    if Quantity::from_json(tolerance.value).is_ok_and(|amount| amount.is_negative()) {
        errors.push(tolerance.invalid("must be greater or equal to zero"));
    }
}

fn check_policy(errors: &mut Vec<FieldError>, policy: &Field<'_, '_>) {
    let kind = policy.get("type");
    if !["Percent", "Pods"].contains(&kind.text()) {
        errors.push(kind.not_supported(&["Percent", "Pods"]));
    }
    let (value, period) = (policy.get("value"), policy.get("periodSeconds"));
    for at in [&value, &period] {
        if at.int().unwrap_or_default() <= 0 {
            errors.push(at.invalid("must be greater than zero"));
        }
    }
    if period.int().is_some_and(|seconds| seconds > PERIOD_MAX) {
        let text = format!("must be less than or equal to {PERIOD_MAX}");
        errors.push(period.invalid(text));
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn wrong(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut object = json!({"spec": {"maxReplicas": 3,
            "scaleTargetRef": {"kind": "Deployment", "name": "web"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}]}});
        change(&mut object["spec"]);
        let errors = validate(&object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn bounds_fit() {
        assert_eq!(wrong(|_| {}), [""; 0]);
        assert_eq!(wrong(|spec| spec["maxReplicas"] = json!(0)).len(), 1);
        assert_eq!(
            wrong(|spec| spec["minReplicas"] = json!(4)),
            ["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"]
        );
    }

    #[test]
    fn a_metric_has_one_source_and_one_target() {
        let target = |spec: &mut Value, target: Value| {
            spec["metrics"][0]["resource"]["target"] = target;
        };
        assert_eq!(
            wrong(|spec| target(spec, json!({"type": "Utilization"}))),
            [
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either \
              a target raw value or a target utilization"
            ]
        );
        let both = json!({"type": "Value", "averageUtilization": 1, "averageValue": "1"});
        assert_eq!(wrong(|spec| target(spec, both.clone())).len(), 1);
        let none = json!({"type": "AverageValue", "averageValue": "0"});
        assert_eq!(
            wrong(|spec| target(spec, none.clone())),
            [
                "spec.metrics[0].resource.target.averageValue: Invalid value: \"0\": must be positive"
            ]
        );
        assert_eq!(
            wrong(|spec| spec["metrics"][0]["pods"] = json!({})),
            ["spec.metrics[0].pods: Forbidden: must populate the given metric source only"]
        );
        let other = wrong(|spec| spec["metrics"][0]["type"] = json!("External"));
        assert_eq!(other.len(), 2, "{other:?}");
        let unknown = wrong(|spec| spec["metrics"][0]["type"] = json!("Moon"));
        assert!(unknown[0].contains("Unsupported value"), "{unknown:?}");
    }

    #[test]
    fn behaviour_has_limits() {
        let up = |rules: Value| wrong(move |spec| spec["behavior"]["scaleUp"] = rules.clone());
        let policy = json!({"type": "Pods", "value": 1, "periodSeconds": 1801});
        assert_eq!(
            up(
                json!({"policies": [policy], "stabilizationWindowSeconds": 3601,
                "selectPolicy": "Any"})
            )
            .len(),
            3
        );
        assert_eq!(
            up(json!({"policies": []})),
            ["spec.behavior.scaleUp.policies: Required value: must specify at least one Policy"]
        );
    }
}
