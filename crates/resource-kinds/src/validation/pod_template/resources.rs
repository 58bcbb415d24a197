//! Requests and limits of containers and of pods as a whole, and the QoS class that they determine.

use std::collections::{BTreeMap, BTreeSet};

use json_tree::Value;
use object_model::{FieldError, Quantity, names};

use crate::json::parts;
use crate::validation::field::{Field, NEGATIVE};

/// The resources of a container, without huge pages.
const OF_CONTAINERS: &[&str] = &["cpu", "ephemeral-storage", "memory"];
/// The pod-level resources, without huge pages.
const OF_PODS: &[&str] = &["cpu", "memory"];
/// Valid resource names that only quotas and claims use.
const OTHERS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "storage",
];
const HUGE_PAGES: &str = "hugepages-";

fn amount(at: &Field<'_, '_>) -> Quantity {
    Quantity::from_json(at.value).unwrap_or_default()
}

/// Whether the name belongs to Kubernetes itself, and not to a device.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether the name is an extended resource, which is counted in whole numbers.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether the resource may be overcommitted.
fn allows_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

/// The errors of a resource's name.
fn well_known(name: &str, at: &Field<'_, '_>) -> Vec<FieldError> {
    let wrong = |clause| FieldError::invalid(&at.path(), name, clause);
    let mut errors: Vec<_> = names::qualified_name(name).into_iter().map(wrong).collect();
    let is_standard = name.contains('/')
        || name.starts_with(HUGE_PAGES)
        || name.starts_with("requests.hugepages-")
        || OF_CONTAINERS.contains(&name)
        || OTHERS.contains(&name);
    if errors.is_empty() && !is_standard {
        errors.push(wrong(
            "must be a standard resource type or fully qualified".to_owned(),
        ));
    }
    errors
}

fn name_for_container(name: &str, at: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = well_known(name, at);
    let detail = if !name.contains('/') {
        let is_allowed = OF_CONTAINERS.contains(&name) || name.starts_with(HUGE_PAGES);
        (!is_allowed).then_some("must be a standard resource for containers")
    } else {
        let other = !is_native(name) && !is_extended(name);
        other.then_some("doesn't follow extended resource name standard")
    };
    let is_well_formed = |_: &&str| names::qualified_name(name).is_empty();
    if let Some(detail) = detail.filter(is_well_formed) {
        errors.push(FieldError::invalid(&at.path(), name, detail));
    }
    errors
}

fn name_for_pod(name: &str, at: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = well_known(name, at);
    if errors.is_empty() && !OF_PODS.contains(&name) && !name.starts_with(HUGE_PAGES) {
        errors.push(FieldError::not_supported(&at.path(), name, OF_PODS));
    }
    errors
}

type NameCheck = fn(&str, &Field<'_, '_>) -> Vec<FieldError>;

/// The validation errors of a list of amounts by resource, as in the resources of containers.
pub(crate) fn amounts(list: &Field<'_, '_>) -> Vec<FieldError> {
    checked(list, name_for_container)
}

fn checked(list: &Field<'_, '_>, check_name: NameCheck) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, at) in list.entries() {
        errors.extend(check_name(name, &at));
        let quantity = amount(&at);
        if quantity.is_negative() {
            errors.push(at.invalid(NEGATIVE));
        }
        if is_extended(name) && !quantity.is_integer() {
            errors.push(at.invalid("must be an integer"));
        }
        if let Some(size) = name.strip_prefix(HUGE_PAGES)
            && !is_multiple(&quantity, size)
        {
            let detail = format!("{quantity} is not positive integer multiple of {name}");
            errors.push(FieldError::invalid(
                &at.path(),
                quantity.to_string(),
                detail,
            ));
        }
    }
    errors
}

fn is_multiple(quantity: &Quantity, size: &str) -> bool {
    let size: Quantity = size.parse().unwrap_or_default();
    size.is_integer() && size.value() > 0 && quantity.value() % size.value() == 0
}

/// The validation errors of the resources of a container.
pub(super) fn validate(resources: &Field<'_, '_>) -> Vec<FieldError> {
    requirements(resources, name_for_container)
}

fn requirements(resources: &Field<'_, '_>, check_name: NameCheck) -> Vec<FieldError> {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    let mut errors = checked(&limits, check_name);
    errors.extend(checked(&requests, check_name));
    for (name, request) in requests.entries() {
        let limit = limits.get_key(name);
        if !limit.is_set() {
            if !allows_overcommit(name) {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(limits.required(detail));
            }
            continue;
        }
        let (request_amount, limit) = (amount(&request), amount(&limit));
        let relation = if !allows_overcommit(name) && request_amount != limit {
            "equal to"
        } else if request_amount > limit {
            "less than or equal to"
        } else {
            continue;
        };
        let detail = format!("must be {relation} {name} limit of {limit}");
        errors.push(FieldError::invalid(
            &requests.path(),
            request_amount.to_string(),
            detail,
        ));
    }
    let names: Vec<&str> = [&limits, &requests]
        .into_iter()
        .flat_map(Field::entries)
        .map(|(name, _)| name)
        .collect();
    let computes = names.iter().any(|name| matches!(*name, "cpu" | "memory"));
    if !computes && names.iter().any(|name| name.starts_with(HUGE_PAGES)) {
        errors.push(resources.forbidden("HugePages require cpu or memory"));
    }
    errors
}

