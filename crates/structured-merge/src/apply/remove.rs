//! Removal of fields from a value.

use json_tree::{Map, Value};

use super::form::MergeForm;
use super::items;
use super::path::PathElement;
use super::set::FieldSet;

/// The value without the fields of the set. A value without remaining children becomes null, which differs from both
/// an existing value and an intended empty value.
pub(super) fn remove(form: MergeForm<'_>, value: &Value, set: &FieldSet<'_>) -> Value {
    match (form, value) {
        (MergeForm::Struct(_) | MergeForm::Map(_) | MergeForm::Open, Value::Object(object)) => {
            entries(form, object, set)
        }
        (MergeForm::Set | MergeForm::Keyed(_), Value::Array(list)) => elements(form, list, set),
        _ => value.clone(),
    }
}

fn entries(form: MergeForm<'_>, object: &Map<String, Value>, set: &FieldSet<'_>) -> Value {
    let mut left = Map::with_capacity(object.len());
    for (name, value) in object {
        let value = match set.node(&PathElement::Field(name.into())) {
            None => value.clone(),
            Some(node) if node.member => continue,
            Some(node) => remove(form.entry(name).0, value, &node.below),
        };
        left.insert(name.clone(), value);
    }
    if left.is_empty() {
        Value::Null
    } else {
        Value::Object(left)
    }
}

fn elements(form: MergeForm<'_>, list: &[Value], set: &FieldSet<'_>) -> Value {
    let mut left = Vec::with_capacity(list.len());
    for element in list {
        let node = items::step(&form, element).ok();
        let node = node.and_then(|step| set.node(&step));
        left.push(match node {
            None => element.clone(),
            Some(node) if node.member => continue,
            Some(node) => remove(form.element(), element, &node.below),
        });
    }
    if left.is_empty() {
        Value::Null
    } else {
        Value::Array(left)
    }
}
