//! The check of an applied object against the schema of its type.

use std::collections::BTreeSet;

use json_tree::{Map, Value};

use super::form::MergeForm;
use super::items;
use super::path::PathElement;

/// The errors of an applied value, with upstream's texts: `.spec.x: field not declared in schema`. The kind's decoder
/// checks scalars.
pub(super) fn problems(form: MergeForm<'_>, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    walk(form, value, "", &mut errors);
    errors
}

fn walk(form: MergeForm<'_>, value: &Value, path: &str, errors: &mut Vec<String>) {
    let report = |errors: &mut Vec<String>, text: String| {
        errors.push(if path.is_empty() {
            text
        } else {
            format!("{path}: {text}")
        });
    };
    match (form, value) {
        (MergeForm::Leaf | MergeForm::Open, _) | (_, Value::Null) => {}
        (MergeForm::Struct(_) | MergeForm::Map(_), Value::Object(object)) => {
            entries(form, object, path, errors);
        }
        (MergeForm::Struct(_) | MergeForm::Map(_), other) => {
            report(errors, format!("expected map, got {other}"));
        }
        (MergeForm::Set | MergeForm::Keyed(_), Value::Array(list)) => {
            elements(form, list, path, errors)
        }
        (MergeForm::Set | MergeForm::Keyed(_), other) => {
            report(errors, format!("expected list, got {other}"));
        }
    }
}

fn entries(form: MergeForm<'_>, object: &Map<String, Value>, path: &str, errors: &mut Vec<String>) {
    for (name, value) in object {
        let here = format!("{path}{}", PathElement::Field(name.into()));
        let (entry, field) = form.entry(name);
        if field.is_none() && matches!(form, MergeForm::Struct(_)) {
            errors.push(format!("{here}: field not declared in schema"));
            continue;
        }
        walk(entry, value, &here, errors);
    }
}

fn elements(form: MergeForm<'_>, list: &[Value], path: &str, errors: &mut Vec<String>) {
    let mut steps = BTreeSet::new();
    for (index, element) in list.iter().enumerate() {
        let step = match items::step(&form, element) {
            Ok(step) => step,
            Err(error) => {
                errors.push(format!("{path}: element {index}: {error}"));
                return;
            }
        };
        walk(form.element(), element, &format!("{path}{step}"), errors);
        let path_text = step.to_string();
        if !steps.insert(step) {
            errors.push(format!("{path}: duplicate entries for key {path_text}"));
        }
    }
}
