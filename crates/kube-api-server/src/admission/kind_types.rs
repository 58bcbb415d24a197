//! The schemas of the served kinds, for the type check of policies.

use std::fmt;
use std::sync::Arc;

use admission_rules::KindTypes;
use json_tree::Value;

use crate::catalog::openapi;
use crate::http::work;
use crate::objects::storage::Objects;

/// The kinds that are served at the time of the check.
pub(crate) struct ServedTypes {
    objects: Arc<Objects>,
}

impl ServedTypes {
    pub(crate) fn new(objects: Arc<Objects>) -> Self {
        Self { objects }
    }
}

impl fmt::Debug for ServedTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedTypes").finish_non_exhaustive()
    }
}

impl KindTypes for ServedTypes {
    fn kind(&self, group: &str, version: &str, plural: &str) -> Option<String> {
        let served = self.objects.catalog.snapshot();
        let resource = served.registry.find(group, version, plural)?;
        Some(resource.info().kind.to_owned())
    }

    fn document(&self, group_version: &str) -> Option<Value> {
        let served = self.objects.catalog.snapshot();
        // Building and reading a document takes tens of milliseconds.
        work::block_in_place(|| {
            let document = openapi::v3_document(&served, group_version)?;
            serde_json::from_slice(&document).ok()
        })
    }
}
