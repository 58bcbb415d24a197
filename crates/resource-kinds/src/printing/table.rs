//! Common columns of tables.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::duration;

use super::{Cell, Column};

/// A column that is always displayed.
pub const fn column(name: &'static str, description: &'static str) -> Column<'static> {
    Column {
        name,
        kind: "string",
        format: "",
        description,
        priority: 0,
    }
}

/// A column that only `-o wide` displays.
pub(crate) const fn wide(name: &'static str, description: &'static str) -> Column<'static> {
    Column {
        priority: 1,
        ..column(name, description)
    }
}

/// A column of whole numbers.
pub(crate) const fn number(name: &'static str, description: &'static str) -> Column<'static> {
    Column {
        kind: "integer",
        ..column(name, description)
    }
}

/// The first column of every table.
pub const NAME: Column<'static> = Column {
    format: "name",
    ..column("Name", "Name of the object, unique in its namespace.")
};

pub(crate) const AGE: Column<'static> = column("Age", "Time since the object was created.");

pub(crate) fn name(object: &Value) -> Cell {
    object["metadata"]["name"].clone()
}

/// The cell with the time since the object's creation, for instance `5m`.
pub(crate) fn age(object: &Value, now: Timestamp) -> Cell {
    since(&object["metadata"]["creationTimestamp"], now)
}

/// The cell with the time since a moment, for instance `5m`.
pub(crate) fn since(moment: &Value, now: Timestamp) -> Cell {
    json!(duration::age(moment.as_str(), now))
}

/// The text, or a placeholder if it is absent.
pub(crate) fn text_or(value: &Value, none: &str) -> Cell {
    match value.as_str() {
        Some(text) if !text.is_empty() => json!(text),
        _ => json!(none),
    }
}

/// The number of entries of a list or map.
pub(crate) fn count(value: &Value) -> i64 {
    let entries = match value {
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    i64::try_from(entries).unwrap_or(i64::MAX)
}

/// The short forms of access modes in the tables of volumes and claims.
pub(crate) fn access_modes(modes: &Value) -> String {
    let order = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has_mode = |mode: &str| {
        let list = modes.as_array().map_or(&[][..], Vec::as_slice);
        list.iter().any(|m| m.as_str() == Some(mode))
    };
    let short: Vec<&str> = order
        .iter()
        .filter(|(mode, _)| has_mode(mode))
        .map(|(_, short)| *short)
        .collect();
    short.join(",")
}

/// `key=value` pairs of a map of labels, sorted.
pub(crate) fn labels(map: &Value) -> String {
    let Some(map) = map.as_object().filter(|map| !map.is_empty()) else {
        return "<none>".to_owned();
    };
    let mut pairs: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    pairs.join(",")
}
