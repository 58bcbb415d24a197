//! Objects that were applied by client-side apply before, as an annotation shows.
//!
//! `kubectl apply --server-side` takes over, without conflicts, the fields that the annotation
//! shows as applied and that are unchanged since; and updates the annotation, so that a client may
//! return to client-side apply.

use json_tree::{Map, Value};
use openapi_schema::TypeRef;

use super::check::problems;
use super::compare::compare;
use super::form::MergeForm;
use super::owned::fields_of;
use super::set::FieldSet;

/// The manager to which this applies; with another name a client opts out.
pub(super) const KUBECTL: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotations are not made larger than this (upstream's bound on all of them).
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// The configuration that a client applied last, as the object's annotation has it.
pub(super) fn configuration(live: &Value, api_version: &str) -> Option<Value> {
    let text = live["metadata"]["annotations"][ANNOTATION].as_str()?;
    let applied: Value = serde_json::from_str(text).ok()?;
    (applied["apiVersion"] == api_version).then_some(applied)
}

/// The fields of it that are still as they were applied.
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

/// Brings the annotation of a merged object up to date, if it has one.
pub(super) fn refresh(merged: &mut Value, config: &Value) {
    let Some(annotations) = merged
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let present = annotations.get(ANNOTATION).and_then(Value::as_str);
    if present.is_none_or(str::is_empty) {
        return;
    }
    let mut applied = config.clone();
    if let Some(own) = applied
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        own.shift_remove(ANNOTATION);
        if own.is_empty()
            && let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.shift_remove("annotations");
        }
    }
    let text = format!("{}\n", sorted(&applied));
    annotations.insert(ANNOTATION.to_owned(), text.into());
    if size(annotations) > ANNOTATIONS_BYTES_MAX {
        annotations.shift_remove(ANNOTATION);
    }
}

fn size(annotations: &Map<String, Value>) -> usize {
    annotations
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum()
}

/// The value with the keys of all objects in order.
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
