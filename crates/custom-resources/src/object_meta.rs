//! Types of the fields that every object of the API has (`apiVersion`, `kind`, `metadata`), in a custom resource and
//! in its embedded objects (`x-kubernetes-embedded-resource`).

use json_tree::{Map, Value};
use object_model::{FieldError, FieldPath, names};
use resource_kinds::annotations::MALFORMED_METADATA;
use resource_kinds::{
    DecodeError, decode_object_meta, repair_object_meta, unknown_object_meta_fields,
    validate_embedded_metadata,
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
pub(crate) fn unknown_in_embedded(object: &Value, schema: &Schema) -> Vec<String> {
    let mut unknown = Vec::new();
    name_unknown_below(object, schema, &mut String::new(), &mut unknown);
    unknown.sort_unstable();
    unknown
}

fn name_unknown_below(value: &Value, schema: &Schema, path: &mut String, paths: &mut Vec<String>) {
    if !schema.has_embedded {
        return;
    }
    let length = path.len();
    let mut below = |value: &Value, below: &Schema, path: &mut String| {
        if below.embedded
            && let Value::Object(map) = value
        {
            name_unknown(map, &format!("{path}."), paths);
        }
        name_unknown_below(value, below, path, paths);
        path.truncate(length);
    };
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(field) = schema.field(name) {
                    enter(path, name, schema);
                    below(value, field, path);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if let Some(schema) = schema.items.as_deref() {
                    path.push_str(&format!("[{index}]"));
                    below(item, schema, path);
                }
            }
        }
        _ => {}
    }
}

/// Appends a field to a path: in brackets if its name is free.
fn enter(path: &mut String, name: &str, schema: &Schema) {
    if !schema.properties.contains_key(name) {
        path.extend(["[", name, "]"]);
    } else if path.is_empty() {
        path.push_str(name);
    } else {
        path.extend([".", name]);
    }
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

/// Checks the metadata of a value that is not a whole resource, for instance a default, and removes unknown fields.
///
/// # Errors
/// The first mismatch.
pub(crate) fn decode_value(value: &mut Value, schema: &Schema) -> Result<(), DecodeError> {
    if schema.embedded
        && let Value::Object(map) = value
    {
        decode_embedded(map, "")?;
    }
    visit(value, schema, &mut String::new(), &mut decode_embedded)
}

/// Checks the fields of an embedded object that each object has.
///
/// # Errors
/// The messages, with paths in the object.
pub(crate) fn check_embedded(map: &mut Map<String, Value>) -> Result<(), Vec<String>> {
    decode_embedded(map, "").map_err(|error| vec![error.to_string()])?;
    let mut errors = Vec::new();
    validate_embedded(map, &FieldPath::default(), &mut errors);
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

/// Adds the errors of an embedded object's type and metadata, with the texts of
/// `pkg/apiserver/schema/objectmeta` in k8s.io/apiextensions-apiserver.
pub(crate) fn validate_embedded(
    map: &Map<String, Value>,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match map.get(name) {
            None => errors.push(FieldError::required(&at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(&at, "", "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" => {
                if text.matches('/').count() > 1 {
                    let detail = format!("unexpected GroupVersion string: {text}");
                    errors.push(FieldError::invalid(&at, text.as_str(), detail));
                }
            }
            Some(Value::String(text)) => {
                let clauses = names::dns_1035_label(&text.to_lowercase());
                if !clauses.is_empty() {
                    let detail = format!(
                        "may have mixed case, but should otherwise match: {}",
                        clauses.join(",")
                    );
                    errors.push(FieldError::invalid(&at, text.as_str(), detail));
                }
            }
            Some(other) => errors.push(FieldError::invalid(&at, other.clone(), "must be a string")),
        }
    }
    if let Some(metadata) = map.get("metadata").filter(|value| value.is_object()) {
        let of_metadata = validate_embedded_metadata(metadata).into_iter();
        errors.extend(of_metadata.map(|error| FieldError {
            field: path.child(&error.field.to_string()),
            ..error
        }));
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
                enter(path, name, schema);
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
