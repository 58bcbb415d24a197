//! Validation of the volumes of a pod and of their mounts.

use std::collections::BTreeMap;

use object_model::{FieldError, names};

use crate::validation::field::{Field, Rules};
use crate::validation::text_set::TextSet;
use crate::validation::volume_sources;

/// The type of a volume, as far as mounts depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VolumeType {
    /// A claim, which can be a block device.
    Claim,
    /// All other types, which contain files.
    Files,
}

/// The valid volumes, by name.
pub(super) type Volumes<'a> = BTreeMap<&'a str, VolumeType>;

/// Checks the volumes of a spec. `claims` are volumes that are added later.
pub(super) fn validate<'a>(
    spec: &Field<'a, '_>,
    claims: &[&'a str],
    errors: &mut Vec<FieldError>,
) -> Volumes<'a> {
    let mut good = Volumes::new();
    for volume in spec.get("volumes").items() {
        let before = errors.len();
        let name = volume.get("name");
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
        volume_sources::name(&name, errors);
        if good.contains_key(name.text()) {
            errors.push(name.duplicate());
        }
        if errors.len() == before {
            let claim = ["persistentVolumeClaim", "ephemeral"];
            let backing = match sources.iter().any(|source| claim.contains(source)) {
                true => VolumeType::Claim,
                false => VolumeType::Files,
            };
            good.insert(name.text(), backing);
        }
    }
    good.extend(claims.iter().map(|claim| (*claim, VolumeType::Claim)));
    good
}

/// Validates the volumes of a pod that cannot be validated in a template: names that are derived from the pod's name,
/// and fields that may be set later.
pub(super) fn of_pod(pod: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (pod_name, spec) = (pod.get_path("metadata.name"), pod.get("spec"));
    let claim_of =
        |volume: &Field<'_, '_>| format!("{}-{}", pod_name.text(), volume.get("name").text());
    let volumes = spec.get("volumes");
    let ephemeral: Vec<String> = volumes
        .items()
        .filter(|volume| volume.get("ephemeral").is_set() && !pod_name.is_empty())
        .map(|volume| claim_of(&volume))
        .collect();
    for volume in volumes.items() {
        let name = volume.get("name");
        if volume.get("ephemeral").is_set() && !pod_name.is_empty() && !name.is_empty() {
            let claim = claim_of(&volume);
            let clauses = names::dns_subdomain(&claim).into_iter();
            errors.extend(
                clauses.map(|clause| name.invalid(format!("PVC name {claim:?}: {clause}"))),
            );
        }
        let claim = volume.get_path("persistentVolumeClaim.claimName");
        if ephemeral.iter().any(|name| name == claim.text()) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(claim.invalid(detail));
        }
        let image = volume.get("image");
        if image.is_set() && image.get("reference").is_empty() {
            errors.push(image.get("reference").required(""));
        }
        for source in volume.get_path("projected.sources").items() {
            let token = source.get("serviceAccountToken");
            if token.is_set() && spec.get("serviceAccountName").is_empty() {
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(token.forbidden(detail));
            }
        }
    }
}

/// Validates the mounts of a container.
pub(super) fn mounts(
    container: &Field<'_, '_>,
    volumes: &Volumes<'_>,
    errors: &mut Vec<FieldError>,
) {
    let (mut device_names, mut device_paths) = (TextSet::default(), TextSet::default());
    for device in container.get("volumeDevices").items() {
        device_names.insert(device.get("name").text());
        device_paths.insert(device.get("devicePath").text());
    }
    let (mut paths, mut mounted) = (TextSet::default(), TextSet::default());
    for mount in container.get("volumeMounts").items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !volumes.contains_key(name.text()) {
            errors.push(FieldError::not_found(&name.path(), name.text()));
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
        let privileged = container.get_path("securityContext.privileged").is_true();
        propagation(&mount.get("mountPropagation"), privileged, errors);
        read_only_below(&mount, errors);
    }
    devices(container, volumes, &mounted, &paths, errors);
}

fn propagation(at: &Field<'_, '_>, privileged: bool, errors: &mut Vec<FieldError>) {
    errors.check_one_of_if_set(at, &["Bidirectional", "HostToContainer", "None"]);
    if at.text() == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(at.forbidden(detail));
    }
}

/// Checks that a recursive read-only mount is read-only and has no propagation.
fn read_only_below(mount: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let at = mount.get("recursiveReadOnly");
    errors.check_one_of_if_set(&at, &["Disabled", "Enabled", "IfPossible"]);
    if !matches!(at.text(), "Enabled" | "IfPossible") {
        return;
    }
    if !mount.get("readOnly").is_true() {
        errors.push(at.forbidden("may only be specified when readOnly is true"));
    }
    if !matches!(mount.get("mountPropagation").text(), "" | "None") {
        let detail = "may only be specified when mountPropagation is None or not specified";
        errors.push(at.forbidden(detail));
    }
}

