//! Decoder from protobuf to JSON, for request bodies.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use json_tree::{Map, Value, json};
use resource_kinds::api_types::{ApiTypes, Field, Shape, Structure, ValueType};

use super::{MAGIC, NO_TIME};
use crate::http::decode::{BodyError, Decoded, json};
use crate::http::limits::DEPTH_MAX;
use object_model::protobuf::{Reader, Wire};

/// Decodes an object with Kubernetes' envelope (`k8s\0` and `runtime.Unknown`).
pub(crate) fn read(bytes: &[u8]) -> Result<Decoded, BodyError> {
    let unknown = bytes.strip_prefix(MAGIC).ok_or(BodyError::NotProtobuf)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader::new(unknown);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Wire::Bytes(type_meta)) => {
                let mut inner = Reader::new(type_meta);
                while let Some((number, value)) = inner.field()? {
                    match (number, value) {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(object)) => raw = object,
            _ => {}
        }
    }
    let types = ApiTypes::published();
    let Some(structure) = types.of_kind(&api_version, &kind) else {
        return Err(BodyError::UnknownKind { api_version, kind });
    };
    let mut object = Map::new();
    object.insert("kind".to_owned(), kind.into());
    object.insert("apiVersion".to_owned(), api_version.into());
    message(types, structure, raw, &mut object, 0)?;
    Ok(Decoded {
        value: Value::Object(object),
        duplicates: Vec::new(),
    })
}

/// Reads a message's fields into a JSON object.
fn message(
    types: &ApiTypes,
    structure: &Structure,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), BodyError> {
    if depth > DEPTH_MAX {
        return Err(BodyError::TooDeep);
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        // A field of a newer API version is unknown here. Clients must not depend on such fields.
        let Some(field) = structure.numbered(number) else {
            continue;
        };
        read_field(types, field, wire, into, depth)?;
    }
    Ok(())
}

fn read_field(
    types: &ApiTypes,
    field: &Field,
    wire: Wire<'_>,
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), BodyError> {
    if field.json.is_empty() {
        return match types.of_value(field.value) {
            Some(embedded) => message(types, embedded, wire.bytes()?, into, depth + 1),
            None => Ok(()),
        };
    }
    let name = || field.json.to_owned();
    match field.shape {
        Shape::One => {
            let decoded = value(types, field.value, wire, depth)?;
            // Go clients send zero values of unset fields, except for pointer fields.
            if field.pointer || !is_zero(&decoded) {
                into.insert(name(), decoded);
            }
        }
        Shape::List => {
            let list = into.entry(name()).or_insert_with(|| json!([]));
            let Value::Array(list) = list else {
                return Ok(());
            };
            match (field.value, wire) {
                (ValueType::Int32 | ValueType::Int64, Wire::Bytes(packed)) => {
                    let mut reader = Reader::new(packed);
                    while !reader.is_empty() {
                        list.push(json!(reader.varint()?.cast_signed()));
                    }
                }
                (kind, wire) => list.push(value(types, kind, wire, depth)?),
            }
        }
        Shape::Map => {
            let map = into.entry(name()).or_insert_with(|| json!({}));
            let Value::Object(map) = map else {
                return Ok(());
            };
            let (mut key, mut content) = (String::new(), None);
            let mut reader = Reader::new(wire.bytes()?);
            while let Some((number, wire)) = reader.field()? {
                match number {
                    1 => key = utf8(wire.bytes()?)?,
                    2 => content = Some(value(types, field.value, wire, depth)?),
                    _ => {}
                }
            }
            // An empty text and an empty byte list are encoded without content.
            map.insert(key, content.unwrap_or_else(|| json!("")));
        }
    }
    Ok(())
}

