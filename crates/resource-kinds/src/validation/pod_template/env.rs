//! Validation of the environment of a container (`statefulset.md` 12.11 and 12.12).

use object_model::{FieldError, Quantity, names};

use crate::validation::field::{At, Rules};
use crate::validation::volume_sources;

/// The fields of the pod for environment variables.
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
            errors.check_required_text(&reference.get("name"), names::dns_subdomain);
        }
    }
}

/// A file of variables in a volume (KEP-3721, `statefulset.md` 12.12).
fn file_reference(at: &At<'_>, errors: &mut Vec<FieldError>) {
    errors.check_required_text(&at.get("key"), names::env_var_name);
    errors.check_required_text(&at.get("volumeName"), names::dns_label);
    let path = at.get("path");
    if path.is_empty() {
        errors.push(path.required(""));
    } else {
        volume_sources::no_back_steps(&path, errors);
    }
}

/// Checks that files of variables are in volumes that are the pod's own.
pub(super) fn file_volumes(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let containers = super::all_containers(spec);
    let variables = containers.iter().flat_map(|c| c.get("env").items());
    for variable in variables {
        let file = variable.get("valueFrom.fileKeyRef");
        let name = file.get("volumeName");
        if !file.is_set() {
            continue;
        }
        let mut volumes = spec.get("volumes").items();
        match volumes.find(|volume| volume.get("name").text() == name.text()) {
            None => errors.push(FieldError::not_found(&name.path, name.text())),
            Some(volume) if volume.get("emptyDir").is_set() => {}
            Some(_) => {
                errors.push(name.invalid("referenced volume must be of type emptyDir"));
            }
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
            "fileKeyRef" => file_reference(&at, errors),
            _ => {
                errors.check_text(&at.get("name"), names::dns_subdomain);
                errors.check_required_text(&at.get("key"), names::config_key);
            }
        }
    }
    if given.is_empty() {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                      `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(&from.path, "", detail));
    } else if !variable.get("value").is_empty() {
        let detail = "may not be specified when `value` is not empty";
        errors.push(FieldError::invalid(&from.path, "", detail));
    } else if given.len() > 1 {
        let detail = "may not have more than one field specified at a time";
        errors.push(FieldError::invalid(&from.path, "", detail));
    }
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
    let version = at.get("apiVersion").text();
    if version != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.push(path.invalid(detail));
        return;
    }
    let keyed = path
        .text()
        .strip_suffix("']")
        .and_then(|text| text.split_once("['"));
    let Some((map, key)) = keyed else {
        let known = ENV_FIELDS.contains(&path.text()) || OTHER_FIELDS.contains(&path.text());
        if !known {
            errors.push(unknown_field(&path, "not supported"));
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
        _ => errors.push(unknown_field(&path, "does not support subscript")),
    }
}

fn unknown_field(path: &At<'_>, why: &str) -> FieldError {
    let name = path.text();
    path.invalid(format!(
        "error converting fieldPath: field label {why}: {name}"
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
    divisor(&at.get("divisor"), resource.text(), errors);
}

const CPU_DIVISORS: &[&str] = &["1m", "1"];
const BYTE_DIVISORS: &[&str] = &[
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

/// The allowed divisors of a resource. An error shows the resource, as upstream's does.
fn divisor(at: &At<'_>, resource: &str, errors: &mut Vec<FieldError>) {
    let unit = Quantity::from_json(at.value).unwrap_or_default();
    let name = resource
        .strip_prefix("limits.")
        .or_else(|| resource.strip_prefix("requests."))
        .unwrap_or_default();
    let (allowed, what) = match name {
        "cpu" => (CPU_DIVISORS, "the cpu resource"),
        "memory" => (BYTE_DIVISORS, "the memory resource"),
        "ephemeral-storage" => (BYTE_DIVISORS, "the local ephemeral storage resource"),
        _ if name.starts_with("hugepages-") => (BYTE_DIVISORS, "the hugepages resource"),
        _ => return,
    };
    if !unit.is_zero() && !allowed.contains(&unit.to_string().as_str()) {
        let (last, first) = allowed.split_last().unwrap_or((&"", &[]));
        let units = match allowed.len() {
            2 => format!("{} and {last}", first.join(", ")),
            _ => allowed.join(", "),
        };
        let detail = format!("only divisor's values {units} are supported with {what}");
        errors.push(FieldError::invalid(&at.path, resource, detail));
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
        assert_eq!(
            check(json!({"name": "A", "value": "x", "valueFrom": {}})),
            [
                "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
                 `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
            ]
        );
        assert_eq!(
            check(json!({"value": "x"})),
            ["env[0].name: Required value"]
        );
        assert_eq!(check(json!({"name": "a=b"})).len(), 1);
    }

    #[test]
    fn sources_are_complete() {
        let field = "error converting fieldPath: field label";
        let units = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
        let table = [
            (
                json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.x"}}),
                format!(
                    "fieldRef.fieldPath: Invalid value: \"spec.x\": {field} not supported: \
                         spec.x"
                ),
            ),
            (
                json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "spec['x']"}}),
                format!(
                    "fieldRef.fieldPath: Invalid value: \"spec['x']\": {field} does not \
                         support subscript: spec['x']"
                ),
            ),
            (
                json!({"fieldRef": {"apiVersion": "v2", "fieldPath": "metadata.name"}}),
                "fieldRef.fieldPath: Invalid value: \"metadata.name\": error converting \
                 fieldPath: unsupported pod version: v2"
                    .to_owned(),
            ),
            (
                json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}),
                "resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values \
                 1m and 1 are supported with the cpu resource"
                    .to_owned(),
            ),
            (
                json!({"resourceFieldRef": {"resource": "limits.hugepages-2Mi", "divisor": "2"}}),
                format!(
                    "resourceFieldRef.divisor: Invalid value: \"limits.hugepages-2Mi\": only \
                         divisor's values {units} are supported with the hugepages resource"
                ),
            ),
            (
                json!({"fileKeyRef": {"key": "K", "volumeName": "v", "path": "../f"}}),
                "fileKeyRef.path: Invalid value: \"../f\": must not contain '..'".to_owned(),
            ),
            (
                json!({"fileKeyRef": {"key": "K", "volumeName": "v"}}),
                "fileKeyRef.path: Required value".to_owned(),
            ),
            (
                json!({"configMapKeyRef": {"name": "m"}}),
                "configMapKeyRef.key: Required value".to_owned(),
            ),
        ];
        for (source, wanted) in table {
            let wanted = format!("env[0].valueFrom.{wanted}");
            assert_eq!(check(json!({"name": "A", "valueFrom": source})), [wanted]);
        }
        let fine = json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1000m"}});
        assert_eq!(check(json!({"name": "A", "valueFrom": fine})), [""; 0]);
    }

    /// `statefulset.md` 12.12
    #[test]
    fn files_of_variables_are_in_the_pods_own_volumes() {
        let check = |volume: &str| {
            let from = json!({"fileKeyRef": {"volumeName": volume, "path": "f", "key": "K"}});
            let spec = json!({"volumes": [{"name": "a", "emptyDir": {}},
                    {"name": "b", "hostPath": {"path": "/b"}}],
                "containers": [{"env": [{"name": "A", "valueFrom": from}]}]});
            let mut errors = Vec::new();
            file_volumes(&At::root(&spec), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let at = "containers[0].env[0].valueFrom.fileKeyRef.volumeName";
        assert_eq!(check("a"), [""; 0]);
        assert_eq!(
            check("b"),
            [format!(
                "{at}: Invalid value: \"b\": referenced volume must be of type emptyDir"
            )]
        );
        assert_eq!(check("c"), [format!("{at}: Not found: \"c\"")]);
    }
}
