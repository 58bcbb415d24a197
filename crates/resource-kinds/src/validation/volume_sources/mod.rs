//! Volume sources: sources of pods and PersistentVolumes, and sources of pods only.

mod files;

use json_tree::{Value, json};
use object_model::{FieldError, Quantity, names};

use crate::json::parts;
use crate::validation::field::{Field, Rules};
use crate::validation::{claim, metadata};
use crate::well_known::limits;

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
/// Sets the defaults of the volume sources that are present. `volume` is a volume of a pod, or a PersistentVolume's
/// spec.
pub(crate) fn default(volume: &mut Value) {
    for name in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(name) {
            // 0644 in octal
            parts::fill(source, "defaultMode", 420);
        }
    }
    if let Some(source) = volume.get_mut("downwardAPI") {
        default_downward(source);
    }
    if let Some(source) = volume.get_mut("projected") {
        for part in parts::each(source, "sources") {
            if let Some(downward) = part.get_mut("downwardAPI") {
                default_downward(downward);
            }
            if let Some(token) = part.get_mut("serviceAccountToken") {
                parts::fill(token, "expirationSeconds", 3600);
            }
        }
    }
    if let Some(source) = volume.get_mut("hostPath") {
        parts::fill(source, "type", "");
    }
    if let Some(source) = volume.get_mut("iscsi") {
        parts::fill(source, "iscsiInterface", "default");
    }
    if let Some(source) = volume.get_mut("rbd") {
        parts::fill(source, "pool", "rbd");
        parts::fill(source, "user", "admin");
        parts::fill(source, "keyring", "/etc/ceph/keyring");
    }
    if let Some(template) = volume.get_mut("ephemeral")
        && let Some(claim) = template.get_mut("volumeClaimTemplate")
        && let Some(spec) = parts::entry(claim, "spec")
    {
        parts::fill(spec, "volumeMode", "Filesystem");
    }
}

fn default_downward(source: &mut Value) {
    for item in parts::each(source, "items") {
        default_selectors(item);
    }
}

/// Sets the defaults of references to fields and resources, in files and in variables.
pub(crate) fn default_selectors(item: &mut Value) {
    if let Some(field) = item.get_mut("fieldRef") {
        parts::fill(field, "apiVersion", "v1");
    }
    if let Some(resource) = item.get_mut("resourceFieldRef") {
        parts::fill(resource, "divisor", "0");
    }
}

