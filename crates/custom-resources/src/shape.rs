//! Pruning (removal of unknown fields) and defaulting of an object by its schema.

use json_tree::{Map, Value};

use crate::schema::Schema;

/// Fields that every object of the API has.
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes fields that are not in the schema; returns their paths (`spec.ports[0].nme`).
pub fn prune(object: &mut Value, schema: &Schema) -> Vec<String> {
    let mut dropped = Vec::new();
    prune_value(object, schema, Preserved::ObjectFields, "", &mut dropped);
    dropped
}

/// The fields, besides those in a schema, that are preserved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preserved {
    None,
    /// The fields of every API object.
    ObjectFields,
    /// All fields: the value is an element of a list whose unknown fields are preserved.
    All,
}

fn prune_value(
    value: &mut Value,
    schema: &Schema,
    preserved: Preserved,
    path: &str,
    dropped: &mut Vec<String>,
) {
    match value {
        Value::Object(map) => {
            let preserved = match preserved {
                Preserved::None if schema.embedded => Preserved::ObjectFields,
                preserved => preserved,
            };
            prune_map(map, schema, preserved, path, dropped);
        }
        Value::Array(items) => {
            let preserved = match schema.preserve_unknown || preserved == Preserved::All {
                true => {
                    cov_mark::hit!(findings_2_k10);
                    Preserved::All
                }
                false => Preserved::None,
            };
            let Some(schema) = &schema.items else {
                return;
            };
            for (index, item) in items.iter_mut().enumerate() {
                prune_value(
                    item,
                    schema,
                    preserved,
                    &format!("{path}[{index}]"),
                    dropped,
                );
            }
        }
        _ => {}
    }
}

fn prune_map(
    map: &mut Map<String, Value>,
    schema: &Schema,
    preserved: Preserved,
    path: &str,
    dropped: &mut Vec<String>,
) {
    let is_object = preserved == Preserved::ObjectFields || schema.embedded;
    let at = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    map.retain(|name, value| {
        if is_object && OBJECT_FIELDS.contains(&name.as_str()) {
            return true;
        }
        if preserved != Preserved::All && !schema.keeps(name) {
            dropped.push(at(name));
            return false;
        }
        if let Some(schema) = schema.field(name) {
            prune_value(value, schema, Preserved::None, &at(name), dropped);
        }
        true
    });
}

/// Removes null fields if null is not a valid value, because clients send null for fields without a value.
/// [`default`] sets the defaults of such fields; elements of lists stay.
pub fn drop_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => map.retain(|name, value| {
            let Some(below) = schema.field(name) else {
                return true;
            };
            let is_void = value.is_null() && !below.nullable && below.default.is_none();
            if is_void {
                cov_mark::hit!(findings_2_e4);
            } else {
                drop_nulls(value, below);
            }
            !is_void
        }),
        Value::Array(items) => {
            if let Some(below) = &schema.items {
                items.iter_mut().for_each(|item| drop_nulls(item, below));
            }
        }
        _ => {}
    }
}

/// Sets the defaults. A null field counts as missing if null is not a valid value.
pub fn default(value: &mut Value, schema: &Schema) {
    drop_nulls(value, schema);
    fill(value, schema);
}

fn fill(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, below) in &schema.properties {
                let Some(default) = &below.default else {
                    continue;
                };
                let missing = match map.get(name) {
                    None => true,
                    Some(Value::Null) => !below.nullable,
                    Some(_) => false,
                };
                if missing {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if let Some(below) = schema.field(name) {
                    fill_null(value, below);
                    fill(value, below);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = &schema.items {
                for item in items {
                    fill_null(item, below);
                    fill(item, below);
                }
            }
        }
        _ => {}
    }
}

