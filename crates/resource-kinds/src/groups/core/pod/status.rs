//! Validation of a pod's status.

use json_tree::Value;
use object_model::{FieldError, names};

use crate::validation::addresses::check_ip;
use crate::validation::field::{Field, Rules};
use crate::validation::pod_template;

const PHASES: &[&str] = &["Failed", "Pending", "Running", "Succeeded", "Unknown"];

/// The validation errors of a change of a pod's status.
pub(super) fn validate(object: &Value, old: &Value) -> Vec<FieldError> {
    let (status, spec) = (Field::of(object, "status"), Field::of(old, "spec"));
    let before = Field::of(old, "status");
    let mut errors = Vec::new();
    for condition in status.get("conditions").items() {
        generation(&condition.get("observedGeneration"), &mut errors);
        errors.check_text(&condition.get("type"), names::qualified_name);
    }
    errors.check_one_of_if_set(&status.get("phase"), PHASES);
    nominated_node(&status, &before, &spec, &mut errors);
    generation(&status.get("observedGeneration"), &mut errors);
    check_terminated(&status, &before, &spec, &mut errors);
    addresses(&status, &before, "podIPs", &mut errors);
    if let Some(first) = status.get("hostIPs").items().next()
        && first.get("ip").text() != status.get("hostIP").text()
    {
        errors.push(first.get("ip").invalid("must be equal to `hostIP`"));
    }
    addresses(&status, &before, "hostIPs", &mut errors);
    errors
}

fn generation(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if at.int().is_some_and(|generation| generation < 0) {
        errors.push(at.invalid("must be a non-negative integer"));
    }
}

/// `nominatedNodeName` is allowed only until the pod is bound to a node.
fn nominated_node(
    status: &Field<'_, '_>,
    before: &Field<'_, '_>,
    spec: &Field<'_, '_>,
    errors: &mut Vec<FieldError>,
) {
    let name = status.get("nominatedNodeName");
    if name.is_empty() || name.value == before.get("nominatedNodeName").value {
        return;
    }
    errors.check_text(&name, names::dns_subdomain);
    if !spec.get("nodeName").is_empty() {
        let detail = "may not be set on pods that are already bound to a node";
        errors.push(name.forbidden(detail));
    }
}

/// A terminated container that must not be restarted stays terminated.
fn check_terminated(
    status: &Field<'_, '_>,
    before: &Field<'_, '_>,
    spec: &Field<'_, '_>,
    errors: &mut Vec<FieldError>,
) {
    let restarts_all = |container: Field<'_, '_>| {
        let rules = container.get("restartPolicyRules");
        let mut actions = rules.items().map(|rule| rule.get("action").text());
        actions.any(|action| action == "RestartAllContainers")
    };
    let lists = pod_template::container_lists(spec);
    if lists.iter().flat_map(Field::items).any(restarts_all) {
        return;
    }
    for (field, list) in [
        ("initContainerStatuses", "initContainers"),
        ("containerStatuses", "containers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        for earlier in before.get(field).items() {
            let name = earlier.get("name").text();
            let code = earlier.get_path("state.terminated.exitCode").int();
            let now = status.get(field);
            let Some(now) = now.items().find(|now| now.get("name").text() == name) else {
                continue;
            };
            let goes_on = earlier.get_path("state.terminated").is_set()
                && !now.get_path("state.terminated").is_set();
            let containers = spec.get(list);
            let mut containers = containers.items();
            let container = containers.find(|container| container.get("name").text() == name);
            let may = container.is_some_and(|c| restarts(&c, spec, code.unwrap_or_default()));
            // An ephemeral container is never restarted.
            if goes_on && (!may || list == "ephemeralContainers") {
                let detail = "may not be transitioned to non-terminated state";
                errors.push(now.get("state").forbidden(detail));
            }
        }
    }
}

