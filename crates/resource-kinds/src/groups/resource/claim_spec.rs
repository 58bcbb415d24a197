//! Validation and defaults of a claim's requests.

use std::collections::{BTreeMap, BTreeSet};

use json_tree::{Value, json};
use object_model::{FieldError, names};

use super::identifiers::{driver, fully_qualified, toleration};
use super::lists::{by_name, itself, list, set};
use crate::json::parts;
use crate::validation::field::{Field, Rules};

/// Maximum number of requests, and of devices, of a claim.
pub(super) const REQUESTS_MAX: usize = 32;
/// Maximum number of entries of `config`.
pub(super) const CONFIG_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const TOLERATIONS_MAX: usize = 16;
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
/// Maximum size of the configuration for a driver, in bytes.
pub(super) const PARAMETERS_BYTES_MAX: usize = 10 * 1024;

const NO_SUCH_REQUEST: &str = "must be the name of a request in the claim or the name of a request \
                               and a subrequest separated by '/'";

/// The requests of a claim, each with its subrequests.
pub(super) type Requests = BTreeMap<String, BTreeSet<String>>;

/// The names of the requests in the `devices` of a claim.
pub(super) fn requests(devices: &Value) -> Requests {
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let list = devices["requests"].as_array().into_iter().flatten();
    let alternatives = |request: &Value| {
        let list = request["firstAvailable"].as_array().into_iter().flatten();
        list.map(name).collect()
    };
    list.map(|request| (name(request), alternatives(request)))
        .collect()
}

