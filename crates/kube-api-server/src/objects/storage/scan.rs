//! Finds parts of an encoded object in its bytes, without decoding.

use std::fmt::Display;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use json_text::{Member, find, find_member, find_start};
use mvcc_store::{KeyValue, Omittable};
use object_model::Status;

const METADATA: &str = "metadata";
/// The path of the managed fields.
pub(super) const MANAGED_FIELDS: [&str; 2] = [METADATA, "managedFields"];
/// The text in front of the list. In each encoded object the list follows another member.
const BEFORE_MANAGED_FIELDS: &[u8] = b",\"managedFields\":";

/// The metadata of an object, as JSON.
pub(crate) fn metadata(encoded: &[u8]) -> Option<&[u8]> {
    find(encoded, &[METADATA]).unwrap_or_default()
}

/// The byte range of the managed fields in an object, with the comma in front of them; `None` if the writer of the
/// object recorded no range.
fn named(encoded: &[u8], omittable: Omittable) -> Option<Range<usize>> {
    let is_theirs = |range: &Range<usize>| {
        let text = encoded.get(range.clone());
        text.is_some_and(|text| text.starts_with(BEFORE_MANAGED_FIELDS))
    };
    omittable.range().filter(is_theirs)
}

/// The byte range of the list of managed fields in a stored object; `None` if the writer of the object recorded no
/// range.
pub(super) fn managed_fields_named(stored: &KeyValue) -> Option<Range<usize>> {
    let range = named(&stored.value, stored.omittable)?;
    Some(range.start + BEFORE_MANAGED_FIELDS.len()..range.end)
}

/// The metadata of a stored object without its managed fields, as JSON: the text in front of the managed fields, and
/// the text behind them.
pub(crate) fn metadata_without_managed_fields(stored: &KeyValue) -> [&[u8]; 2] {
    let encoded = &stored.value;
    let omitted = match named(encoded, stored.omittable) {
        Some(whole) => {
            let within = find_start(encoded, &[METADATA]).unwrap_or_default();
            within.map(|within| (within, whole))
        }
        None => {
            let range = find_member(encoded, &MANAGED_FIELDS).unwrap_or_default();
            range.map(|Member { within, whole, .. }| (within, whole))
        }
    };
    let Some((within, whole)) = omitted else {
        return [metadata(encoded).unwrap_or(b"{}"), b""];
    };
    let end = match encoded.get(whole.end) {
        // The managed fields are the last member, so the end of the metadata follows directly.
        Some(b'}') => whole.end + 1,
        _ => within + metadata(encoded).map_or(0, <[u8]>::len),
    };
    let part = |range: Range<usize>| encoded.get(range).unwrap_or_default();
    [part(within..whole.start), part(whole.end..end)]
}

/// The object without `metadata.managedFields`.
pub(super) fn without_managed_fields(encoded: &Bytes, omittable: Omittable) -> Bytes {
    let searched = || {
        let range = find_member(encoded, &MANAGED_FIELDS).unwrap_or_default();
        range.map(|member| member.whole)
    };
    let Some(whole) = named(encoded, omittable).or_else(searched) else {
        return encoded.clone();
    };
    let mut out = BytesMut::with_capacity(encoded.len() - whole.len());
    out.extend_from_slice(&encoded[..whole.start]);
    out.extend_from_slice(&encoded[whole.end..]);
    out.freeze()
}

/// The response for a stored object that is not JSON.
pub(crate) fn undecodable(error: impl Display) -> Status {
    Status::internal(format!("decode a stored object: {error}"))
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use mvcc_store::Revision;

    use super::*;

    fn encoded(object: &Value) -> Bytes {
        object.to_string().into()
    }

    fn stored(value: Bytes, omittable: Omittable) -> KeyValue {
        KeyValue {
            key: b"/registry/pods/default/a"[..].into(),
            value,
            create_revision: Revision(7),
            mod_revision: Revision(7),
            lease: None,
            omittable,
        }
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
            let text = encoded(&object);
            let searched = without_managed_fields(&text, Omittable::UNKNOWN);
            assert_eq!(searched, encoded(&expected));
            let pair = stored(text, Omittable::UNKNOWN);
            let metadata = metadata_without_managed_fields(&pair).concat();
            assert_eq!(metadata, encoded(&expected["metadata"]));
        }
    }

    #[test]
    fn a_named_place_of_managed_fields_is_that_of_a_search() {
        let managed = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
        let name = |rest: &str| format!(r#"{{"kind":"Pod","metadata":{{"name":"a"{rest}"#);
        let list = format!(",\"managedFields\":{managed}");
        for behind in [
            "},\"spec\":{}}",
            ",\"x\":{\"managedFields\":[1]}},\"spec\":{}}",
        ] {
            let text = Bytes::from(name(&format!("{list}{behind}")));
            let start = name("").len();
            let recorded = Omittable::at(start..start + list.len());
            assert_eq!(named(&text, recorded), recorded.range());
            let cut = without_managed_fields(&text, recorded);
            assert_eq!(cut, name(behind));
            assert_eq!(cut, without_managed_fields(&text, Omittable::UNKNOWN));
            let (recorded, unknown) = (
                stored(text.clone(), recorded),
                stored(text.clone(), Omittable::UNKNOWN),
            );
            assert_eq!(
                metadata_without_managed_fields(&recorded).concat(),
                metadata_without_managed_fields(&unknown).concat()
            );
            let range = managed_fields_named(&recorded).unwrap();
            assert_eq!(text[range], managed.to_string().into_bytes());
            assert_eq!(managed_fields_named(&unknown), None);
        }
        // A recorded range that does not contain the managed fields is ignored.
        let text = Bytes::from(name("}}"));
        for range in [1..5, text.len() - 1..text.len() + 9] {
            assert_eq!(without_managed_fields(&text, Omittable::at(range)), text);
        }
    }
}
