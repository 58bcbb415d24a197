//! Objects in the versions in which their field managers wrote them, for kinds with a conversion webhook. The managers are
//! compared synchronously, so the first comparison records the missing conversions, the webhook converts them, and the
//! comparison is repeated.

use std::sync::{Mutex, MutexGuard, PoisonError};

use json_tree::Value;
use object_model::Status;

use crate::catalog::registry::Resource;
use crate::objects::storage::Objects;

/// The conversions for one write.
#[derive(Default)]
pub(crate) struct ManagerVersions(Mutex<Conversions>);

#[derive(Default)]
struct Conversions {
    known: Vec<(MissingObject, Value)>,
    missing: Vec<MissingObject>,
}

/// An object, and the version to which it is converted.
#[derive(Debug, PartialEq, Eq)]
struct MissingObject {
    object: Value,
    api_version: String,
}

impl ManagerVersions {
    /// The object in another version; `None` if the webhook must be called first.
    pub(crate) fn get(&self, object: &Value, api_version: &str) -> Option<Value> {
        let mut conversions = self.lock();
        let mut known = conversions.known.iter();
        let result =
            known.find(|(source, _)| source.api_version == api_version && source.object == *object);
        if let Some((_, result)) = result {
            return Some(result.clone());
        }
        let missing = MissingObject {
            object: object.clone(),
            api_version: api_version.to_owned(),
        };
        if !conversions.missing.contains(&missing) {
            conversions.missing.push(missing);
        }
        None
    }

    /// Whether the last comparison lacked an object.
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.lock().missing.is_empty()
    }

    /// Converts the missing objects; `false` if no object is missing, so that the comparison is complete.
    ///
    /// *Errors.* 500 if the webhook fails.
    pub(crate) async fn complete(
        &self,
        objects: &Objects,
        resource: &Resource,
    ) -> Result<bool, Status> {
        let missing = std::mem::take(&mut self.lock().missing);
        let is_incomplete = !missing.is_empty();
        for source in missing {
            let served = objects.catalog.snapshot();
            let target = served.registry.in_version(resource, &source.api_version);
            // Managers of a version that was removed meanwhile are removed by the next comparison.
            let Some(target) = target.cloned() else {
                continue;
            };
            let result = objects.object_in(&target, source.object.clone()).await?;
            self.lock().known.push((source, result));
        }
        Ok(is_incomplete)
    }

    fn lock(&self) -> MutexGuard<'_, Conversions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_missing_conversion_is_recorded_once() {
        let versions = ManagerVersions::default();
        let object = json!({"apiVersion": "example.org/v1"});
        for _ in 0..2 {
            assert_eq!(versions.get(&object, "example.org/v2"), None);
        }
        let source = versions.lock().missing.remove(0);
        assert!(versions.lock().missing.is_empty());
        let result = json!({"apiVersion": "example.org/v2"});
        versions.lock().known.push((source, result.clone()));
        assert_eq!(versions.get(&object, "example.org/v2"), Some(result));
        assert_eq!(versions.get(&object, "example.org/v3"), None);
    }
}