/// Whether a container restarts after this exit code: by the first matching rule, by its own policy, or by the policy
/// of its pod (`statefulset.md` 12.4).
fn restarts(container: &Field<'_, '_>, spec: &Field<'_, '_>, code: i64) -> bool {
    let fits = |rule: &Field<'_, '_>| {
        let codes = rule.get_path("exitCodes.values");
        let listed = codes.items().any(|one| one.int() == Some(code));
        match rule.get_path("exitCodes.operator").text() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    if container
        .get("restartPolicyRules")
        .items()
        .any(|rule| fits(&rule))
    {
        return true;
    }
    let container_policy = container.get("restartPolicy");
    let policy = if container_policy.is_set() {
        container_policy
    } else {
        spec.get("restartPolicy")
    };
    match policy.text() {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// Checks that addresses are valid, unless they are stored already, and that each family has at most one address.
fn addresses(
    status: &Field<'_, '_>,
    before: &Field<'_, '_>,
    field: &str,
    errors: &mut Vec<FieldError>,
) {
    let list = status.get(field);
    let existing = before.get(field);
    for item in list.items() {
        let address = item.get("ip");
        if !existing
            .items()
            .any(|item| item.get("ip").text() == address.text())
        {
            check_ip(errors, &address);
        }
    }
    let of_six = list
        .items()
        .filter(|item| item.get("ip").text().contains(':'))
        .count();
    if of_six > 1 || list.len() - of_six > 1 {
        errors.push(list.invalid("may specify no more than one IP for each IP family"));
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;
    use crate::groups::core::pod::READ_FOR_STATUS;
    use crate::kind::reads::keep;

    /// The errors of the change. The errors must be equal for pods without the fields that the rules do not read.
    fn check(spec: &Value, new: Value, old: Value) -> Vec<String> {
        let pod = |status: Value| json!({"spec": spec, "status": status});
        let (mut new, mut old) = (pod(new), pod(old));
        let errors = validate(&new, &old);
        keep(&mut new, READ_FOR_STATUS);
        keep(&mut old, READ_FOR_STATUS);
        assert_eq!(validate(&new, &old), errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_never_restarts_stays_ended() {
        let status = |state: Value| json!({"containerStatuses": [{"name": "a", "state": state}]});
        let ended = |code: i64| status(json!({"terminated": {"exitCode": code}}));
        let running = status(json!({"running": {}}));
        let rule = |action: &str| json!([{"action": action, "exitCodes": {"operator": "In", "values": [3]}}]);
        let table = [
            ("Never", json!({}), 0, false),
            ("Never", json!({}), 1, false),
            ("OnFailure", json!({}), 0, false),
            ("OnFailure", json!({}), 1, true),
            ("Always", json!({}), 0, true),
            ("Never", json!({"restartPolicy": "Always"}), 0, true),
            ("Always", json!({"restartPolicy": "Never"}), 0, false),
            (
                "Never",
                json!({"restartPolicy": "Never", "restartPolicyRules": rule("Restart")}),
                3,
                true,
            ),
            (
                "Never",
                json!({"restartPolicy": "Never", "restartPolicyRules": rule("Restart")}),
                4,
                false,
            ),
            (
                "Never",
                json!({"restartPolicy": "Never",
                    "restartPolicyRules": rule("RestartAllContainers")}),
                4,
                true,
            ),
        ];
        for (policy, mut container, code, may) in table {
            container["name"] = json!("a");
            let spec = json!({"restartPolicy": policy, "containers": [container]});
            let expected = "status.containerStatuses[0].state: Forbidden: may not be transitioned to \
                          non-terminated state";
            let expected: &[&str] = if may { &[] } else { &[expected] };
            assert_eq!(
                check(&spec, running.clone(), ended(code)),
                expected,
                "{spec} {code}"
            );
        }
        let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
        assert_eq!(check(&spec, ended(0), running), [""; 0]);
    }

    #[test]
    fn init_and_ephemeral_containers_stay_ended_too() {
        let check = |field: &str, list: &str, policy: &str, container: Value, code: i64| {
            let spec = json!({"restartPolicy": policy, (list): [container]});
            let status = |state: Value| json!({(field): [{"name": "a", "state": state}]});
            let ended = status(json!({"terminated": {"exitCode": code}}));
            check(&spec, status(json!({"waiting": {}})), ended).len()
        };
        let init = |policy: &str, container: Value, code: i64| {
            check(
                "initContainerStatuses",
                "initContainers",
                policy,
                container,
                code,
            )
        };
        let plain = json!({"name": "a"});
        assert_eq!(init("Always", plain.clone(), 0), 0);
        assert_eq!(init("OnFailure", plain.clone(), 1), 0);
        assert_eq!(init("OnFailure", plain.clone(), 0), 1);
        assert_eq!(init("Never", plain.clone(), 1), 1);
        let sidecar = json!({"name": "a", "restartPolicy": "Always"});
        assert_eq!(init("Never", sidecar, 0), 0);
        let (field, list) = ("ephemeralContainerStatuses", "ephemeralContainers");
        assert_eq!(check(field, list, "Always", plain, 1), 1);
    }

    #[test]
    fn a_status_is_consistent() {
        let number = "must be a non-negative integer";
        let table = [
            (json!({"conditions": [{"type": "example.com/a", "observedGeneration": 1}]}), None),
            (json!({"conditions": [{"type": "Ready", "observedGeneration": -1}]}),
                Some(format!("conditions[0].observedGeneration: Invalid value: -1: {number}"))),
            (json!({"observedGeneration": -1}),
                Some(format!("observedGeneration: Invalid value: -1: {number}"))),
            (json!({"phase": "Odd"}), Some("phase: Unsupported value: \"Odd\": supported values: \
                \"Failed\", \"Pending\", \"Running\", \"Succeeded\", \"Unknown\"".to_owned())),
            (json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}), None),
            (json!({"podIPs": [{"ip": "x"}]}), Some("podIPs[0].ip: Invalid value: \"x\": must be a \
                valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())),
            (json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}), Some(
                "podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no \
                 more than one IP for each IP family".to_owned())),
            (json!({"hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.1"}]}), Some(
                "hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`".to_owned())),
            (json!({"nominatedNodeName": "m"}), Some("nominatedNodeName: Forbidden: may not be set \
                on pods that are already bound to a node".to_owned())),
        ];
        let spec = json!({"nodeName": "n", "containers": []});
        for (status, expected) in table {
            let expected: Vec<String> = expected
                .iter()
                .map(|error| format!("status.{error}"))
                .collect();
            assert_eq!(check(&spec, status, json!({})), expected);
        }
        let stored = json!({"podIPs": [{"ip": "010.0.0.1"}]});
        assert_eq!(check(&spec, stored.clone(), stored), [""; 0]);
    }
}
