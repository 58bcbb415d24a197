//! Parts of an encoded object, found in its bytes without a decoded tree.

use std::fmt::Display;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use json_text::{Member, find, find_member};
use object_model::Status;

const METADATA: &str = "metadata";
/// The path of the managed fields.
pub(super) const MANAGED_FIELDS: [&str; 2] = [METADATA, "managedFields"];

/// The metadata of an object, as JSON.
pub(crate) fn metadata(encoded: &[u8]) -> Option<&[u8]> {
    find(encoded, &[METADATA]).unwrap_or_default()
}

/// The metadata of an object without its managed fields, as JSON: the text in front of these, and that
/// behind them.
pub(crate) fn metadata_without_managed_fields(encoded: &[u8]) -> [&[u8]; 2] {
    let found = find_member(encoded, &MANAGED_FIELDS);
    let Some(Member { within, whole, .. }) = found.unwrap_or_default() else {
        return [metadata(encoded).unwrap_or(b"{}"), b""];
    };
    let end = match encoded.get(whole.end) {
        // The store has them as the last member: nobody need look for the end of the metadata.
        Some(b'}') => whole.end + 1,
        _ => within + metadata(encoded).map_or(0, <[u8]>::len),
    };
    let part = |range: Range<usize>| encoded.get(range).unwrap_or_default();
    [part(within..whole.start), part(whole.end..end)]
}

/// The object without `metadata.managedFields`.
pub(crate) fn without_managed_fields(encoded: &Bytes) -> Bytes {
    let found = find_member(encoded, &MANAGED_FIELDS);
    let Some(Member { whole, .. }) = found.unwrap_or_default() else {
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
    use serde_json::{Value, json};

    use super::*;

    fn encoded(object: &Value) -> Bytes {
        object.to_string().into()
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
            assert_eq!(
                without_managed_fields(&encoded(&object)),
                encoded(&expected)
            );
            let metadata = metadata_without_managed_fields(&encoded(&object)).concat();
            assert_eq!(metadata, encoded(&expected["metadata"]));
        }
    }
}
