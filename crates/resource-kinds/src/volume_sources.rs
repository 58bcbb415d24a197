//! Where the data of a volume comes from: sources that pods and PersistentVolumes name alike,
//! and those that only pods have.

use object_model::{FieldError, Quantity, names};
use serde_json::{Value, json};

use crate::at::{At, Rules};
use crate::{limits, parts};

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
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Fills in the sources that are there. `volume` is a volume of a pod, or a PersistentVolume's
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

/// Fills in references to fields and resources, of files and of variables alike.
pub(crate) fn default_selectors(item: &mut Value) {
    if let Some(field) = item.get_mut("fieldRef") {
        parts::fill(field, "apiVersion", "v1");
    }
    if let Some(resource) = item.get_mut("resourceFieldRef") {
        parts::fill(resource, "divisor", "0");
    }
}

/// All that is wrong with the source of the given name.
pub(crate) fn validate(name: &str, source: &At<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match name {
        "hostPath" => host_path(source, &mut errors),
        "local" => {
            let path = source.get("path");
            if path.is_empty() {
                errors.push(path.required(""));
            } else {
                no_back_steps(&path, &mut errors);
            }
        }
        "emptyDir" => {
            let limit = source.get("sizeLimit");
            if Quantity::from_json(limit.value).is_ok_and(|amount| amount.is_negative()) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(limit.forbidden(detail));
            }
        }
        "configMap" | "secret" => named_files(name, source, &mut errors),
        "downwardAPI" => downward(source, &mut errors),
        "projected" => projected(source, &mut errors),
        "persistentVolumeClaim" => {
            let claim = source.get("claimName");
            if claim.is_empty() {
                errors.push(claim.required(""));
            }
        }
        "nfs" => {
            for field in ["server", "path"] {
                if source.get(field).is_empty() {
                    errors.push(source.get(field).required(""));
                }
            }
            let path = source.get("path");
            if !path.is_empty() && !path.text().starts_with('/') {
                errors.push(path.invalid("must be an absolute path"));
            }
        }
        "ephemeral" => {
            let template = source.get("volumeClaimTemplate");
            if template.is_set() {
                let spec = template.get("spec");
                errors.extend(crate::core::validate_claim_spec(&spec));
            } else {
                errors.push(template.required(""));
            }
        }
        "csi" if source.get("driver").is_empty() => {
            errors.push(source.get("driver").required(""));
        }
        _ => {}
    }
    errors
}

fn host_path(source: &At<'_>, errors: &mut Vec<FieldError>) {
    let path = source.get("path");
    if path.is_empty() {
        errors.push(path.required(""));
        return;
    }
    no_back_steps(&path, errors);
    let kind = source.get("type");
    if !HOST_PATH_TYPES.contains(&kind.text()) {
        errors.push(kind.not_supported(HOST_PATH_TYPES));
    }
}

/// A path must not climb out of where it is put.
pub(crate) fn no_back_steps(path: &At<'_>, errors: &mut Vec<FieldError>) {
    if path.text().split('/').any(|segment| segment == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
}

/// A path must be relative and must not climb.
pub(crate) fn below(path: &At<'_>, errors: &mut Vec<FieldError>) {
    if path.text().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    no_back_steps(path, errors);
}

fn mode(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.push(at.invalid(FILE_MODE));
    }
}

/// The path of a file that is made from an item; names that begin with `..` are the node's own.
fn file_path(path: &At<'_>, errors: &mut Vec<FieldError>) {
    if path.is_empty() {
        errors.push(path.required(""));
        return;
    }
    below(path, errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") {
        errors.push(path.invalid("must not start with '..'"));
    }
}

fn items(source: &At<'_>, errors: &mut Vec<FieldError>) {
    for item in source.get("items").items() {
        if item.get("key").is_empty() {
            errors.push(item.get("key").required(""));
        }
        file_path(&item.get("path"), errors);
        mode(&item.get("mode"), errors);
    }
}

fn named_files(name: &str, source: &At<'_>, errors: &mut Vec<FieldError>) {
    let field = if name == "secret" {
        "secretName"
    } else {
        "name"
    };
    if source.get(field).is_empty() {
        errors.push(source.get(field).required(""));
    }
    mode(&source.get("defaultMode"), errors);
    items(source, errors);
}

fn downward(source: &At<'_>, errors: &mut Vec<FieldError>) {
    mode(&source.get("defaultMode"), errors);
    for item in source.get("items").items() {
        file_path(&item.get("path"), errors);
        mode(&item.get("mode"), errors);
        let (field, resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
        match (field.is_set(), resource.is_set()) {
            (true, true) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(item.invalid(detail));
            }
            (true, false) => crate::pod_template::field_reference(&field, VOLUME_FIELDS, errors),
            (false, true) => {
                let container = resource.get("containerName");
                if container.is_empty() {
                    errors.push(container.required(""));
                }
                crate::pod_template::resource_reference(&resource, errors);
            }
            (false, false) => {
                errors.push(item.required("one of fieldRef and resourceFieldRef is required"));
            }
        }
    }
}

/// What a downward API file can show.
const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

fn projected(source: &At<'_>, errors: &mut Vec<FieldError>) {
    mode(&source.get("defaultMode"), errors);
    for part in source.get("sources").items() {
        let kinds = ["secret", "configMap", "downwardAPI", "serviceAccountToken"];
        let given: Vec<&str> = kinds
            .into_iter()
            .filter(|kind| part.get(kind).is_set())
            .collect();
        for kind in given.iter().skip(1) {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(part.get(kind).forbidden(detail));
        }
        for kind in given.iter().take(1) {
            let at = part.get(kind);
            match *kind {
                "downwardAPI" => downward(&at, errors),
                "serviceAccountToken" => token(&at, errors),
                _ => {
                    if at.get("name").is_empty() {
                        errors.push(at.get("name").required(""));
                    }
                    items(&at, errors);
                }
            }
        }
    }
}

fn token(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let seconds = at.get("expirationSeconds");
    match seconds.int() {
        Some(given) if given < 600 => {
            errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        }
        Some(given) if given > 1 << 32 => {
            errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
        _ => {}
    }
    file_path(&at.get("path"), errors);
}

/// The volume that gives a pod its ServiceAccount's token, the cluster's certificate and the
/// name of its namespace (`statefulset.md` 12.15).
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

/// The name of a volume.
pub(crate) fn name(at: &At<'_>, errors: &mut Vec<FieldError>) {
    errors.check_required_text(at, names::dns_label);
}
