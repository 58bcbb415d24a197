//! The two forms of an OpenAPI document: the location of the definitions, the references between definitions, and the
//! few special types.

use json_tree::{Map, Value, json};

use crate::custom::for_v2;
use crate::definitions::reference;
use crate::facts::{Facts, ListType, MapType};
use crate::graph::Graph;

/// The type of values that are whole numbers or texts; other types with numbers or texts are quantities.
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The version of OpenAPI: Swagger 2.0 or OpenAPI 3.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }

    /// A schema that refers to the named definition.
    pub fn reference(self, name: &str) -> Value {
        json!({"$ref": format!("{}{name}", self.prefix())})
    }

    /// A definition in its published form, with the merge facts and kinds from `graph`.
    pub fn definition(self, name: &str, source: &Value, graph: &Graph) -> Value {
        if let Some(special) = self.special(name, source) {
            return special;
        }
        let mut published = self.schema(source);
        let facts_source = graph.definition_named(name);
        let (Some(object), Some(facts_source)) = (published.as_object_mut(), facts_source) else {
            return published;
        };
        if let Some(Value::Object(properties)) = object.get_mut("properties") {
            for (field, schema) in properties {
                if let Some(field) = graph.field(facts_source, field) {
                    annotate(schema, graph.facts(field.facts));
                }
            }
        }
        let kinds: Vec<Value> = graph
            .kinds()
            .filter(|(_, definition)| graph.text(definition.name) == name)
            .map(|([group, version, kind], _)| gvk(group, version, kind))
            .collect();
        if !kinds.is_empty() {
            object.insert(
                "x-kubernetes-group-version-kind".into(),
                Value::Array(kinds),
            );
        }
        annotate(&mut published, graph.facts(facts_source.facts));
        published
    }

    /// The definition of a custom kind, which contains its facts already.
    pub fn custom_definition(self, source: &Value) -> Value {
        const KINDS: &str = "x-kubernetes-group-version-kind";
        match self {
            // Clients treat `properties` as the complete list of fields.
            Self::V2 if source["x-kubernetes-preserve-unknown-fields"] == true => {
                json!({"type": "object", KINDS: source[KINDS]})
            }
            Self::V2 => self.schema(&for_v2(source)),
            Self::V3 => self.schema(source),
        }
    }

    /// The definition of a type such as a quantity: a string or a number.
    fn special(self, name: &str, source: &Value) -> Option<Value> {
        source.get("x-kubernetes-int-or-string")?;
        let description = source.get("description").cloned().unwrap_or_default();
        let whole = name == INT_OR_STRING;
        Some(match (self, whole) {
            (Self::V2, true) => {
                json!({"description": description, "type": "string", "format": "int-or-string"})
            }
            (Self::V2, false) => json!({"description": description, "type": "string"}),
            (Self::V3, true) => json!({
                "description": description,
                "format": "int-or-string",
                "oneOf": [{"type": "integer"}, {"type": "string"}],
            }),
            (Self::V3, false) => json!({
                "description": description,
                "oneOf": [{"type": "string"}, {"type": "number"}],
            }),
        })
    }

    fn schema(self, source: &Value) -> Value {
        let Value::Object(source_map) = source else {
            return source.clone();
        };
        let mut published = Map::new();
        for (key, value) in source_map {
            let value = match (key.as_str(), value) {
                ("$ref", _) => continue,
                ("properties", Value::Object(properties)) => properties
                    .iter()
                    .map(|(name, schema)| (name.clone(), self.schema(schema)))
                    .collect::<Map<String, Value>>()
                    .into(),
                ("items" | "additionalProperties", schema) => self.schema(schema),
                (_, other) => other.clone(),
            };
            published.insert(key.clone(), value);
        }
        if let Some(name) = reference(source) {
            let reference = self.reference(name);
            // OpenAPI 3.0 ignores siblings of a reference.
            match self {
                Self::V3 if !published.is_empty() => {
                    published.insert("allOf".into(), json!([reference]));
                }
                _ => {
                    published.insert("$ref".into(), reference["$ref"].clone());
                }
            }
        }
        Value::Object(published)
    }
}

/// `{group, kind, version}`.
pub(crate) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}

fn annotate(schema: &mut Value, facts: &Facts) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    let mut set = |key: &str, value: Value| {
        schema.insert(format!("x-kubernetes-{key}"), value);
    };
    match facts.list_type {
        Some(ListType::Atomic) => set("list-type", "atomic".into()),
        Some(ListType::Set) => set("list-type", "set".into()),
        Some(ListType::Map) => set("list-type", "map".into()),
        None => {}
    }
    if !facts.list_map_keys.is_empty() {
        set("list-map-keys", facts.list_map_keys.split(',').collect());
    }
    match facts.map_type {
        Some(MapType::Atomic) => set("map-type", "atomic".into()),
        Some(MapType::Granular) => set("map-type", "granular".into()),
        None => {}
    }
    if !facts.patch_merge_key.is_empty() {
        set("patch-merge-key", facts.patch_merge_key.into());
    }
    if !facts.patch_strategy.is_empty() {
        set("patch-strategy", facts.patch_strategy.into());
    }
}
