//! A pod's quality-of-service class (statefulset.md §12.16).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use object_model::quantity::Quantity;

use crate::spec::containers;

const COUNTED: [&str; 2] = ["cpu", "memory"];

/// The QoS class of a pod: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let resources: Vec<Option<&ResourceRequirements>> = match &spec.resources {
        Some(pod) => vec![Some(pod)],
        None => containers(spec)
            .map(|(_, c)| c.resources.as_ref())
            .collect(),
    };
    let is_requested = |r: &ResourceRequirements| {
        [&r.requests, &r.limits]
            .into_iter()
            .flatten()
            .any(|list| COUNTED.iter().any(|n| amount(list, n).is_some()))
    };
    if !resources.iter().flatten().any(|r| is_requested(r)) {
        return "BestEffort";
    }
    if resources.iter().all(|r| r.is_some_and(is_guaranteed)) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Whether limits are set for CPU and memory, and requests are absent or equal to the limits.
fn is_guaranteed(resources: &ResourceRequirements) -> bool {
    COUNTED.iter().all(|name| {
        let limit = resources
            .limits
            .as_ref()
            .and_then(|list| amount(list, name));
        let request = resources
            .requests
            .as_ref()
            .and_then(|list| amount(list, name));
        limit.is_some() && request.is_none_or(|request| Some(request) == limit)
    })
}

fn amount(list: &BTreeMap<String, ApiQuantity>, name: &str) -> Option<Quantity> {
    list.get(name)?
        .0
        .parse::<Quantity>()
        .ok()
        .filter(|quantity| !quantity.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(resources: json_tree::Value) -> &'static str {
        let containers: Vec<_> = resources
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(i, r)| json_tree::json!({"name": format!("c{i}"), "resources": r}))
            .collect();
        qos_class(&json_tree::from_value(json_tree::json!({"containers": containers})).unwrap())
    }

    #[test]
    fn class_follows_requests_and_limits() {
        // statefulset.md 12.16
        let full = json_tree::json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let equal = json_tree::json!({"limits": {"cpu": "1", "memory": "1Gi"},
            "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        let some = json_tree::json!({"requests": {"cpu": "1"}});
        let none = json_tree::json!({});
        for (resources, expected) in [
            (json_tree::json!([none]), "BestEffort"),
            (json_tree::json!([full]), "Guaranteed"),
            (json_tree::json!([full, equal]), "Guaranteed"),
            (json_tree::json!([full, none]), "Burstable"),
            (json_tree::json!([some]), "Burstable"),
        ] {
            assert_eq!(class(resources.clone()), expected, "{resources}");
        }
    }
}
