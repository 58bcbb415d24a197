//! Requests and limits of containers, and the class of service that follows from them.

use std::collections::BTreeMap;

use object_model::{FieldError, FieldPath, Quantity, names};
use serde_json::Value;

use crate::at::{At, NEGATIVE, Rules};
use crate::parts;

const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];

fn amount(at: &At<'_>) -> Quantity {
    Quantity::from_json(at.value).unwrap_or_default()
}

fn resource_name(name: &str, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let before = errors.len();
    let clauses = names::qualified_name(name).into_iter();
    errors.extend(clauses.map(|clause| FieldError::invalid(path, name, clause)));
    if errors.len() > before {
        return;
    }
    let known = STANDARD.contains(&name) || name.starts_with("hugepages-") || name.contains('/');
    if !known {
        // `storage` is a standard resource, but none that a container can have.
        if name != "storage" {
            let detail = "must be a standard resource type or fully qualified";
            errors.push(FieldError::invalid(path, name, detail));
        }
        let detail = "must be a standard resource for containers";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// All that is wrong with a list of amounts by resource.
pub(crate) fn amounts(list: &At<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, at) in list.entries() {
        resource_name(name, &at.path, &mut errors);
        let quantity = amount(&at);
        if quantity.is_negative() {
            errors.push(at.invalid(NEGATIVE));
        }
        let whole = name.contains('/') || name.starts_with("hugepages-");
        if whole && !quantity.is_integer() {
            errors.push(at.invalid("must be an integer"));
        }
    }
    errors
}

/// All that is wrong with the resources of a container.
pub(super) fn validate(resources: &At<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for list in [&limits, &requests] {
        errors.extend(amounts(list));
    }
    for (name, request) in requests.entries() {
        let Some(limit) = limits.value.get(name) else {
            if name.contains('/') || name.starts_with("hugepages-") {
                let at = At {
                    value: limits.value,
                    path: limits.path.clone(),
                };
                errors.push(at.required("Limit must be set for non overcommitable resources"));
            }
            continue;
        };
        let limit = Quantity::from_json(limit).unwrap_or_default();
        let asked = amount(&request);
        if (name.contains('/') || name.starts_with("hugepages-")) && asked != limit {
            let path = &requests.path;
            let detail = format!("must be equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(path, asked.to_string(), detail));
        } else if asked > limit {
            let path = &requests.path;
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(path, asked.to_string(), detail));
        }
    }
    for claim in resources.get("claims").items() {
        errors.check_text(&claim.get("name"), names::dns_label);
    }
    errors
}

/// What has a limit and no request requests as much as the limit.
pub(super) fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = resources["limits"].as_object().cloned() else {
        return;
    };
    if let Some(requests) = parts::entry(resources, "requests") {
        for (name, amount) in limits {
            parts::fill(requests, &name, amount);
        }
    }
}

/// The class of service of a pod (`statefulset.md` 12.16).
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let spec = At::root(spec);
    let mut requests: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut limits: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut all_limited = true;
    let containers = ["containers", "initContainers"];
    for container in containers.iter().flat_map(|list| spec.get(list).items()) {
        let mut limited = 0;
        for (field, sums) in [
            ("resources.requests", &mut requests),
            ("resources.limits", &mut limits),
        ] {
            for (name, at) in container.get(field).entries() {
                let quantity = amount(&at);
                if !matches!(name, "cpu" | "memory") || quantity.is_zero() {
                    continue;
                }
                let sum = sums.entry(name).or_default();
                *sum = sum.plus(&quantity);
                limited += usize::from(field == "resources.limits");
            }
        }
        all_limited &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(resources: Value) -> Vec<String> {
        let at = At {
            value: &resources,
            path: FieldPath::root("resources"),
        };
        validate(&at).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests_stay_below_limits() {
        let fine = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m", "memory": "1Gi"}});
        assert!(check(fine).is_empty());
        assert_eq!(
            check(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}})),
            [
                "resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit \
              of 1"
            ]
        );
        assert_eq!(
            check(json!({"limits": {"disk": "1"}})),
            [
                "resources.limits[disk]: Invalid value: \"disk\": must be a standard resource type \
                 or fully qualified",
                "resources.limits[disk]: Invalid value: \"disk\": must be a standard resource for \
                 containers",
            ]
        );
        assert_eq!(check(json!({"limits": {"cpu": "-1"}})).len(), 1);
    }

    /// `statefulset.md` 12.16
    #[test]
    fn the_class_follows_from_the_resources() {
        let pod = |resources: Value| json!({"containers": [{"resources": resources}]});
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(
            qos_class(&pod(json!({"limits": both, "requests": both}))),
            "Guaranteed"
        );
        assert_eq!(
            qos_class(&pod(json!({"requests": {"cpu": "1"}}))),
            "Burstable"
        );
        let less = json!({"cpu": "1", "memory": "512Mi"});
        assert_eq!(
            qos_class(&pod(json!({"limits": both, "requests": less}))),
            "Burstable"
        );
    }
}
