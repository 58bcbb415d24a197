//! A snapshot of the served API: the built-in kinds, the custom kinds of CustomResourceDefinitions, and the documents
//! about both.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use custom_resources::{DefinedVersion, served_versions, withdrawn_versions};
use json_tree::Value;
use mvcc_store::Revision;
use openapi_documents::Schema;
use resource_kinds::{Kind, KindInfo};

use crate::catalog::complete_objects::CompleteObjects;
use crate::catalog::discovery::Discovery;
use crate::catalog::openapi::OpenApi;
use crate::catalog::registry::{CustomParts, Registry};
use crate::catalog::remote::RemoteVersion;
use crate::catalog::virtual_resources;

/// An immutable state of the catalog. Each change of a definition creates a new snapshot.
pub(crate) struct Snapshot {
    pub(crate) registry: Arc<Registry>,
    /// The custom kinds, for discovery and OpenAPI documents.
    pub(crate) custom: Arc<[DefinedVersion]>,
    /// The group versions of extension API servers, by group and version. They replace equal group versions of this
    /// server.
    pub(crate) remote: Arc<[RemoteVersion]>,
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
        let mut all: Vec<(Arc<dyn Kind>, Option<CustomParts>)> = built_in.collect();
        let mut custom = Vec::new();
        let mut withdrawn = Vec::new();
        for definition in definitions {
            let parts = |version: &DefinedVersion| parts_of(definition, version);
            for version in withdrawn_versions(definition) {
                withdrawn.push((version.kind.clone(), Some(parts(&version))));
            }
            for version in served_versions(definition) {
                all.push((version.kind.clone(), Some(parts(&version))));
                custom.push(version);
            }
        }
        Self {
            registry: Arc::new(Registry::new(all, withdrawn)),
            custom: custom.into(),
            remote: Arc::default(),
            discovery: Discovery::default(),
            openapi: OpenApi::default(),
            revisions,
        }
    }

    /// A snapshot with the kinds of this snapshot and the given group versions of extension API servers.
    pub(crate) fn with_remote(&self, remote: Arc<[RemoteVersion]>) -> Self {
        Self {
            registry: self.registry.clone(),
            custom: self.custom.clone(),
            remote,
            discovery: Discovery::default(),
            openapi: OpenApi::default(),
            revisions: self.revisions.clone(),
        }
    }

    /// The kinds of this server with their own paths, ordered by group and version.
    pub(crate) fn kinds(&self) -> Vec<KindInfo<'_>> {
        let stored = self.registry.infos();
        let all = stored.chain(virtual_resources::infos().copied());
        let is_remote = |info: &KindInfo<'_>| {
            let mut remote = self.remote.iter();
            remote.any(|version| version.is(info.group, info.version))
        };
        all.filter(|info| !is_remote(info)).collect()
    }
}

fn parts_of(definition: &Value, version: &DefinedVersion) -> CustomParts {
    let mut hasher = DefaultHasher::new();
    // Only converted objects are cached by the hash.
    if version
        .storage
        .as_ref()
        .is_some_and(|storage| storage.webhook.is_some())
    {
        definition["spec"].to_string().hash(&mut hasher);
    }
    CustomParts {
        schema: Schema::custom(&version.kind.info(), &version.schema),
        storage: version.storage.clone(),
        spec_hash: hasher.finish(),
        complete_objects: CompleteObjects::default(),
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
