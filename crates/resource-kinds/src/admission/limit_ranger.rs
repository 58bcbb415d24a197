//! What containers, pods and claims get, and may have, by the LimitRanges of their namespace.

use object_model::{Quantity, Status};
use serde_json::{Value, json};

use super::{Admission, AdmissionRequest, creates, forbidden};
use crate::kind::Lookup;
use crate::parts;

/// Says what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger;

impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn Lookup,
    ) -> Result<(), Status> {
        let pod = creates(request, "pods");
        if !pod && !creates(request, "persistentvolumeclaims") {
            return Ok(());
        }
        let items: Vec<Value> = cluster
            .list("", "limitranges", request.namespace)
            .into_iter()
            .flat_map(|range| list(&range["spec"]["limits"]).to_vec())
            .collect();
        let of = |kind: &'static str| items.iter().filter(move |item| item["type"] == kind);
        let mut errors = Vec::new();
        if pod {
            let filled = fill(object, of("Container"));
            annotate(object, &filled);
            for item in of("Container") {
                for container in list(&object["spec"]["containers"]) {
                    check(item, "Container", &container["resources"], &mut errors);
                }
            }
            for item in of("Pod") {
                check(item, "Pod", &sum(object), &mut errors);
            }
        } else {
            for item in of("PersistentVolumeClaim") {
                let resources = &object["spec"]["resources"];
                check(item, "PersistentVolumeClaim", resources, &mut errors);
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(request, object, one)),
            many => Err(forbidden(
                request,
                object,
                &format!("[{}]", many.join(", ")),
            )),
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Gives containers what they did not ask for; says what.
fn fill<'i>(object: &mut Value, items: impl Iterator<Item = &'i Value>) -> Vec<String> {
    let mut said = Vec::new();
    let Some(spec) = object.get_mut("spec") else {
        return said;
    };
    let items: Vec<&Value> = items.collect();
    for (lists, word) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        for container in parts::each(spec, lists) {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, from) in [("requests", "defaultRequest"), ("limits", "default")] {
                let mut set = Vec::new();
                for item in &items {
                    for (resource, amount) in item[from].as_object().into_iter().flatten() {
                        if let Some(resources) = parts::entry(container, "resources")
                            && let Some(map) = parts::entry(resources, field)
                            && map[resource].is_null()
                        {
                            parts::set(map, resource, amount.clone());
                            set.push(resource.clone());
                        }
                    }
                }
                if !set.is_empty() {
                    let kind = field.trim_end_matches('s');
                    said.push(format!("{} {kind} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    said
}

fn annotate(object: &mut Value, filled: &[String]) {
    if !filled.is_empty()
        && let Some(metadata) = parts::entry(object, "metadata")
        && let Some(annotations) = parts::entry(metadata, "annotations")
    {
        let text = format!("LimitRanger plugin set: {}", filled.join("; "));
        parts::set(annotations, ANNOTATION, text);
    }
}

/// What the containers of a pod ask for together.
fn sum(object: &Value) -> Value {
    let mut total = json!({});
    for field in ["requests", "limits"] {
        let mut amounts: std::collections::BTreeMap<String, Quantity> = Default::default();
        for container in list(&object["spec"]["containers"]) {
            let given = container["resources"][field].as_object();
            for (resource, amount) in given.into_iter().flatten() {
                if let Ok(amount) = Quantity::from_json(amount) {
                    let before = amounts.remove(resource);
                    let together = before.map_or(amount, |before| before.plus(&amount));
                    amounts.insert(resource.clone(), together);
                }
            }
        }
        total[field] = amounts
            .into_iter()
            .map(|(resource, amount)| (resource, json!(amount.to_string())))
            .collect();
    }
    total
}

fn check(item: &Value, kind: &str, resources: &Value, errors: &mut Vec<String>) {
    let amount = |value: &Value| Quantity::from_json(value).ok();
    let given = |map: &'static str, resource: &str| amount(&resources[map][resource]);
    // Claims only request.
    let (bound, word) = match kind {
        "PersistentVolumeClaim" => ("requests", "request"),
        _ => ("limits", "limit"),
    };
    for (resource, least) in item["min"].as_object().into_iter().flatten() {
        let Some(least) = amount(least) else { continue };
        match given("requests", resource) {
            None => errors.push(format!(
                "minimum {resource} usage per {kind} is {least}.  No request is specified"
            )),
            Some(asked) if asked < least => errors.push(format!(
                "minimum {resource} usage per {kind} is {least}, but request is {asked}"
            )),
            Some(_) => {}
        }
    }
    for (resource, most) in item["max"].as_object().into_iter().flatten() {
        let Some(most) = amount(most) else { continue };
        match given(bound, resource) {
            None => errors.push(format!(
                "maximum {resource} usage per {kind} is {most}.  No {word} is specified"
            )),
            Some(asked) if asked > most => errors.push(format!(
                "maximum {resource} usage per {kind} is {most}, but {word} is {asked}"
            )),
            Some(_) => {}
        }
    }
    for (resource, most) in item["maxLimitRequestRatio"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let pair = (given("requests", resource), given("limits", resource));
        let (Some(most), (Some(asked), Some(limit))) = (amount(most), pair) else {
            continue;
        };
        // As whole thousandths, so that nothing is lost.
        let ratio = i128::from(limit.milli_value()) * 1000;
        if ratio > i128::from(asked.milli_value()) * i128::from(most.milli_value()) {
            errors.push(format!(
                "{resource} max limit to request ratio per {kind} is {most}, but provided ratio \
                 is higher"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Operation;
    use super::super::testing::{Objects, request};
    use super::*;

    fn admit(plural: &'static str, spec: Value) -> Result<Value, String> {
        let range = json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"limits": [
            {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
                "max": {"cpu": "1"}, "min": {"cpu": "50m"}},
            {"type": "Pod", "max": {"cpu": "1200m"}},
            {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]}});
        let cluster = Objects::default().with("limitranges", range);
        let mut object = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec});
        let request = request(Operation::Create, plural);
        match LimitRanger.admit(&request, &mut object, &cluster) {
            Ok(()) => Ok(object),
            Err(status) => Err(status.message),
        }
    }

    fn pod(resources: &[Value]) -> Result<Value, String> {
        let containers: Vec<Value> = resources
            .iter()
            .map(|resources| json!({"name": "c", "resources": resources}))
            .collect();
        admit("pods", json!({"containers": containers}))
    }

    #[test]
    fn a_container_gets_what_it_did_not_ask_for() {
        let pod = pod(&[json!({})]).unwrap();
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(
            *resources,
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let refused = pod(&[json!({"limits": {"cpu": "2"}})]).unwrap_err();
        assert!(
            refused.contains("maximum cpu usage per Container is 1, but limit is 2"),
            "{refused}"
        );
        let together = json!({"limits": {"cpu": "800m"}});
        let refused = pod(&[together.clone(), together]).unwrap_err();
        assert!(
            refused.ends_with("maximum cpu usage per Pod is 1200m, but limit is 1600m"),
            "{refused}"
        );
        let claim = json!({"resources": {"requests": {"storage": "2Gi"}}});
        let refused = admit("persistentvolumeclaims", claim).unwrap_err();
        assert!(refused.contains("is 1Gi, but request is 2Gi"), "{refused}");
    }
}
