//! The identity of list elements.

use std::borrow::Cow;

use json_tree::Value;

use super::form::MergeForm;
use super::path::{PathElement, PathValue};

/// The step to an element of a list of this form.
///
/// # Errors
/// Upstream's text if the element cannot be distinguished from other elements.
pub(super) fn step<'v>(
    list: &MergeForm<'v>,
    element: &'v Value,
) -> Result<PathElement<'v>, String> {
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

fn value(element: &Value) -> Result<PathElement<'_>, String> {
    let text = match element {
        Value::Object(_) => "associative list without keys has an element that's a map type",
        Value::Array(_) => "not supported: associative list with lists as elements",
        Value::Null => "associative list without keys has an element that's an explicit null",
        scalar => return Ok(PathElement::Value(PathValue::of(scalar))),
    };
    Err(text.to_owned())
}

fn key<'v>(list: &MergeForm<'v>, element: &'v Value) -> Result<PathElement<'v>, String> {
    let MergeForm::Keyed(field) = list else {
        return Err("invalid indexing of non-associative list".to_owned());
    };
    let element_type = field.type_ref().element();
    let object = match element {
        Value::Object(object) => object,
        Value::Null => {
            return Err("associative list with keys may not have a null element".to_owned());
        }
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let mut key = Vec::with_capacity(2);
    for name in field.list_map_keys() {
        let default = || element_type?.field(name)?.key_default();
        // An element without a key field differs from an element with the field.
        let atom = match object.get(name) {
            Some(value) => PathValue::of(value),
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
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and \
             doesn't have default values for any key fields)",
            names.join(" ")
        ));
    }
    key.sort_unstable();
    Ok(PathElement::Key(key))
}
