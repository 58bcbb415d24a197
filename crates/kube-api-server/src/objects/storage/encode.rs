//! Encoding of objects for the store, with their resource version.
//!
//! The revision is not known before the store commits, so an object is encoded in two halves with a gap for the
//! revision. The bytes in front of the gap contain only fixed texts and strings with escaped quotes, so the first
//! `"resourceVersion":"` of the bytes is always the gap, and the version can be replaced later without decoding.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use json_text::write_string;
use json_tree::{Map, Value};
use mvcc_store::{KeyValue, Omittable, Revision, Value as Stored};
use object_model::{Status, StatusReason};
use resource_kinds::KindInfo;

use super::{Managers, Parts};
use crate::http::limits::OBJECT_BYTES_MAX;

const MARK: &[u8] = b"\"resourceVersion\":\"";

/// Fields of the metadata that are written before the resource version.
const BEFORE: [&str; 4] = ["name", "generateName", "namespace", "uid"];

/// Fields of the metadata that are written after the resource version, in this order, before other fields.
const AFTER: [&str; 8] = [
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
];

/// Capacity for the bytes of a usual object after its resource version.
const AFTER_BYTES: usize = 4096;

const MANAGED_FIELDS: &str = "managedFields";

/// Encodes an object for the store, which inserts the revision.
pub(crate) fn encode(info: &KindInfo<'_>, object: &Value) -> Stored {
    encode_as(info.kind, &info.api_version(), object)
}

/// Encodes an object whose managed fields and other parts may be outside of its tree.
pub(crate) fn encode_with(
    info: &KindInfo<'_>,
    object: &Value,
    managers: &Managers,
    parts: &Parts,
) -> Stored {
    stamped(halves(
        info.kind,
        &info.api_version(),
        object,
        managers,
        parts,
    ))
}

/// Encodes an object whose kind is given by its names.
pub(crate) fn encode_as(kind: &str, api_version: &str, object: &Value) -> Stored {
    stamped(halves(
        kind,
        api_version,
        object,
        &Managers::Within,
        Parts::NONE,
    ))
}

/// An encoded object without its resource version.
struct Halves {
    before: Vec<u8>,
    after: Vec<u8>,
    /// The range of the managed fields in `after`, with the comma in front of them; empty if the object has none.
    managed_fields: Range<usize>,
}

fn stamped(halves: Halves) -> Stored {
    Stored::Stamped {
        before: halves.before.into(),
        after: halves.after.into(),
        omittable: Omittable::at(halves.managed_fields),
    }
}

/// As [`encode_with`], with the limit [`OBJECT_BYTES_MAX`] for an object that a client creates or changes. A stored
/// object above the limit may stay as large.
///
/// *Errors.* 413.
pub(crate) fn encode_within(
    info: &KindInfo<'_>,
    object: &Value,
    managers: &Managers,
    parts: &Parts,
    before: usize,
) -> Result<Stored, Status> {
    let halves = halves(info.kind, &info.api_version(), object, managers, parts);
    let size = halves.before.len() + halves.after.len();
    if size > OBJECT_BYTES_MAX.max(before) {
        return Err(Status::new(
            StatusReason::RequestEntityTooLarge,
            format!(
                "Request entity too large: the stored object would have {size} bytes, limit is \
                 {OBJECT_BYTES_MAX}"
            ),
        ));
    }
    Ok(stamped(halves))
}

/// Encodes an object with a known revision.
pub(crate) fn encode_at(info: &KindInfo<'_>, object: &Value, revision: Revision) -> Bytes {
    encode_as_at(info.kind, &info.api_version(), object, revision)
}

/// Encodes an object, whose kind is given by its names, with a known revision.
pub(super) fn encode_as_at(
    kind: &str,
    api_version: &str,
    object: &Value,
    revision: Revision,
) -> Bytes {
    let halves = halves(kind, api_version, object, &Managers::Within, Parts::NONE);
    let mut bytes = halves.before;
    bytes.extend_from_slice(revision.0.to_string().as_bytes());
    bytes.extend_from_slice(&halves.after);
    bytes.into()
}

/// A stored object with another resource version.
pub(crate) fn at_revision(stored: &KeyValue, revision: Revision) -> KeyValue {
    let value = with_revision(&stored.value, revision);
    KeyValue {
        omittable: stored.omittable.moved(stored.value.len(), value.len()),
        value,
        mod_revision: revision,
        ..stored.clone()
    }
}

