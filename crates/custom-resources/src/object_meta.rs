//! Types of the fields that every object of the API has (`apiVersion`, `kind`, `metadata`), in a custom resource and
//! in its embedded objects (`x-kubernetes-embedded-resource`).

use json_tree::{Map, Value};
use resource_kinds::annotations::MALFORMED_METADATA;
use resource_kinds::{
    DecodeError, decode_object_meta, repair_object_meta, unknown_object_meta_fields,
};

use crate::schema::Schema;

/// Checks these fields, and removes unknown fields of the metadata.
///
/// # Errors
/// The first mismatch, with the path of an embedded object.
pub(crate) fn decode(object: &mut Value, schema: &Schema) -> Result<(), DecodeError> {
    if let Some(metadata) = object.get_mut("metadata").filter(|value| !value.is_null()) {
        decode_object_meta(metadata)?;
        // A read adds this annotation if the stored metadata was malformed; the annotation is never stored.
        if let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.shift_remove(MALFORMED_METADATA);
        }
    }
    visit(object, schema, &mut String::new(), &mut decode_embedded)
}

/// The paths of the unknown fields of the object's own metadata.
pub(crate) fn unknown(object: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Some(map) = object.as_object() {
        name_unknown(map, "", &mut unknown);
    }
    unknown
}

/// The paths of the unknown fields in the metadata of embedded objects, sorted by name.
pub(crate) fn unknown_in_embedded(object: &mut Value, schema: &Schema) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut visitor = |map: &mut Map<String, Value>, path: &str| {
        name_unknown(map, &format!("{path}."), &mut unknown);
        Ok(())
    };
    // The visitor never fails.
    let _: Result<(), DecodeError> = visit(object, schema, &mut String::new(), &mut visitor);
    unknown.sort_unstable();
    unknown
}

fn name_unknown(object: &Map<String, Value>, prefix: &str, paths: &mut Vec<String>) {
    let Some(metadata) = object.get("metadata") else {
        return;
    };
    let unknown = unknown_object_meta_fields(metadata).into_iter();
    paths.extend(unknown.map(|path| format!("{prefix}metadata.{path}")));
}

/// Removes the parts that [`decode`] would refuse from a stored object. Returns the names of the changed metadata
/// fields.
pub(crate) fn repair(object: &mut Value) -> Vec<String> {
    match object.get_mut("metadata") {
        Some(metadata) => repair_object_meta(metadata),
        None => Vec::new(),
    }
}

/// A function that is called with each embedded object and its path.
type Visitor<'v> = dyn FnMut(&mut Map<String, Value>, &str) -> Result<(), DecodeError> + 'v;

/// Visits the embedded objects inside of a value.
///
/// *Errors.* The first error of the visitor.
fn visit(
    value: &mut Value,
    schema: &Schema,
    path: &mut String,
    visitor: &mut Visitor<'_>,
) -> Result<(), DecodeError> {
    if !schema.has_embedded {
        return Ok(());
    }
    let length = path.len();
    let mut below = |value: &mut Value, below: &Schema, path: &mut String| {
        if below.embedded
            && let Value::Object(map) = value
        {
            visitor(map, path)?;
        }
        visit(value, below, path, visitor)?;
        path.truncate(length);
        Ok::<(), DecodeError>(())
    };
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let Some(field) = schema.field(name) else {
                    continue;
                };
                if !schema.properties.contains_key(name) {
                    path.extend(["[", name, "]"]);
                } else if length == 0 {
                    path.push_str(name);
                } else {
                    path.extend([".", name]);
                }
                below(value, field, path)?;
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else {
                return Ok(());
            };
            for (index, item) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{index}]"));
                below(item, schema, path)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn decode_embedded(map: &mut Map<String, Value>, path: &str) -> Result<(), DecodeError> {
    for name in ["apiVersion", "kind"] {
        if map.get(name).is_some_and(|value| !value.is_string()) {
            return Err(DecodeError::NotString(format!("{path}.{name}")));
        }
    }
    match map.get_mut("metadata") {
        None => Ok(()),
        Some(Value::Null) => {
            map.shift_remove("metadata");
            Ok(())
        }
        Some(metadata) => decode_object_meta(metadata).map_err(|error| DecodeError::Embedded {
            path: path.to_owned(),
            reason: Box::new(error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn decoded(mut object: Value) -> Result<Value, String> {
        let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true});
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "one": embedded.clone(),
            "many": {"type": "array", "items": embedded},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}));
        decode(&mut object, &schema).map_err(|error| error.to_string())?;
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
        let mut expected = object.clone();
        expected["one"]["metadata"] = json!({"name": "a"});
        assert_eq!(decoded(object), Ok(expected));
    }
}