/// Sets the default number of devices: one.
pub(super) fn default(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else {
        return;
    };
    for request in parts::each(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly") {
            default_request(exactly);
        }
        parts::each(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    parts::fill(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        cov_mark::hit!(findings_c43);
        parts::fill(request, "count", 1);
    }
}

/// The validation errors of the spec of a claim.
pub(super) fn validate(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let devices = spec.get("devices");
    let names = requests(devices.value);
    set(
        &devices.get("requests"),
        REQUESTS_MAX,
        &by_name,
        &request,
        errors,
    );
    let constraint =
        |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| constraint(at, &names, errors);
    list(
        &devices.get("constraints"),
        CONSTRAINTS_MAX,
        &constraint,
        errors,
    );
    let config = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| {
        request_names(&at.get("requests"), &names, errors);
        configuration(at, errors);
    };
    list(&devices.get("config"), CONFIG_MAX, &config, errors);
}

fn request(request: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_text(&request.get("name"), names::dns_label);
    let (exactly, first) = (request.get("exactly"), request.get("firstAvailable"));
    match (exactly.is_set(), !first.is_empty()) {
        (false, false) => errors
            .push(request.required("exactly one of `exactly` or `firstAvailable` is required")),
        (true, true) => errors.push(FieldError::invalid(
            &request.path(),
            Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        )),
        (true, false) => exact(&exactly, errors),
        (false, true) => {
            let alternative = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| {
                errors.check_text(&at.get("name"), names::dns_label);
                exact(at, errors);
            };
            set(&first, ALTERNATIVES_MAX, &by_name, &alternative, errors);
        }
    }
}

fn exact(request: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_required_text(&request.get("deviceClassName"), names::dns_subdomain);
    selectors(&request.get("selectors"), errors);
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    let number = count.int().unwrap_or_default();
    let wrong = |detail: &str| FieldError::invalid(&count.path(), number, detail);
    match mode.text() {
        "All" if number != 0 => {
            errors.push(wrong("must not be specified when allocationMode is 'All'"))
        }
        "ExactCount" if number <= 0 => errors.push(wrong("must be greater than zero")),
        "All" | "ExactCount" => {}
        _ => errors.push(FieldError::not_supported(
            &mode.path(),
            mode.text(),
            &["All", "ExactCount"],
        )),
    }
    let tolerations = request.get("tolerations");
    list(&tolerations, TOLERATIONS_MAX, &toleration, errors);
}

/// Checks the selectors of devices. Admission checks whether the expressions can be parsed.
pub(super) fn selectors(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let selector = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| {
        let (cel, expression) = (at.get("cel"), at.get_path("cel.expression"));
        if !cel.is_set() {
            errors.push(cel.required(""));
        } else if expression.is_empty() {
            errors.push(expression.required(""));
        } else if expression.text().len() > EXPRESSION_BYTES_MAX {
            errors.push(FieldError::too_long(
                &expression.path(),
                EXPRESSION_BYTES_MAX,
            ));
        }
    };
    list(at, SELECTORS_MAX, &selector, errors);
}

fn constraint(constraint: &Field<'_, '_>, names: &Requests, errors: &mut Vec<FieldError>) {
    request_names(&constraint.get("requests"), names, errors);
    let same = constraint.get("matchAttribute");
    let distinct = constraint.get("distinctAttribute");
    match (same.is_set(), distinct.is_set()) {
        (true, true) => errors.push(FieldError::invalid(
            &constraint.path(),
            "{matchAttribute, distinctAttribute}",
            "must specify exactly one of: `matchAttribute`, `distinctAttribute`",
        )),
        (true, false) => fully_qualified(&same, errors),
        (false, true) => fully_qualified(&distinct, errors),
        (false, false) => errors.push(constraint.required(
            "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple \
             fields are set",
        )),
    }
}

/// Checks a list of names of requests.
pub(super) fn request_names(at: &Field<'_, '_>, names: &Requests, errors: &mut Vec<FieldError>) {
    let name = |at: &Field<'_, '_>, errors: &mut Vec<FieldError>| request_name(at, names, errors);
    set(at, REQUESTS_MAX, &itself, &name, errors);
}

/// Checks the name of a request, or of one of its subrequests.
pub(super) fn request_name(
    at: &Field<'_, '_>,
    request_set: &Requests,
    errors: &mut Vec<FieldError>,
) {
    let parts: Vec<&str> = at.text().split('/').collect();
    if parts.len() > 2 {
        errors.push(at.invalid(NO_SUCH_REQUEST));
        return;
    }
    for part in &parts {
        let clauses = names::dns_label(part).into_iter();
        errors.extend(clauses.map(|clause| FieldError::invalid(&at.path(), *part, clause)));
    }
    let exists = match parts.as_slice() {
        [request] => request_set.contains_key(*request),
        [request, alternative] => request_set
            .get(*request)
            .is_some_and(|alternatives| alternatives.contains(*alternative)),
        _ => false,
    };
    if !exists {
        errors.push(at.invalid(NO_SUCH_REQUEST));
    }
}

/// Checks configuration for a driver.
pub(super) fn configuration(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let opaque = at.get("opaque");
    if !opaque.is_set() {
        errors.push(opaque.required(""));
        return;
    }
    driver(&opaque.get("driver"), errors);
    let parameters = opaque.get("parameters");
    raw(&parameters, PARAMETERS_BYTES_MAX, errors);
}

/// Checks data of a driver: an object of limited size.
pub(super) fn raw(at: &Field<'_, '_>, max: usize, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        errors.push(at.required(""));
    } else if at.value.to_string().len() > max {
        errors.push(FieldError::too_long(&at.path(), max));
    } else if !at.value.is_object() {
        errors.push(FieldError::invalid(
            &at.path(),
            json!("<value omitted>"),
            "must be a valid JSON object",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(devices: Value) -> Vec<String> {
        let mut spec = json!({"devices": devices});
        default(&mut spec);
        let mut errors = Vec::new();
        validate(&Field::root(&spec), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    fn one(request: Value) -> Vec<String> {
        check(json!({"requests": [request]}))
    }

    fn exactly(more: Value) -> Value {
        let mut request = json!({"deviceClassName": "gpu"});
        if let (Some(map), Some(more)) = (request.as_object_mut(), more.as_object()) {
            map.extend(more.clone());
        }
        json!({"name": "a", "exactly": request})
    }

    /// findings C43
    #[test]
    fn one_device_is_asked_for_unless_it_is_said_otherwise() {
        cov_mark::check!(findings_c43);
        let mut spec = json!({"devices": {"requests": [exactly(json!({})),
            {"name": "b", "firstAvailable": [{"name": "c", "deviceClassName": "d"}]},
            exactly(json!({"allocationMode": "All"}))]}});
        default(&mut spec);
        let requests = &spec["devices"]["requests"];
        assert_eq!(requests[0]["exactly"]["allocationMode"], "ExactCount");
        assert_eq!(requests[0]["exactly"]["count"], 1);
        assert_eq!(requests[1]["firstAvailable"][0]["count"], 1);
        assert_eq!(requests[2]["exactly"]["count"], Value::Null);
    }

    /// findings C43
    #[test]
    fn a_request_is_complete() {
        assert_eq!(one(exactly(json!({}))), [""; 0]);
        let cases = [
            (
                json!({"name": "a"}),
                "devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` \
                 is required",
            ),
            (
                json!({"name": "a", "exactly": {}}),
                "devices.requests[0].exactly.deviceClassName: Required value",
            ),
            (
                exactly(json!({"count": -1})),
                "devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
            ),
            (
                exactly(json!({"allocationMode": "All", "count": 1})),
                "devices.requests[0].exactly.count: Invalid value: 1: must not be specified when \
                 allocationMode is 'All'",
            ),
            (
                exactly(json!({"allocationMode": "Some"})),
                "devices.requests[0].exactly.allocationMode: Unsupported value: \"Some\": \
                 supported values: \"All\", \"ExactCount\"",
            ),
            (
                exactly(json!({"selectors": [{}]})),
                "devices.requests[0].exactly.selectors[0].cel: Required value",
            ),
            (
                exactly(json!({"tolerations": [{"operator": "Exists", "value": "x"}]})),
                "devices.requests[0].exactly.tolerations[0].value: Invalid value: \"x\": must be \
                 empty for operator `Exists`",
            ),
        ];
        for (request, wrong) in cases {
            assert_eq!(one(request), [wrong]);
        }
    }

    /// findings C43
    #[test]
    fn lists_are_bounded_and_without_repeats() {
        let many: Vec<Value> = (0..33).map(|_| exactly(json!({}))).collect();
        assert_eq!(
            check(json!({"requests": many})),
            ["devices.requests: Too many: 33: must have at most 32 items"]
        );
        let twice = json!({"requests": [exactly(json!({})), exactly(json!({}))]});
        assert_eq!(
            check(twice),
            ["devices.requests[1]: Duplicate value: \"a\""]
        );
    }

    /// findings C43
    #[test]
    fn constraints_and_configuration_name_requests_of_the_claim() {
        let claim = json!({"requests": [{"name": "a", "firstAvailable": [{"name": "b",
                "deviceClassName": "c"}]}],
            "constraints": [{"requests": ["a", "a/b", "a/x"], "matchAttribute": "numa"}, {}],
            "config": [{"requests": ["y"], "opaque": {"driver": "d", "parameters": []}}, {}]});
        let errors = check(claim);
        let expected = [
            "devices.constraints[0].requests[2]: Invalid value: \"a/x\": must be the name of a",
            "devices.constraints[0].matchAttribute: Invalid value: \"numa\": a fully qualified",
            "devices.constraints[1]: Required value: exactly one of",
            "devices.config[0].requests[0]: Invalid value: \"y\": must be the name of a request",
            "devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a",
            "devices.config[1].opaque: Required value",
        ];
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
