//! Validation of probes and hooks (`statefulset.md` 12.5 and 12.6).

use json_tree::Value;
use object_model::{FieldError, names};

use super::stop_signals;
use crate::validation::field::{Field, Rules};

const PROBES: &[&str] = &["livenessProbe", "readinessProbe", "startupProbe"];
const PROBE_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];

/// Checks the probes and hooks of a container of the given pod.
pub(super) fn validate(
    container: &Field<'_, '_>,
    spec: &Field<'_, '_>,
    errors: &mut Vec<FieldError>,
) {
    let lifecycle = container.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.get(hook);
        if hook.is_set() {
            handler(&hook, HOOK_HANDLERS, errors);
            sleep(&hook.get("sleep"), spec, errors);
        }
    }
    stop_signals::validate(&lifecycle.get("stopSignal"), spec, errors);
    for name in PROBES {
        let at = container.get(name);
        if !at.is_set() {
            continue;
        }
        probe(&at, errors);
        let grace = at.get("terminationGracePeriodSeconds");
        if grace.int().is_some_and(|seconds| seconds <= 0) {
            errors.push(grace.invalid("must be greater than 0"));
        }
        if *name == "readinessProbe" {
            if grace.is_set() {
                errors.push(grace.invalid("must not be set for readinessProbes"));
            }
        } else {
            let successes = at.get("successThreshold");
            if successes.int() != Some(1) {
                errors.push(successes.invalid("must be 1"));
            }
        }
    }
}

/// Checks that an init container that is not a sidecar has no probes and no hooks.
pub(super) fn forbid(container: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let detail = "may not be set for init containers without restartPolicy=Always";
    let fields = std::iter::once(&"lifecycle").chain(PROBES);
    let present = fields.map(|field| container.get(field));
    errors.extend(
        present
            .filter(Field::is_set)
            .map(|field| field.forbidden(detail)),
    );
}

/// Checks that a hook does not sleep longer than the pod's grace period.
fn sleep(action: &Field<'_, '_>, spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let grace = spec.get("terminationGracePeriodSeconds").int();
    let seconds = action.get("seconds").int().unwrap_or_default();
    if let Some(grace) = grace
        && action.is_set()
        && !(0..=grace).contains(&seconds)
    {
        let detail =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(&action.path(), seconds, detail));
    }
}

fn probe(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
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

fn handler(at: &Field<'_, '_>, allowed: &[&str], errors: &mut Vec<FieldError>) {
    let present: Vec<&str> = allowed
        .iter()
        .copied()
        .filter(|name| at.get(name).is_set())
        .collect();
    for name in present.iter().skip(1) {
        errors.push(
            at.get(name)
                .forbidden("may not specify more than 1 handler type"),
        );
    }
    let Some(name) = present.first() else {
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
        "sleep" => {}
        _ => port(&action.get("port"), errors),
    }
}

fn port(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    match at.value {
        Value::String(_) => errors.check_text(at, names::port_name),
        _ => {
            let number = at.int().unwrap_or_default();
            let clauses = names::port_number(number).into_iter();
            errors.extend(clauses.map(|clause| FieldError::invalid(&at.path(), number, clause)));
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn check(container: Value) -> Vec<String> {
        let mut spec = json!({"containers": [container]});
        super::super::default_spec(&mut spec);
        let mut errors = Vec::new();
        let container = Field::root(&spec["containers"][0]);
        validate(&container, &Field::root(&spec), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    /// `statefulset.md` 12.5
    #[test]
    fn liveness_needs_one_success() {
        let probe = |name: &str| {
            check(json!({name: {"tcpSocket": {"port": "http"}, "successThreshold": 2}}))
        };
        assert!(probe("readinessProbe").is_empty());
        let expected = "livenessProbe.successThreshold: Invalid value: 2: must be 1";
        assert_eq!(probe("livenessProbe"), [expected]);
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
    }

    #[test]
    fn every_field_of_a_probe_is_checked() {
        let tcp = json!({"port": 1});
        let negative = "must be greater than or equal to 0";
        let range = "must be between 1 and 65535, inclusive";
        let table = [
            (
                json!({"tcpSocket": tcp, "initialDelaySeconds": -1}),
                format!("initialDelaySeconds: Invalid value: -1: {negative}"),
            ),
            (
                json!({"tcpSocket": tcp, "timeoutSeconds": -1}),
                format!("timeoutSeconds: Invalid value: -1: {negative}"),
            ),
            (
                json!({"tcpSocket": tcp, "periodSeconds": -1}),
                format!("periodSeconds: Invalid value: -1: {negative}"),
            ),
            (
                json!({"tcpSocket": tcp, "successThreshold": -1}),
                format!("successThreshold: Invalid value: -1: {negative}"),
            ),
            (
                json!({"tcpSocket": tcp, "failureThreshold": -1}),
                format!("failureThreshold: Invalid value: -1: {negative}"),
            ),
            (
                json!({"tcpSocket": tcp, "terminationGracePeriodSeconds": 1}),
                "terminationGracePeriodSeconds: Invalid value: 1: must not be set for \
                 readinessProbes"
                    .to_owned(),
            ),
            (
                json!({"tcpSocket": {"port": 70_000}}),
                format!("tcpSocket.port: Invalid value: 70000: {range}"),
            ),
            (
                json!({"grpc": {"port": 0}}),
                format!("grpc.port: Invalid value: 0: {range}"),
            ),
            (
                json!({"exec": {}}),
                "exec.command: Required value".to_owned(),
            ),
            (
                json!({"httpGet": {"port": 1, "scheme": "FTP"}}),
                "httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \
                 \"HTTPS\""
                    .to_owned(),
            ),
            (
                json!({"httpGet": {"port": "a_b"}}),
                "httpGet.port: Invalid value: \"a_b\": must contain only alpha-numeric \
                 characters (a-z, 0-9), and hyphens (-)"
                    .to_owned(),
            ),
            (
                json!({"httpGet": {"port": 1, "httpHeaders": [{"name": "a b"}]}}),
                "httpGet.httpHeaders[0].name: Invalid value: \"a b\": a valid HTTP header must \
                 consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
                 validation is '[-A-Za-z0-9]+')"
                    .to_owned(),
            ),
        ];
        for (probe, expected) in table {
            let expected = format!("readinessProbe.{expected}");
            assert_eq!(check(json!({"readinessProbe": probe})), [expected]);
        }
        let grace = json!({"tcpSocket": tcp, "terminationGracePeriodSeconds": 0});
        let expected = "terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0";
        for name in ["livenessProbe", "startupProbe"] {
            assert_eq!(check(json!({name: grace})), [format!("{name}.{expected}")]);
        }
    }

    #[test]
    fn hooks_end_in_time() {
        let sleep = |seconds: i64| {
            check(json!({"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}}))
        };
        for fine in [0, 30] {
            assert_eq!(sleep(fine), [""; 0]);
        }
        for wrong in [-1, 31] {
            let refused = format!(
                "lifecycle.preStop.sleep: Invalid value: {wrong}: must be non-negative and less \
                 than terminationGracePeriodSeconds (30)"
            );
            assert_eq!(sleep(wrong), [refused]);
        }
        assert_eq!(
            check(json!({"lifecycle": {"postStart": {}}})),
            ["lifecycle.postStart: Required value: must specify a handler type"]
        );
    }
}
