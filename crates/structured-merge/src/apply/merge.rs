//! The merge of an applied value into the live value.

use json_tree::{Map, Value};

use super::form::MergeForm;
use super::merge_list;

/// The merge of a live and an applied value: an applied value replaces the live value, other values stay. A null does
/// not change a list or map, but replaces any other value.
pub(super) fn merge(
    form: MergeForm<'_>,
    live: Option<&Value>,
    applied: Option<&Value>,
) -> Option<Value> {
    let merged = match form {
        MergeForm::Struct(_) | MergeForm::Map(_) | MergeForm::Open => entries(form, live, applied),
        MergeForm::Set | MergeForm::Keyed(_) => merge_list::merge(form, live, applied),
        MergeForm::Leaf => None,
    };
    merged.or_else(|| applied.or(live).cloned())
}

/// `None` if neither value has entries, or a value is not an object.
fn entries(form: MergeForm<'_>, live: Option<&Value>, applied: Option<&Value>) -> Option<Value> {
    let (live, applied) = (object(live)?, object(applied)?);
    let names = |object: Option<&Map<String, Value>>| object.map_or(0, Map::len);
    let count = names(live) + names(applied);
    if count == 0 {
        return None;
    }
    let mut merged = Map::with_capacity(count);
    for (name, value) in live.into_iter().flatten() {
        let applied = applied.and_then(|applied| applied.get(name));
        if let Some(value) = merge(form.entry(name).0, Some(value), applied) {
            merged.insert(name.clone(), value);
        }
    }
    for (name, value) in applied.into_iter().flatten() {
        if live.is_some_and(|live| live.contains_key(name)) {
            continue;
        }
        if let Some(value) = merge(form.entry(name).0, None, Some(value)) {
            merged.insert(name.clone(), value);
        }
    }
    Some(Value::Object(merged))
}

/// `None` for a value that is not an object; an absent value and null count as an absent object.
#[expect(
    clippy::option_option,
    reason = "no object, and none at all, are two things"
)]
fn object(value: Option<&Value>) -> Option<Option<&Map<String, Value>>> {
    match value {
        None | Some(Value::Null) => Some(None),
        Some(Value::Object(object)) => Some(Some(object)),
        Some(_) => None,
    }
}