fn value(
    types: &ApiTypes,
    kind: ValueType,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Value, BodyError> {
    Ok(match kind {
        ValueType::String => json!(utf8(wire.bytes()?)?),
        ValueType::Bytes => json!(STANDARD.encode(wire.bytes()?)),
        ValueType::Int32 | ValueType::Int64 => json!(wire.varint()?.cast_signed()),
        ValueType::Bool => json!(wire.varint()? != 0),
        ValueType::Double => json!(wire.double()?),
        ValueType::Time => time(wire.bytes()?, false)?,
        ValueType::MicroTime => time(wire.bytes()?, true)?,
        ValueType::Duration => json!(duration(wire.bytes()?)?),
        ValueType::Quantity => json!(first_text(wire.bytes()?)?),
        ValueType::Items => items(wire.bytes()?)?,
        ValueType::IntOrString => int_or_string(wire.bytes()?)?,
        ValueType::Raw => {
            let mut raw = &b"null"[..];
            let mut reader = Reader::new(wire.bytes()?);
            while let Some((number, wire)) = reader.field()? {
                if number == 1 {
                    raw = wire.bytes()?;
                }
            }
            json(raw)?.value
        }
        ValueType::Structure(_) => {
            let mut map = Map::new();
            if let Some(structure) = types.of_value(kind) {
                message(types, structure, wire.bytes()?, &mut map, depth + 1)?;
            }
            Value::Object(map)
        }
    })
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn time(bytes: &[u8], micro: bool) -> Result<Value, BodyError> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => seconds = Some(wire.varint()?.cast_signed()),
            2 => nanos = i32::try_from(wire.varint()?).unwrap_or(0),
            _ => {}
        }
    }
    let Some(seconds) = seconds.filter(|seconds| *seconds != NO_TIME) else {
        return Ok(Value::Null);
    };
    let at = Timestamp::new(seconds, nanos).map_err(BodyError::Time)?;
    let form = if micro {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Ok(json!(at.strftime(form).to_string()))
}

fn duration(bytes: &[u8]) -> Result<String, BodyError> {
    let mut nanos = 0;
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            nanos = wire.varint()?.cast_signed();
        }
    }
    Ok(object_model::duration::go(SignedDuration::from_nanos(
        nanos,
    )))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, BodyError> {
    let (mut is_text, mut number_value, mut text) = (false, 0, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => is_text = wire.varint()? == 1,
            2 => number_value = wire.varint()?.cast_signed(),
            3 => text = utf8(wire.bytes()?)?,
            _ => {}
        }
    }
    Ok(if is_text {
        json!(text)
    } else {
        json!(number_value)
    })
}

fn items(bytes: &[u8]) -> Result<Value, BodyError> {
    let mut list = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            list.push(json!(utf8(wire.bytes()?)?));
        }
    }
    Ok(Value::Array(list))
}

fn first_text(bytes: &[u8]) -> Result<String, BodyError> {
    let mut text = String::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            text = utf8(wire.bytes()?)?;
        }
    }
    Ok(text)
}

fn utf8(bytes: &[u8]) -> Result<String, BodyError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| BodyError::TextEncoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 128 && number < 16);
        [&[number << 3 | 2, length], content].concat()
    }

    fn object(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &meta), &field(2, raw)].concat()
    }

    #[test]
    fn what_go_clients_send_becomes_the_json_that_they_mean() {
        // kubectl.md 0.11: a Secret from `kubectl create secret generic`, with the zeros of unset
        // fields.
        let metadata = [field(1, b"s"), field(2, b""), field(8, b"")].concat();
        let entry = [field(1, b"a"), field(2, b"b")].concat();
        let secret = [field(1, &metadata), field(2, &entry), field(3, b"")].concat();
        assert_eq!(
            read(&object("v1", "Secret", &secret)).unwrap().value,
            json!({
                "kind": "Secret", "apiVersion": "v1",
                "metadata": {"name": "s"}, "data": {"a": "Yg=="},
            })
        );
        // Pointer fields keep their zero values. An embedded message has no field name in JSON.
        let port = [&[2 << 3, 0][..], &field(3, b"web")].concat();
        let handler = field(2, &field(2, &[&[1 << 3, 1][..], &port].concat()));
        let probe = [field(1, &handler), vec![2 << 3, 5]].concat();
        let mut map = Map::new();
        let types = ApiTypes::published();
        let structure = types.structure("core/v1.Probe").unwrap();
        message(types, structure, &probe, &mut map, 0).unwrap();
        assert_eq!(
            Value::Object(map),
            json!({"httpGet": {"port": "web"}, "initialDelaySeconds": 5})
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let good = object("v1", "Namespace", &field(1, &field(1, b"n")));
        assert!(read(&good).is_ok());
        for end in 4..good.len() {
            // A message that is cut at any byte is refused, or gives a shorter object; decoding never panics.
            let _shorter = read(&good[..end]);
        }
        assert!(read(b"{}").is_err());
        assert!(read(&object("v1", "Nope", b"")).is_err());
        assert!(read(&object("v1", "Namespace", &[0x0a, 0x7f, 1])).is_err());
        assert!(read(&object("v1", "Namespace", &[0xff; 12])).is_err());
    }
}