/// Replaces the resource version of an encoded object.
pub(crate) fn with_revision(encoded: &Bytes, revision: Revision) -> Bytes {
    let Some(start) = find(encoded, MARK).map(|at| at + MARK.len()) else {
        return encoded.clone();
    };
    let length = encoded[start..]
        .iter()
        .position(|byte| *byte == b'"')
        .unwrap_or(0);
    let mut out = BytesMut::with_capacity(encoded.len() + 20);
    out.extend_from_slice(&encoded[..start]);
    out.extend_from_slice(revision.0.to_string().as_bytes());
    out.extend_from_slice(&encoded[start + length..]);
    out.freeze()
}

/// An encoded object without its `kind` and `apiVersion`, in two consecutive parts.
pub(crate) fn without_type(encoded: &Bytes) -> [Bytes; 2] {
    const NEXT: &[u8] = b",\"metadata\":{";
    match find(encoded, NEXT) {
        Some(at) => [Bytes::from_static(b"{"), encoded.slice(at + 1..)],
        None => [Bytes::new(), encoded.clone()],
    }
}

/// Whether an encoded object has this `kind` and `apiVersion`.
pub(crate) fn is_of_type(encoded: &[u8], info: &KindInfo<'_>) -> bool {
    encoded.starts_with(&head(info.kind, &info.api_version()))
}

