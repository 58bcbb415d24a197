//! The API resources that are served, and the documents about them: discovery and OpenAPI.

mod complete_objects;
pub(crate) mod discovery;
mod etag;
pub(crate) mod openapi;
pub(crate) mod registry;
pub(crate) mod remote;
pub(crate) mod snapshot;
pub(crate) mod virtual_resources;

use std::sync::{Arc, PoisonError, RwLock};

use json_tree::Value;
use mvcc_store::Revision;
use resource_kinds::Kind;
use tokio::sync::Mutex;

use crate::catalog::registry::Resource;
use crate::catalog::remote::RemoteVersion;
use crate::catalog::snapshot::Snapshot;

/// The API resources that the server serves now.
pub(crate) struct Catalog {
    /// The built-in kinds.
    kinds: Vec<Arc<dyn Kind>>,
    current: RwLock<Arc<Snapshot>>,
    /// Lock for reads of the CustomResourceDefinitions, so that an older read never replaces a newer result.
    pub(crate) definitions: Mutex<()>,
}

impl Catalog {
    /// Serves the built-in kinds only, until CustomResourceDefinitions are read.
    pub(crate) fn new(kinds: Vec<Arc<dyn Kind>>) -> Self {
        let first = Snapshot::new(&kinds, &[], Vec::new());
        Self {
            kinds,
            current: RwLock::new(Arc::new(first)),
            definitions: Mutex::default(),
        }
    }

    /// The kinds that are served now. Later changes do not affect the snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The resource in any of its served versions.
    pub(crate) fn any_version(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.snapshot().registry.any_version(group, plural)
    }

    /// Replaces the custom kinds by the kinds of these definitions. `revisions` contains the keys and revisions of the
    /// definitions.
    pub(crate) fn replace(&self, definitions: &[Value], revisions: Vec<(Arc<[u8]>, Revision)>) {
        let next = Snapshot::new(&self.kinds, definitions, revisions);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(next.with_remote(current.remote.clone()));
    }

    /// Replaces the group versions of extension API servers.
    pub(crate) fn replace_remote(&self, remote: Vec<RemoteVersion>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if *current.remote != *remote {
            *current = Arc::new(current.with_remote(remote.into()));
        }
    }
}
