//! The merge of a policy's apply configuration: as a server-side apply, but without ownership.

use json_tree::Value;
use openapi_documents::TypeRef;

use super::check::problems;
use super::error::OverlayError;
use super::form::MergeForm;
use super::merge::merge;
use super::path::PathElement;

/// Merges `config` into `object`. The configuration must not contain atomic lists and maps, because the entries that
/// it lacks would be removed.
///
/// # Errors
/// A part of the configuration does not match the object's type, or is atomic.
pub fn overlay(
    object: &Value,
    config: &Value,
    object_type: TypeRef<'_>,
) -> Result<Value, OverlayError> {
    let form = MergeForm::of_type(object_type);
    let errors = problems(form, config);
    if !errors.is_empty() {
        return Err(OverlayError::Type(errors.join(", ")));
    }
    let mut atomic = Vec::new();
    find_atomic(form, config, String::new(), &mut atomic);
    if !atomic.is_empty() {
        return Err(OverlayError::Atomic(atomic.join(", ")));
    }
    Ok(merge(form, Some(object), Some(config)).unwrap_or_default())
}

/// Finds the paths of atomic lists and maps.
fn find_atomic(form: MergeForm<'_>, value: &Value, path: String, paths: &mut Vec<String>) {
    match (form, value) {
        (MergeForm::Struct(_) | MergeForm::Map(_) | MergeForm::Open, Value::Object(object)) => {
            for (name, value) in object {
                let step = PathElement::Field(name.into());
                find_atomic(form.entry(name).0, value, format!("{path}{step}"), paths);
            }
        }
        (MergeForm::Set | MergeForm::Keyed(_), Value::Array(list)) => {
            for (index, element) in list.iter().enumerate() {
                find_atomic(form.element(), element, format!("{path}[{index}]"), paths);
            }
        }
        (MergeForm::Leaf, Value::Array(_) | Value::Object(_)) => paths.push(path),
        _ => {}
    }
}
