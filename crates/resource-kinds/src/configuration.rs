//! Reads configuration files as trees. Errors contain the paths of their fields, and unknown fields are errors.

use json_tree::Value;
use object_model::{FieldError, FieldPath};

/// Records unknown fields, and a value that is not an object.
pub fn only(value: &Value, supported: &[&str], at: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(fields) = value.as_object() else {
        errors.push(FieldError::invalid(at, value.clone(), "must be an object"));
        return;
    };
    for name in fields
        .keys()
        .filter(|name| !supported.contains(&name.as_str()))
    {
        errors.push(FieldError::forbidden(&at.child(name), "unknown field"));
    }
}

/// The text in a field; empty if the field is absent. Records a value of another type.
pub fn text(value: &Value, name: &str, at: &FieldPath, errors: &mut Vec<FieldError>) -> String {
    match &value[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => {
            errors.push(FieldError::invalid(
                &at.child(name),
                other.clone(),
                "must be a string",
            ));
            String::new()
        }
    }
}

/// The list in a field; empty if the field is absent. Records a value of another type.
pub fn items<'v>(
    value: &'v Value,
    name: &str,
    at: &FieldPath,
    errors: &mut Vec<FieldError>,
) -> &'v [Value] {
    match &value[name] {
        Value::Null | Value::Array(_) => value[name].as_array().map_or(&[], Vec::as_slice),
        other => {
            errors.push(FieldError::invalid(
                &at.child(name),
                other.clone(),
                "must be a list",
            ));
            &[]
        }
    }
}

/// The texts in a field; empty if the field is absent. Records values of another type.
pub fn texts(
    value: &Value,
    name: &str,
    at: &FieldPath,
    errors: &mut Vec<FieldError>,
) -> Vec<String> {
    let all = items(value, name, at, errors).iter().enumerate();
    let texts = all.filter_map(|(index, item)| {
        let text = item.as_str().map(str::to_owned);
        if text.is_none() {
            let at = at.child(name).index(index);
            errors.push(FieldError::invalid(&at, item.clone(), "must be a string"));
        }
        text
    });
    texts.collect()
}
