//! Types of the fields that every object of the API has (`apiVersion`, `kind`, `metadata`), in a custom
//! resource and in the objects within it (`x-kubernetes-embedded-resource`).

use resource_kinds::annotations::MALFORMED_METADATA;
use resource_kinds::{decode_object_meta, repair_object_meta};
use serde_json::Value;

use crate::schema::Schema;

/// Checks these fields, and removes unknown fields of the metadata.
///
/// # Errors
/// The first mismatch, with the path of an embedded object.
pub(crate) fn decode(object: &mut Value, schema: &Schema) -> Result<(), String> {
    if let Some(metadata) = object.get_mut("metadata").filter(|value| !value.is_null()) {
        decode_object_meta(metadata)?;
        // The server shows it where it read other metadata than these.
        if let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.shift_remove(MALFORMED_METADATA);
        }
    }
    if schema.has_embedded {
        decode_below(object, schema)
            .map_err(|Mismatch { path, text }| format!("{path}: {text}"))?;
    }
    Ok(())
}

/// Removes what [`decode`] would refuse from a stored object. Returns the names of the changed fields of its
/// metadata.
pub(crate) fn repair(object: &mut Value) -> Vec<String> {
    match object.get_mut("metadata") {
        Some(metadata) => repair_object_meta(metadata),
        None => Vec::new(),
    }
}

/// A mismatch in an embedded object; its path grows on the way out.
struct Mismatch {
    path: String,
    text: String,
}

impl Mismatch {
    fn below(self, name: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        Self {
            path: format!("{name}{dot}{}", self.path),
            text: self.text,
        }
    }
}

fn decode_below(value: &mut Value, schema: &Schema) -> Result<(), Mismatch> {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(below) = schema.field(name).filter(|below| below.has_embedded) {
                    decode_value(value, below).map_err(|found| found.below(name))?;
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref().filter(|below| below.has_embedded) else {
                return Ok(());
            };
            for (index, item) in items.iter_mut().enumerate() {
                decode_value(item, below).map_err(|found| found.below(&format!("[{index}]")))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn decode_value(value: &mut Value, schema: &Schema) -> Result<(), Mismatch> {
    if schema.embedded
        && let Value::Object(map) = value
    {
        let mismatch = |name: &str, text: String| Mismatch {
            path: name.to_owned(),
            text,
        };
        for name in ["apiVersion", "kind"] {
            if map.get(name).is_some_and(|value| !value.is_string()) {
                return Err(mismatch(name, "must be a string".to_owned()));
            }
        }
        match map.get_mut("metadata") {
            None => {}
            Some(Value::Null) => {
                map.shift_remove("metadata");
            }
            Some(metadata) => {
                decode_object_meta(metadata).map_err(|text| mismatch("metadata", text))?;
            }
        }
    }
    decode_below(value, schema)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decoded(mut object: Value) -> Result<Value, String> {
        let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true});
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "one": embedded.clone(),
            "many": {"type": "array", "items": embedded},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}));
        decode(&mut object, &schema)?;
        Ok(object)
    }

    // findings-2 E2, C34
    #[test]
    fn objects_within_objects_have_typed_metadata() {
        let wrong = json!({"many": [{}, {"metadata": {"labels": {"a": 1}}}]});
        let text = decoded(wrong).unwrap_err();
        assert!(
            text.starts_with("many[1].metadata: json: cannot unmarshal"),
            "{text}"
        );
        assert_eq!(
            decoded(json!({"one": {"kind": 1}})),
            Err("one.kind: must be a string".to_owned())
        );
        let object = json!({"one": {"kind": "A", "metadata": {"name": "a", "nme": "b"}, "spec": {"x": 1}},
            "free": {"metadata": {"labels": {"a": 1}}}});
        let mut wanted = object.clone();
        wanted["one"]["metadata"] = json!({"name": "a"});
        assert_eq!(decoded(object), Ok(wanted));
    }
}
