//! From JSON to protobuf.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use resource_kinds::api_types::{ApiTypes, Field, Shape};
use serde_json::{Map, Value};

use super::MAGIC;
use super::wire::Writer;

/// Whether objects of the kind have a protobuf form.
pub(crate) fn is_known(api_version: &str, kind: &str) -> bool {
    ApiTypes::published().of_kind(api_version, kind).is_some()
}

/// An object with its envelope; `None` for a kind that has no such form.
pub(crate) fn object(object: &Value) -> Option<Vec<u8>> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let types = ApiTypes::published();
    let name = types.of_kind(api_version, kind)?;
    let raw = message(types, name, object.as_object()?);
    Some(envelope(api_version, kind, &raw))
}

/// A list with its envelope, of objects without theirs; `None` for a kind that has no such form.
pub(crate) fn list<E>(
    (api_version, list_kind): (&str, &str),
    meta: &Value,
    items: impl Iterator<Item = Result<Value, E>>,
) -> Result<Option<Vec<u8>>, E> {
    let types = ApiTypes::published();
    let kind = list_kind.strip_suffix("List").unwrap_or(list_kind);
    let Some(name) = types.of_kind(api_version, kind) else {
        return Ok(None);
    };
    let mut raw = Writer::default();
    if let Some(meta) = meta.as_object() {
        raw.bytes(1, &message(types, "meta/v1.ListMeta", meta));
    }
    for item in items {
        if let Some(item) = item?.as_object() {
            raw.bytes(2, &message(types, name, item));
        }
    }
    Ok(Some(envelope(api_version, list_kind, &raw.0)))
}

/// One event of a watch: its length in four bytes, its type, the object with its envelope.
pub(crate) fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Writer::default();
    raw.bytes(1, object);
    let mut event = Writer::default();
    event.bytes(1, kind.as_bytes());
    event.bytes(2, &raw.0);
    let length = u32::try_from(event.0.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), event.0.as_slice()].concat()
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = Writer::default();
    type_meta.bytes(1, api_version.as_bytes());
    type_meta.bytes(2, kind.as_bytes());
    let mut unknown = Writer(MAGIC.to_vec());
    unknown.bytes(1, &type_meta.0);
    unknown.bytes(2, raw);
    // Encoding and type of the content: none in particular.
    unknown.bytes(3, b"");
    unknown.bytes(4, b"");
    unknown.0
}

fn message(types: &ApiTypes, name: &str, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Writer::default();
    for field in types.fields(name) {
        if field.json.is_empty() {
            out.bytes(field.number, &message(types, field.kind, object));
            continue;
        }
        match object.get(field.json) {
            None | Some(Value::Null) => {}
            Some(value) => write(types, field, value, &mut out),
        }
    }
    out.0
}

fn write(types: &ApiTypes, field: &Field, value: &Value, out: &mut Writer) {
    let number = field.number;
    match (field.shape, value) {
        (Shape::One, value) => one(types, field.kind, number, value, out),
        (Shape::List, Value::Array(list)) => {
            for element in list {
                one(types, field.kind, number, element, out);
            }
        }
        (Shape::Map, Value::Object(map)) => {
            for (key, value) in map {
                let mut entry = Writer::default();
                entry.bytes(1, key.as_bytes());
                one(types, field.kind, 2, value, &mut entry);
                out.bytes(number, &entry.0);
            }
        }
        // Stored objects have the form of their kind.
        _ => {}
    }
}

