//! Copying of parts between two versions of one object.

use json_text::member;
use json_tree::{Map, Value};

/// Removes a top-level field of an object, for instance `status`.
pub(crate) fn remove(object: &mut Value, part: &str) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove(part);
    }
}

/// Restores a top-level field from the old object. A field that did not change is not copied.
pub(crate) fn restore(object: &mut Value, old: &Value, part: &str) {
    match (object.as_object_mut(), old.get(part)) {
        (Some(map), Some(value)) if map.get(part) == Some(value) => {}
        (Some(map), Some(value)) => {
            map.insert(part.to_owned(), value.clone());
        }
        (Some(map), None) => {
            map.shift_remove(part);
        }
        (None, _) => {}
    }
}

/// Restores everything except the named top-level parts. A part that did not change is not copied.
pub(crate) fn restore_all_but(object: &mut Value, old: &Value, part_names: &[&str]) {
    let Some(before) = old.as_object() else {
        old.clone_into(object);
        return;
    };
    let mut sent = object
        .as_object_mut()
        .map(std::mem::take)
        .unwrap_or_default();
    let mut restored = Map::with_capacity(before.len() + part_names.len());
    for (part, value) in before {
        let entry = sent.swap_remove_entry(part);
        match entry {
            Some((part, sent_value))
                if part_names.contains(&part.as_str()) || sent_value == *value =>
            {
                restored.insert(part, sent_value);
            }
            _ if part_names.contains(&part.as_str()) => {}
            _ => {
                restored.insert(part.clone(), value.clone());
            }
        }
    }
    for part in part_names {
        if let Some((part, sent_value)) = sent.swap_remove_entry(*part) {
            restored.insert(part, sent_value);
        }
    }
    *object = Value::Object(restored);
}

/// The map at `key`; created if missing. `None` if the value is not a map.
pub(crate) fn entry<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let map = value.as_object_mut()?;
    let child = map
        .entry(key)
        .or_insert_with(|| Value::Object(json_tree::Map::new()));
    child.is_object().then_some(child)
}

/// Sets `key` if it has no value.
pub(crate) fn fill(value: &mut Value, key: &str, default: impl Into<Value>) {
    if member(value, key).is_null()
        && let Some(map) = value.as_object_mut()
    {
        map.insert(key.to_owned(), default.into());
    }
}

/// Sets `key`, if the value is a map.
pub(crate) fn set(value: &mut Value, key: &str, new: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), new.into());
    }
}

/// Appends an element to the list at `key`; the list is created if missing.
pub(crate) fn push(value: &mut Value, key: &str, element: Value) {
    match value.get_mut(key) {
        Some(Value::Array(list)) => list.push(element),
        _ => set(value, key, vec![element]),
    }
}

/// The elements of the list at `key`, mutable.
pub(crate) fn each<'a>(
    value: &'a mut Value,
    key: &str,
) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn only_the_named_parts_are_those_of_the_new_object() {
        let old = json!({"kind": "K", "spec": {"a": 1}, "data": 0, "status": {"b": 1}});
        for (new, expected) in [
            (
                json!({"status": {"b": 2}, "kind": "K", "metadata": {}, "spec": {"a": 1}, "x": 1}),
                json!({"kind": "K", "spec": {"a": 1}, "data": 0, "status": {"b": 2},
                    "metadata": {}}),
            ),
            (
                json!({"spec": {"a": 2}, "data": 0}),
                json!({"kind": "K", "spec": {"a": 1}, "data": 0}),
            ),
            (json!(1), json!({"kind": "K", "spec": {"a": 1}, "data": 0})),
        ] {
            let mut object = new;
            restore_all_but(&mut object, &old, &["status", "metadata"]);
            assert_eq!(object.to_string(), expected.to_string());
        }
    }
}
