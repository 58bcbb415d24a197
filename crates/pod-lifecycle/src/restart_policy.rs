//! Restart policies: whether an exited container runs again.
//!
//! A pod's `restartPolicy` decides, unless the container has a policy or a rule for its exit code
//! (KEP-5307, statefulset.md §12.4). For an init container that is not a sidecar, `Always` means
//! `OnFailure`.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

use crate::record::{Exit, Instance, PodRecord, RestartAll};
use crate::spec::{Kind, containers, restart_policy};

/// The action of a rule that restarts all containers of the pod.
const RESTART_ALL: &str = "RestartAllContainers";

/// Whether the policies restart the container after this exit.
pub fn wants_restart(spec: &PodSpec, kind: Kind, container: &Container, exit: &Exit) -> bool {
    match kind {
        Kind::Sidecar => return true,
        Kind::Ephemeral => return false,
        Kind::Init | Kind::Main => {}
    }
    if kind == Kind::Init && exit.code == 0 {
        return false;
    }
    is_allowed(spec, container, exit.code)
}

/// Whether the policies allow a restart after this exit code, independent of the container's kind.
fn is_allowed(spec: &PodSpec, container: &Container, code: i32) -> bool {
    if let Some(action) = action_for(container, code) {
        return matches!(action, "Restart" | RESTART_ALL);
    }
    match container
        .restart_policy
        .as_deref()
        .unwrap_or(restart_policy(spec))
    {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// Whether a status may report the container as running after it reported this exit. As the validation of
/// the API server, which uses only the policies: init containers that run again in a new sandbox are no
/// exception.
pub(crate) fn may_go_on(spec: &PodSpec, kind: Kind, container: &Container, code: i32) -> bool {
    let rules = containers(spec).flat_map(|(_, container)| &container.restart_policy_rules);
    if rules.flatten().any(|rule| rule.action == RESTART_ALL) {
        return true;
    }
    kind != Kind::Ephemeral && is_allowed(spec, container, code)
}

/// The action of the container's first rule that matches an exit code.
fn action_for(container: &Container, code: i32) -> Option<&str> {
    let mut rules = container.restart_policy_rules.iter().flatten();
    let rule = rules.find(|rule| rule_matches(rule, code));
    rule.map(|rule| rule.action.as_str())
}

/// The first container whose exit requests a restart of all containers; `None` if there is none.
pub(crate) fn asks_for_restart_all(spec: &PodSpec, record: &PodRecord) -> Option<RestartAll> {
    containers(spec).find_map(|(_, container)| {
        let container_record = record.containers.get(&container.name)?;
        let Instance::Exited(exit) = &container_record.instance else {
            return None;
        };
        let counts = !container_record.anew && exit.sandbox == record.sandboxes_made;
        let asks = action_for(container, exit.code) == Some(RESTART_ALL);
        (counts && asks).then(|| RestartAll {
            container: container.name.clone(),
            code: exit.code,
        })
    })
}

fn rule_matches(rule: &ContainerRestartRule, code: i32) -> bool {
    let Some(condition) = &rule.exit_codes else {
        return false;
    };
    let listed = condition
        .values
        .as_deref()
        .unwrap_or_default()
        .contains(&code);
    match condition.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Exit {
        json_tree::from_value(json_tree::json!({
            "id": "x", "sandbox": 1, "image": "i", "image_id": "d", "code": code, "signal": null,
            "reason": "Error", "message": null, "started_at": null,
            "finished_at": "2026-01-01T00:00:00Z"
        }))
        .unwrap()
    }

    fn restarts_with(pod: &str, kind: Kind, container: json_tree::Value, code: i32) -> bool {
        let spec = PodSpec {
            restart_policy: Some(pod.to_owned()),
            ..PodSpec::default()
        };
        let mut value = json_tree::json!({"name": "c"});
        for (key, part) in container.as_object().unwrap() {
            value[key] = part.clone();
        }
        let container = json_tree::from_value(value).unwrap();
        wants_restart(&spec, kind, &container, &exit(code))
    }

    #[test]
    fn policy_decides_by_exit_code() {
        // statefulset.md 12.2
        let none = || json_tree::json!({});
        for (policy, kind, code, expected) in [
            ("Always", Kind::Main, 0, true),
            ("Always", Kind::Main, 1, true),
            ("OnFailure", Kind::Main, 0, false),
            ("OnFailure", Kind::Main, 1, true),
            ("Never", Kind::Main, 1, false),
            ("Always", Kind::Init, 0, false),
            ("Always", Kind::Init, 1, true),
            ("Never", Kind::Init, 1, false),
        ] {
            assert_eq!(
                restarts_with(policy, kind, none(), code),
                expected,
                "{policy} {kind:?} {code}"
            );
        }
    }

    #[test]
    fn own_rules_come_before_the_policy() {
        // statefulset.md 12.4
        let rules = json_tree::json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
        assert!(restarts_with("Never", Kind::Main, rules.clone(), 42));
        assert!(!restarts_with("Never", Kind::Main, rules, 1));
        assert!(restarts_with(
            "Never",
            Kind::Sidecar,
            json_tree::json!({}),
            0
        ));
    }
}
