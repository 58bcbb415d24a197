//! JSON patch and merge patch, with bounds on what they may cost.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use crate::PatchError;
use crate::error::type_name;

/// How many operations a JSON patch may have (the API server's own bound).
const OPERATIONS_MAX: usize = 10_000;
/// How many bytes the `copy` operations of one patch may add: repeated copies double a document.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Applies a JSON patch (RFC 6902): all of it or nothing.
///
/// # Errors
/// `Malformed` and `TooManyOperations` for a bad patch, `DoesNotApply` when a path is missing, a
/// test fails, or copies grow beyond their bound.
pub fn json_patch(document: Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_array() else {
        let text = format!(
            "json: cannot unmarshal {} into a JSON patch",
            type_name(patch)
        );
        return Err(PatchError::Malformed(text));
    };
    if operations.len() > OPERATIONS_MAX {
        let count = operations.len();
        return Err(PatchError::TooManyOperations {
            count,
            max: OPERATIONS_MAX,
        });
    }
    let operations: Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("invalid JSON patch: {error}")))?;
    let mut document = document;
    let mut copied = 0;
    for (index, operation) in operations.0.iter().enumerate() {
        copied += copied_bytes(&document, operation);
        if copied > COPIED_BYTES_MAX {
            let text = format!("operation {index}: copies add more than {COPIED_BYTES_MAX} bytes");
            return Err(PatchError::DoesNotApply(text));
        }
        if tests_absence(&document, operation) {
            continue;
        }
        json_patch::patch(&mut document, std::slice::from_ref(operation)).map_err(|error| {
            let (path, why) = (&error.path, &error.kind);
            PatchError::DoesNotApply(format!("operation {index}, at \"{path}\": {why}"))
        })?;
    }
    Ok(document)
}

/// Whether this is a test for null of a field that its object does not have: the API server lets
/// it pass, and clients ask so whether they are the first to write a list of finalizers.
fn tests_absence(document: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else {
        return false;
    };
    let Some((parent, field)) = test.path.split_back() else {
        return false;
    };
    let object = document.pointer(parent.as_str()).and_then(Value::as_object);
    test.value.is_null() && object.is_some_and(|o| !o.contains_key(field.decoded().as_ref()))
}

fn copied_bytes(document: &Value, operation: &PatchOperation) -> usize {
    match operation {
        PatchOperation::Copy(copy) => document
            .pointer(copy.from.as_str())
            .map_or(0, |value| value.to_string().len()),
        _ => 0,
    }
}

/// Applies a merge patch (RFC 7396): nulls delete, objects merge, all else replaces.
///
/// # Errors
/// `Malformed` when the patch is not an object (a document of the API is never anything else).
pub fn merge_patch(document: Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        let text = format!(
            "json: cannot unmarshal {} into a merge patch",
            type_name(patch)
        );
        return Err(PatchError::Malformed(text));
    }
    let mut document = document;
    json_patch::merge(&mut document, patch);
    Ok(document)
}