/// Validates the block devices of a container together with its mounts.
fn devices(
    container: &Field<'_, '_>,
    volumes: &Volumes<'_>,
    mounted: &TextSet<'_>,
    mount_paths: &TextSet<'_>,
    errors: &mut Vec<FieldError>,
) {
    let (mut names, mut paths) = (TextSet::default(), TextSet::default());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !names.insert(name.text()) {
            errors.push(name.invalid("must be unique"));
        }
        match volumes.get(name.text()) {
            None => errors.push(FieldError::not_found(&name.path(), name.text())),
            Some(VolumeType::Files) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or \
                              Ephemeral for block mode";
                errors.push(name.invalid(detail));
            }
            Some(VolumeType::Claim) => {}
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
    use json_tree::{Value, json};

    use super::*;

    fn check(volumes: Value, list: Value) -> Vec<String> {
        check_container(volumes, json!({"volumeMounts": list}))
    }

    fn check_container(volumes: Value, container: Value) -> Vec<String> {
        let spec = json!({"volumes": volumes});
        let mut errors = Vec::new();
        let names = validate(&Field::root(&spec), &["data"], &mut errors);
        mounts(&Field::root(&container), &names, &mut errors);
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
            errors[..2],
            [
                "volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
                "volumes[1].configMap.name: Required value",
            ]
        );
        assert!(errors[2].starts_with("volumes[2].hostPath.type: Unsupported value: \"?\""));
        let twice = json!([{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]);
        assert_eq!(
            check(twice, json!([])),
            ["volumes[1].name: Duplicate value: \"a\""]
        );
        assert_eq!(
            check(
                json!([{"name": "a"}]),
                json!([{"name": "a", "mountPath": "/a"}])
            ),
            [
                "volumes[0]: Required value: must specify a volume type",
                "volumeMounts[0].name: Not found: \"a\"",
            ]
        );
    }

    #[test]
    fn mounts_are_consistent() {
        let paths = "subPathExpr and subPath are mutually exclusive";
        let table = [
            (json!({}), vec![]),
            (
                json!({"subPath": "/x"}),
                vec!["subPath: Invalid value: \"/x\": must be a relative path".to_owned()],
            ),
            (
                json!({"subPathExpr": "$(A)/.."}),
                vec!["subPathExpr: Invalid value: \"$(A)/..\": must not contain '..'".to_owned()],
            ),
            (
                json!({"subPath": "x", "subPathExpr": "y"}),
                vec![format!("subPathExpr: Invalid value: \"y\": {paths}")],
            ),
            (
                json!({"mountPropagation": "Up"}),
                vec![
                    "mountPropagation: Unsupported value: \"Up\": supported values: \
                      \"Bidirectional\", \"HostToContainer\", \"None\""
                        .to_owned(),
                ],
            ),
            (
                json!({"mountPropagation": "Bidirectional"}),
                vec![
                    "mountPropagation: Forbidden: Bidirectional mount propagation is available \
                      only to privileged containers"
                        .to_owned(),
                ],
            ),
            (
                json!({"recursiveReadOnly": "Enabled", "readOnly": true}),
                vec![],
            ),
            (json!({"recursiveReadOnly": "Disabled"}), vec![]),
            (
                json!({"recursiveReadOnly": "IfPossible"}),
                vec![
                    "recursiveReadOnly: Forbidden: may only be specified when readOnly is true"
                        .to_owned(),
                ],
            ),
            (
                json!({"recursiveReadOnly": "Enabled", "readOnly": true,
                "mountPropagation": "HostToContainer"}),
                vec![
                    "recursiveReadOnly: Forbidden: may only be specified when mountPropagation is \
                      None or not specified"
                        .to_owned(),
                ],
            ),
            (
                json!({"recursiveReadOnly": "Yes", "readOnly": true}),
                vec![
                    "recursiveReadOnly: Unsupported value: \"Yes\": supported values: \
                      \"Disabled\", \"Enabled\", \"IfPossible\""
                        .to_owned(),
                ],
            ),
        ];
        for (mut mount, expected) in table {
            mount["name"] = json!("a");
            mount["mountPath"] = json!("/a");
            let expected: Vec<String> = expected
                .iter()
                .map(|error| format!("volumeMounts[0].{error}"))
                .collect();
            assert_eq!(
                check(json!([{"name": "a", "emptyDir": {}}]), json!([mount])),
                expected
            );
        }
    }

    #[test]
    fn volumes_of_a_pod_go_with_its_name() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"volumes": [
            {"name": "a", "ephemeral": {}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "p-a"}},
            {"name": "c", "image": {}},
            {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}});
        let mut errors = Vec::new();
        of_pod(&Field::root(&pod), &mut errors);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"p-a\": must not \
                 reference a PVC that gets created for an ephemeral volume",
                "spec.volumes[2].image.reference: Required value",
                "spec.volumes[3].projected.sources[0].serviceAccountToken: Forbidden: must not be \
                 specified when serviceAccountName is not set",
            ]
        );
    }
}
