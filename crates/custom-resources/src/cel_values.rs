//! Values of an object in CEL, typed by the schema.

use std::sync::Arc;

use cel::Value as Cel;
use cel::objects::{Key, Map as CelMap};
use cel_checker::{escape, is_reserved};
use json_tree::{Map, Value};

use crate::schema::{Schema, Type};

/// The CEL value of a part of an object.
pub(crate) fn typed(value: &Value, schema: Option<&Schema>) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => typed_number(number, schema),
        Value::String(text) => typed_text(text, schema),
        Value::Array(items) => {
            let below = schema.and_then(|schema| schema.items.as_deref());
            let items = items.iter().map(|item| typed(item, below)).collect();
            Cel::List(Arc::new(items))
        }
        Value::Object(map) => typed_map(map, schema),
    }
}

fn typed_number(number: &json_tree::Number, schema: Option<&Schema>) -> Cel {
    let float = schema.is_some_and(|schema| schema.kind == Some(Type::Number));
    match number.as_i64() {
        Some(whole) if !float => Cel::Int(whole),
        _ => {
            let value = number.as_f64().unwrap_or_default();
            let integer = schema.is_some_and(|schema| schema.kind == Some(Type::Integer));
            match integer.then(|| format!("{value:.0}").parse::<i64>().ok()) {
                Some(Some(whole)) => Cel::Int(whole),
                _ => Cel::Float(value),
            }
        }
    }
}

fn typed_text(text: &str, schema: Option<&Schema>) -> Cel {
    let format = schema.and_then(|schema| schema.limits.format.as_deref());
    let parsed = match format {
        Some("date-time") => time(text),
        Some("date") => time(&format!("{text}T00:00:00Z")),
        Some("duration") => cel_duration(text),
        _ => None,
    };
    parsed.unwrap_or_else(|| Cel::String(Arc::new(text.to_owned())))
}

fn time(text: &str) -> Option<Cel> {
    chrono::DateTime::parse_from_rfc3339(text)
        .ok()
        .map(Cel::Timestamp)
}

fn cel_duration(text: &str) -> Option<Cel> {
    nanoseconds(text).map(|nanos| Cel::Duration(chrono::Duration::nanoseconds(nanos)))
}

/// The nanoseconds of a duration such as `1h15m30.5s`.
fn nanoseconds(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let unit = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    format!("{:.0}", sign * total)
        .parse()
        .ok()
        .filter(|_| !text.is_empty())
}

/// Fields in the schema have escaped names in expressions; keys of maps have their own names. The field of a reserved
/// word has both names.
fn typed_map(map: &Map<String, Value>, schema: Option<&Schema>) -> Cel {
    let entries = map.iter().flat_map(|(name, value)| {
        let named = schema.is_some_and(|schema| schema.properties.contains_key(name));
        let key = if named {
            escape(name)
        } else {
            Some(name.clone())
        };
        let reserved = (named && is_reserved(name)).then(|| name.clone());
        let below = schema.and_then(|schema| schema.field(name));
        let value = typed(value, below);
        let entry = move |key| (Key::String(Arc::new(key)), value.clone());
        key.into_iter().chain(reserved).map(entry)
    });
    Cel::Map(CelMap {
        map: Arc::new(entries.collect()),
    })
}

/// The number of values in a tree.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 1,
        Value::Object(map) => map.values().map(size).sum::<usize>() + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(nanoseconds("1h1.5s"), Some(3_601_500_000_000));
        assert_eq!(nanoseconds("-2ms"), Some(-2_000_000));
        assert_eq!(nanoseconds("5"), None);
        assert_eq!(nanoseconds(""), None);
    }

    #[test]
    fn fields_of_reserved_words_have_two_names() {
        let schema = json!({"properties": {"if": {"type": "integer"}, "x-y": {"type": "integer"}}});
        let object = json!({"if": 1, "x-y": 2});
        let Cel::Map(map) = typed(&object, Some(&Schema::parse(&schema))) else {
            panic!("not a map");
        };
        for (name, expected) in [
            ("if", Some(1)),
            ("__if__", Some(1)),
            ("x__dash__y", Some(2)),
            ("x-y", None),
        ] {
            let key = Key::String(Arc::new(name.to_owned()));
            let value = map.map.get(&key).cloned();
            assert_eq!(value, expected.map(Cel::Int), "{name}");
        }
    }
}
