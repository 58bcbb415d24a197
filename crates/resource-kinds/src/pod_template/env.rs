//! What is wrong with the environment of a container (`statefulset.md` 12.11 and 12.12).

use object_model::{FieldError, names};

use crate::at::{At, Rules};

/// What a variable can show of the pod.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that there are, but that neither variables nor files can show.
const OTHER_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "spec.restartPolicy",
    "spec.schedulerName",
    "status.phase",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SOURCES: &[&str] = &[
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];

/// Checks the variables of a container.
pub(super) fn validate(container: &At<'_>, errors: &mut Vec<FieldError>) {
    for variable in container.get("env").items() {
        let name = variable.get("name");
        errors.check_required_text(&name, names::env_var_name);
        if variable.get("valueFrom").is_set() {
            source(&variable, errors);
        }
    }
    for from in container.get("envFrom").items() {
        errors.check_text_if_set(&from.get("prefix"), names::env_var_name);
        let (map, secret) = (from.get("configMapRef"), from.get("secretRef"));
        match (map.is_set(), secret.is_set()) {
            (false, false) => {
                let path = from.path.clone();
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(FieldError::invalid(&path, "", detail));
            }
            (true, true) => {
                let detail = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(&from.path, "", detail));
            }
            _ => {}
        }
        for reference in [map, secret].iter().filter(|reference| reference.is_set()) {
            object_name(&reference.get("name"), errors);
        }
    }
}

fn source(variable: &At<'_>, errors: &mut Vec<FieldError>) {
    let from = variable.get("valueFrom");
    let given: Vec<&str> = SOURCES
        .iter()
        .copied()
        .filter(|s| from.get(s).is_set())
        .collect();
    for name in &given {
        let at = from.get(name);
        match *name {
            "fieldRef" => field_reference(&at, ENV_FIELDS, errors),
            "resourceFieldRef" => resource_reference(&at, errors),
            "fileKeyRef" => {
                for field in ["volumeName", "path", "key"] {
                    if at.get(field).is_empty() {
                        errors.push(at.get(field).required(""));
                    }
                }
            }
            _ => {
                object_name(&at.get("name"), errors);
                errors.check_required_text(&at.get("key"), names::config_key);
            }
        }
    }
    if !variable.get("value").is_empty() {
        if !given.is_empty() {
            let detail = "may not be specified when `value` is not empty";
            errors.push(FieldError::invalid(&from.path, "", detail));
        }
    } else if given.is_empty() {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
                      `secretKeyRef`";
        errors.push(FieldError::invalid(&from.path, "", detail));
    } else if given.len() > 1 {
        let detail = "may not have more than one field specified at a time";
        errors.push(FieldError::invalid(&from.path, "", detail));
    }
}

fn object_name(at: &At<'_>, errors: &mut Vec<FieldError>) {
    errors.check_required_text(at, names::dns_subdomain);
}

/// A reference to a field of the pod, by a variable or a file.
pub(crate) fn field_reference(at: &At<'_>, allowed: &[&str], errors: &mut Vec<FieldError>) {
    if at.get("apiVersion").is_empty() {
        errors.push(at.get("apiVersion").required(""));
        return;
    }
    let path = at.get("fieldPath");
    if path.is_empty() {
        errors.push(path.required(""));
        return;
    }
    let keyed = path
        .text()
        .strip_suffix("']")
        .and_then(|text| text.split_once("['"));
    let Some((map, key)) = keyed else {
        let known = ENV_FIELDS.contains(&path.text()) || OTHER_FIELDS.contains(&path.text());
        if !known {
            errors.push(unknown_field(&path, path.text()));
        } else if !allowed.contains(&path.text()) {
            errors.push(path.not_supported(allowed));
        }
        return;
    };
    match map {
        "metadata.annotations" => {
            let clauses = names::qualified_name(&key.to_lowercase()).into_iter();
            errors.extend(clauses.map(|clause| FieldError::invalid(&path.path, key, clause)));
        }
        "metadata.labels" => {
            let clauses = names::qualified_name(key).into_iter();
            errors.extend(clauses.map(|clause| FieldError::invalid(&path.path, key, clause)));
        }
        _ => errors.push(unknown_field(&path, map)),
    }
}

fn unknown_field(path: &At<'_>, name: &str) -> FieldError {
    path.invalid(format!(
        "error converting fieldPath: field label not supported: {name}"
    ))
}

/// A reference to a request or limit of a container, by a variable or a file.
pub(crate) fn resource_reference(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let resource = at.get("resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"];
    if resource.is_empty() {
        errors.push(resource.required(""));
    } else if !RESOURCES.contains(&resource.text())
        && !huge
            .iter()
            .any(|prefix| resource.text().starts_with(prefix))
    {
        errors.push(resource.not_supported(RESOURCES));
    }
    let divisor = at.get("divisor");
    let allowed: &[&str] = match resource.text() {
        "limits.cpu" | "requests.cpu" => &["1m", "1"],
        _ => &[
            "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
        ],
    };
    if !matches!(divisor.text(), "" | "0") && !allowed.contains(&divisor.text()) {
        let detail = match resource.text() {
            "limits.cpu" | "requests.cpu" => {
                "only divisor's values 1m and 1 are supported with the cpu resource"
            }
            "limits.memory" | "requests.memory" => {
                "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are \
                 supported with the memory resource"
            }
            _ => {
                "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are \
                 supported with the local ephemeral storage resource"
            }
        };
        errors.push(divisor.invalid(detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(variable: Value) -> Vec<String> {
        let container = json!({"env": [variable]});
        let mut errors = Vec::new();
        validate(&At::root(&container), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    /// `statefulset.md` 12.11
    #[test]
    fn variables_show_what_the_pod_knows() {
        for path in [
            "metadata.name",
            "metadata.labels['app']",
            "status.podIPs",
            "spec.nodeName",
        ] {
            let variable = json!({"name": "A", "valueFrom": {
                "fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
            assert!(check(variable).is_empty(), "{path}");
        }
        let variable = json!({"name": "A", "valueFrom": {
            "fieldRef": {"apiVersion": "v1", "fieldPath": "status.phase"}}});
        assert!(check(variable)[0].starts_with(
            "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\""
        ));
    }

    #[test]
    fn a_variable_has_one_source() {
        let both = json!({"name": "A", "value": "x", "valueFrom": {
            "secretKeyRef": {"name": "s", "key": "k"}}});
        assert_eq!(
            check(both),
            [
                "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is \
                 not empty"
            ]
        );
        assert_eq!(check(json!({"name": "A", "valueFrom": {}})).len(), 1);
        assert_eq!(
            check(json!({"value": "x"})),
            ["env[0].name: Required value"]
        );
        assert_eq!(check(json!({"name": "a=b"})).len(), 1);
    }
}
