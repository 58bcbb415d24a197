//! Kinds whose schema comes from a CustomResourceDefinition.

use json_tree::{Map, Value, json};
use resource_kinds::{KindInfo, Words};

use crate::definitions::REFERENCE_PREFIX;
use crate::facts::{Facts, ListType, MapType};
use crate::graph::{Field, Graph, NO_FACTS, Node};

// Kubernetes' description of these fields, for all kinds.
pub(crate) const API_VERSION_DESCRIPTION: &str = "APIVersion defines the versioned schema of this \
    representation of an object. Servers should convert recognized schemas to the latest internal \
    value, and may reject unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
pub(crate) const KIND_DESCRIPTION: &str = "Kind is a string value representing the REST resource \
    this object represents. Servers may infer this from the endpoint the client submits requests \
    to. Cannot be updated. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA_DESCRIPTION: &str = "Standard object's metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

const OF_EVERY_OBJECT: [&str; 3] = ["apiVersion", "kind", "metadata"];
/// Only documents of version 3 have this extension.
const SELECTABLE_FIELDS: &str = "x-kubernetes-selectable-fields";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// A custom kind, for the OpenAPI documents.
#[derive(Clone, Copy, Debug)]
pub struct CustomKind<'a> {
    /// The group, version and names of the kind.
    pub info: KindInfo<'a>,
    /// The `openAPIV3Schema` of the version.
    pub schema: &'a Value,
    /// The fields of field selectors, without a dot at the start.
    pub selectable: Words<'a>,
}

impl CustomKind<'_> {
    /// For example `org.example.v1.Boat`: the reversed group, as upstream.
    pub(crate) fn definition_name(&self) -> String {
        let mut words: Vec<&str> = self.info.group.split('.').rev().collect();
        words.extend([self.info.version, self.info.kind]);
        words.join(".")
    }

    /// The schema with the common fields of all objects.
    pub(crate) fn definition(&self) -> Value {
        let mut schema = self.schema.clone();
        let Some(map) = schema.as_object_mut() else {
            return json!({"type": "object"});
        };
        add_identity(map);
        let kinds = json!([{
            "group": self.info.group,
            "kind": self.info.kind,
            "version": self.info.version,
        }]);
        map.insert("x-kubernetes-group-version-kind".into(), kinds);
        if !self.selectable.is_empty() {
            let fields = self.selectable.iter();
            let fields = fields.map(|field| json!({"fieldPath": field})).collect();
            map.insert(SELECTABLE_FIELDS.into(), fields);
        }
        schema
    }
}

/// Adds the common fields to an object and to embedded objects.
fn add_identity(schema: &mut Map<String, Value>) {
    embed(schema);
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    let Some(properties) = properties.as_object_mut() else {
        return;
    };
    let metadata = json!({
        "description": METADATA_DESCRIPTION,
        "$ref": format!("{REFERENCE_PREFIX}{OBJECT_META}"),
    });
    properties.insert("metadata".into(), metadata);
    for (name, description) in [
        ("apiVersion", API_VERSION_DESCRIPTION),
        ("kind", KIND_DESCRIPTION),
    ] {
        let text = json!({"description": description, "type": "string"});
        properties.insert(name.into(), text);
    }
}

/// Adds the fields that an embedded object must have to its required fields.
fn require_type(schema: &mut Map<String, Value>) {
    let required = schema.entry("required").or_insert_with(|| json!([]));
    let Some(required) = required.as_array_mut() else {
        return;
    };
    for name in ["kind", "apiVersion"] {
        if !required.iter().any(|other| other == name) {
            required.push(name.into());
        }
    }
}

/// Adds the types of an int-or-string, which the published schema states although the definition need not.
fn state_types(schema: &mut Map<String, Value>) {
    let types = json!([{"type": "integer"}, {"type": "string"}]);
    let states = |part: Option<&Value>| part.is_some_and(|part| *part == types);
    let first = schema.get("allOf").and_then(|parts| parts.get(0));
    if states(schema.get("anyOf")) || states(first.and_then(|part| part.get("anyOf"))) {
        return;
    }
    if !schema.contains_key("anyOf") {
        schema.insert("anyOf".into(), types);
        return;
    }
    let parts = schema.entry("allOf").or_insert_with(|| json!([]));
    if let Some(parts) = parts.as_array_mut() {
        parts.insert(0, json!({"anyOf": types}));
    }
}

/// Adds the common fields to embedded objects inside of a schema, and the types of int-or-strings.
fn embed(schema: &mut Map<String, Value>) {
    let mut visit = |below: &mut Value| {
        let Some(below) = below.as_object_mut() else {
            return;
        };
        if below.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
            state_types(below);
        }
        if below.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
            add_identity(below);
            require_type(below);
        } else {
            embed(below);
        }
    };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(&mut visit);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(below) = schema.get_mut(name) {
            visit(below);
        }
    }
}

