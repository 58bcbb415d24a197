//! Values of an object in CEL, typed by the schema.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cel_checker::{escape, is_reserved};
use cel_evaluator::{Key, List, ListKind, Time, Value as Cel, nanoseconds};
use json_tree::{Map, Value};

use crate::schema::{ListType, Schema, Type};

/// The CEL value of a part of an object.
pub(crate) fn typed(value: &Value, schema: Option<&Schema>) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => typed_number(number, schema),
        Value::String(text) => typed_text(text, schema),
        Value::Array(items) => {
            let below = schema.and_then(|schema| schema.items.as_deref());
            Cel::List(Arc::new(List {
                items: items.iter().map(|item| typed(item, below)).collect(),
                kind: schema.map_or(ListKind::Atomic, list_kind),
            }))
        }
        Value::Object(map) => typed_map(map, schema),
    }
}

/// How a list is compared and added.
fn list_kind(schema: &Schema) -> ListKind {
    match &schema.list_type {
        ListType::Atomic => ListKind::Atomic,
        ListType::Set => {
            cov_mark::hit!(findings_2_e6);
            ListKind::Set
        }
        ListType::Map(keys) => {
            let keys = keys.iter().filter_map(|key| escape(key));
            ListKind::Keyed(keys.map(Arc::from).collect())
        }
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
                _ => Cel::Double(value),
            }
        }
    }
}

/// A text whose format has a type of its own. A text that does not have its format stays a text.
fn typed_text(text: &str, schema: Option<&Schema>) -> Cel {
    let format = schema.and_then(|schema| schema.limits.format.as_deref());
    let parsed = match format {
        Some("byte") => STANDARD.decode(text).ok().map(|bytes| Cel::bytes(&bytes)),
        Some("date-time") => Time::parse(text).map(Cel::Timestamp),
        Some("date") => Time::parse(&format!("{text}T00:00:00Z")).map(Cel::Timestamp),
        Some("duration") => nanoseconds(text).map(Cel::Duration),
        _ => None,
    };
    parsed.unwrap_or_else(|| Cel::text(text))
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
        let entry = move |key: String| (Key::text(&key), value.clone());
        key.into_iter().chain(reserved).map(entry)
    });
    Cel::map(entries.collect())
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

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
            let number = match map.get(&Key::text(name)) {
                Some(Cel::Int(number)) => Some(*number),
                _ => None,
            };
            assert_eq!(number, expected, "{name}");
        }
    }

    // findings-2 E6
    #[test]
    fn formats_and_lists_have_the_types_of_the_schema() {
        cov_mark::check!(findings_2_e6);
        let schema = json!({"properties": {"bytes": {"type": "string", "format": "byte"},
            "time": {"type": "string", "format": "date-time"}, "day": {"type": "string", "format": "date"},
            "period": {"type": "string", "format": "duration"}, "ratio": {"type": "number"},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}});
        let object = json!({"bytes": "aGVsbG8=", "time": "2023-01-02T03:04:05Z", "day": "2023-01-02",
            "period": "1h1.5s", "ratio": 1, "set": ["a"]});
        let Cel::Map(map) = typed(&object, Some(&Schema::parse(&schema))) else {
            panic!("not a map");
        };
        let value = |name: &str| map.get(&Key::text(name)).unwrap();
        assert!(matches!(value("bytes"), Cel::Bytes(bytes) if **bytes == *b"hello"));
        assert!(matches!(value("time"), Cel::Timestamp(_)));
        assert!(matches!(value("day"), Cel::Timestamp(_)));
        assert!(matches!(value("period"), Cel::Duration(3_601_500_000_000)));
        assert!(matches!(value("ratio"), Cel::Double(_)));
        assert!(
            matches!(value("set"), Cel::List(list) if matches!(list.kind, ListKind::Set)),
            "the list is no set"
        );
    }
}
