//! Validation of a Service (`statefulset.md` 10.14).

use std::collections::BTreeSet;

use json_tree::{Value, json};
use object_model::{FieldError, names};

use super::allocate::has_address;
use super::health_check;
use crate::validation::addresses::{PROTOCOLS, check_endpoint_ip, check_ip};
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// Maximum session affinity timeout, in seconds: a day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

/// The supported values of `trafficDistribution`
/// (<https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-distribution>).
const TRAFFIC_DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];

/// The errors of a Service.
pub(super) fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let kind = spec.get("type").text();
    let headless = spec.get("clusterIP").text() == "None";
    let mut errors = Vec::new();
    if spec.get("ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(spec.get("ports").required(""));
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let path = &spec.get("clusterIPs").path();
        let which = if kind == "NodePort" {
            "NodePort"
        } else {
            "LoadBalancer"
        };
        let detail = format!("may not be set to 'None' for {which} services");
        errors.push(FieldError::invalid(&path.index(0), "None", detail));
    }
    if kind == "ExternalName" {
        external_name(&spec, &mut errors);
    }
    ports(&spec, headless, &mut errors);
    errors.extend(metadata::labels(&spec.get("selector")));
    affinity(&spec, &mut errors);
    errors.check_one_of(&spec.get("type"), TYPES);
    addresses(object, &spec, &mut errors);
    policies(&spec, kind, &mut errors);
    errors
}

fn external_name(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if !spec.get("clusterIPs").is_empty() {
        let at = spec.get("clusterIPs");
        errors.push(at.forbidden("may not be set for ExternalName services"));
    }
    let name = spec.get("externalName");
    let text = name.text().strip_suffix('.').unwrap_or(name.text());
    if text.is_empty() {
        errors.push(name.required(""));
    } else {
        let clauses = names::dns_subdomain(text).into_iter();
        errors.extend(clauses.map(|clause| name.invalid(clause)));
    }
}

fn ports(spec: &Field<'_, '_>, headless: bool, errors: &mut Vec<FieldError>) {
    let list = spec.get("ports");
    let several = list.value.as_array().is_some_and(|ports| ports.len() > 1);
    let mut unique_names = BTreeSet::new();
    let mut unique_ports = BTreeSet::new();
    let mut unique_node_ports = BTreeSet::new();
    for port in list.items() {
        let name = port.get("name");
        if name.is_empty() && several {
            errors.push(name.required(""));
        } else if !name.is_empty() {
            errors.check_text(&name, names::dns_label);
            if !unique_names.insert(name.text()) {
                errors.push(name.duplicate());
            }
        }
        let number = port.get("port");
        for clause in names::port_number(number.int().unwrap_or_default()) {
            let value = number.int().unwrap_or_default();
            errors.push(FieldError::invalid(&number.path(), value, clause));
        }
        let protocol = port.get("protocol");
        errors.check_one_of(&protocol, PROTOCOLS);
        target_port(&port.get("targetPort"), errors);
        errors.check_text_if_set(&port.get("appProtocol"), names::qualified_name);
        if headless && port.get("nodePort").int().is_some_and(|node| node != 0) {
            let detail = "may not be used when `clusterIP` is 'None'";
            errors.push(port.get("nodePort").forbidden(detail));
        }
        if !unique_ports.insert((number.int(), protocol.text())) {
            let value = json!({"protocol": protocol.text(), "port": number.int()});
            errors.push(FieldError::duplicate(&port.path(), value));
        }
        let node = port.get("nodePort");
        let fixed = node.int().is_some_and(|value| value != 0);
        if fixed && !matches!(spec.get("type").text(), "NodePort" | "LoadBalancer") {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(node.forbidden(detail));
        }
        if fixed && !unique_node_ports.insert((node.int(), protocol.text())) {
            errors.push(node.duplicate());
        }
    }
}

fn target_port(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    match at.value {
        Value::Number(number) => {
            let clauses = names::port_number(number.as_i64().unwrap_or_default());
            errors.extend(clauses.into_iter().map(|clause| at.invalid(clause)));
        }
        _ => errors.check_text(at, names::port_name),
    }
}