fn fill_null(value: &mut Value, schema: &Schema) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        value.clone_from(default);
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn schema() -> Schema {
        Schema::parse(&json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "properties": {
            "size": {"type": "integer", "default": 3},
            "mode": {"type": "string", "nullable": true, "default": "fast"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                     "properties": {"known": {"type": "object"}}},
            "limits": {"type": "object", "additionalProperties": {"type": "object",
                       "properties": {"max": {"type": "integer", "default": 9}}}},
            "parts": {"type": "array", "items": {"type": "object",
                      "properties": {"name": {"type": "string", "default": "x"}}}},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true},
        }}}}))
    }

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let mut object = json!({"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "a"},
            "junk": 1,
            "spec": {"size": 1, "sise": 2, "free": {"any": 1, "known": {"no": 1}},
                     "limits": {"cpu": {"max": 1, "mx": 2}}, "parts": [{"name": "a", "nme": "b"}],
                     "template": {"kind": "Pod", "metadata": {}, "spec": {}}}});
        let dropped = prune(&mut object, &schema());
        let expected = [
            "junk",
            "spec.free.known.no",
            "spec.limits.cpu.mx",
            "spec.parts[0].nme",
            "spec.sise",
            "spec.template.spec",
        ];
        let mut dropped: Vec<&str> = dropped.iter().map(String::as_str).collect();
        dropped.sort_unstable();
        assert_eq!(dropped, expected);
        assert_eq!(object["spec"]["free"], json!({"any": 1, "known": {}}));
        assert_eq!(
            object["spec"]["template"],
            json!({"kind": "Pod", "metadata": {}})
        );
        assert_eq!(prune(&mut object, &schema()), [""; 0]);
    }

    // findings-2 K10
    #[test]
    fn a_list_that_keeps_unknown_fields_keeps_those_of_its_elements() {
        cov_mark::check!(findings_2_k10);
        let schema = Schema::parse(&json!({"type": "object", "properties": {"pipelines": {
            "type": "array", "x-kubernetes-preserve-unknown-fields": true,
            "items": {"type": "object", "properties": {"known": {"type": "object",
                "properties": {"a": {"type": "string"}}}}}},
            "nested": {"type": "array", "x-kubernetes-preserve-unknown-fields": true,
                "items": {"type": "array", "items": {"type": "object"}}}}}));
        let mut object = json!({"pipelines": [{"id": "main", "known": {"a": "b", "no": 1}}],
            "nested": [[{"id": 1}]]});
        assert_eq!(prune(&mut object, &schema), ["pipelines[0].known.no"]);
        let expected =
            json!({"pipelines": [{"id": "main", "known": {"a": "b"}}], "nested": [[{"id": 1}]]});
        assert_eq!(object, expected);
    }

    // findings-2 E4
    #[test]
    fn a_null_that_is_no_value_is_a_missing_field() {
        cov_mark::check!(findings_2_e4);
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "conditions": {"type": "array", "items": {"type": "object", "properties": {
                "at": {"type": "string"}}}},
            "mode": {"type": "string", "nullable": true}, "size": {"type": "integer", "default": 3},
            "void": {"type": "integer", "nullable": true, "default": null},
            "map": {"type": "object", "additionalProperties": {"type": "string"}}}}));
        let mut object =
            json!({"conditions": null, "mode": null, "size": null, "map": {"a": null, "b": "c"}});
        default(&mut object, &schema);
        assert_eq!(object, json!({"mode": null, "size": 3, "map": {"b": "c"}}));
        let mut object = json!({"conditions": [{"at": null}, null]});
        default(&mut object, &schema);
        assert_eq!(object, json!({"conditions": [{}, null], "size": 3}));
    }

    #[test]
    fn missing_values_are_filled_in_at_every_level() {
        let mut object = json!({"spec": {"mode": null, "size": null, "limits": {"cpu": {}},
            "parts": [{}, {"name": "b"}]}});
        default(&mut object, &schema());
        let expected = json!({"spec": {"mode": null, "size": 3, "limits": {"cpu": {"max": 9}},
            "parts": [{"name": "x"}, {"name": "b"}]}});
        assert_eq!(object, expected);
        // A missing parent is not created for the defaults of its fields.
        let mut empty = json!({});
        default(&mut empty, &schema());
        assert_eq!(empty, json!({}));
    }
}
