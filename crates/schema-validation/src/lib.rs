//! Checks objects against an OpenAPI document that a server publishes (`/openapi/v2`, or a document below
//! `/openapi/v3`), as a client with strict types: required fields must exist, unknown fields must not, and values
//! must have their type. For tests, whose harnesses check every object that they receive.

use std::collections::BTreeMap;

use json_tree::{Map, Value};

/// Maximum number of reported violations of one object.
const REPORTED_MAX: usize = 20;

/// The definitions of a document, and the definition of each kind.
#[derive(Debug)]
pub struct SchemaCheck {
    definitions: Map<String, Value>,
    /// The definition names by `apiVersion` and `kind`.
    kinds: BTreeMap<(String, String), String>,
}

impl SchemaCheck {
    /// Kinds that the document does not contain are not checked.
    pub fn new(mut document: Value) -> Self {
        let paths = ["/definitions", "/components/schemas"];
        let mut existing = paths.iter().filter(|path| document.pointer(path).is_some());
        let existing = existing.next().and_then(|path| document.pointer_mut(path));
        let definitions = match existing.map(Value::take) {
            Some(Value::Object(definitions)) => definitions,
            _ => Map::new(),
        };
        let mut kinds = BTreeMap::new();
        for (name, definition) in &definitions {
            let listed = definition["x-kubernetes-group-version-kind"].as_array();
            for kind in listed.into_iter().flatten() {
                let text = |field: &str| kind[field].as_str().unwrap_or_default().to_owned();
                let version = match text("group").as_str() {
                    "" => text("version"),
                    group => format!("{group}/{}", text("version")),
                };
                kinds.insert((version, text("kind")), name.clone());
            }
        }
        Self { definitions, kinds }
    }

    /// The violations of an object (or of a list with its items): for each a sentence with the path. Empty for a kind
    /// that the document does not contain.
    pub fn violations(&self, object: &Value) -> Vec<String> {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let kind = (text("apiVersion"), text("kind"));
        let mut walk = Walk {
            check: self,
            path: kind.1.clone(),
            violations: Vec::new(),
        };
        if let Some(definition) = self.kinds.get(&kind) {
            walk.definition(definition, object);
        }
        walk.violations
    }
}

struct Walk<'a> {
    check: &'a SchemaCheck,
    path: String,
    violations: Vec<String>,
}

