//! Writes the graph of the definitions as constants for `src/graph.rs`, which documents them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::REFERENCE_PREFIX;
use crate::published_facts::{self, Row};

/// The source text of the constants. `definitions` are sorted by name; `kinds` are group, version and kind, with the
/// name of the definition.
pub(crate) fn source(
    definitions: &Map<String, Value>,
    mut kinds: Vec<([&'static str; 3], &'static str)>,
) -> String {
    let mut writer = Writer {
        source: definitions,
        index: definitions.keys().map(String::as_str).zip(0..).collect(),
        rows: published_facts::rows(),
        texts: String::new(),
        facts: Vec::new(),
        nodes: Vec::new(),
        fields: Vec::new(),
        definitions: Vec::new(),
        kinds: Vec::new(),
    };
    // Index 0 contains the facts of a field without facts.
    writer.facts("", "");
    for (name, schema) in definitions {
        writer.definition(name, schema);
    }
    kinds.sort();
    for (name, definition) in kinds {
        writer.kind(name, definition);
    }
    writer.finish()
}

/// The tables; each line is a literal.
struct Writer<'a> {
    source: &'a Map<String, Value>,
    index: BTreeMap<&'a str, usize>,
    rows: BTreeMap<(&'static str, &'static str), Row>,
    texts: String,
    facts: Vec<String>,
    nodes: Vec<String>,
    fields: Vec<String>,
    definitions: Vec<String>,
    kinds: Vec<String>,
}

impl Writer<'_> {
    fn definition(&mut self, name: &str, schema: &Value) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let required = schema.get("required").and_then(Value::as_array);
        let mut properties: Vec<(&String, &Value)> = properties.into_iter().flatten().collect();
        properties.sort_by_key(|(field, _)| *field);
        let (first, count) = (self.fields.len(), properties.len());
        for (field, schema) in properties {
            let required = required.is_some_and(|names| names.iter().any(|name| name == field));
            let (text, node) = (self.text(field), self.node(schema));
            let facts = self.facts(name, field);
            self.fields.push(format!(
                "Field {{ name: {text}, node: {node}, required: {required}, facts: {facts} }}"
            ));
        }
        let (text, facts) = (self.text(name), self.facts(name, ""));
        self.definitions.push(format!(
            "Definition {{ name: {text}, first: {first}, count: {count}, open: false, facts: {facts} }}"
        ));
    }

    fn kind(&mut self, name: [&str; 3], definition: &str) {
        let Some(definition) = self.index.get(definition).copied() else {
            return;
        };
        let name = name.map(|word| self.text(word)).join(", ");
        self.kinds.push(format!(
            "Kind {{ name: [{name}], definition: {definition} }}"
        ));
    }

    fn node(&mut self, schema: &Value) -> String {
        let reference = schema.get("$ref").and_then(Value::as_str);
        if let Some(name) = reference.and_then(|target| target.strip_prefix(REFERENCE_PREFIX)) {
            return self.named(name);
        }
        let (form, element) = match schema.get("type").and_then(Value::as_str) {
            Some("array") => ("List", schema.get("items").unwrap_or(&Value::Null)),
            Some("object") => match schema.get("additionalProperties") {
                Some(values) => ("Map", values),
                None => return "Node::Any".to_owned(),
            },
            Some(_) => return "Node::Scalar".to_owned(),
            None => return "Node::Any".to_owned(),
        };
        let element = self.node(element);
        format!("Node::{form}({})", index_of(&mut self.nodes, element))
    }

    /// A reference to a definition; for a definition without fields, the type of its values.
    fn named(&mut self, name: &str) -> String {
        let (Some(schema), Some(index)) = (self.source.get(name), self.index.get(name)) else {
            return "Node::Any".to_owned();
        };
        if schema.get("properties").is_some() {
            return format!("Node::Definition({index})");
        }
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return "Node::Scalar".to_owned();
        }
        self.node(schema)
    }

    fn facts(&mut self, definition: &str, field: &str) -> usize {
        let row = self.rows.get(&(definition, field));
        let row = row.copied().unwrap_or_default();
        let list_type = match row.list_type {
            "atomic" => "Some(ListType::Atomic)",
            "set" => "Some(ListType::Set)",
            "map" => "Some(ListType::Map)",
            _ => "None",
        };
        let map_type = match row.map_type {
            "atomic" => "Some(MapType::Atomic)",
            "granular" => "Some(MapType::Granular)",
            _ => "None",
        };
        let literal = format!(
            "Facts {{ list_type: {list_type}, list_map_keys: Cow::Borrowed({:?}), \
             map_type: {map_type}, patch_strategy: {:?}, patch_merge_key: {:?}, \
             default: Cow::Borrowed({:?}) }}",
            row.list_map_keys, row.patch_strategy, row.patch_merge_key, row.default
        );
        index_of(&mut self.facts, literal)
    }

    /// A range in the common text of all names.
    fn text(&mut self, name: &str) -> String {
        let start = self.texts.find(name).unwrap_or_else(|| {
            self.texts.push_str(name);
            self.texts.len() - name.len()
        });
        format!("Text {{ start: {start}, length: {} }}", name.len())
    }

    fn finish(self) -> String {
        let mut out = format!("pub(super) static TEXTS: &str = {:?};\n", self.texts);
        for (name, form, lines) in [
            ("FACTS", "Facts", self.facts),
            ("NODES", "Node", self.nodes),
            ("FIELDS", "Field", self.fields),
            ("DEFINITIONS", "Definition", self.definitions),
            ("KINDS", "Kind", self.kinds),
        ] {
            let (count, lines) = (lines.len(), lines.join(",\n"));
            out += &format!("pub(super) static {name}: [{form}; {count}] = [\n{lines}\n];\n");
        }
        out
    }
}

/// The index of a literal in its table; a new literal is added.
fn index_of(table: &mut Vec<String>, literal: String) -> usize {
    let index = table.iter().position(|existing| *existing == literal);
    index.unwrap_or_else(|| {
        table.push(literal);
        table.len() - 1
    })
}
