//! The check of an applied object against the schema of its type.

use std::collections::BTreeSet;

use json_tree::{Map, Value};

use super::form::MergeForm;
use super::items;
use super::path::PathElement;

/// The errors of an applied value, in upstream's words: `.spec.x: field not declared in schema`.
/// Scalars are checked by the kind's decoder.
pub(super) fn problems(form: MergeForm<'_>, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(form, value, "", &mut found);
    found
}

fn walk(form: MergeForm<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
    let report = |found: &mut Vec<String>, text: String| {
        found.push(if path.is_empty() {
            text
        } else {
            format!("{path}: {text}")
        });
    };
    match (form, value) {
        (MergeForm::Leaf | MergeForm::Open, _) | (_, Value::Null) => {}
        (MergeForm::Struct(_) | MergeForm::Map(_), Value::Object(object)) => {
            entries(form, object, path, found);
        }
        (MergeForm::Struct(_) | MergeForm::Map(_), other) => {
            report(found, format!("expected map, got {other}"));
        }
        (MergeForm::Set | MergeForm::Keyed(_), Value::Array(list)) => {
            elements(form, list, path, found)
        }
        (MergeForm::Set | MergeForm::Keyed(_), other) => {
            report(found, format!("expected list, got {other}"));
        }
    }
}

fn entries(form: MergeForm<'_>, object: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    for (name, value) in object {
        let here = format!("{path}{}", PathElement::Field(name.into()));
        let (entry, field) = form.entry(name);
        if field.is_none() && matches!(form, MergeForm::Struct(_)) {
            found.push(format!("{here}: field not declared in schema"));
            continue;
        }
        walk(entry, value, &here, found);
    }
}

fn elements(form: MergeForm<'_>, list: &[Value], path: &str, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, element) in list.iter().enumerate() {
        let step = match items::step(&form, element) {
            Ok(step) => step,
            Err(text) => {
                found.push(format!("{path}: element {index}: {text}"));
                return;
            }
        };
        walk(form.element(), element, &format!("{path}{step}"), found);
        let shown = step.to_string();
        if !seen.insert(step) {
            found.push(format!("{path}: duplicate entries for key {shown}"));
        }
    }
}
