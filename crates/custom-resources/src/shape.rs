//! Pruning (removal of unknown fields) and defaulting of an object by its schema.

use json_tree::Value;

use crate::schema::{AdditionalProperties, Schema};

/// Fields that every object of the API has.
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The known fields of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// The fields of its schema.
    OfSchema,
    /// The fields of its schema, and the fields of each API object.
    OfObject,
}

/// The rule for the fields of a value.
#[derive(Clone, Copy)]
struct Rule<'s> {
    /// `None` below `additionalProperties: true` and similar: no field is known.
    schema: Option<&'s Schema>,
    /// Whether unknown fields are preserved, also those of the elements of a list.
    preserves: bool,
    is_object: bool,
}

/// The treatment of one field.
enum Member<'s> {
    Unknown,
    /// The field and all fields inside of it are preserved.
    Whole,
    Known(Rule<'s>),
}

impl<'s> Rule<'s> {
    fn new(schema: Option<&'s Schema>) -> Self {
        Self {
            schema,
            preserves: schema.is_some_and(|schema| schema.preserve_unknown),
            is_object: schema.is_some_and(|schema| schema.embedded),
        }
    }

    fn root(schema: &'s Schema, fields: Fields) -> Self {
        let mut rule = Self::new(Some(schema));
        rule.is_object |= fields == Fields::OfObject;
        rule
    }

    fn member(self, name: &str) -> Member<'s> {
        if self.is_object && OBJECT_FIELDS.contains(&name) {
            return Member::Whole;
        }
        let known = self.schema.and_then(|schema| match &schema.additional {
            _ if schema.properties.contains_key(name) => Some(schema.properties.get(name)),
            Some(AdditionalProperties::Like(below)) => Some(Some(below.as_ref())),
            // The names are free, but the values have no known fields.
            Some(AdditionalProperties::Allowed(_)) => Some(None),
            None => None,
        });
        match known {
            Some(below) => Member::Known(Self::new(below)),
            None if self.preserves => Member::Whole,
            None => Member::Unknown,
        }
    }

    fn element(self) -> Self {
        let rule = Self::new(self.schema.and_then(|schema| schema.items.as_deref()));
        if self.preserves {
            cov_mark::hit!(findings_2_k10);
        }
        Self {
            preserves: rule.preserves || self.preserves,
            ..rule
        }
    }
}

/// Removes the fields of an object that are not in the schema.
pub fn prune(object: &mut Value, schema: &Schema) {
    prune_value(object, Rule::root(schema, Fields::OfObject));
}

fn prune_value(value: &mut Value, rule: Rule<'_>) {
    match value {
        Value::Object(map) => map.retain(|name, value| match rule.member(name) {
            Member::Unknown => false,
            Member::Whole => true,
            Member::Known(below) => {
                prune_value(value, below);
                true
            }
        }),
        Value::Array(items) => {
            let rule = rule.element();
            items.iter_mut().for_each(|item| prune_value(item, rule));
        }
        _ => {}
    }
}

/// The paths of the fields that [`prune`] would remove (`spec.ports[0].nme`).
pub fn unknown(value: &Value, schema: &Schema, fields: Fields) -> Vec<String> {
    let mut paths = Vec::new();
    name_unknown(
        value,
        Rule::root(schema, fields),
        &mut String::new(),
        &mut paths,
    );
    paths
}

fn name_unknown(value: &Value, rule: Rule<'_>, path: &mut String, paths: &mut Vec<String>) {
    let length = path.len();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let member = rule.member(name);
                if matches!(member, Member::Whole) {
                    continue;
                }
                if length > 0 {
                    path.push('.');
                }
                path.push_str(name);
                match member {
                    Member::Known(below) => name_unknown(value, below, path, paths),
                    Member::Unknown | Member::Whole => paths.push(path.clone()),
                }
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            let rule = rule.element();
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                name_unknown(item, rule, path, paths);
                path.truncate(length);
            }
        }
        _ => {}
    }
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
        let dropped = unknown(&object, &schema(), Fields::OfObject);
        prune(&mut object, &schema());
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
        assert_eq!(unknown(&object, &schema(), Fields::OfObject), [""; 0]);
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
        let dropped = unknown(&object, &schema, Fields::OfObject);
        assert_eq!(dropped, ["pipelines[0].known.no"]);
        prune(&mut object, &schema);
        let expected =
            json!({"pipelines": [{"id": "main", "known": {"a": "b"}}], "nested": [[{"id": 1}]]});
        assert_eq!(object, expected);
    }

    /// As upstream's pruning: the names are free, but no field of a value is known.
    #[test]
    fn values_of_any_type_have_no_known_fields() {
        for allowed in [true, false] {
            let schema = Schema::parse(&json!({"type": "object", "properties": {
                "map": {"type": "object", "additionalProperties": allowed},
                "kept": {"type": "object", "additionalProperties": allowed,
                    "x-kubernetes-preserve-unknown-fields": true}}}));
            let mut object = json!({"map": {"a": {"b": 1}, "c": [{"d": 1}], "e": 1},
                "kept": {"a": {"b": 1}}});
            let mut dropped = unknown(&object, &schema, Fields::OfObject);
            dropped.sort_unstable();
            assert_eq!(dropped, ["kept.a.b", "map.a.b", "map.c[0].d"]);
            prune(&mut object, &schema);
            let expected = json!({"map": {"a": {}, "c": [{}], "e": 1}, "kept": {"a": {}}});
            assert_eq!(object, expected);
        }
    }

    #[test]
    fn the_fields_of_an_object_are_known_in_objects_only() {
        let schema =
            Schema::parse(&json!({"type": "object", "properties": {"a": {"type": "string"}}}));
        let value = json!({"a": "b", "kind": "A"});
        assert_eq!(unknown(&value, &schema, Fields::OfSchema), ["kind"]);
        assert_eq!(unknown(&value, &schema, Fields::OfObject), [""; 0]);
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
