//! References to fields and resources of a pod, in environment variables and in files of volumes.

use object_model::{FieldError, Quantity, names};

use super::field::Field;

/// The fields of the pod that environment variables can refer to.
pub(crate) const ENV_FIELDS: &[&str] = &[
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
/// Existing fields that neither variables nor files can refer to.
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

/// Checks the reference of a variable or file to a field of the pod.
pub(crate) fn field_reference(at: &Field<'_, '_>, allowed: &[&str], errors: &mut Vec<FieldError>) {
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
        let is_supported = ENV_FIELDS.contains(&path.text()) || OTHER_FIELDS.contains(&path.text());
        if !is_supported {
            errors.push(unknown_field(&path, "not supported"));
        } else if !allowed.contains(&path.text()) {
            errors.push(path.not_supported(allowed));
        }
        return;
    };
    match map {
        "metadata.annotations" => {
            let clauses = names::qualified_name(&key.to_lowercase()).into_iter();
            errors.extend(clauses.map(|clause| FieldError::invalid(&path.path(), key, clause)));
        }
        "metadata.labels" => {
            let clauses = names::qualified_name(key).into_iter();
            errors.extend(clauses.map(|clause| FieldError::invalid(&path.path(), key, clause)));
        }
        _ => errors.push(unknown_field(&path, "does not support subscript")),
    }
}

fn unknown_field(path: &Field<'_, '_>, why: &str) -> FieldError {
    let name = path.text();
    path.invalid(format!(
        "error converting fieldPath: field label {why}: {name}"
    ))
}

/// Checks the reference of a variable or file to a request or limit of a container.
pub(crate) fn resource_reference(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
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

/// Checks the divisor of a resource. As upstream's, the error contains the resource.
fn divisor(at: &Field<'_, '_>, resource: &str, errors: &mut Vec<FieldError>) {
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
        errors.push(FieldError::invalid(&at.path(), resource, detail));
    }
}
