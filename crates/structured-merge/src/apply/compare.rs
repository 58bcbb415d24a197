//! The difference of two objects, field by field.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use json_tree::{Map, Value};
use openapi_documents::{FieldRef, Shape};

use super::form::MergeForm;
use super::items;
use super::path::PathElement;
use super::set::{FieldSet, Node};

/// The differences; no field is in more than one of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes<'a> {
    pub removed: FieldSet<'a>,
    pub modified: FieldSet<'a>,
    pub added: FieldSet<'a>,
}

impl<'a> Changes<'a> {
    /// The changed fields, and the removed fields.
    pub fn split(self) -> (FieldSet<'a>, FieldSet<'a>) {
        let set = match (self.modified.is_empty(), self.added.is_empty()) {
            (true, _) => self.added,
            (_, true) => self.modified,
            _ => self.modified.joined(self.added),
        };
        (set, self.removed)
    }

    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    pub fn retain_top(&mut self, predicate: impl Fn(&str) -> bool) {
        for set in [&mut self.removed, &mut self.modified, &mut self.added] {
            set.retain_top(&predicate);
        }
    }
}

/// The changes from one object to another.
pub(super) fn compare<'a>(form: MergeForm<'a>, old: &'a Value, new: &'a Value) -> Changes<'a> {
    changes(form, Some(old), Some(new)).1
}

/// The change of the value itself, without its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Removed,
    Modified,
    Added,
}

type Side<'a> = Option<&'a Value>;

fn changes<'a>(form: MergeForm<'a>, old: Side<'a>, new: Side<'a>) -> (Change, Changes<'a>) {
    match (old, new) {
        (None, Some(new)) => {
            let added = all(form, new);
            let parts = Changes {
                added,
                ..Changes::default()
            };
            return (Change::Added, parts);
        }
        (Some(old), None) => {
            let removed = all(form, old);
            let parts = Changes {
                removed,
                ..Changes::default()
            };
            return (Change::Removed, parts);
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let parts = match form {
        _ if form.is_list() => lists(form, old, new),
        _ if form.has_entries() => entries(form, old, new),
        _ => None,
    };
    match parts {
        Some(parts) => (Change::None, parts),
        // An atomic value, or two values without children (an empty value and an absent value differ).
        None if old != new => (Change::Modified, Changes::default()),
        None => (Change::None, Changes::default()),
    }
}

/// All fields below a value that exists on one side only.
fn all<'a>(form: MergeForm<'a>, value: &'a Value) -> FieldSet<'a> {
    let member = |step, below| Node {
        step,
        member: true,
        below,
    };
    let nodes = match value {
        Value::Array(list) if form.is_list() => {
            let steps = list.iter().filter_map(|element| {
                let step = items::step(&form, element).ok()?;
                Some((step, element))
            });
            let mut elements: Vec<_> = steps.collect();
            elements.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            let mut nodes: Vec<Node<'a>> = Vec::with_capacity(elements.len());
            for (step, element) in elements {
                match nodes.last_mut() {
                    // Several elements with one key count as one atomic value.
                    Some(last) if last.step == step => last.below = FieldSet::default(),
                    _ => nodes.push(member(step, all(form.element(), element))),
                }
            }
            nodes
        }
        Value::Object(map) if form.has_entries() => {
            let entries = map.iter().map(|(name, value)| {
                let (entry, _) = form.entry(name);
                member(PathElement::Field(name.into()), all(entry, value))
            });
            entries.collect()
        }
        _ => Vec::new(),
    };
    FieldSet::from_nodes(nodes)
}

/// The changes of an object's entries; `None` if neither side has entries.
fn entries<'a>(form: MergeForm<'a>, old: Side<'a>, new: Side<'a>) -> Option<Changes<'a>> {
    let (before, after) = (object(old)?, object(new)?);
    if before.is_empty() && after.is_empty() {
        return None;
    }
    let mut collected = Collected::default();
    for (name, value) in before {
        let (entry, field) = form.entry(name);
        let after = after.get(name).or_else(|| value_in(new, field));
        let (change, parts) = changes(entry, Some(value), after);
        collected.add(|| PathElement::Field(name.into()), change, parts);
    }
    for (name, value) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        let (entry, field) = form.entry(name);
        let (change, parts) = changes(entry, value_in(old, field), Some(value));
        collected.add(|| PathElement::Field(name.into()), change, parts);
    }
    Some(collected.finish())
}

/// The entries of an object; empty for null or an absent value, `None` for any other value.
fn object<'a>(side: Side<'a>) -> Option<&'a Map<String, Value>> {
    static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    match side {
        None | Some(Value::Null) => Some(&NOTHING),
        Some(Value::Object(object)) => Some(object),
        Some(_) => None,
    }
}

