//! Defaults and rules of claims and claim templates.

use json_tree::{Value, json};
use object_model::{FieldError, Quantity, names};

use super::field::{Field, Rules};
use super::metadata;
use crate::json::parts;

/// The supported access modes of volumes.
const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
/// The values of `volumeMode`.
pub(crate) const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// Sets the defaults of a claim, or of a claim template of a StatefulSet.
pub(crate) fn default(claim: &mut Value) {
    if let Some(status) = parts::entry(claim, "status") {
        parts::fill(status, "phase", "Pending");
    }
    if let Some(spec) = parts::entry(claim, "spec") {
        parts::fill(spec, "volumeMode", "Filesystem");
        // Upstream's encoder writes the field even if it is empty.
        parts::fill(spec, "resources", json!({}));
    }
}

/// The validation errors of the access modes of a claim or volume.
pub(crate) fn access_modes(spec: &Field<'_, '_>, when_missing: &str) -> Vec<FieldError> {
    let modes = spec.get("accessModes");
    let mut errors = Vec::new();
    if modes.is_empty() {
        errors.push(modes.required(when_missing));
    }
    for mode in modes.items() {
        if !ACCESS_MODES.contains(&mode.text()) {
            let error = FieldError::not_supported(&modes.path(), mode.value.clone(), ACCESS_MODES);
            errors.push(error);
        }
    }
    let single = modes.items().any(|mode| mode.text() == "ReadWriteOncePod");
    if single && modes.len() > 1 {
        errors.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

/// The validation errors of the spec of a claim or claim template.
pub(crate) fn validate_spec(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = access_modes(spec, "at least 1 access mode is required");
    errors.extend(metadata::label_selector(&spec.get("selector")));
    // As upstream, the path does not contain `requests`.
    let resources = spec.get("resources");
    let storage = resources.get_key("storage");
    let amount = storage.with(spec.get_path("resources.requests.storage").value);
    if amount.is_set() {
        let quantity = Quantity::from_json(amount.value).unwrap_or_default();
        if quantity.is_zero() || quantity.is_negative() {
            errors.push(amount.invalid("must be greater than zero"));
        }
    } else {
        errors.push(amount.required(""));
    }
    errors.check_text_if_set(&spec.get("storageClassName"), names::dns_subdomain);
    errors.check_one_of_if_set(&spec.get("volumeMode"), VOLUME_MODES);
    errors.check_text_if_set(&spec.get("volumeAttributesClassName"), names::dns_subdomain);
    errors.extend(data_sources(spec));
    errors
}

fn data_sources(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["dataSource", "dataSourceRef"] {
        let source = spec.get_path(field);
        if !source.is_set() {
            continue;
        }
        for part in ["name", "kind"] {
            if source.get_path(part).is_empty() {
                errors.push(source.get_path(part).required(""));
            }
        }
        let core = source.get("apiGroup").is_empty();
        if core && !matches!(source.get("kind").text(), "PersistentVolumeClaim" | "") {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(source.invalid(detail));
        }
    }
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    if source.is_set() && reference.is_set() {
        let same = |part: &str| source.value[part] == reference.value[part];
        let detail = if !reference.get("namespace").is_empty() {
            Some("may not be specified when dataSourceRef.namespace is specified")
        } else {
            let is_same = ["apiGroup", "kind", "name"].into_iter().all(same);
            (!is_same).then(|| {
                cov_mark::hit!(findings_2_c28);
                "must match dataSourceRef"
            })
        };
        // Upstream's value is the path of the field, which it prints as an empty structure.
        errors.extend(detail.map(|detail| FieldError::invalid(&spec.path(), json!({}), detail)));
    }
    errors
}