fn affinity(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_one_of(&spec.get("sessionAffinity"), &["ClientIP", "None"]);
    let config = spec.get("sessionAffinityConfig");
    let seconds = config.get_path("clientIP.timeoutSeconds");
    match spec.get("sessionAffinity").text() {
        "ClientIP" => {
            let fits = |value| (1..=AFFINITY_SECONDS_MAX).contains(&value);
            if !seconds.int().is_some_and(fits) {
                let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                errors.push(seconds.invalid(detail));
            }
        }
        "None" if config.is_set() => {
            let detail = "must not be set when session affinity is None";
            errors.push(config.forbidden(detail));
        }
        _ => {}
    }
}

fn addresses(object: &Value, spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let list = spec.get("clusterIPs");
    let (single, first) = (spec.get("clusterIP"), spec.get("clusterIPs").value.get(0));
    let first = first.and_then(Value::as_str).unwrap_or_default();
    if has_address(object) && single.text() != first {
        let detail = "first value must match `clusterIP`";
        errors.push(list.invalid(detail));
    }
    for address in list.items().filter(|address| address.text() != "None") {
        check_ip(errors, &address);
    }
    let several = list.value.as_array().is_some_and(|list| list.len() > 1);
    if several && list.items().any(|address| address.text() == "None") {
        errors.push(list.invalid("'None' must be the first and only value"));
    } else if several {
        errors.push(list.invalid("may not hold more than one value: the cluster has one family"));
    }
    for address in spec.get("externalIPs").items() {
        check_endpoint_ip(errors, &address);
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    errors.check_one_of_if_set(&spec.get("ipFamilyPolicy"), &policies);
    for family in spec.get("ipFamilies").items() {
        errors.check_one_of(&family, &["IPv4", "IPv6"]);
    }
}

fn policies(spec: &Field<'_, '_>, kind: &str, errors: &mut Vec<FieldError>) {
    let external = spec.get("externalTrafficPolicy");
    let outside =
        matches!(kind, "NodePort" | "LoadBalancer") || !spec.get("externalIPs").is_empty();
    if outside {
        errors.check_one_of_if_set(&external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(external.invalid(detail));
    }
    if kind != "ExternalName" {
        errors.check_one_of(&spec.get("internalTrafficPolicy"), &["Cluster", "Local"]);
    }
    errors.check_one_of_if_set(&spec.get("trafficDistribution"), TRAFFIC_DISTRIBUTIONS);
    let check = spec.get("healthCheckNodePort");
    if !health_check::is_served(spec.value) && check.int().is_some_and(|port| port != 0) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is \
                      'Local'";
        errors.push(check.invalid(detail));
    }
    let ranges = spec.get("loadBalancerSourceRanges");
    if !ranges.is_empty() && kind != "LoadBalancer" {
        errors.push(ranges.forbidden("may only be used when `type` is 'LoadBalancer'"));
    }
    let class = spec.get("loadBalancerClass");
    if class.is_set() && kind != "LoadBalancer" {
        errors.push(class.forbidden("may only be used when `type` is 'LoadBalancer'"));
    } else {
        errors.check_text_if_set(&class, names::qualified_name);
    }
}

/// Checks the immutable fields: an allocated address, the health check node port, and the class of a load balancer.
pub(super) fn validate_change(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let check = Field::of(object, "spec.healthCheckNodePort");
    let before = Field::of(old, "spec.healthCheckNodePort");
    let stays = health_check::is_served(&object["spec"]) && health_check::is_served(&old["spec"]);
    if stays && before.is_set() && check.int() != before.int() {
        errors.push(check.forbidden("field is immutable"));
    }
    let class = Field::of(object, "spec.loadBalancerClass");
    let is_balanced = |object: &Value| object["spec"]["type"] == "LoadBalancer";
    if is_balanced(object) && is_balanced(old) && *class.value != old["spec"]["loadBalancerClass"] {
        errors.push(class.invalid("may not change once set"));
    }
    if !has_address(object) || !has_address(old) {
        return errors;
    }
    let (new, old) = (Field::of(object, "spec"), Field::of(old, "spec"));
    let before = old
        .get("clusterIPs")
        .value
        .get(0)
        .and_then(Value::as_str)
        .unwrap_or_default();
    let now = new
        .get("clusterIPs")
        .value
        .get(0)
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !before.is_empty() && before != now {
        let list = new.get("clusterIPs");
        let value = list.value.clone();
        let path = list.path().index(0);
        errors.push(FieldError::invalid(&path, value, "may not change once set"));
    }
    let (families, families_before) = (new.get("ipFamilies"), old.get("ipFamilies"));
    let first = |at: &Field<'_, '_>| at.value.get(0).cloned();
    if families_before.is_set() && first(&families) != first(&families_before) {
        let path = families.path().index(0);
        let value = families.value.clone();
        errors.push(FieldError::invalid(&path, value, "may not change once set"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::core::Service;
    use crate::kind::Kind;
    use crate::kind::cluster::ServiceRange;

    fn service(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec});
        let kind = Service::new(ServiceRange::default(), None);
        kind.default(&mut object);
        kind.prepare_create(&mut object);
        object
    }

    fn texts(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn check(spec: Value) -> Vec<String> {
        texts(Service::new(ServiceRange::default(), None).validate_create(&service(spec)))
    }

    #[test]
    fn ports_are_named_when_there_are_several() {
        assert!(check(json!({"ports": [{"port": 80}]})).is_empty());
        assert_eq!(
            check(json!({"ports": [{"port": 80, "name": "a"}, {"port": 81}, {"port": 80}]})),
            [
                "spec.ports[1].name: Required value",
                "spec.ports[2].name: Required value",
                "spec.ports[2]: Duplicate value: {\"protocol\":\"TCP\",\"port\":80}",
            ]
        );
        assert_eq!(check(json!({})), ["spec.ports: Required value"]);
        assert!(check(json!({"clusterIP": "None"})).is_empty());
        assert_eq!(
            check(json!({"ports": [{"port": 70_000}]}))[0],
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"
        );
    }

    /// `statefulset.md` 10.14
    #[test]
    fn headless_services_have_no_way_in_from_outside() {
        let spec = json!({"clusterIP": "None", "type": "LoadBalancer", "ports": [{"port": 80}]});
        assert_eq!(
            check(spec),
            [
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for \
              LoadBalancer services"
            ]
        );
    }

    /// `statefulset.md` 10.14
    #[test]
    fn the_address_stays() {
        let old = service(json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}));
        let new = service(json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        assert_eq!(
            texts(validate_change(&new, &old)),
            ["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"]
        );
        let name = service(json!({"type": "ExternalName", "externalName": "x.y"}));
        assert_eq!(validate_change(&name, &old), []);
    }

    #[test]
    fn where_nodes_are_asked_for_endpoints_is_for_local_balancers_and_stays() {
        let spec = |policy: &str, port: i64| {
            json!({"type": "LoadBalancer", "externalTrafficPolicy": policy,
                "healthCheckNodePort": port, "ports": [{"port": 80}]})
        };
        assert!(check(spec("Local", 30_001)).is_empty());
        assert_eq!(
            check(spec("Cluster", 30_001)),
            [
                "spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is \
              'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
            ]
        );
        let (old, new) = (
            service(spec("Local", 30_001)),
            service(spec("Local", 30_002)),
        );
        assert_eq!(
            texts(validate_change(&new, &old)),
            ["spec.healthCheckNodePort: Forbidden: field is immutable"]
        );
        assert_eq!(validate_change(&service(spec("Cluster", 0)), &old), []);
    }

    #[test]
    fn a_preference_between_endpoints_is_known() {
        let spec = |value: &str| json!({"trafficDistribution": value, "ports": [{"port": 80}]});
        for value in TRAFFIC_DISTRIBUTIONS {
            assert!(check(spec(value)).is_empty(), "{value}");
        }
        assert_eq!(
            check(spec("PreferLocal")),
            [
                "spec.trafficDistribution: Unsupported value: \"PreferLocal\": supported values: \
                 \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\""
            ]
        );
    }

    #[test]
    fn an_external_name_is_a_name() {
        assert!(check(json!({"type": "ExternalName", "externalName": "x.y."})).is_empty());
        let refused = check(json!({"type": "ExternalName"}));
        assert_eq!(refused, ["spec.externalName: Required value"]);
    }
}