fn one(types: &ApiTypes, kind: &str, number: u32, value: &Value, out: &mut Writer) {
    match kind {
        "string" => out.bytes(number, text(value).as_bytes()),
        "bytes" => {
            let bytes = STANDARD.decode(text(value)).unwrap_or_default();
            out.bytes(number, &bytes);
        }
        "int32" | "int64" => out.varint(number, int(value).cast_unsigned()),
        "bool" => out.varint(number, u64::from(value.as_bool().unwrap_or_default())),
        "double" => out.double(number, value.as_f64().unwrap_or_default()),
        "Time" | "MicroTime" => out.bytes(number, &time(value)),
        "Duration" => {
            let length = text(value).parse::<SignedDuration>().unwrap_or_default();
            let nanos = i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
            let mut inner = Writer::default();
            inner.varint(1, nanos.cast_unsigned());
            out.bytes(number, &inner.0);
        }
        "Quantity" => {
            let amount = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let mut inner = Writer::default();
            inner.bytes(1, amount.as_bytes());
            out.bytes(number, &inner.0);
        }
        "Items" => {
            let mut inner = Writer::default();
            for item in value.as_array().into_iter().flatten() {
                inner.bytes(1, text(item).as_bytes());
            }
            out.bytes(number, &inner.0);
        }
        "IntOrString" => {
            let mut inner = Writer::default();
            inner.varint(1, u64::from(value.is_string()));
            inner.varint(2, int(value).cast_unsigned());
            inner.bytes(3, text(value).as_bytes());
            out.bytes(number, &inner.0);
        }
        "Raw" => {
            let mut inner = Writer::default();
            inner.bytes(1, value.to_string().as_bytes());
            out.bytes(number, &inner.0);
        }
        other => {
            if let Some(object) = value.as_object() {
                out.bytes(number, &message(types, other, object));
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a whole number that JSON wrote with a point"
)]
fn int(value: &Value) -> i64 {
    let whole = value.as_i64();
    whole
        .or_else(|| value.as_f64().map(|number| number as i64))
        .unwrap_or_default()
}

/// Seconds and nanoseconds; nothing for an absent time.
fn time(value: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    if let Ok(at) = text(value).parse::<Timestamp>() {
        out.varint(1, at.as_second().cast_unsigned());
        out.varint(2, i64::from(at.subsec_nanosecond()).cast_unsigned());
    }
    out.0
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use serde_json::json;

    /// A random object of the message type, without zero values of non-pointer fields.
    fn some(types: &ApiTypes, name: &str, choices: &mut StdRng, depth: u32) -> Map<String, Value> {
        let mut object = Map::new();
        for field in types.fields(name) {
            if field.json.is_empty() {
                object.extend(some(types, field.kind, choices, depth + 1));
                continue;
            }
            if choices.random_range(0..4) == 0 || (depth > 4 && types.is_structure(field.kind)) {
                continue;
            }
            let element = |choices: &mut StdRng| value(types, field.kind, choices, depth);
            let value = match field.shape {
                Shape::One => element(choices),
                Shape::List => (0..=choices.random_range(0..2))
                    .map(|_| element(choices))
                    .collect(),
                Shape::Map => (0..=choices.random_range(0..2))
                    .map(|key| (format!("k{key}"), element(choices)))
                    .collect::<Map<_, _>>()
                    .into(),
            };
            object.insert(field.json.to_owned(), value);
        }
        object
    }

    fn value(types: &ApiTypes, kind: &str, choices: &mut StdRng, depth: u32) -> Value {
        let number: u64 = choices.random_range(0..1 << 31) + 1;
        match kind {
            "string" => json!(format!("t{number}")),
            "bytes" => json!(STANDARD.encode(number.to_be_bytes())),
            "int32" | "int64" => json!(-i64::try_from(number).unwrap()),
            "bool" => json!(true),
            "double" => json!(number as f64 / 4.0),
            "Time" => json!(format!("{:04}-02-03T04:05:06Z", 1970 + number % 100)),
            "MicroTime" => json!(format!("2024-02-03T04:05:06.{:06}Z", number % 1_000_000)),
            "Duration" => json!(format!("{}.25s", 1 + number % 59)),
            "Quantity" => json!(format!("{number}Mi")),
            "Items" => json!(["a", format!("{number}")]),
            "IntOrString" if number.is_multiple_of(2) => json!(number),
            "IntOrString" => json!(format!("{}%", number % 100)),
            "Raw" => json!({"f": {"n": number}}),
            other => Value::Object(some(types, other, choices, depth + 1)),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seed in 1u64..) {
            let mut choices = StdRng::seed_from_u64(seed);
            for (version, kind) in [
                ("v1", "Pod"), ("v1", "Secret"), ("v1", "Service"), ("v1", "Node"), ("v1", "Event"),
                ("v1", "Status"), ("apps/v1", "StatefulSet"), ("apps/v1", "ControllerRevision"),
                ("policy/v1", "PodDisruptionBudget"), ("node.k8s.io/v1", "RuntimeClass"),
                ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
                ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
                ("coordination.k8s.io/v1", "Lease"),
                ("rbac.authorization.k8s.io/v1", "ClusterRole"),
                ("authentication.k8s.io/v1", "TokenReview"),
                ("metrics.k8s.io/v1beta1", "NodeMetrics"), ("metrics.k8s.io/v1beta1", "PodMetrics"),
            ] {
                let types = ApiTypes::published();
                let name = types.of_kind(version, kind).unwrap();
                let mut sent = some(types, name, &mut choices, 0);
                sent.insert("apiVersion".to_owned(), version.into());
                sent.insert("kind".to_owned(), kind.into());
                let sent = Value::Object(sent);
                let bytes = object(&sent).unwrap();
                prop_assert_eq!(read(&bytes).unwrap().value, sent);
            }
        }
    }

    #[test]
    fn events_have_their_length_in_front() {
        // kubectl.md 0.11
        let bytes = event("ADDED", b"x");
        assert_eq!(bytes, b"\0\0\0\x0c\x0a\x05ADDED\x12\x03\x0a\x01x");
        assert!(object(&json!({"apiVersion": "example.com/v1", "kind": "Own"})).is_none());
        assert!(is_known("v1", "Pod") && !is_known("example.com/v1", "Own"));
    }
}
