//! Parts of an encoded object, found in its bytes without a decoded tree.
//!
//! The bytes are those of [`encode`](super::encode()): JSON without white space, which this server
//! has written itself.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

const METADATA: &str = "metadata";
const MANAGED_FIELDS: &str = "managedFields";

/// The value at a path of fields, as JSON; `None` if there is none.
pub(crate) fn value_at<'a>(encoded: &'a [u8], path: &[&str]) -> Option<&'a [u8]> {
    let mut value = encoded;
    for name in path {
        value = &value[member(value, name)?.value];
    }
    Some(value)
}

/// The text at a path of fields; `None` if there is nothing, or no text.
pub(crate) fn text_at<'a>(encoded: &'a [u8], path: &[&str]) -> Option<Cow<'a, str>> {
    let inner = value_at(encoded, path)?
        .strip_prefix(b"\"")?
        .strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    let quoted = value_at(encoded, path)?;
    serde_json::from_slice(quoted).ok().map(Cow::Owned)
}

/// The metadata of an object, as JSON.
pub(crate) fn metadata(encoded: &[u8]) -> Option<&[u8]> {
    value_at(encoded, &[METADATA])
}

/// The object without `metadata.managedFields`.
pub(crate) fn without_managed_fields(encoded: &Bytes) -> Bytes {
    let Some(metadata) = member(encoded, METADATA).map(|found| found.value) else {
        return encoded.clone();
    };
    let Some(found) = member(&encoded[metadata.clone()], MANAGED_FIELDS) else {
        return encoded.clone();
    };
    let start = metadata.start + found.whole.start;
    let end = metadata.start + found.whole.end;
    let mut out = BytesMut::with_capacity(encoded.len() - (end - start));
    out.extend_from_slice(&encoded[..start]);
    out.extend_from_slice(&encoded[end..]);
    out.freeze()
}

/// A member of a JSON object.
struct Member {
    /// With its name and one of the commas beside it.
    whole: Range<usize>,
    value: Range<usize>,
}

/// The member of that name, which has no escaped characters.
fn member(object: &[u8], name: &str) -> Option<Member> {
    if object.first() != Some(&b'{') {
        return None;
    }
    let mut at = 1;
    while object.get(at) == Some(&b'"') {
        let key = at..end_of_text(object, at)?;
        let value = key.end + 1..end_of_value(object, key.end + 1)?;
        if object[key.start + 1..key.end - 1] == *name.as_bytes() {
            // The first member has no comma before it.
            let whole = match (key.start, object.get(value.end)) {
                (1, Some(b',')) => 1..value.end + 1,
                (1, _) => 1..value.end,
                _ => key.start - 1..value.end,
            };
            return Some(Member { whole, value });
        }
        at = value.end + 1;
    }
    None
}

/// The index after a string that begins at an index.
fn end_of_text(json: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        match json[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

/// The index after a value that begins at an index.
fn end_of_value(json: &[u8], start: usize) -> Option<usize> {
    match json.get(start)? {
        b'"' => return end_of_text(json, start),
        b'{' | b'[' => {}
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']');
            let length = json[start..].iter().position(is_end);
            return Some(start + length.unwrap_or(json.len() - start));
        }
    }
    let (mut at, mut depth) = (start, 0_usize);
    loop {
        match json.get(at)? {
            b'"' => at = end_of_text(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth -= 1;
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn encoded(object: &Value) -> Bytes {
        object.to_string().into()
    }

    #[test]
    fn values_are_found_at_their_path_alone() {
        let object = encoded(&json!({
            "metadata": {"name": "a", "annotations": {"spec": "{\"nodeName\":\"x\"}"}},
            "spec": {"first": [{"nodeName": "wrong"}], "nodeName": "a\"b\\", "n": 5, "on": true},
            "status": {"phase": "Running"},
        }));
        assert_eq!(text_at(&object, &["spec", "nodeName"]).unwrap(), "a\"b\\");
        assert_eq!(text_at(&object, &["status", "phase"]).unwrap(), "Running");
        assert_eq!(value_at(&object, &["spec", "n"]).unwrap(), b"5");
        assert_eq!(value_at(&object, &["spec", "on"]).unwrap(), b"true");
        assert_eq!(text_at(&object, &["spec", "n"]), None);
        assert_eq!(text_at(&object, &["spec", "absent"]), None);
        assert_eq!(text_at(&object, &["status", "phase", "deeper"]), None);
    }

    #[test]
    fn managed_fields_are_cut_out_wherever_they_are() {
        let managed = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
        let template = json!({"metadata": {"managedFields": [1]}});
        for metadata in [
            json!({"managedFields": managed}),
            json!({"managedFields": managed, "name": "a"}),
            json!({"name": "a", "managedFields": managed}),
            json!({"name": "a", "managedFields": managed, "uid": "u"}),
            json!({"name": "a", "labels": {"managedFields": "x"}}),
        ] {
            let object = json!({"kind": "Pod", "metadata": metadata, "spec": template});
            let mut expected = object.clone();
            if let Some(metadata) = expected["metadata"].as_object_mut() {
                metadata.shift_remove("managedFields");
            }
            let cut = without_managed_fields(&encoded(&object));
            assert_eq!(cut, encoded(&expected));
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a\"\\\\{}\\[\\],:é\n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The scanner finds what a decoded tree has.
        #[test]
        fn scanning_agrees_with_decoding(object in json_value(), path in prop::collection::vec("[ab]{1,2}", 0..4)) {
            let bytes = encoded(&object);
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let wanted = path.iter().try_fold(&object, |value, name| value.as_object()?.get(*name));
            prop_assert_eq!(
                value_at(&bytes, &path).map(|found| serde_json::from_slice::<Value>(found).unwrap()),
                wanted.map(|value| serde_json::from_str(&value.to_string()).unwrap())
            );
            prop_assert_eq!(
                text_at(&bytes, &path).map(Cow::into_owned),
                wanted.and_then(Value::as_str).map(str::to_owned)
            );
        }

        /// No bytes make the scanner panic.
        #[test]
        fn scanning_survives_any_bytes(bytes in "[{}\\[\\]\",:\\\\a1]{0,24}") {
            let bytes = Bytes::from(bytes);
            let _ = text_at(&bytes, &["a", "a"]);
            let _ = without_managed_fields(&bytes);
        }
    }
}
