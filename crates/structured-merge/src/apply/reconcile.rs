//! Managed fields from a time before a list or map became atomic: a manager of its entries becomes an owner of the
//! whole value. (If an atomic value becomes granular, the next writers of its entries own them, as upstream.) Only
//! the types of custom kinds change in this way while objects exist.

use super::form::MergeForm;
use super::managers::Managers;
use super::path::PathElement;
use super::set::{FieldSet, Node};
use super::versions::ObjectType;

/// Converts the managed fields of a custom resource to the present schema.
pub(super) fn reconcile(managers: &mut Managers<'_>, object_type: &ObjectType<'_>, written: &str) {
    if !object_type.base_type.is_custom() {
        return;
    }
    for entry in managers.0.values_mut() {
        if let Some(form) = object_type.form_in(&entry.api_version, written) {
            let fields = settled(form, entry.fields());
            entry.set_fields(fields);
        }
    }
}

fn settled<'a>(form: MergeForm<'_>, set: &FieldSet<'a>) -> FieldSet<'a> {
    let nodes = set.nodes().iter().map(|node| {
        let (below, type_below) = match &node.step {
            PathElement::Field(name) => {
                let (below, field) = form.entry(name);
                (below, field.is_some() || matches!(form, MergeForm::Map(_)))
            }
            _ => (form.element(), form.is_list()),
        };
        let is_whole = type_below && matches!(below, MergeForm::Leaf) && !node.below.is_empty();
        Node {
            step: node.step.clone(),
            member: node.member || is_whole,
            below: match (is_whole, type_below) {
                (true, _) => FieldSet::default(),
                (false, true) => settled(below, &node.below),
                (false, false) => node.below.clone(),
            },
        }
    });
    FieldSet::from_nodes(nodes.collect())
}
