//! Validation of ephemeral containers (`kubectl.md` 5.8).

use object_model::FieldError;

use crate::validation::field::Field;

/// The allowed fields of an ephemeral container. It has no ports, probes or resources.
const FIELDS: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "name",
    "securityContext",
    "stdin",
    "stdinOnce",
    "targetContainerName",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];
const REFUSED: &str = "cannot be set for an Ephemeral Container";

/// Validates the rules that only apply to ephemeral containers.
pub(super) fn validate(
    container: &Field<'_, '_>,
    spec: &Field<'_, '_>,
    errors: &mut Vec<FieldError>,
) {
    let target = container.get("targetContainerName");
    let others = ["containers", "initContainers"].map(|list| spec.get(list));
    let mut others = others.iter().flat_map(Field::items);
    let exists = others.any(|other| other.get("name").text() == target.text());
    if !target.is_empty() && !exists {
        errors.push(FieldError::not_found(&target.path(), target.text()));
    }
    for field in container.map().into_iter().flatten().map(|(key, _)| key) {
        let at = container.get(field);
        if !FIELDS.contains(&field.as_str()) && !at.is_empty() {
            errors.push(at.forbidden(REFUSED));
        }
    }
    // A `subPath` mount would stay until the pod has finished.
    for mount in container.get("volumeMounts").items() {
        for field in ["subPath", "subPathExpr"] {
            if !mount.get(field).is_empty() {
                errors.push(mount.get(field).forbidden(REFUSED));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn it_only_looks() {
        let spec = json!({"containers": [{"name": "a"}]});
        let check = |container: json_tree::Value| {
            let mut errors = Vec::new();
            validate(&Field::root(&container), &Field::root(&spec), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let fine = json!({"name": "d", "image": "x", "targetContainerName": "a", "resources": {},
            "tty": true, "securityContext": {"privileged": true}});
        assert_eq!(check(fine), [""; 0]);
        for (field, value) in [
            ("lifecycle", json!({"stopSignal": "SIGINT"})),
            ("livenessProbe", json!({"tcpSocket": {"port": 1}})),
            ("ports", json!([{"containerPort": 1}])),
            ("readinessProbe", json!({"tcpSocket": {"port": 1}})),
            ("resizePolicy", json!([{"resourceName": "cpu"}])),
            ("resources", json!({"limits": {"cpu": "1"}})),
            ("restartPolicy", json!("Always")),
            ("restartPolicyRules", json!([{"action": "Restart"}])),
            ("startupProbe", json!({"tcpSocket": {"port": 1}})),
        ] {
            let refused = format!("{field}: Forbidden: {REFUSED}");
            assert_eq!(check(json!({"name": "d", field: value})), [refused]);
        }
        let mounts = json!({"volumeMounts": [{"subPath": "x"}, {"subPathExpr": "y"}]});
        assert_eq!(
            check(mounts),
            [
                format!("volumeMounts[0].subPath: Forbidden: {REFUSED}"),
                format!("volumeMounts[1].subPathExpr: Forbidden: {REFUSED}"),
            ]
        );
        assert_eq!(
            check(json!({"targetContainerName": "b"})),
            ["targetContainerName: Not found: \"b\""]
        );
    }
}
