//! Validation of files that are created from objects of the cluster.

use object_model::FieldError;

use super::below;
use crate::validation::field::Field;
use crate::validation::references;
use crate::validation::text_set::TextSet;

pub(super) const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

fn mode(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if at.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.push(at.invalid(FILE_MODE));
    }
}

/// Checks the path of a file. Names that begin with `..` are reserved for the node.
fn file_path(path: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if path.is_empty() {
        errors.push(path.required(""));
        return;
    }
    below(path, errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") {
        errors.push(path.invalid("must not start with '..'"));
    }
}

/// Checks files that are created from the keys of a ConfigMap or a Secret.
pub(super) fn from_keys(source: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    mode(&source.get("defaultMode"), errors);
    items(source, errors);
}

fn items(source: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for item in source.get("items").items() {
        if item.get("key").is_empty() {
            errors.push(item.get("key").required(""));
        }
        file_path(&item.get("path"), errors);
        mode(&item.get("mode"), errors);
    }
}

/// Validates files of the downward API.
pub(super) fn from_pod(source: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
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
            (true, false) => references::field_reference(&field, VOLUME_FIELDS, errors),
            (false, true) => {
                let container = resource.get("containerName");
                if container.is_empty() {
                    errors.push(container.required(""));
                }
                references::resource_reference(&resource, errors);
            }
            (false, false) => {
                errors.push(item.required("one of fieldRef and resourceFieldRef is required"));
            }
        }
    }
}

/// The fields that a downward API file can refer to.
const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Checks the sources of a projected volume: each has exactly one type, and no two create the same file.
pub(super) fn projected(source: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    mode(&source.get("defaultMode"), errors);
    let mut paths = TextSet::default();
    for part in source.get("sources").items() {
        let present: Vec<(&str, Field<'_, '_>)> = PARTS
            .iter()
            .map(|kind| (*kind, part.get(kind)))
            .filter(|(_, at)| at.is_set())
            .collect();
        for (kind, at) in &present {
            match *kind {
                "downwardAPI" => from_pod(at, errors),
                "serviceAccountToken" => token(at, errors),
                "clusterTrustBundle" | "podCertificate" => {}
                _ => {
                    if at.get("name").is_empty() {
                        errors.push(at.get("name").required(""));
                    }
                    items(at, errors);
                }
            }
            for_each_file(kind, at, |path| {
                if !path.is_empty() && !paths.insert(path.text()) {
                    let detail = "conflicting duplicate paths";
                    errors.push(path.invalid(detail));
                }
            });
        }
        if present.len() > 1 {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(part.forbidden(detail));
        }
    }
}

/// The types of sources of a projected volume.
const PARTS: [&str; 6] = [
    "secret",
    "configMap",
    "downwardAPI",
    "serviceAccountToken",
    "clusterTrustBundle",
    "podCertificate",
];

/// Calls `take` for the path of each file that a source creates. A token may replace another file, as upstream
/// allows, so its path is skipped.
fn for_each_file<'a>(kind: &str, part: &Field<'a, '_>, mut take: impl FnMut(Field<'a, '_>)) {
    let fields: &[&str] = match kind {
        "serviceAccountToken" => &[],
        "clusterTrustBundle" => &["path"],
        "podCertificate" => &["credentialBundlePath", "keyPath", "certificateChainPath"],
        _ => {
            let items = part.get("items");
            return items.items().for_each(|item| take(item.get("path")));
        }
    };
    fields.iter().for_each(|field| take(part.get(field)));
}

fn token(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let seconds = at.get("expirationSeconds");
    match seconds.int() {
        Some(value) if value < 600 => {
            errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        }
        Some(value) if value > 1 << 32 => {
            errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
        _ => {}
    }
    file_path(&at.get("path"), errors);
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn check(source: json_tree::Value) -> Vec<String> {
        let mut errors = Vec::new();
        projected(&Field::root(&source), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn parts_of_a_projected_volume_are_one_source_each() {
        let token = |seconds: i64| {
            json!({"serviceAccountToken": {"path": "t",
            "expirationSeconds": seconds}})
        };
        let file = json!({"name": "a", "items": [{"key": "k", "path": "f"}]});
        let table = [
            (json!([token(600), {"configMap": file}]), vec![]),
            (
                json!([token(599)]),
                vec![
                    "sources[0].serviceAccountToken.expirationSeconds: Invalid value: 599: may not \
                 specify a duration less than 10 minutes",
                ],
            ),
            (
                json!([token((1 << 32) + 1)]),
                vec![
                    "sources[0].serviceAccountToken.expirationSeconds: Invalid value: 4294967297: may \
                 not specify a duration larger than 2^32 seconds",
                ],
            ),
            (
                json!([{"configMap": file, "secret": {"name": "s"}}]),
                vec!["sources[0]: Forbidden: may not specify more than 1 volume type per source"],
            ),
            (
                json!([{"configMap": file}, {"secret": file}]),
                vec![
                    "sources[1].secret.items[0].path: Invalid value: \"f\": conflicting duplicate \
                 paths",
                ],
            ),
            (
                json!([{"secret": {}}]),
                vec!["sources[0].secret.name: Required value"],
            ),
        ];
        for (sources, expected) in table {
            assert_eq!(check(json!({"sources": sources})), expected);
        }
    }
}