/// The required fields of each source.
const REQUIRED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("configMap", &["name"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("hostPath", &["path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("local", &["path"]),
    ("nfs", &["server", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["registry", "volume"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("secret", &["secretName"]),
    ("storageos", &["volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

/// Numbers of volume sources that fit a byte, each with its minimum.
const BYTES: &[(&str, &str, i64)] = &[
    ("awsElasticBlockStore", "partition", 1),
    ("fc", "lun", 0),
    ("gcePersistentDisk", "partition", 1),
    ("iscsi", "lun", 0),
];

/// The validation errors of the volume source of this name.
pub(crate) fn validate(name: &str, source: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let required = REQUIRED.iter().filter(|(kind, _)| *kind == name);
    for field in required.flat_map(|(_, fields)| *fields) {
        if source.get(field).is_empty() {
            errors.push(source.get(field).required(""));
        }
    }
    for (_, field, min) in BYTES.iter().filter(|(kind, ..)| *kind == name) {
        // 0 means that the field is not set.
        let at = source.get(field);
        if at.int().is_some_and(|number| !(0..=255).contains(&number)) {
            errors.push(at.invalid(names::outside_range(*min, 255)));
        }
    }
    particular(name, source, &mut errors);
    errors
}

/// The rules of a single volume source.
fn particular(name: &str, source: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    match name {
        "hostPath" if !source.get("path").is_empty() => {
            no_back_steps(&source.get("path"), errors);
            let kind = source.get("type");
            if !HOST_PATH_TYPES.contains(&kind.text()) {
                errors.push(kind.not_supported(HOST_PATH_TYPES));
            }
        }
        "local" => no_back_steps(&source.get("path"), errors),
        "gitRepo" => below(&source.get("directory"), errors),
        "emptyDir" => {
            let limit = source.get("sizeLimit");
            if Quantity::from_json(limit.value).is_ok_and(|amount| amount.is_negative()) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(limit.forbidden(detail));
            }
        }
        "configMap" | "secret" => files::from_keys(source, errors),
        "downwardAPI" => files::from_pod(source, errors),
        "projected" => files::projected(source, errors),
        "nfs" => {
            let path = source.get("path");
            if !path.text().starts_with('/') {
                let detail = "must be an absolute path";
                errors.push(FieldError::invalid(&path.path(), path.text(), detail));
            }
        }
        "ephemeral" => {
            let template = source.get("volumeClaimTemplate");
            if template.is_set() {
                claim_template(&template, errors);
            } else {
                errors.push(template.required(""));
            }
        }
        "fc" => fibre_channel(source, errors),
        "iscsi" => iscsi(source, errors),
        "flocker" => flocker(source, errors),
        "image" => {
            let policies = ["Always", "IfNotPresent", "Never"];
            errors.check_one_of(&source.get("pullPolicy"), &policies);
        }
        "csi" => driver(&source.get("driver"), errors),
        _ => {}
    }
}

/// Checks the claim template of an ephemeral volume. It must not contain names, because they are derived from the
/// pod.
fn claim_template(template: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let metadata = template.get("metadata");
    errors.extend(metadata::annotations(&metadata.get("annotations")));
    errors.extend(metadata::labels(&metadata.get("labels")));
    for field in metadata.map().into_iter().flatten().map(|(key, _)| key) {
        let at = metadata.get(field);
        if !matches!(field.as_str(), "annotations" | "labels") && !at.is_empty() {
            errors.push(at.forbidden("cannot be set"));
        }
    }
    errors.extend(claim::validate_spec(&template.get("spec")));
}

fn fibre_channel(source: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (targets, ids, lun) = (
        source.get("targetWWNs"),
        source.get("wwids"),
        source.get("lun"),
    );
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => {
            errors.push(targets.required("must specify either targetWWNs or wwids, but not both"))
        }
        (false, false) => {
            errors.push(targets.invalid("targetWWNs and wwids can not be specified simultaneously"))
        }
        _ => {}
    }
    if !targets.is_empty() && !lun.is_set() {
        errors.push(lun.required("lun is required if targetWWNs is specified"));
    }
}

fn iscsi(source: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for field in ["iqn", "initiatorName"] {
        let at = source.get(field);
        let has_prefix = ["iqn", "eui", "naa"]
            .iter()
            .any(|kind| at.text().starts_with(kind));
        if !at.is_empty() && !has_prefix {
            errors.push(at.invalid("must be valid format starting with iqn, eui, or naa"));
        }
    }
    let logins = ["chapAuthDiscovery", "chapAuthSession"];
    let secret = source.get("secretRef");
    if logins.iter().any(|field| source.get(field).is_true()) && !secret.is_set() {
        errors.push(secret.required(""));
    }
}

fn flocker(source: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (name, id) = (source.get("datasetName"), source.get("datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => {
            errors.push(source.required("one of datasetName and datasetUUID is required"));
        }
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(source.invalid(detail));
        }
        _ => {}
    }
    if name.text().contains('/') {
        errors.push(name.invalid("must not contain '/'"));
    }
}

/// Checks the name of a CSI driver.
pub(crate) fn driver(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if at.is_empty() {
        errors.push(at.required(""));
        return;
    }
    if at.text().len() > names::LABEL_BYTES_MAX {
        errors.push(FieldError::too_long(&at.path(), names::LABEL_BYTES_MAX));
    }
    let clauses = names::dns_subdomain(&at.text().to_lowercase()).into_iter();
    errors.extend(clauses.map(|clause| at.invalid(clause)));
}

/// Checks that a path has no `..` component.
pub(crate) fn no_back_steps(path: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if path.text().split('/').any(|segment| segment == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
}

/// Checks that a path is relative and has no `..` component.
pub(crate) fn below(path: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if path.text().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    no_back_steps(path, errors);
}

/// The volume with a pod's ServiceAccount token, the cluster's CA certificate and the pod's namespace
/// (`statefulset.md` 12.15).
pub(crate) fn service_account_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {
                    "expirationSeconds": limits::POD_TOKEN_SECONDS,
                    "path": "token",
                }},
                {"configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

/// Checks the name of a volume.
pub(crate) fn name(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_required_text(at, names::dns_label);
}

#[cfg(test)]
mod tests {
    use super::files::FILE_MODE;
    use super::*;

    fn check(name: &str, source: Value) -> Vec<String> {
        let volume = json!({name: source});
        let errors = validate(name, &Field::of(&volume, name));
        let prefix = format!("{name}.");
        errors
            .iter()
            .map(|error| error.to_string().replacen(&prefix, "", 1))
            .collect()
    }

    #[test]
    fn sources_are_complete() {
        for (name, fields) in REQUIRED {
            let missing = check(name, json!({}));
            for field in *fields {
                let expected = format!("{field}: Required value");
                assert!(missing.contains(&expected), "{name}: {missing:?}");
            }
        }
    }

    #[test]
    fn sources_are_consistent() {
        let byte = |min: i64| format!("must be between {min} and 255, inclusive");
        let table = [
            (
                "gcePersistentDisk",
                json!({"pdName": "a", "partition": 256}),
                vec![format!("partition: Invalid value: 256: {}", byte(1))],
            ),
            (
                "iscsi",
                json!({"targetPortal": "a", "iqn": "iqn.2026-01.a:b", "lun": -1}),
                vec![format!("lun: Invalid value: -1: {}", byte(0))],
            ),
            (
                "iscsi",
                json!({"targetPortal": "a", "iqn": "x", "chapAuthSession": true}),
                vec![
                "iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa"
                    .to_owned(),
                "secretRef: Required value".to_owned(),
            ],
            ),
            (
                "nfs",
                json!({"server": "s", "path": "p"}),
                vec!["path: Invalid value: \"p\": must be an absolute path".to_owned()],
            ),
            (
                "fc",
                json!({"targetWWNs": ["a"]}),
                vec!["lun: Required value: lun is required if targetWWNs is specified".to_owned()],
            ),
            (
                "emptyDir",
                json!({"sizeLimit": "-1"}),
                vec![
                    "sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"
                        .to_owned(),
                ],
            ),
            (
                "gitRepo",
                json!({"repository": "r", "directory": "../x"}),
                vec!["directory: Invalid value: \"../x\": must not contain '..'".to_owned()],
            ),
            (
                "hostPath",
                json!({"path": "/a/../b"}),
                vec!["path: Invalid value: \"/a/../b\": must not contain '..'".to_owned()],
            ),
            ("csi", json!({}), vec!["driver: Required value".to_owned()]),
            (
                "secret",
                json!({"secretName": "s", "defaultMode": 0o1000}),
                vec![format!("defaultMode: Invalid value: 512: {FILE_MODE}")],
            ),
            (
                "configMap",
                json!({"name": "c", "items": [
                {"key": "k", "path": "..x", "mode": -1}, {"path": "/y"}]}),
                vec![
                    "items[0].path: Invalid value: \"..x\": must not start with '..'".to_owned(),
                    format!("items[0].mode: Invalid value: -1: {FILE_MODE}"),
                    "items[1].key: Required value".to_owned(),
                    "items[1].path: Invalid value: \"/y\": must be a relative path".to_owned(),
                ],
            ),
            (
                "image",
                json!({"reference": "x", "pullPolicy": "?"}),
                vec![
                    "pullPolicy: Unsupported value: \"?\": supported values: \"Always\", \
                 \"IfNotPresent\", \"Never\""
                        .to_owned(),
                ],
            ),
        ];
        for (name, source, expected) in table {
            assert_eq!(check(name, source), expected, "{name}");
        }
    }
}
