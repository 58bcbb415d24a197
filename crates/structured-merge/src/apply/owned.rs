//! The fields that the applier of a value owns.

use std::collections::BTreeMap;

use json_tree::{Map, Value};

use super::form::MergeForm;
use super::items;
use super::path::PathElement;
use super::set::{FieldSet, Node};

/// The fields below a value; and whether the value itself is a field, because it has no parts.
pub(super) fn fields_of<'v>(form: MergeForm<'v>, value: &'v Value) -> (FieldSet<'v>, bool) {
    match (form, value) {
        (_, Value::Null) => (FieldSet::default(), true),
        (MergeForm::Struct(_) | MergeForm::Map(_) | MergeForm::Open, Value::Object(object)) => {
            (of_entries(form, object), object.is_empty())
        }
        (MergeForm::Set | MergeForm::Keyed(_), Value::Array(list)) => {
            (of_elements(form, list), false)
        }
        _ => (FieldSet::default(), true),
    }
}

fn of_entries<'v>(form: MergeForm<'v>, object: &'v Map<String, Value>) -> FieldSet<'v> {
    let nodes = object.iter().map(|(name, value)| {
        let (entry, field) = form.entry(name);
        let (below, leaf) = fields_of(entry, value);
        Node {
            step: PathElement::Field(name.into()),
            // A field with children is not owned separately; an entry of a map is.
            member: leaf || field.is_none(),
            below,
        }
    });
    FieldSet::from_nodes(nodes.collect())
}

fn of_elements<'v>(form: MergeForm<'v>, list: &'v [Value]) -> FieldSet<'v> {
    let mut elements: BTreeMap<PathElement<'v>, Vec<&'v Value>> = BTreeMap::new();
    for element in list {
        // An element without a key cannot be owned.
        if let Ok(step) = items::step(&form, element) {
            elements.entry(step).or_default().push(element);
        }
    }
    let nodes = elements.into_iter().map(|(step, same)| {
        // Elements with equal keys are owned together.
        let below = match same.as_slice() {
            [one] => fields_of(form.element(), one).0,
            _ => FieldSet::default(),
        };
        Node {
            step,
            member: true,
            below,
        }
    });
    FieldSet::from_nodes(nodes.collect())
}

/// The set, extended by the structure fields on the path to its members, which sets omit.
pub(super) fn with_named_fields<'a>(set: &FieldSet<'a>, form: MergeForm<'_>) -> FieldSet<'a> {
    let nodes = set.nodes().iter().map(|node| {
        let (below, named) = match &node.step {
            PathElement::Field(name) => {
                let (below, field) = form.entry(name);
                (below, field.is_some())
            }
            _ => (form.element(), false),
        };
        Node {
            step: node.step.clone(),
            member: node.member || (named && !node.below.is_empty()),
            below: with_named_fields(&node.below, below),
        }
    });
    FieldSet::from_nodes(nodes.collect())
}
