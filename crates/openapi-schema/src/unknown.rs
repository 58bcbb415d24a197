//! Strict decoding: the fields of an object that its type does not have.

use std::fmt::Write;

use serde_json::Value;

use crate::graph::{Definition, Graph, Node};

/// Maximum number of reported fields, as in kube-apiserver.
const REPORTED_MAX: usize = 100;

/// Collects the paths of fields of `value` that `definition` does not have. Values of a wrong
/// type are passed over: decoding reports those.
pub(crate) fn unknown_fields(graph: &Graph, definition: &Definition, value: &Value) -> Vec<String> {
    let mut search = Search {
        graph,
        path: String::new(),
        found: Vec::new(),
    };
    search.object(definition, value);
    search.found
}

struct Search<'a> {
    graph: &'a Graph,
    path: String,
    found: Vec<String>,
}

impl Search<'_> {
    fn object(&mut self, definition: &Definition, value: &Value) {
        let Value::Object(fields) = value else { return };
        for (name, value) in fields {
            let here = self.enter(name);
            match self.graph.field(definition, name) {
                Some(field) => self.value(field.node, value),
                None if self.found.len() < REPORTED_MAX => self.found.push(self.path.clone()),
                None => {}
            }
            self.path.truncate(here);
        }
    }

    fn value(&mut self, node: Node, value: &Value) {
        match (node, value) {
            (Node::Definition(index), value) => {
                if let Some(definition) = self.graph.definition(index) {
                    self.object(definition, value);
                }
            }
            (Node::List(element), Value::Array(values)) => {
                let element = self.graph.element(element);
                for (index, value) in values.iter().enumerate() {
                    let here = self.path.len();
                    // Writing to a text never fails.
                    let _ = write!(self.path, "[{index}]");
                    self.value(element, value);
                    self.path.truncate(here);
                }
            }
            (Node::Map(element), Value::Object(entries)) => {
                let element = self.graph.element(element);
                for (key, value) in entries {
                    let here = self.enter(key);
                    self.value(element, value);
                    self.path.truncate(here);
                }
            }
            _ => {}
        }
    }

    /// Appends a name to the path and returns the length to go back to.
    fn enter(&mut self, name: &str) -> usize {
        let here = self.path.len();
        if here > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        here
    }
}