/// The errors of pod-level resources (KEP-2837): they are upper bounds of the containers' resources.
pub(super) fn of_pod(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let resources = spec.get("resources");
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    if !resources.is_set() {
        return Vec::new();
    }
    if spec.get_path("os.name").text() == "windows" {
        return vec![resources.forbidden("may not be set for a windows pod")];
    }
    let mut errors = Vec::new();
    if resources.get("claims").is_set() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(resources.get("claims").forbidden(detail));
    }
    errors.extend(requirements(&resources, name_for_pod));
    for (list, of_all, what) in [
        ("requests", &requests, "requests"),
        ("limits", &limits, "limits"),
    ] {
        for (name, pod_amount) in of_all.entries() {
            let total = needed(spec, list, name);
            let counts = list == "requests" || name.starts_with(HUGE_PAGES);
            if counts && total > amount(&pod_amount) {
                let detail = format!(
                    "must be greater than or equal to aggregate container {what} of {total}"
                );
                errors.push(FieldError::invalid(
                    &pod_amount.path(),
                    amount(&pod_amount).to_string(),
                    detail,
                ));
            }
        }
    }
    for container in spec.get("containers").items() {
        for (name, limit) in container.get_path("resources.limits").entries() {
            let whole = limits.get_key(name);
            if whole.is_set() && amount(&limit) > amount(&whole) {
                let whole = amount(&whole);
                let detail = format!("must be less than or equal to pod limits of {whole}");
                errors.push(FieldError::invalid(
                    &limit.path(),
                    amount(&limit).to_string(),
                    detail,
                ));
            }
        }
    }
    errors
}

/// The amount of a resource that a pod's containers use at once: all main containers and sidecars, or an init
/// container with the sidecars before it (`statefulset.md` 12.3).
fn needed(spec: &Field<'_, '_>, list: &str, name: &str) -> Quantity {
    let of =
        |container: &Field<'_, '_>| amount(&container.get("resources").get(list).get_key(name));
    let mut together = Quantity::default();
    let mut most = Quantity::default();
    for container in spec.get("initContainers").items() {
        if super::is_sidecar(container.value) {
            together = together.plus(&of(&container));
            most = most.max(together);
        } else {
            most = most.max(together.plus(&of(&container)));
        }
    }
    for container in spec.get("containers").items() {
        together = together.plus(&of(&container));
    }
    most.max(together)
}

/// Sets the missing requests of a pod and its containers.
pub(crate) fn default_requests(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in parts::each(spec, list) {
            if let Some(resources) = container.get_mut("resources") {
                requests_from_limits(resources);
            }
        }
    }
    requests_of_pod(spec);
}

/// Sets a missing request to the limit.
fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = resources["limits"].as_object().cloned() else {
        return;
    };
    if let Some(requests) = parts::entry(resources, "requests") {
        for (name, amount) in limits {
            parts::fill(requests, &name, amount);
        }
    }
}

/// Sets missing pod-level requests, if the pod has pod-level limits: to the sum of its containers' requests, or else
/// to the limit (KEP-2837).
fn requests_of_pod(spec: &mut Value) {
    let limits = spec["resources"]["limits"].as_object();
    let Some(limits) = limits.filter(|limits| !limits.is_empty()).cloned() else {
        return;
    };
    let of_containers = {
        let spec = Field::root(spec);
        let lists = ["containers", "initContainers"].map(|list| spec.get(list));
        let containers = lists.iter().flat_map(Field::items);
        let mut names: BTreeSet<String> = BTreeSet::new();
        for container in containers {
            let container_request = container.get_path("resources.requests");
            names.extend(container_request.entries().map(|(name, _)| name.to_owned()));
        }
        names.retain(|name| OF_PODS.contains(&name.as_str()) || name.starts_with(HUGE_PAGES));
        let amounts = names.into_iter().map(|name| {
            let total = needed(&spec, "requests", &name);
            (name, Value::from(total.to_string()))
        });
        amounts.collect::<Vec<_>>()
    };
    let Some(requests) = parts::entry(&mut spec["resources"], "requests") else {
        return;
    };
    for (name, amount) in of_containers.into_iter().chain(limits) {
        parts::fill(requests, &name, amount);
    }
}