/// The value of upstream's types for an absent JSON value. It is never added or removed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AbsentValue {
    /// An embedded structure, which is always present, without fields.
    Object,
    /// The null of a required list or map.
    Null,
}

/// The value of an absent field in an object.
pub(super) fn stand_in(
    parent: Option<AbsentValue>,
    field: Option<FieldRef<'_>>,
) -> Option<AbsentValue> {
    let field = field.filter(|_| parent == Some(AbsentValue::Object))?;
    if field.is_always_there() {
        return Some(AbsentValue::Object);
    }
    let parts = !matches!(field.type_ref().shape(), Shape::Scalar | Shape::Any);
    (field.is_required() && parts).then_some(AbsentValue::Null)
}

/// As [`stand_in`], for a parent that may not be an object.
fn value_in<'a>(parent: Side<'a>, field: Option<FieldRef<'_>>) -> Side<'a> {
    static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    let parent = parent.filter(|parent| parent.is_object());
    match stand_in(parent.map(|_| AbsentValue::Object), field)? {
        AbsentValue::Object => Some(&EMPTY),
        AbsentValue::Null => Some(&Value::Null),
    }
}

/// The changes of a list's elements; `None` if neither side has elements.
fn lists<'a>(form: MergeForm<'a>, old: Side<'a>, new: Side<'a>) -> Option<Changes<'a>> {
    let (before, after) = (list(old)?, list(new)?);
    if before.is_empty() && after.is_empty() {
        return None;
    }
    if before == after {
        return Some(Changes::default());
    }
    let mut elements: BTreeMap<PathElement<'a>, (Vec<&'a Value>, Vec<&'a Value>)> = BTreeMap::new();
    for element in before {
        if let Ok(step) = items::step(&form, element) {
            elements.entry(step).or_default().0.push(element);
        }
    }
    for element in after {
        if let Ok(step) = items::step(&form, element) {
            elements.entry(step).or_default().1.push(element);
        }
    }
    let mut collected = Collected::default();
    for (step, (before, after)) in elements {
        let (change, parts) = same_key(form.element(), &before, &after);
        collected.add(|| step, change, parts);
    }
    Some(collected.finish())
}

/// The changes of the elements with one key. Several elements count as one value, which is added and removed as a
/// whole.
fn same_key<'a>(
    form: MergeForm<'a>,
    old: &[&'a Value],
    new: &[&'a Value],
) -> (Change, Changes<'a>) {
    match (old, new) {
        ([] | [_], [] | [_]) => changes(form, old.first().copied(), new.first().copied()),
        ([_, _, ..], [_, _, ..]) if old == new => (Change::None, Changes::default()),
        ([_, _, ..], [_, _, ..]) => (Change::Modified, Changes::default()),
        ([_, _, ..], []) => (Change::Removed, Changes::default()),
        ([_, _, ..], [one]) => {
            let (_, parts) = changes(form, None, Some(one));
            (Change::Modified, parts)
        }
        ([], _) => (Change::Added, Changes::default()),
        ([one], _) => {
            let (_, parts) = changes(form, Some(one), None);
            (Change::Modified, parts)
        }
    }
}

fn list<'a>(side: Side<'a>) -> Option<&'a [Value]> {
    match side {
        None | Some(Value::Null) => Some(&[]),
        Some(Value::Array(list)) => Some(list),
        Some(_) => None,
    }
}

/// The nodes of the three sets, collected during the comparison.
#[derive(Default)]
struct Collected<'a> {
    removed: Vec<Node<'a>>,
    modified: Vec<Node<'a>>,
    added: Vec<Node<'a>>,
}

impl<'a> Collected<'a> {
    fn add(&mut self, step: impl FnOnce() -> PathElement<'a>, change: Change, parts: Changes<'a>) {
        if change == Change::None && parts.is_empty() {
            return;
        }
        let step = step();
        for (nodes, kind, below) in [
            (&mut self.removed, Change::Removed, parts.removed),
            (&mut self.modified, Change::Modified, parts.modified),
            (&mut self.added, Change::Added, parts.added),
        ] {
            let member = change == kind;
            if member || !below.is_empty() {
                nodes.push(Node {
                    step: step.clone(),
                    member,
                    below,
                });
            }
        }
    }

    fn finish(self) -> Changes<'a> {
        Changes {
            removed: FieldSet::from_nodes(self.removed),
            modified: FieldSet::from_nodes(self.modified),
            added: FieldSet::from_nodes(self.added),
        }
    }
}
