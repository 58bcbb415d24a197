//! Validation of the environment of a container (`statefulset.md` 12.11 and 12.12).

use object_model::{FieldError, names};

use crate::validation::field::{Field, Rules};
use crate::validation::references::{ENV_FIELDS, field_reference, resource_reference};
use crate::validation::volume_sources;

const SOURCES: &[&str] = &[
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];

/// Checks the variables of a container.
pub(super) fn validate(container: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
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
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(FieldError::invalid(&from.path(), "", detail));
            }
            (true, true) => {
                let detail = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(&from.path(), "", detail));
            }
            _ => {}
        }
        for reference in [map, secret].iter().filter(|reference| reference.is_set()) {
            errors.check_required_text(&reference.get("name"), names::dns_subdomain);
        }
    }
}

/// A file of variables in a volume (KEP-3721, `statefulset.md` 12.12).
fn file_reference(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_required_text(&at.get("key"), names::env_var_name);
    errors.check_required_text(&at.get("volumeName"), names::dns_label);
    let path = at.get("path");
    if path.is_empty() {
        errors.push(path.required(""));
    } else {
        volume_sources::no_back_steps(&path, errors);
    }
}

/// Checks that files of variables are in `emptyDir` volumes of the pod.
pub(super) fn file_volumes(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let volumes = spec.get("volumes");
    for container in super::container_lists(spec).iter().flat_map(Field::items) {
        for variable in container.get("env").items() {
            let file = variable.get_path("valueFrom.fileKeyRef");
            let name = file.get("volumeName");
            if !file.is_set() {
                continue;
            }
            let mut all = volumes.items();
            match all.find(|volume| volume.get("name").text() == name.text()) {
                None => errors.push(FieldError::not_found(&name.path(), name.text())),
                Some(volume) if volume.get("emptyDir").is_set() => {}
                Some(_) => {
                    errors.push(name.invalid("referenced volume must be of type emptyDir"));
                }
            }
        }
    }
}

fn source(variable: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let from = variable.get("valueFrom");
    let present: Vec<&str> = SOURCES
        .iter()
        .copied()
        .filter(|s| from.get(s).is_set())
        .collect();
    for name in &present {
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
    if present.is_empty() {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                      `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(&from.path(), "", detail));
    } else if !variable.get("value").is_empty() {
        let detail = "may not be specified when `value` is not empty";
        errors.push(FieldError::invalid(&from.path(), "", detail));
    } else if present.len() > 1 {
        let detail = "may not have more than one field specified at a time";
        errors.push(FieldError::invalid(&from.path(), "", detail));
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn check(variable: Value) -> Vec<String> {
        let container = json!({"env": [variable]});
        let mut errors = Vec::new();
        validate(&Field::root(&container), &mut errors);
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
        for (source, expected) in table {
            let expected = format!("env[0].valueFrom.{expected}");
            assert_eq!(check(json!({"name": "A", "valueFrom": source})), [expected]);
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
            file_volumes(&Field::root(&spec), &mut errors);
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