/// The QoS class of a pod (`statefulset.md` 12.16). It depends on the pod-level resources, if the pod has any.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let spec = Field::root(spec);
    let pod_level = ["resources.requests", "resources.limits"].map(|list| spec.get_path(list));
    let lists = ["containers", "initContainers"].map(|list| spec.get(list));
    let holders: Vec<Field<'_, '_>> =
        if pod_level.iter().any(|list| list.entries().next().is_some()) {
            vec![spec]
        } else {
            lists.iter().flat_map(Field::items).collect()
        };
    let mut requests: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut limits: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut all_limited = true;
    for holder in holders {
        let mut limited = 0;
        for (field, sums) in [
            ("resources.requests", &mut requests),
            ("resources.limits", &mut limits),
        ] {
            for (name, at) in holder.get_path(field).entries() {
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
    use json_tree::json;

    use super::*;

    fn check(resources: Value) -> Vec<String> {
        let holder = json!({"resources": resources});
        validate(&Field::of(&holder, "resources"))
            .iter()
            .map(ToString::to_string)
            .collect()
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
    }

    #[test]
    fn amounts_fit_their_resource() {
        let both = |name: &str, limit: &str, request: &str| json!({"limits": {"cpu": "1", name: limit}, "requests": {"cpu": "1", name: request}});
        let table = [
            (
                json!({"limits": {"cpu": "-1"}}),
                vec!["limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
            (both("example.com/gpu", "2", "2"), vec![]),
            (
                both("example.com/gpu", "2", "1"),
                vec!["requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2"],
            ),
            (
                json!({"limits": {"example.com/gpu": "1500m"}}),
                vec!["limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer"],
            ),
            (
                json!({"requests": {"example.com/gpu": "1"}}),
                vec!["limits: Required value: Limit must be set for non overcommitable resources"],
            ),
            (
                json!({"limits": {"requests.example.com/gpu": "1"}}),
                vec![
                    "limits[requests.example.com/gpu]: Invalid value: \
                      \"requests.example.com/gpu\": doesn't follow extended resource name standard",
                ],
            ),
            (
                json!({"limits": {"storage": "1"}}),
                vec![
                    "limits[storage]: Invalid value: \"storage\": must be a standard resource for \
                      containers",
                ],
            ),
            (both("hugepages-2Mi", "4Mi", "4Mi"), vec![]),
            (
                both("hugepages-2Mi", "3Mi", "3Mi"),
                vec![
                    "limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
                 multiple of hugepages-2Mi",
                    "requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
                 multiple of hugepages-2Mi",
                ],
            ),
            (
                json!({"limits": {"hugepages-2Mi": "2Mi"}, "requests": {"hugepages-2Mi": "2Mi"}}),
                vec![": Forbidden: HugePages require cpu or memory"],
            ),
        ];
        for (resources, expected) in table {
            let expected: Vec<String> = expected
                .iter()
                .map(|error| match error.strip_prefix(':') {
                    Some(rest) => format!("resources:{rest}"),
                    None => format!("resources.{error}"),
                })
                .collect();
            assert_eq!(check(resources), expected);
        }
    }

    #[test]
    fn a_pod_bounds_its_containers() {
        let check = |resources: Value| {
            let container = |cpu: &str| {
                json!({"resources": {"requests": {"cpu": cpu},
                "limits": {"cpu": "2", "memory": "1Gi"}}})
            };
            let mut sidecar = container("1");
            sidecar["restartPolicy"] = json!("Always");
            let spec = json!({"resources": resources,
                "initContainers": [sidecar, container("5")],
                "containers": [container("2"), container("2")]});
            let errors = of_pod(&Field::root(&spec));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            check(json!({"requests": {"cpu": "6"}, "limits": {"cpu": "6"}})),
            [""; 0]
        );
        assert_eq!(
            check(json!({"requests": {"cpu": "5"}, "limits": {"memory": "1Mi"}, "claims": []})),
            [
                "resources.claims: Forbidden: claims may not be set for Resources at pod-level",
                "resources.requests[cpu]: Invalid value: \"5\": must be greater than or equal to \
                 aggregate container requests of 6",
                "containers[0].resources.limits[memory]: Invalid value: \"1Gi\": must be less than \
                 or equal to pod limits of 1Mi",
                "containers[1].resources.limits[memory]: Invalid value: \"1Gi\": must be less than \
                 or equal to pod limits of 1Mi",
            ]
        );
        assert_eq!(
            check(json!({"limits": {"ephemeral-storage": "1"}})),
            [
                "resources.limits[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": \
                 supported values: \"cpu\", \"memory\""
            ]
        );
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

    /// KEP-2837
    #[test]
    fn the_class_of_a_pod_with_resources_of_its_own_follows_from_those() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let pod = |resources: Value| json!({"resources": resources, "containers": [{}]});
        assert_eq!(
            qos_class(&pod(json!({"limits": both, "requests": both}))),
            "Guaranteed"
        );
        assert_eq!(
            qos_class(&pod(json!({"requests": {"cpu": "1"}}))),
            "Burstable"
        );
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
    }

    /// KEP-2837
    #[test]
    fn a_pod_requests_what_its_containers_do_or_its_limit() {
        let mut spec = json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
            "containers": [{"resources": {"requests": {"cpu": "300m", "example.com/gpu": "1"}}},
                {"resources": {"requests": {"cpu": "200m"}}}]});
        requests_of_pod(&mut spec);
        assert_eq!(
            spec["resources"]["requests"],
            json!({"cpu": "500m", "memory": "1Gi"})
        );
        let mut spec = json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{}]});
        requests_of_pod(&mut spec);
        assert_eq!(spec["resources"], json!({"requests": {"cpu": "1"}}));
    }
}