/// The graph of one custom kind: its own types, and the published type of the metadata.
pub(crate) fn graph(info: &KindInfo<'_>, schema: &Value) -> Graph {
    let mut maker = Maker {
        graph: Graph::without_kinds(),
    };
    let root = maker.object(schema, true, preserves_unknown(schema));
    let name = [info.group, info.version, info.kind];
    maker.graph.add_kind(name, root);
    maker.graph
}

fn preserves_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

struct Maker {
    graph: Graph,
}

impl Maker {
    /// Adds the definition of an object with known fields. `open` is whether it may have other fields.
    fn object(&mut self, schema: &Value, whole: bool, open: bool) -> u32 {
        let embedded = schema["x-kubernetes-embedded-resource"] == true;
        let properties = schema["properties"].as_object();
        let required = schema["required"].as_array();
        let mut fields: Vec<Field> = Vec::new();
        for (name, below) in properties.into_iter().flatten() {
            if (whole || embedded) && OF_EVERY_OBJECT.contains(&name.as_str()) {
                continue;
            }
            let node = self.node(below, open);
            fields.push(Field {
                name: self.graph.add_text(name),
                node,
                required: required.is_some_and(|names| names.iter().any(|other| other == name)),
                facts: self.graph.add_facts(facts(below)),
            });
        }
        if whole || embedded {
            let metadata = self.graph.published_index(OBJECT_META);
            for name in OF_EVERY_OBJECT {
                let metadata = metadata.filter(|_| name == "metadata");
                fields.push(Field {
                    name: self.graph.add_text(name),
                    node: metadata.map_or(Node::Scalar, Node::Definition),
                    required: false,
                    facts: NO_FACTS,
                });
            }
        }
        let facts = self.graph.add_facts(facts(schema));
        self.graph.add_definition(fields, open, facts)
    }

    /// The type of a value. `open` is whether an outer value is open. An embedded object has typed metadata in any
    /// case.
    fn node(&mut self, schema: &Value, open: bool) -> Node {
        let open = open || preserves_unknown(schema);
        if schema["x-kubernetes-int-or-string"] == true {
            return Node::Scalar;
        }
        match schema["type"].as_str() {
            Some("object") => match schema.get("additionalProperties") {
                Some(values @ Value::Object(_)) => {
                    let values = self.node(values, open);
                    Node::Map(self.graph.add_element(values))
                }
                Some(Value::Bool(true)) => Node::Map(self.graph.add_element(Node::Any)),
                _ if open && !has_declared_fields(schema) => Node::Any,
                _ => Node::Definition(self.object(schema, false, open)),
            },
            Some("array") => {
                let elements = self.node(&schema["items"], open);
                Node::List(self.graph.add_element(elements))
            }
            Some(_) => Node::Scalar,
            None => Node::Any,
        }
    }
}

fn has_declared_fields(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == true || schema["properties"].is_object()
}

fn facts(schema: &Value) -> Facts {
    let text = |name: &str| schema[name].as_str().unwrap_or_default();
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    let keys: Vec<&str> = keys
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let default = match &schema["default"] {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => schema["default"].to_string(),
        _ => String::new(),
    };
    Facts {
        list_type: match text("x-kubernetes-list-type") {
            "set" => Some(ListType::Set),
            "map" => Some(ListType::Map),
            "atomic" => Some(ListType::Atomic),
            _ => None,
        },
        list_map_keys: keys.join(",").into(),
        map_type: match text("x-kubernetes-map-type") {
            "atomic" => Some(MapType::Atomic),
            "granular" => Some(MapType::Granular),
            _ => None,
        },
        default: default.into(),
        ..Facts::default()
    }
}

/// Removes parts that OpenAPI 2.0 cannot express; any value is allowed there.
pub(crate) fn for_v2(schema: &Value) -> Value {
    const UNKNOWN: [&str; 7] = [
        "nullable",
        "oneOf",
        "anyOf",
        "allOf",
        "not",
        "default",
        SELECTABLE_FIELDS,
    ];
    let Value::Object(map) = schema else {
        return schema.clone();
    };
    let free = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
        || map.get("nullable") == Some(&Value::Bool(true))
        || map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let mut fields = Map::new();
    for (name, value) in map {
        let value = match (name.as_str(), value) {
            (name, _) if UNKNOWN.contains(&name) => continue,
            ("type" | "properties" | "items" | "additionalProperties" | "required", _) if free => {
                continue;
            }
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, below)| (name.clone(), for_v2(below)))
                .collect::<Map<String, Value>>()
                .into(),
            ("items" | "additionalProperties", below) => for_v2(below),
            (_, other) => other.clone(),
        };
        fields.insert(name.clone(), value);
    }
    Value::Object(fields)
}
