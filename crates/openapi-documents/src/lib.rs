//! The schema of the API's types: the fields of an object, the merge of its lists, and the OpenAPI documents for
//! clients. The build script derives both from the published definitions and from a table of the merge facts. Pure: no I/O, no clock.
//!
//! The compact graph is a constant of the program; documents are generated on request.

mod custom;
mod definitions;
mod dialect;
mod document;
mod facts;
mod graph;
mod operations;
mod parameters;
mod protobuf;
mod types;
mod unknown;
mod v2_messages;
mod value_path;

#[cfg(test)]
#[path = "../build/published_facts.rs"]
#[expect(dead_code, reason = "the build script reads all of it")]
mod published_facts;

use json_tree::Value;
use resource_kinds::KindInfo;

pub use custom::CustomKind;
pub use document::v3_hash;
pub use facts::{ListType, MapType};
pub use types::{FieldRef, Shape, TypeRef};
pub use value_path::ValuePath;

use graph::Graph;

/// The schemas of all known kinds.
#[derive(Debug)]
pub struct Schema {
    graph: Graph,
}

impl Schema {
    pub fn published() -> &'static Self {
        static PUBLISHED: Schema = Schema {
            graph: Graph::PUBLISHED,
        };
        &PUBLISHED
    }

    /// The schema of a custom kind, from the `openAPIV3Schema` of its definition.
    pub fn custom(info: &KindInfo<'_>, schema: &Value) -> Self {
        Self {
            graph: custom::graph(info, schema),
        }
    }

    /// The paths of unknown fields of an object, in the order of the document, for instance
    /// `spec.template.spec.containers[0].foo`. Empty for an unknown kind. For custom kinds the result contains more
    /// paths: they also remove unknown fields of known parts inside of an open part.
    pub fn unknown_fields(
        &self,
        group: &str,
        version: &str,
        kind: &str,
        object: &Value,
    ) -> Vec<String> {
        match self.graph.kind(group, version, kind) {
            Some(definition) => unknown::unknown_fields(&self.graph, definition, object),
            None => Vec::new(),
        }
    }

    /// The type of a kind's objects.
    pub fn lookup(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef<'_>> {
        let definition = self.graph.kind(group, version, kind)?;
        Some(TypeRef::of_definition(&self.graph, definition))
    }

    /// `/openapi/v3`: the location of the document of each group version. `kinds` are all served kinds, including
    /// those in `custom`, here and below. The call is as expensive as all documents (some ten milliseconds), so cache
    /// the result.
    pub fn openapi_v3_index(&self, kinds: &[KindInfo<'_>], custom: &[CustomKind<'_>]) -> Vec<u8> {
        document::v3_index(kinds, custom)
    }

    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/apps/v1`: the document of one group version (`v1`, `apps/v1`) in JSON;
    /// `None` if the group version is not served.
    pub fn openapi_v3_document(
        &self,
        group_version: &str,
        kinds: &[KindInfo<'_>],
        custom: &[CustomKind<'_>],
    ) -> Option<Vec<u8>> {
        document::v3_document(group_version, kinds, custom)
    }

    /// `/openapi/v2`: the document of all kinds, in JSON.
    pub fn openapi_v2_document(
        &self,
        kinds: &[KindInfo<'_>],
        custom: &[CustomKind<'_>],
    ) -> Vec<u8> {
        document::v2_document(kinds, custom)
    }
    /// `/openapi/v2`: the document in protobuf (the message `openapi.v2.Document`).
    pub fn openapi_v2_protobuf(
        &self,
        kinds: &[KindInfo<'_>],
        custom: &[CustomKind<'_>],
    ) -> Vec<u8> {
        document::v2_protobuf(kinds, custom)
    }
}