impl Walk<'_> {
    fn report(&mut self, what: &str) {
        if self.violations.len() < REPORTED_MAX {
            self.violations.push(format!("{}: {what}", self.path));
        }
    }

    fn definition(&mut self, name: &str, value: &Value) {
        match self.check.definitions.get(name) {
            Some(schema) => self.value(schema, value),
            None => self.report(&format!("definition {name} is missing in the document")),
        }
    }

    fn value(&mut self, schema: &Value, value: &Value) {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            return self.definition(name, value);
        }
        // In version 3, a reference with a description or a default is the only item of `allOf`.
        if let Some([only]) = schema["allOf"].as_array().map(Vec::as_slice) {
            return self.value(only, value);
        }
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        let fits = match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("string"), Some("int-or-string")) => value.is_string() || value.is_i64(),
            // Upstream's encoder writes null for a time that is not set.
            (Some("string"), Some("date-time")) => value.is_string() || value.is_null(),
            (Some("string"), _) => value.is_string(),
            (Some("boolean"), _) => value.is_boolean(),
            (Some("integer"), Some("int32")) => value
                .as_i64()
                .is_some_and(|number| i32::try_from(number).is_ok()),
            (Some("integer"), _) => value.is_i64() || value.is_u64(),
            (Some("number"), _) => value.is_number(),
            (Some("array"), _) => return self.array(&schema["items"], value),
            (Some("object"), _) => return self.object(schema, value),
            _ => return,
        };
        if !fits {
            let expected = schema["format"].as_str().or(schema["type"].as_str());
            let expected = expected.unwrap_or_default();
            self.report(&format!("{value} is not of the type {expected}"));
        }
    }

    fn array(&mut self, items: &Value, value: &Value) {
        let Some(elements) = value.as_array() else {
            return self.report(&format!("{value} is not an array"));
        };
        for (index, element) in elements.iter().enumerate() {
            self.below(&format!("[{index}]"), |walk| walk.value(items, element));
        }
    }

    fn object(&mut self, schema: &Value, value: &Value) {
        let Some(fields) = value.as_object() else {
            return self.report(&format!("{value} is not an object"));
        };
        let required = schema["required"].as_array();
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.report(&format!("the required field {name} is missing"));
            }
        }
        let properties = schema["properties"].as_object();
        let rest = &schema["additionalProperties"];
        // A type without fields (raw extensions, field sets), and a type that preserves unknown fields, accept any
        // field.
        let free = properties.is_none() && !rest.is_object()
            || schema["x-kubernetes-preserve-unknown-fields"] == true;
        for (name, value) in fields {
            let property = properties.and_then(|properties| properties.get(name));
            let schema = property.or_else(|| rest.is_object().then_some(rest));
            self.below(&format!(".{name}"), |walk| match schema {
                Some(schema) => walk.value(schema, value),
                None if free => {}
                None => walk.report("the field is unknown"),
            });
        }
    }

    fn below(&mut self, step: &str, walk: impl FnOnce(&mut Self)) {
        let here = self.path.len();
        self.path.push_str(step);
        walk(self);
        self.path.truncate(here);
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn check() -> SchemaCheck {
        let group_version_kind =
            |kind: &str| json!([{"group": "apps", "version": "v1", "kind": kind}]);
        SchemaCheck::new(json!({"definitions": {
            "Set": {
                "type": "object",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "spec": {"$ref": "#/definitions/Spec"},
                },
                "x-kubernetes-group-version-kind": group_version_kind("Set"),
            },
            "SetList": {
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "items": {"type": "array", "items": {"$ref": "#/definitions/Set"}},
                },
                "x-kubernetes-group-version-kind": group_version_kind("SetList"),
            },
            "Spec": {
                "type": "object",
                "properties": {
                    "replicas": {"type": "integer", "format": "int32"},
                    "port": {"type": "string", "format": "int-or-string"},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "raw": {"type": "object"},
                    "note": {"type": "string", "nullable": true},
                },
            },
        }}))
    }

    fn violations(object: Value) -> Vec<String> {
        check().violations(&object)
    }

    #[test]
    fn what_a_strict_client_reads_passes() {
        let spec = json!({"replicas": 3, "port": 80, "labels": {"a": "b"}, "raw": {"x": [1]}, "note": null});
        let set = json!({"apiVersion": "apps/v1", "kind": "Set", "spec": spec});
        assert!(violations(set.clone()).is_empty());
        let list = json!({"apiVersion": "apps/v1", "kind": "SetList", "items": [set]});
        assert!(violations(list).is_empty());
        let unknown = json!({"apiVersion": "v1", "kind": "Else", "x": 1});
        assert!(violations(unknown).is_empty());
    }

    /// Documents of version 3 have another location of the definitions, and references as lists with one item.
    #[test]
    fn documents_of_both_versions_are_read() {
        let check = SchemaCheck::new(json!({"openapi": "3.0.0", "components": {"schemas": {
            "Set": {
                "type": "object",
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "spec": {"allOf": [{"$ref": "#/components/schemas/Spec"}], "default": {}},
                },
                "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Set"}],
            },
            "Spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
        }}}));
        let set = json!({"apiVersion": "v1", "kind": "Set", "spec": {"replicas": "x"}});
        let violations = check.violations(&set);
        assert_eq!(
            violations,
            ["Set.spec.replicas: \"x\" is not of the type integer"]
        );
    }

    /// findings C1: an absent required field, as strict clients report it.
    #[test]
    fn what_a_strict_client_refuses_is_found() {
        let list = json!({"apiVersion": "apps/v1", "kind": "SetList", "items": [
            {},
            {"spec": {"replicas": 3_000_000_000_u64, "labels": {"a": 1}, "more": 1, "raw": 2}},
        ]});
        assert_eq!(
            violations(list),
            [
                "SetList.items[0]: the required field spec is missing",
                "SetList.items[1].spec.replicas: 3000000000 is not of the type int32",
                "SetList.items[1].spec.labels.a: 1 is not of the type string",
                "SetList.items[1].spec.more: the field is unknown",
                "SetList.items[1].spec.raw: 2 is not an object",
            ]
        );
    }
}
