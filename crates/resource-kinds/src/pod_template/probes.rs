//! What is wrong with probes and hooks (`statefulset.md` 12.5 and 12.6).

use object_model::{FieldError, names};
use serde_json::Value;

use crate::at::{At, Rules};

const PROBE_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];

/// Checks the probes and hooks of a container.
pub(super) fn validate(container: &At<'_>, errors: &mut Vec<FieldError>) {
    for hook in ["postStart", "preStop"] {
        let hook = container.get("lifecycle").get(hook);
        if hook.is_set() {
            handler(&hook, HOOK_HANDLERS, errors);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let at = container.get(name);
        if !at.is_set() {
            continue;
        }
        probe(&at, errors);
        let grace = at.get("terminationGracePeriodSeconds");
        if name == "readinessProbe" {
            if grace.is_set() {
                errors.push(grace.invalid("must not be set for readinessProbes"));
            }
        } else {
            let successes = at.get("successThreshold");
            if successes.int() != Some(1) {
                errors.push(successes.invalid("must be 1"));
            }
            if grace.int().is_some_and(|seconds| seconds <= 0) {
                errors.push(grace.invalid("must be greater than 0"));
            }
        }
    }
}

fn probe(at: &At<'_>, errors: &mut Vec<FieldError>) {
    handler(at, PROBE_HANDLERS, errors);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        errors.check_not_negative(&at.get(field));
    }
}

fn handler(at: &At<'_>, allowed: &[&str], errors: &mut Vec<FieldError>) {
    let given: Vec<&str> = allowed
        .iter()
        .copied()
        .filter(|name| at.get(name).is_set())
        .collect();
    for name in given.iter().skip(1) {
        errors.push(
            at.get(name)
                .forbidden("may not specify more than 1 handler type"),
        );
    }
    let Some(name) = given.first() else {
        errors.push(at.required("must specify a handler type"));
        return;
    };
    let action = at.get(name);
    match *name {
        "exec" => {
            if action.get("command").is_empty() {
                errors.push(action.get("command").required(""));
            }
        }
        "httpGet" => {
            if action.get("path").is_empty() {
                errors.push(action.get("path").required(""));
            }
            port(&action.get("port"), errors);
            errors.check_one_of(&action.get("scheme"), &["HTTP", "HTTPS"]);
            for header in action.get("httpHeaders").items() {
                errors.check_text(&header.get("name"), names::http_header_name);
            }
        }
        "sleep" => errors.check_not_negative(&action.get("seconds")),
        _ => port(&action.get("port"), errors),
    }
}

fn port(at: &At<'_>, errors: &mut Vec<FieldError>) {
    match at.value {
        Value::String(_) => errors.check_text(at, names::port_name),
        _ => {
            let number = at.int().unwrap_or_default();
            let clauses = names::port_number(number).into_iter();
            errors.extend(clauses.map(|clause| FieldError::invalid(&at.path, number, clause)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(container: Value) -> Vec<String> {
        let mut spec = json!({"containers": [container]});
        super::super::default_spec(&mut spec);
        let mut errors = Vec::new();
        validate(&At::root(&spec["containers"][0]), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    /// `statefulset.md` 12.5
    #[test]
    fn liveness_needs_one_success() {
        let probe = |name: &str| {
            check(json!({name: {"tcpSocket": {"port": "http"}, "successThreshold": 2}}))
        };
        assert!(probe("readinessProbe").is_empty());
        let wanted = "livenessProbe.successThreshold: Invalid value: 2: must be 1";
        assert_eq!(probe("livenessProbe"), [wanted]);
    }

    #[test]
    fn a_probe_has_one_handler() {
        assert_eq!(
            check(json!({"livenessProbe": {}})),
            ["livenessProbe: Required value: must specify a handler type"]
        );
        let two = json!({"readinessProbe": {"exec": {"command": ["a"]}, "grpc": {"port": 1}}});
        assert_eq!(
            check(two),
            ["readinessProbe.grpc: Forbidden: may not specify more than 1 handler type"]
        );
        assert_eq!(
            check(json!({"lifecycle": {"preStop": {"sleep": {"seconds": -1}}}})).len(),
            1
        );
    }
}
