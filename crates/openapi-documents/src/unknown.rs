//! Strict decoding: the fields of an object that its type does not contain.

use json_tree::Value;

use crate::graph::{Definition, Graph, Node};
use crate::value_path::ValuePath;

/// Maximum number of reported fields, as in kube-apiserver.
const REPORTED_MAX: usize = 100;

/// Collects the paths of fields of `value` that are not in `definition`. Values of a wrong type are ignored, because
/// decoding reports them.
pub(crate) fn unknown_fields(graph: &Graph, definition: &Definition, value: &Value) -> Vec<String> {
    let mut search = Search {
        graph,
        paths: Vec::new(),
    };
    search.object(definition, value, &ValuePath::Root);
    search.paths
}

struct Search<'a> {
    graph: &'a Graph,
    paths: Vec<String>,
}

impl Search<'_> {
    fn object(&mut self, definition: &Definition, value: &Value, path: &ValuePath<'_>) {
        let Value::Object(fields) = value else { return };
        for (name, value) in fields {
            let path = ValuePath::Field(path, name);
            match self.graph.field(definition, name) {
                Some(field) => self.value(field.node, value, &path),
                None if self.paths.len() < REPORTED_MAX => self.paths.push(path.to_string()),
                None => {}
            }
        }
    }

    fn value(&mut self, node: Node, value: &Value, path: &ValuePath<'_>) {
        match (node, value) {
            (Node::Definition(index), value) => {
                if let Some(definition) = self.graph.definition(index) {
                    self.object(definition, value, path);
                }
            }
            (Node::List(element), Value::Array(values)) => {
                let element = self.graph.element(element);
                for (index, value) in values.iter().enumerate() {
                    self.value(element, value, &ValuePath::Element(path, index));
                }
            }
            (Node::Map(element), Value::Object(entries)) => {
                let element = self.graph.element(element);
                for (key, value) in entries {
                    self.value(element, value, &ValuePath::Field(path, key));
                }
            }
            _ => {}
        }
    }
}
