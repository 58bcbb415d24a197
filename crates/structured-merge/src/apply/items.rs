//! The identity of list elements.

use std::borrow::Cow;

use json_tree::Value;

use super::error::StepError;
use super::form::MergeForm;
use super::path::{PathElement, PathValue};

/// The step to an element of a list of this form.
///
/// # Errors
/// Upstream's text if the element cannot be distinguished from other elements.
pub(super) fn step<'v>(
    list: &MergeForm<'v>,
    element: &'v Value,
) -> Result<PathElement<'v>, StepError> {
    match list {
        MergeForm::Keyed(_) => key(list, element),
        _ => value(element),
    }
}

/// A default from the schema; in custom kinds it may be a number.
fn default_atom(text: &str) -> PathValue<'_> {
    match text.parse::<i64>() {
        Ok(number) => PathValue::Number(number.into()),
        Err(_) => PathValue::Text(Cow::Borrowed(text)),
    }
}

fn value(element: &Value) -> Result<PathElement<'_>, StepError> {
    match element {
        Value::Object(_) => Err(StepError::MapWithoutKeys),
        Value::Array(_) => Err(StepError::List),
        Value::Null => Err(StepError::NullWithoutKeys),
        scalar => Ok(PathElement::Value(PathValue::from_value(scalar))),
    }
}

fn key<'v>(list: &MergeForm<'v>, element: &'v Value) -> Result<PathElement<'v>, StepError> {
    let MergeForm::Keyed(field) = list else {
        return Err(StepError::NotAssociative);
    };
    let element_type = field.type_ref().element();
    let object = match element {
        Value::Object(object) => object,
        Value::Null => return Err(StepError::Null),
        _ => return Err(StepError::NotMap),
    };
    let mut key = Vec::with_capacity(2);
    for name in field.list_map_keys() {
        let default = || element_type?.field(name)?.key_default();
        // An element without a key field differs from an element with the field.
        let atom = match object.get(name) {
            Some(value) => PathValue::from_value(value),
            None => match default() {
                Some(text) => default_atom(text),
                None => continue,
            },
        };
        key.push((Cow::Borrowed(name), atom));
    }
    if key.is_empty() {
        let names: Vec<String> = field
            .list_map_keys()
            .map(|name| format!("{name:?}"))
            .collect();
        return Err(StepError::NoKey(names.join(" ")));
    }
    key.sort_unstable();
    Ok(PathElement::Key(key))
}
