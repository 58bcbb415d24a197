//! A snapshot of what is served: the built-in kinds, the custom kinds of CustomResourceDefinitions,
//! and the documents made of them.

use std::sync::Arc;

use custom_resources::{served_versions, withdrawn_versions};
use mvcc_store::Revision;
use openapi_schema::{CustomKind, Schema};
use resource_kinds::Kind;
use serde_json::Value;

use crate::catalog::discovery::Discovery;
use crate::catalog::openapi::OpenApi;
use crate::catalog::registry::Registry;

/// One state of what is served. A change of a definition makes another.
pub(crate) struct Snapshot {
    pub(crate) registry: Registry,
    /// The custom ones among the kinds, for documents.
    pub(crate) custom: Vec<CustomKind>,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    /// The definitions that it is made of, and when each was written.
    pub(crate) known: Vec<(Arc<[u8]>, Revision)>,
}

impl Snapshot {
    /// The server's own kinds, and those of the definitions, as they are stored.
    pub(crate) fn new(
        kinds: &[Arc<dyn Kind>],
        definitions: &[Value],
        known: Vec<(Arc<[u8]>, Revision)>,
    ) -> Self {
        let own = kinds.iter().map(|kind| (kind.clone(), None));
        let mut all: Vec<(Arc<dyn Kind>, Option<Schema>)> = own.collect();
        let mut custom = Vec::new();
        for version in definitions.iter().flat_map(served_versions) {
            let info = *version.kind.info();
            all.push((version.kind, Some(Schema::custom(&info, &version.schema))));
            custom.push(CustomKind {
                info,
                schema: version.schema,
            });
        }
        let withdrawn = definitions.iter().flat_map(withdrawn_versions);
        let withdrawn = withdrawn.map(|version| {
            let schema = Schema::custom(version.kind.info(), &version.schema);
            (version.kind, Some(schema))
        });
        Self {
            registry: Registry::new(all, withdrawn.collect()),
            custom,
            discovery: Discovery::default(),
            openapi: OpenApi::default(),
            known,
        }
    }
}