/// Removes the resource version from an encoded object that is stored again; the store inserts the new revision.
pub(crate) fn without_revision(encoded: &Bytes) -> Stored {
    let Some(start) = find(encoded, MARK).map(|at| at + MARK.len()) else {
        return Stored::Plain(encoded.clone());
    };
    let rest = encoded.slice(start..);
    let length = rest.iter().position(|byte| *byte == b'"').unwrap_or(0);
    Stored::Stamped {
        before: encoded.slice(..start),
        after: rest.slice(length..),
        omittable: Omittable::UNKNOWN,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn halves(
    kind: &str,
    api_version: &str,
    object: &Value,
    managers: &Managers,
    parts: &Parts,
) -> Halves {
    let empty = Map::new();
    let metadata = object["metadata"].as_object().unwrap_or(&empty);
    let mut before = head(kind, api_version);
    for name in BEFORE {
        if let Some(value) = metadata.get(name).filter(|value| is_set(value)) {
            field(&mut before, name, value);
            before.push(b',');
        }
    }
    before.extend_from_slice(MARK);

    let mut after = Vec::with_capacity(AFTER_BYTES + parts.bytes());
    after.push(b'"');
    for name in AFTER {
        if let Some(value) = metadata.get(name).filter(|value| is_set(value)) {
            after.push(b',');
            field(&mut after, name, value);
        }
    }
    let is_other = |name: &str| match managers {
        Managers::Within => !has_fixed_order(name),
        Managers::Apart(_) => !has_fixed_order(name) && name != MANAGED_FIELDS,
    };
    let mut managed_fields = 0..0;
    for (name, value) in metadata.iter().filter(|(name, _)| is_other(name)) {
        let start = after.len();
        after.push(b',');
        field(&mut after, name, value);
        if name == MANAGED_FIELDS {
            managed_fields = start..after.len();
        }
    }
    if let Some(managed) = managers.apart() {
        let start = after.len();
        after.push(b',');
        write_string(&mut after, MANAGED_FIELDS);
        after.push(b':');
        after.extend_from_slice(managed.text().as_bytes());
        managed_fields = start..after.len();
    }
    after.push(b'}');
    for (name, text) in parts.texts() {
        after.push(b',');
        write_string(&mut after, name);
        after.push(b':');
        after.extend_from_slice(text);
    }
    let rest = object.as_object().unwrap_or(&empty).iter();
    let is_apart = |name: &str| parts.texts().iter().any(|(part, _)| *part == name);
    let is_separate =
        |name: &str| matches!(name, "kind" | "apiVersion" | "metadata") || is_apart(name);
    for (name, value) in rest.filter(|(name, _)| !is_separate(name)) {
        after.push(b',');
        field(&mut after, name, value);
    }
    after.push(b'}');
    Halves {
        before,
        after,
        managed_fields,
    }
}

/// The bytes of an encoded object up to its metadata.
fn head(kind: &str, api_version: &str) -> Vec<u8> {
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(b"{\"kind\":");
    write_string(&mut head, kind);
    head.extend_from_slice(b",\"apiVersion\":");
    write_string(&mut head, api_version);
    head.extend_from_slice(b",\"metadata\":{");
    head
}

fn has_fixed_order(name: &str) -> bool {
    name == "resourceVersion" || BEFORE.contains(&name) || AFTER.contains(&name)
}

/// Empty strings, lists and maps of the metadata are not written, as upstream.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &Value) {
    write_string(out, name);
    out.push(b':');
    write(out, value);
}

/// Appends a value as `serde_json` does, but faster.
fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            // Writing a number to memory cannot fail.
            if let Err(error) = serde_json::to_writer(&mut *out, number) {
                tracing::error!(%error, "encode a number");
            }
        }
        Value::String(text) => write_string(out, text),
        Value::Array(list) => {
            out.push(b'[');
            for (index, element) in list.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(out, element);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            for (index, (name, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                field(out, name, value);
            }
            out.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_tree::json;
    use resource_kinds::{Scope, Verb, Words, WriteRules};

    const INFO: KindInfo<'static> = KindInfo {
        group: "apps",
        version: "v1",
        kind: "Thing",
        list_kind: "ThingList",
        plural: "things",
        singular: "thing",
        short_names: Words::Fixed(&[]),
        categories: Words::Fixed(&[]),
        scope: Scope::Namespaced,
        verbs: &[Verb::Get],
        subresources: &[],
        storage: "things",
        writes: WriteRules::ORDINARY,
    };

    #[test]
    fn the_revision_is_stamped_and_exchanged_whatever_else_the_object_says() {
        let trap = "\"resourceVersion\":\"9\"";
        let object = json!({
            "spec": {"resourceVersion": "5"},
            "metadata": {
                "name": trap, "annotations": {"resourceVersion": "1", "a": trap},
                "resourceVersion": "77", "labels": {}, "uid": "u",
            },
        });
        let bytes = encode_at(&INFO, &object, Revision(12));
        let back: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(back["metadata"]["resourceVersion"], "12");
        assert_eq!(back["apiVersion"], "apps/v1");
        assert_eq!(back["kind"], "Thing");
        assert_eq!(back["metadata"]["name"], trap);
        assert!(back["metadata"].get("labels").is_none());
        let other = KindInfo {
            version: "v10",
            ..INFO
        };
        assert!(is_of_type(&bytes, &INFO) && !is_of_type(&bytes, &other));
        let moved = with_revision(&bytes, Revision(123_456));
        let mut expected = back;
        expected["metadata"]["resourceVersion"] = json!("123456");
        assert_eq!(serde_json::from_slice::<Value>(&moved).unwrap(), expected);
    }

    #[test]
    fn values_are_written_as_serde_json_writes_them() {
        for value in [
            json!({"a\"": [null, true, false, -1, 1.5e300, u64::MAX, [], {}, [[""]], {"": {"é\n": 0}}]}),
            json!([1]),
            json!(0.1),
        ] {
            let mut out = Vec::new();
            write(&mut out, &value);
            assert_eq!(out, value.to_string().into_bytes());
        }
    }

    #[test]
    fn the_place_of_managed_fields_moves_with_the_length_of_the_revision() {
        let object = json!({"metadata": {"name": "n", "managedFields": [1]}, "spec": {}});
        let value = encode_at(&INFO, &object, Revision(9));
        let text = ",\"managedFields\":[1]";
        let start = find(&value, text.as_bytes()).unwrap();
        let stored = KeyValue {
            key: b"/registry/things/n"[..].into(),
            value,
            create_revision: Revision(9),
            mod_revision: Revision(9),
            lease: None,
            omittable: Omittable::at(start..start + text.len()),
        };
        let later = at_revision(&stored, Revision(12_345));
        let range = later.omittable.range().unwrap();
        assert_eq!(
            (range.start, &later.value[range]),
            (start + 4, text.as_bytes())
        );
        assert_eq!(at_revision(&later, Revision(9)), stored);
    }

    #[test]
    fn managed_fields_apart_are_encoded_like_those_of_the_tree() {
        let list = json!([{"manager": "a", "fieldsV1": {"f:spec": {}}}]);
        let mut object = json!({"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {}});
        let apart = Managers::Apart(Some(list.to_string().into()));
        let apart = encode_within(&INFO, &object, &apart, Parts::NONE, 0).unwrap();
        let Stored::Stamped {
            after, omittable, ..
        } = &apart
        else {
            panic!("an object has its revision in it");
        };
        let text = format!(",\"managedFields\":{list}");
        assert_eq!(after[omittable.range().unwrap()], *text.as_bytes());
        object["metadata"]["managedFields"] = list;
        assert_eq!(apart, encode(&INFO, &object));
        let none = encode_with(&INFO, &object, &Managers::Apart(None), Parts::NONE);
        object["metadata"]
            .as_object_mut()
            .unwrap()
            .shift_remove(MANAGED_FIELDS);
        assert_eq!(none, encode(&INFO, &object));
    }
}
