//! The metadata of a converted object: a webhook changes labels and annotations only.

use json_tree::{Map, Value, json};
use object_model::FieldError;
use resource_kinds::validate_labels_and_annotations;

/// The metadata of the original with the labels and annotations of the converted object.
///
/// *Errors.* The metadata, labels or annotations of the converted object have a wrong type or a wrong form.
pub(super) fn restored(original: &Value, converted: &Value) -> Result<Value, String> {
    let converted = match converted {
        Value::Object(fields) => fields,
        Value::Null => return Err("missing metadata in converted object".to_owned()),
        other => {
            return Err(format!(
                "invalid metadata of type {} in converted object",
                go_type(other)
            ));
        }
    };
    let mut metadata = original.as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        restore(&mut metadata, field, converted.get(field))?;
    }
    Ok(Value::Object(metadata))
}

fn restore(
    metadata: &mut Map<String, Value>,
    field: &str,
    converted: Option<&Value>,
) -> Result<(), String> {
    let entries = match converted {
        None | Some(Value::Null) => {
            metadata.shift_remove(field);
            return Ok(());
        }
        Some(Value::Object(entries)) => entries,
        Some(other) => {
            return Err(format!(
                "invalid metadata.{field} of type {} in converted object",
                go_type(other)
            ));
        }
    };
    if let Some((key, value)) = entries.iter().find(|(_, value)| !value.is_string()) {
        return Err(format!(
            "metadata.{field}[{key}] must be a string, but is {} in converted object",
            go_type(value)
        ));
    }
    // Unchanged entries are not checked: the rules may be newer than the object.
    if metadata.get(field).and_then(Value::as_object) != Some(entries) {
        check(field, entries)?;
    }
    metadata.insert(field.to_owned(), Value::Object(entries.clone()));
    Ok(())
}

/// Checks changed labels or annotations.
fn check(field: &str, entries: &Map<String, Value>) -> Result<(), String> {
    let object = json!({"metadata": {field: entries}});
    let errors = validate_labels_and_annotations(&object);
    let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
    match texts.as_slice() {
        [] => Ok(()),
        [text] => Err(text.clone()),
        texts => Err(format!("[{}]", texts.join(", "))),
    }
}

/// The name that Go has for the type of a JSON value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
