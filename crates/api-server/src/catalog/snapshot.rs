//! What is served at the moment: the kinds that the server has by itself and those that
//! CustomResourceDefinitions bring, and the documents made of them.

use std::sync::{Arc, PoisonError};

use custom_resources::{GROUP, PLURAL, served_versions, withdrawn_versions};
use mvcc_store::{KeyValue, Revision};
use object_model::Status;
use openapi_schema::{CustomKind, Schema};
use resource_kinds::Kind;
use serde_json::Value;

use crate::catalog::discovery::Discovery;
use crate::catalog::openapi::OpenApi;
use crate::catalog::registry::{Registry, Resource, end_of};
use crate::objects::storage;
use crate::server::ApiServer;

/// One state of what is served. A change of a definition makes another.
pub(crate) struct Served {
    pub(crate) registry: Registry,
    /// The custom ones among the kinds, for documents.
    pub(crate) custom: Vec<CustomKind>,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    /// The definitions that it is made of, and when each was written.
    known: Vec<(Arc<[u8]>, Revision)>,
}

impl Served {
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

impl ApiServer {
    /// What is served now.
    pub(crate) fn served(&self) -> Arc<Served> {
        let served = self.served.read();
        served.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kind of a path, also where its definition was stored this moment: who watches may hear of
    /// that before the request that stored it has its answer.
    ///
    /// *Errors.* A store that fails.
    pub(crate) async fn find_kind(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Result<Option<Arc<Resource>>, Status> {
        let served = self.served();
        let found = served.registry.find(group, version, plural);
        if found.is_some() {
            return Ok(found);
        }
        let Some(definitions) = served.registry.any_version(GROUP, PLURAL) else {
            return Ok(None);
        };
        if known(&self.definitions(&definitions).await?) == served.known {
            return Ok(None);
        }
        self.follow_definitions().await?;
        Ok(self.served().registry.find(group, version, plural))
    }

    /// Takes notice of changed definitions. A client that has been told of a change finds its
    /// kinds served.
    ///
    /// *Errors.* A store that fails; what was served stays.
    pub(crate) async fn follow_definitions(&self) -> Result<(), Status> {
        // One after the other, so that what was read later is never replaced by older.
        let _turn = self.definitions.lock().await;
        let served = self.served();
        let Some(resource) = served.registry.any_version(GROUP, PLURAL) else {
            return Ok(());
        };
        let found = self.definitions(&resource).await?;
        let known = known(&found);
        if known == served.known {
            return Ok(());
        }
        let definitions = found.iter().map(|item| storage::decode(&resource, item));
        let definitions: Result<Vec<Value>, Status> = definitions.collect();
        let served = Arc::new(Served::new(&self.kinds, &definitions?, known));
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = served;
        Ok(())
    }

    /// The definitions as they are stored.
    async fn definitions(&self, resource: &Resource) -> Result<Vec<KeyValue>, Status> {
        let start = resource.prefix("");
        let range = mvcc_store::Range {
            end: Some(end_of(&start)),
            start,
            ..mvcc_store::Range::default()
        };
        let found = self.store.range(range).await;
        let found = found.map_err(|error| Status::internal(error.to_string()))?;
        Ok(found.items)
    }
}

fn known(definitions: &[KeyValue]) -> Vec<(Arc<[u8]>, Revision)> {
    let one = |item: &KeyValue| (item.key.clone(), item.mod_revision);
    definitions.iter().map(one).collect()
}
