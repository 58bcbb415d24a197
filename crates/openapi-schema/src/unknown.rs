//! Strict decoding: the fields of an object that its type does not have.

use std::fmt;

use serde_json::Value;

use crate::graph::{Definition, Graph, Node};

/// Maximum number of reported fields, as in kube-apiserver.
const REPORTED_MAX: usize = 100;

/// Collects the paths of fields of `value` that `definition` does not have. Values of a wrong
/// type are passed over: decoding reports those.
pub(crate) fn unknown_fields(graph: &Graph, definition: &Definition, value: &Value) -> Vec<String> {
    let mut search = Search {
        graph,
        found: Vec::new(),
    };
    search.object(definition, value, &Place::Root);
    search.found
}

/// The place of a value, from the inside out: almost all fields are known, so no path is built for them.
enum Place<'p> {
    Root,
    Field(&'p Place<'p>, &'p str),
    Element(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Place::Root, name) => f.write_str(name),
            Self::Field(of, name) => write!(f, "{of}.{name}"),
            Self::Element(of, index) => write!(f, "{of}[{index}]"),
        }
    }
}

struct Search<'a> {
    graph: &'a Graph,
    found: Vec<String>,
}

impl Search<'_> {
    fn object(&mut self, definition: &Definition, value: &Value, place: &Place<'_>) {
        let Value::Object(fields) = value else { return };
        for (name, value) in fields {
            let place = Place::Field(place, name);
            match self.graph.field(definition, name) {
                Some(field) => self.value(field.node, value, &place),
                None if self.found.len() < REPORTED_MAX => self.found.push(place.to_string()),
                None => {}
            }
        }
    }

    fn value(&mut self, node: Node, value: &Value, place: &Place<'_>) {
        match (node, value) {
            (Node::Definition(index), value) => {
                if let Some(definition) = self.graph.definition(index) {
                    self.object(definition, value, place);
                }
            }
            (Node::List(element), Value::Array(values)) => {
                let element = self.graph.element(element);
                for (index, value) in values.iter().enumerate() {
                    self.value(element, value, &Place::Element(place, index));
                }
            }
            (Node::Map(element), Value::Object(entries)) => {
                let element = self.graph.element(element);
                for (key, value) in entries {
                    self.value(element, value, &Place::Field(place, key));
                }
            }
            _ => {}
        }
    }
}
