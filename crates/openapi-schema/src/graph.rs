//! The types as a compact graph: field names, shapes and merge facts, no descriptions. Only the
//! graph stays in memory (some hundred kilobytes); documents are generated again from the source
//! types.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::facts::{FactTable, Facts};
use crate::roots::{REFERENCE_PREFIX, definitions, roots};

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// Anything at all: raw extensions, field sets, JSON.
    Any,
    /// A string, number, boolean, quantity, time or the like.
    Scalar,
    /// The definition with that index.
    Definition(usize),
    /// A list of such elements.
    List(Box<Node>),
    /// A map from any string to such values.
    Map(Box<Node>),
}

/// A field of a definition.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub name: Box<str>,
    pub node: Node,
    /// Whether every object of the type must have it.
    pub required: bool,
    pub facts: Facts,
}

/// An object type with fields; types without structure (times, quantities) have none.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub name: Box<str>,
    /// Sorted by name.
    pub fields: Box<[Field]>,
    /// The schema of additional fields; `None` if there are none.
    pub rest: Option<Box<Field>>,
    pub facts: Facts,
}

impl Definition {
    pub fn field(&self, name: &str) -> Option<&Field> {
        let index = self
            .fields
            .binary_search_by(|field| (*field.name).cmp(name));
        let named = index.ok().map(|index| &self.fields[index]);
        named.or(self.rest.as_deref())
    }
}

/// Group, version and kind.
type Name<'a> = [Cow<'a, str>; 3];

/// All types, and where each kind's type is.
#[derive(Debug)]
pub(crate) struct Graph {
    pub definitions: Vec<Definition>,
    kinds: BTreeMap<Name<'static>, usize>,
}

impl Graph {
    /// Builds the graph of all known kinds.
    pub fn published() -> Self {
        let generator = definitions();
        let facts = FactTable::published();
        let source = generator.definitions();
        let index: BTreeMap<&str, usize> = source
            .keys()
            .enumerate()
            .map(|(index, name)| (name.as_str(), index))
            .collect();
        let reader = Reader {
            source,
            index: &index,
        };
        let definitions = source
            .iter()
            .map(|(name, schema)| reader.definition(name, schema, &facts))
            .collect();
        let kinds = roots()
            .iter()
            .filter_map(|root| {
                let place = *index.get(root.definition().as_ref())?;
                let name = [root.group, root.version, root.kind];
                Some((name.map(Cow::Borrowed), place))
            })
            .collect();
        Self { definitions, kinds }
    }

    /// A graph of types that no kind has yet.
    pub fn of(definitions: Vec<Definition>) -> Self {
        Self {
            definitions,
            kinds: BTreeMap::new(),
        }
    }

    /// Says which type a kind has.
    pub fn name(&mut self, group: &str, version: &str, kind: &str, definition: usize) {
        let name = [group, version, kind].map(|word| Cow::Owned(word.to_owned()));
        self.kinds.insert(name, definition);
    }

    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Definition> {
        let kinds: &BTreeMap<Name<'_>, usize> = &self.kinds;
        let place = kinds.get(&[group, version, kind].map(Cow::Borrowed))?;
        self.definitions.get(*place)
    }
}

struct Reader<'a> {
    source: &'a Map<String, Value>,
    index: &'a BTreeMap<&'a str, usize>,
}

impl Reader<'_> {
    fn definition(&self, name: &str, schema: &Value, facts: &FactTable) -> Definition {
        let properties = schema.get("properties").and_then(Value::as_object);
        let required = schema.get("required").and_then(Value::as_array);
        let mut fields: Vec<Field> = properties
            .into_iter()
            .flatten()
            .map(|(field, schema)| Field {
                name: field.as_str().into(),
                node: self.node(schema),
                required: required.is_some_and(|names| names.iter().any(|name| name == field)),
                facts: facts.get(name, field),
            })
            .collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Definition {
            name: name.into(),
            fields: fields.into(),
            rest: None,
            facts: facts.get(name, ""),
        }
    }

    fn node(&self, schema: &Value) -> Node {
        if let Some(name) = reference(schema) {
            return self.named(name);
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("array") => {
                let element = schema
                    .get("items")
                    .map_or(Node::Any, |items| self.node(items));
                Node::List(Box::new(element))
            }
            Some("object") => match schema.get("additionalProperties") {
                Some(values) => Node::Map(Box::new(self.node(values))),
                None => Node::Any,
            },
            Some(_) => Node::Scalar,
            None => Node::Any,
        }
    }

    /// A reference to a definition, or the type that it stands for, if it has no fields.
    fn named(&self, name: &str) -> Node {
        let (Some(schema), Some(index)) = (self.source.get(name), self.index.get(name)) else {
            return Node::Any;
        };
        if schema.get("properties").is_some() {
            return Node::Definition(*index);
        }
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return Node::Scalar;
        }
        self.node(schema)
    }
}

/// The name of the definition that a schema refers to.
pub(crate) fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(REFERENCE_PREFIX)
}
