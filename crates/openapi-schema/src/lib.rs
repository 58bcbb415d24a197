//! What the API's types look like: which fields an object may have, how its lists merge, and the
//! OpenAPI documents that clients read. Derived at run time from the types of `k8s-openapi` and
//! from a table of the published merge facts. Pure: no I/O, no clock.
//!
//! Only a compact graph is kept in memory; documents are made when asked for.

mod facts;
mod graph;
mod roots;
mod types;
mod unknown;

use std::sync::OnceLock;

use serde_json::Value;

pub use facts::{ListType, MapType};
pub use types::{FieldRef, Shape, TypeRef};

use graph::Graph;

/// The schemas of all known kinds.
#[derive(Debug)]
pub struct Schema {
    graph: Graph,
}

impl Schema {
    /// The schema of the served Kubernetes version; built at the first call.
    pub fn published() -> &'static Self {
        static PUBLISHED: OnceLock<Schema> = OnceLock::new();
        PUBLISHED.get_or_init(|| Self {
            graph: Graph::published(),
        })
    }

    /// The paths of fields that objects of the kind do not have, in the order of the document,
    /// for instance `spec.template.spec.containers[0].foo`. Empty for an unknown kind.
    pub fn unknown_fields(
        &self,
        group: &str,
        version: &str,
        kind: &str,
        object: &Value,
    ) -> Vec<String> {
        match self.graph.kind(group, version, kind) {
            Some(definition) => unknown::unknown_fields(self, definition, object),
            None => Vec::new(),
        }
    }

    /// The type of a kind's objects.
    pub fn lookup(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef<'_>> {
        let definition = self.graph.kind(group, version, kind)?;
        Some(TypeRef::of_definition(self, definition))
    }
}
