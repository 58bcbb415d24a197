//! What is wrong with the volumes of a pod and with their mounts.

use std::collections::{BTreeMap, BTreeSet};

use object_model::FieldError;

use crate::at::{At, Rules};
use crate::volume_sources;

/// Checks the volumes of a spec; the names of all of them, each with whether it can be a block
/// device.
pub(super) fn validate(
    spec: &At<'_>,
    claims: &[&str],
    errors: &mut Vec<FieldError>,
) -> BTreeMap<String, bool> {
    let mut names: BTreeMap<String, bool> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for volume in spec.get("volumes").items() {
        let name = volume.get("name");
        volume_sources::name(&name, errors);
        if !name.is_empty() && !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        let map = volume.map().into_iter().flatten();
        let sources: Vec<&str> = map
            .map(|(key, _)| key.as_str())
            .filter(|k| *k != "name")
            .collect();
        match sources.as_slice() {
            [] => errors.push(volume.required("must specify a volume type")),
            [first, others @ ..] => {
                errors.extend(volume_sources::validate(first, &volume.get(first)));
                for other in others {
                    let detail = "may not specify more than 1 volume type";
                    errors.push(volume.get(other).forbidden(detail));
                }
            }
        }
        let claim = sources
            .iter()
            .any(|s| matches!(*s, "persistentVolumeClaim" | "ephemeral"));
        names.insert(name.text().to_owned(), claim);
    }
    names.extend(claims.iter().map(|claim| ((*claim).to_owned(), true)));
    names
}

/// Checks what a container mounts.
pub(super) fn mounts(
    container: &At<'_>,
    volumes: &BTreeMap<String, bool>,
    errors: &mut Vec<FieldError>,
) {
    let of_devices = |field: &str| -> BTreeSet<&str> {
        let all = container.get("volumeDevices");
        all.items().map(|device| device.get(field).text()).collect()
    };
    let (device_names, device_paths) = (of_devices("name"), of_devices("devicePath"));
    let mut paths = BTreeSet::new();
    let mut mounted = BTreeSet::new();
    for mount in container.get("volumeMounts").items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !volumes.contains_key(name.text()) {
            errors.push(FieldError::not_found(&name.path, name.text()));
        }
        mounted.insert(name.text());
        if path.is_empty() {
            errors.push(path.required(""));
        } else if !paths.insert(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        if device_names.contains(name.text()) {
            errors.push(name.invalid("must not already exist in volumeDevices"));
        }
        if device_paths.contains(path.text()) {
            errors.push(path.invalid("must not already exist as a path in volumeDevices"));
        }
        let (sub_path, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        if !sub_path.is_empty() && !expression.is_empty() {
            errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
        }
        for at in [&sub_path, &expression] {
            volume_sources::below(at, errors);
        }
        let propagations = ["Bidirectional", "HostToContainer", "None"];
        errors.check_one_of_if_set(&mount.get("mountPropagation"), &propagations);
        let privileged = container.get("securityContext.privileged").is_true();
        if mount.get("mountPropagation").text() == "Bidirectional" && !privileged {
            let detail =
                "Bidirectional mount propagation is available only to privileged containers";
            errors.push(mount.get("mountPropagation").forbidden(detail));
        }
    }
    devices(container, volumes, &mounted, &paths, errors);
}

/// Checks what a container has as block devices, beside what it mounts and where.
fn devices(
    container: &At<'_>,
    volumes: &BTreeMap<String, bool>,
    mounted: &BTreeSet<&str>,
    mount_paths: &BTreeSet<&str>,
    errors: &mut Vec<FieldError>,
) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !names.insert(name.text()) {
            errors.push(name.invalid("must be unique"));
        }
        match volumes.get(name.text()) {
            None => errors.push(FieldError::not_found(&name.path, name.text())),
            Some(false) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or \
                              Ephemeral for block mode";
                errors.push(name.invalid(detail));
            }
            Some(true) => {}
        }
        if mounted.contains(name.text()) {
            errors.push(name.invalid("must not already exist in volumeMounts"));
        }
        if path.is_empty() {
            errors.push(path.required(""));
        } else if !paths.insert(path.text()) {
            errors.push(path.invalid("must be unique"));
        } else if mount_paths.contains(path.text()) {
            errors.push(path.invalid("must not already exist as a path in volumeMounts"));
        }
        if path.text().split('/').any(|part| part == "..") {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(volumes: Value, list: Value) -> Vec<String> {
        check_container(volumes, json!({"volumeMounts": list}))
    }

    fn check_container(volumes: Value, container: Value) -> Vec<String> {
        let spec = json!({"volumes": volumes});
        let mut errors = Vec::new();
        let names = validate(&At::root(&spec), &["data"], &mut errors);
        mounts(&At::root(&container), &names, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mounts_name_volumes() {
        let volumes = json!([{"name": "a", "emptyDir": {}}]);
        let fine = json!([{"name": "a", "mountPath": "/a", "subPath": "b/c"}]);
        assert!(check(volumes.clone(), fine).is_empty());
        let wrong = json!([{"name": "b", "mountPath": "/a"}, {"name": "a", "mountPath": "/a"},
            {"name": "a", "mountPath": "/c", "subPath": "../x"}]);
        assert_eq!(
            check(volumes, wrong),
            [
                "volumeMounts[0].name: Not found: \"b\"",
                "volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
                "volumeMounts[2].subPath: Invalid value: \"../x\": must not contain '..'",
            ]
        );
    }

    #[test]
    fn devices_are_claims_at_places_of_their_own() {
        let volumes = json!([{"name": "a", "emptyDir": {}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "b"}}]);
        let fine = json!({"volumeDevices": [{"name": "b", "devicePath": "/dev/b"},
            {"name": "data", "devicePath": "/dev/data"}]});
        assert!(check_container(volumes.clone(), fine).is_empty());
        let wrong = json!({
            "volumeMounts": [{"name": "data", "mountPath": "/x"}],
            "volumeDevices": [{"name": "a", "devicePath": "/dev/../a"},
                {"name": "data", "devicePath": "/x"}, {"name": "none", "devicePath": "/x"}]});
        assert_eq!(
            check_container(volumes, wrong),
            [
                "volumeMounts[0].name: Invalid value: \"data\": must not already exist in \
                 volumeDevices",
                "volumeMounts[0].mountPath: Invalid value: \"/x\": must not already exist as a \
                 path in volumeDevices",
                "volumeDevices[0].name: Invalid value: \"a\": can only use volume source type of \
                 PersistentVolumeClaim or Ephemeral for block mode",
                "volumeDevices[0].devicePath: Invalid value: \"/dev/../a\": can not contain \
                 backsteps ('..')",
                "volumeDevices[1].name: Invalid value: \"data\": must not already exist in \
                 volumeMounts",
                "volumeDevices[1].devicePath: Invalid value: \"/x\": must not already exist as a \
                 path in volumeMounts",
                "volumeDevices[2].name: Not found: \"none\"",
                "volumeDevices[2].devicePath: Invalid value: \"/x\": must be unique",
            ]
        );
    }

    #[test]
    fn a_volume_has_one_source() {
        let volumes = json!([{"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}},
            {"name": "a", "configMap": {}},
            {"name": "c", "hostPath": {"path": "/x", "type": "?"}}]);
        let errors = check(volumes, json!([]));
        assert_eq!(
            errors[..3],
            [
                "volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
                "volumes[1].name: Duplicate value: \"a\"",
                "volumes[1].configMap.name: Required value",
            ]
        );
        assert!(errors[3].starts_with("volumes[2].hostPath.type: Unsupported value: \"?\""));
    }
}
