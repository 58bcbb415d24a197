//! `status.storedVersions` of a definition: the versions in which objects may be stored.

use std::collections::BTreeSet;

use json_tree::Value;
use object_model::{FieldError, FieldPath};

use crate::definition_fields::{storage_version, versions};

/// The errors of the list in a changed definition. Errors that the stored definition has, too, do not count: otherwise
/// the labels and finalizers of such a definition could not be changed, and it could not be deleted.
///
/// Differs from kube-apiserver, which refuses all changes other than those of the status, and accepts every status.
pub(crate) fn validate(definition: &Value, old: &Value) -> Vec<FieldError> {
    let former = errors(old);
    let mut errors = errors(definition);
    if !former.is_empty() {
        cov_mark::hit!(findings_2_e8);
    }
    errors.retain(|error| !former.contains(error));
    errors
}

fn errors(definition: &Value) -> Vec<FieldError> {
    let at = FieldPath::root("status").child("storedVersions");
    let stored = &definition["status"]["storedVersions"];
    let list = stored.as_array().map_or(&[][..], Vec::as_slice);
    let invalid = |detail: String| {
        let value = Value::Array(list.to_vec());
        FieldError::invalid(&at, value, detail)
    };
    if list.is_empty() {
        let detail = "must have at least one stored version";
        return vec![invalid(detail.to_owned())];
    }
    let mut errors = Vec::new();
    if let Some(storage) = storage_version(definition)
        && !list.contains(&storage)
    {
        let name = storage.as_str().unwrap_or_default();
        errors.push(invalid(format!("must have the storage version {name}")));
    }
    let described: BTreeSet<&str> = versions(definition)
        .iter()
        .filter_map(|version| version["name"].as_str())
        .collect();
    for (index, name) in list.iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        if !described.contains(name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(&at.index(index), name, detail));
        }
    }
    errors
}

/// Adds the storage version of a definition to the list in the status.
pub(crate) fn add_storage_version(status: &mut Value, definition: &Value) {
    let Some(storage) = storage_version(definition) else {
        return;
    };
    match status
        .get_mut("storedVersions")
        .and_then(Value::as_array_mut)
    {
        Some(list) if list.contains(&storage) => {}
        Some(list) => list.push(storage),
        None => status["storedVersions"] = Value::Array(vec![storage]),
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn definition(names: &[&str], stored: Value) -> Value {
        let versions: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "storage": *name == "v2"}))
            .collect();
        json!({"spec": {"versions": versions}, "status": {"storedVersions": stored}})
    }

    fn texts(new: &Value, old: &Value) -> Vec<String> {
        let errors = validate(new, old);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn versions_are_removed_from_the_list_before_the_definition() {
        let old = definition(&["v1", "v2"], json!(["v1", "v2"]));
        let dropped = definition(&["v2"], json!(["v1", "v2"]));
        let text = "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously";
        assert!(texts(&dropped, &old)[0].starts_with(text));
        let trimmed = definition(&["v1", "v2"], json!(["v2"]));
        assert_eq!(texts(&trimmed, &old), [""; 0]);
        assert_eq!(
            texts(&definition(&["v2"], json!(["v2"])), &trimmed),
            [""; 0]
        );
        for (list, text) in [
            (
                json!(["v1"]),
                "status.storedVersions: Invalid value: [\"v1\"]: must have the storage version v2",
            ),
            (
                json!([]),
                "status.storedVersions: Invalid value: []: must have at least one stored version",
            ),
        ] {
            assert_eq!(texts(&definition(&["v1", "v2"], list), &old), [text]);
        }
    }

    // findings-2 E8
    #[test]
    fn a_definition_with_a_wrong_list_can_be_changed() {
        cov_mark::check!(findings_2_e8);
        let broken = definition(&["v2"], json!(["v0", "v2"]));
        let mut labelled = broken.clone();
        labelled["metadata"] = json!({"labels": {"a": "b"}});
        assert_eq!(texts(&labelled, &broken), [""; 0]);
        let mended = definition(&["v2"], json!(["v2"]));
        assert_eq!(texts(&mended, &broken), [""; 0]);
        assert_eq!(texts(&broken, &mended).len(), 1);
    }

    #[test]
    fn a_new_storage_version_is_added() {
        let definition = definition(&["v1", "v2"], json!(["v1"]));
        let mut status = definition["status"].clone();
        for _ in 0..2 {
            add_storage_version(&mut status, &definition);
            assert_eq!(status, json!({"storedVersions": ["v1", "v2"]}));
        }
        let mut empty = json!({});
        add_storage_version(&mut empty, &definition);
        assert_eq!(empty, json!({"storedVersions": ["v2"]}));
    }
}
