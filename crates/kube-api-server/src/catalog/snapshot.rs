//! A snapshot of the served API: the built-in kinds, the custom kinds of CustomResourceDefinitions, and the documents
//! about both.

use std::sync::Arc;

use custom_resources::{DefinedVersion, served_versions, withdrawn_versions};
use json_tree::Value;
use mvcc_store::Revision;
use openapi_documents::Schema;
use resource_kinds::Kind;

use crate::catalog::discovery::Discovery;
use crate::catalog::openapi::OpenApi;
use crate::catalog::registry::Registry;

/// An immutable state of the catalog. Each change of a definition creates a new snapshot.
pub(crate) struct Snapshot {
    pub(crate) registry: Registry,
    /// The custom kinds, for discovery and OpenAPI documents.
    pub(crate) custom: Vec<DefinedVersion>,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    /// The keys of the definitions in the snapshot, each with the revision of its last write.
    pub(crate) revisions: Vec<(Arc<[u8]>, Revision)>,
}

impl Snapshot {
    /// The built-in kinds, and those of the stored definitions.
    pub(crate) fn new(
        kinds: &[Arc<dyn Kind>],
        definitions: &[Value],
        revisions: Vec<(Arc<[u8]>, Revision)>,
    ) -> Self {
        let built_in = kinds.iter().map(|kind| (kind.clone(), None));
        let mut all: Vec<(Arc<dyn Kind>, Option<Schema>)> = built_in.collect();
        let mut custom = Vec::new();
        for version in definitions.iter().flat_map(served_versions) {
            let schema = Schema::custom(&version.kind.info(), &version.schema);
            all.push((version.kind.clone(), Some(schema)));
            custom.push(version);
        }
        let withdrawn = definitions.iter().flat_map(withdrawn_versions);
        let withdrawn = withdrawn.map(|version| {
            let schema = Schema::custom(&version.kind.info(), &version.schema);
            (version.kind, Some(schema))
        });
        Self {
            registry: Registry::new(all, withdrawn.collect()),
            custom,
            discovery: Discovery::default(),
            openapi: OpenApi::default(),
            revisions,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use json_tree::json;

    use super::*;

    fn definition(number: usize) -> Value {
        let kind = format!("Boat{number}");
        json!({
            "spec": {
                "group": "example.org", "scope": "Namespaced",
                "names": {"plural": kind.to_lowercase(), "singular": kind.to_lowercase(),
                    "kind": kind, "listKind": format!("{kind}List")},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
            "status": {"conditions": [{"type": "NamesAccepted", "status": "True"}]},
        })
    }

    /// findings A5: a deleted kind is freed once no request uses it.
    #[test]
    fn kinds_of_deleted_definitions_are_dropped() {
        let mut kinds: Vec<Weak<dyn Kind>> = Vec::new();
        for number in 0..2000 {
            let served = Snapshot::new(&[], &[definition(number)], Vec::new());
            let boat = format!("boat{number}");
            let resource = served.registry.find("example.org", "v1", &boat);
            kinds.push(Arc::downgrade(&resource.unwrap().kind));
        }
        assert!(kinds.iter().all(|kind| kind.strong_count() == 0));
    }
}
