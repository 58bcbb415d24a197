//! The configuration of an earlier client-side apply, from an annotation of the object.
//!
//! `kubectl apply --server-side` takes over, without conflicts, the fields that the annotation contains and that are
//! unchanged since; and updates the annotation, so that a client may return to client-side apply.

use json_tree::{Map, Value};
use openapi_documents::TypeRef;
use resource_kinds::annotations::LAST_APPLIED;

use super::check::problems;
use super::compare::compare;
use super::form::MergeForm;
use super::owned::fields_of;
use super::set::FieldSet;

/// The takeover is only for this manager; a client can disable it with another manager name.
pub(super) const KUBECTL: &str = "kubectl";
/// The annotations of an object must not become larger (upstream's limit on all annotations together).
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// The last applied configuration, from the object's annotation.
pub(super) fn configuration(live: &Value, api_version: &str) -> Option<Value> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    let applied: Value = serde_json::from_str(text).ok()?;
    (applied["apiVersion"] == api_version).then_some(applied)
}

/// The fields of the configuration that still have their applied value.
pub(super) fn unchanged(
    applied: &Value,
    live: &Value,
    object_type: TypeRef<'_>,
) -> FieldSet<'static> {
    let form = MergeForm::of_type(object_type);
    if !problems(form, applied).is_empty() {
        return FieldSet::default();
    }
    let changes = compare(form, applied, live);
    fields_of(form, applied)
        .0
        .difference(&changes.modified)
        .difference(&changes.added)
        .difference(&changes.removed)
        .into_owned()
}

/// Updates the annotation of a merged object, if it has one.
pub(super) fn refresh(merged: &mut Value, config: &Value) {
    let Some(annotations) = merged
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let present = annotations.get(LAST_APPLIED).and_then(Value::as_str);
    if present.is_none_or(str::is_empty) {
        return;
    }
    let mut applied = config.clone();
    if let Some(annotations) = applied
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.shift_remove(LAST_APPLIED);
        if annotations.is_empty()
            && let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.shift_remove("annotations");
        }
    }
    let text = format!("{}\n", sorted(&applied));
    annotations.insert(LAST_APPLIED.to_owned(), text.into());
    if size(annotations) > ANNOTATIONS_BYTES_MAX {
        annotations.shift_remove(LAST_APPLIED);
    }
}

fn size(annotations: &Map<String, Value>) -> usize {
    annotations
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum()
}

/// The value with sorted keys in all objects.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut fields: Vec<(&String, &Value)> = object.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            fields
                .into_iter()
                .map(|(name, value)| (name.clone(), sorted(value)))
                .collect()
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        scalar => scalar.clone(),
    }
}
