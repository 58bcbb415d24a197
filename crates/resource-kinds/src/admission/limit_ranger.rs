//! The admission plug-in LimitRanger: applies the defaults and limits of the namespace's LimitRanges to containers,
//! pods and claims.

use json_tree::Value;
use object_model::Status;

use super::plugin::{Admission, AdmissionRequest, Operation, creates, forbidden};
use crate::admission::ObjectReader;
use crate::json::parts;
use crate::quota::Amounts;
use crate::quota::pod::{RequestsOrLimits, amounts, together};

/// The annotation that describes the defaults that were set.
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
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let resizes = request.operation == Operation::Update
            && request.group.is_empty()
            && (request.plural, request.subresource) == ("pods", "resize");
        let pod = resizes || creates(request, "pods");
        if !pod && !writes(request, "persistentvolumeclaims") {
            return Ok(());
        }
        let ranges = cluster.list("", "limitranges", request.namespace);
        let of = |kind: &'static str| {
            let items = ranges
                .iter()
                .flat_map(|range| list(&range["spec"]["limits"]));
            items.filter(move |item| item["type"] == kind)
        };
        let mut errors = Vec::new();
        if pod {
            let filled = fill(object, of("Container"));
            annotate(object, &filled);
            let spec = &object["spec"];
            for item in of("Container") {
                let containers = list(&spec["containers"]).iter();
                for container in containers.chain(list(&spec["initContainers"])) {
                    let amounts = ContainerResources::from_json(&container["resources"]);
                    amounts.check_pod(item, "Container", &mut errors);
                }
            }
            for item in of("Pod") {
                ContainerResources::together(spec).check_pod(item, "Pod", &mut errors);
            }
        } else {
            for item in of("PersistentVolumeClaim") {
                let amounts = ContainerResources::from_json(&object["spec"]["resources"]);
                amounts.check_claim(item, &mut errors);
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

/// Whether an object of the core group is created or updated, except through a sub-resource.
fn writes(request: &AdmissionRequest<'_>, plural: &str) -> bool {
    let changes = request.operation == Operation::Update
        && (request.group, request.plural, request.subresource) == ("", plural, "");
    changes || creates(request, plural)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Sets defaults of containers; returns a description of the defaults.
fn fill<'i>(object: &mut Value, items: impl Iterator<Item = &'i Value>) -> Vec<String> {
    let mut descriptions = Vec::new();
    let Some(spec) = object.get_mut("spec") else {
        return descriptions;
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
                    descriptions.push(format!("{} {kind} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    descriptions
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

struct ContainerResources {
    requests: Amounts,
    limits: Amounts,
}

impl ContainerResources {
    fn from_json(resources: &Value) -> Self {
        Self {
            requests: amounts(&resources["requests"]),
            limits: amounts(&resources["limits"]),
        }
    }

    /// The sum over a pod's containers, by resource.
    fn together(spec: &Value) -> Self {
        let of = |side| together(spec, &Value::Null, side);
        Self {
            requests: of(RequestsOrLimits::Requests),
            limits: of(RequestsOrLimits::Limits),
        }
    }

    fn check_pod(&self, item: &Value, kind: &str, errors: &mut Vec<String>) {
        self.check_least(item, kind, errors);
        for (resource, most) in amounts(&item["max"]) {
            let text = format!("maximum {resource} usage per {kind} is {most}");
            match (self.limits.get(&resource), self.requests.get(&resource)) {
                (None, _) => errors.push(format!("{text}.  No limit is specified")),
                (Some(limit), _) if *limit > most => {
                    errors.push(format!("{text}, but limit is {limit}"));
                }
                (_, Some(request_amount)) if *request_amount > most => {
                    errors.push(format!("{text}, but request is {request_amount}"));
                }
                _ => {}
            }
        }
        for (resource, most) in amounts(&item["maxLimitRequestRatio"]) {
            let text = format!("{resource} max limit to request ratio per {kind} is {most}");
            let some = |amounts: &Amounts| {
                let amount = amounts.get(&resource).copied();
                amount.filter(|amount| !amount.is_zero())
            };
            let Some(request_amount) = some(&self.requests) else {
                errors.push(format!(
                    "{text}, but no request is specified or request is 0"
                ));
                continue;
            };
            let Some(limit) = some(&self.limits) else {
                errors.push(format!("{text}, but no limit is specified or limit is 0"));
                continue;
            };
            let [limit, requested, most] =
                [limit, request_amount, most].map(|amount| i128::from(amount.milli_value()));
            // The comparison uses whole thousandths, so that no precision is lost.
            if limit * 1000 > requested * most {
                let ratio_text = limit * 1_000_000 / requested;
                let (whole, part) = (ratio_text / 1_000_000, ratio_text % 1_000_000);
                errors.push(format!("{text}, but provided ratio is {whole}.{part:06}"));
            }
        }
    }

    /// A claim has requests only.
    fn check_claim(&self, item: &Value, errors: &mut Vec<String>) {
        let kind = "PersistentVolumeClaim";
        let requests = Self {
            requests: self.requests.clone(),
            limits: Amounts::new(),
        };
        requests.check_least(item, kind, errors);
        for (resource, most) in amounts(&item["max"]) {
            let text = format!("maximum {resource} usage per {kind} is {most}");
            match self.requests.get(&resource) {
                None => errors.push(format!("{text}.  No request is specified")),
                Some(request_amount) if *request_amount > most => {
                    errors.push(format!("{text}, but request is {request_amount}"));
                }
                Some(_) => {}
            }
        }
    }

    fn check_least(&self, item: &Value, kind: &str, errors: &mut Vec<String>) {
        for (resource, least) in amounts(&item["min"]) {
            let text = format!("minimum {resource} usage per {kind} is {least}");
            match (self.requests.get(&resource), self.limits.get(&resource)) {
                (None, _) => errors.push(format!("{text}.  No request is specified")),
                (Some(request_amount), _) if *request_amount < least => {
                    errors.push(format!("{text}, but request is {request_amount}"));
                }
                (_, Some(limit)) if *limit < least => {
                    errors.push(format!("{text}, but limit is {limit}"));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

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
        let (plural, subresource) = plural.split_once('/').unwrap_or((plural, ""));
        let operation = match subresource {
            "" => Operation::Create,
            _ => Operation::Update,
        };
        let request = AdmissionRequest {
            subresource,
            ..request(operation, plural)
        };
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

    /// kubectl.md 6.7
    #[test]
    fn what_is_too_much_is_no_less_so_in_a_running_pod() {
        let sized = |cpu: &str| {
            json!({"containers": [{"name": "c", "resources":
                {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}]})
        };
        assert!(admit("pods/resize", sized("1")).is_ok());
        let refused = admit("pods/resize", sized("2")).unwrap_err();
        assert!(
            refused.contains("per Container is 1, but limit is 2"),
            "{refused}"
        );
        // A status reports amounts that exist already, so they are not limited.
        assert!(admit("pods/status", sized("2")).is_ok());
    }

    #[test]
    fn init_containers_sidecars_and_the_pod_itself_count() {
        let with = |init: Value, resources: Value| {
            let container = json!({"name": "c", "resources": {"limits": {"cpu": "800m"}}});
            json!({"containers": [container], "initContainers": [init], "resources": resources})
        };
        let init = |cpu: &str, policy: Value| json!({"name": "i", "restartPolicy": policy, "resources": {"limits": {"cpu": cpu}}});
        assert!(admit("pods", with(init("1", Value::Null), Value::Null)).is_ok());
        let refused = admit("pods", with(init("2", Value::Null), Value::Null)).unwrap_err();
        assert!(
            refused.contains("per Container is 1, but limit is 2"),
            "{refused}"
        );
        let sidecar = with(init("800m", json!("Always")), Value::Null);
        let refused = admit("pods", sidecar).unwrap_err();
        assert!(
            refused.contains("per Pod is 1200m, but limit is 1600m"),
            "{refused}"
        );
        let whole = json!({"limits": {"cpu": "1300m"}});
        let refused = admit("pods", with(init("1", Value::Null), whole)).unwrap_err();
        assert!(
            refused.contains("per Pod is 1200m, but limit is 1300m"),
            "{refused}"
        );
    }

    #[test]
    fn limits_are_not_many_times_what_is_asked_for() {
        let ratio = json!({"maxLimitRequestRatio": {"cpu": "2"}, "min": {"cpu": "100m"}});
        let messages = |resources: Value| {
            let mut errors = Vec::new();
            ContainerResources::from_json(&resources).check_pod(&ratio, "Container", &mut errors);
            errors
        };
        let of = |requests: &str, limits: &str| json!({"requests": {"cpu": requests}, "limits": {"cpu": limits}});
        assert_eq!(messages(of("100m", "200m")), [""; 0]);
        let text = "cpu max limit to request ratio per Container is 2, but";
        assert_eq!(
            messages(of("300m", "1")),
            [format!("{text} provided ratio is 3.333333")]
        );
        assert_eq!(
            messages(json!({"requests": {"cpu": "1"}})),
            [format!("{text} no limit is specified or limit is 0")]
        );
        assert_eq!(
            messages(of("100m", "50m")),
            ["minimum cpu usage per Container is 100m, but limit is 50m"]
        );
    }
}
