//! Copying of parts between two versions of one object.

use serde_json::Value;

/// Removes a top-level part.
pub(crate) fn remove(object: &mut Value, part: &str) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove(part);
    }
}

/// Restores a top-level part.
pub(crate) fn restore(object: &mut Value, old: &Value, part: &str) {
    match (object.as_object_mut(), old.get(part)) {
        (Some(map), Some(value)) => {
            map.insert(part.to_owned(), value.clone());
        }
        (Some(map), None) => {
            map.shift_remove(part);
        }
        (None, _) => {}
    }
}

/// Restores everything except the named top-level parts.
pub(crate) fn restore_all_but(object: &mut Value, old: &Value, kept: &[&str]) {
    let mut result = old.clone();
    for part in kept {
        restore(&mut result, object, part);
    }
    *object = result;
}

/// The map at `key`, made if it is not there; `None` if the value is no map.
pub(crate) fn entry<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let map = value.as_object_mut()?;
    let child = map
        .entry(key)
        .or_insert_with(|| Value::Object(serde_json::Map::new()));
    child.is_object().then_some(child)
}

/// Gives `key` a value if it has none.
pub(crate) fn fill(value: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(map) = value.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), default.into());
    }
}

/// Sets `key`, where the value is a map.
pub(crate) fn set(value: &mut Value, key: &str, new: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), new.into());
    }
}

/// The elements of the list at `key`, for changing them.
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
