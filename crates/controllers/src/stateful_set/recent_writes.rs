//! The sets as this controller last wrote them, until they are visible in the cache: a plan from an older version would
//! repeat the write of a status, and the API server would refuse it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::apps::v1::StatefulSet;
use object_model::{IncompleteMetadata, ObjectKey, ResourceVersion, Uid};
use resource_kinds::MetadataIdentity;

/// The written sets. Bounded by the number of sets, and by the versions that are not in the cache yet.
#[derive(Default)]
pub(super) struct RecentWrites(Mutex<BTreeMap<ObjectKey, Written>>);

struct Written {
    /// The versions before `set`. The API server accepts a status only over the version that the plan was computed for,
    /// so no other version lies between these versions.
    older: Vec<ResourceVersion>,
    uid: Uid,
    version: ResourceVersion,
    set: Arc<StatefulSet>,
}

impl RecentWrites {
    fn all(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newer of the cached set and the written set.
    pub fn newer(
        &self,
        key: &ObjectKey,
        cached: Arc<StatefulSet>,
    ) -> Result<Arc<StatefulSet>, IncompleteMetadata> {
        let (uid, version) = (
            cached.metadata.object_uid()?,
            cached.metadata.object_version()?,
        );
        let mut all = self.all();
        if let Some(written) = all.get(key)
            && written.uid == uid
            && written.older.contains(&version)
        {
            return Ok(written.set.clone());
        }
        all.remove(key);
        Ok(cached)
    }

    /// Records a write over `before`.
    pub fn record(
        &self,
        key: &ObjectKey,
        before: &StatefulSet,
        set: StatefulSet,
    ) -> Result<(), IncompleteMetadata> {
        let former = before.metadata.object_version()?;
        let version = set.metadata.object_version()?;
        if version == former {
            return Ok(());
        }
        let uid = set.metadata.object_uid()?;
        let mut all = self.all();
        let mut older = match all.remove(key) {
            Some(last) if last.version == former => last.older,
            _ => Vec::new(),
        };
        older.push(former);
        let written = Written {
            older,
            uid,
            version,
            set: Arc::new(set),
        };
        all.insert(key.clone(), written);
        Ok(())
    }

    /// Removes a set that does not exist any more.
    pub fn forget(&self, key: &ObjectKey) {
        self.all().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn set(version: &str) -> StatefulSet {
        let metadata = json!({ "name": "web", "uid": "u", "resourceVersion": version });
        json_tree::from_value(json!({ "metadata": metadata })).expect("a set")
    }

    #[test]
    fn an_own_write_is_read_until_the_cache_has_it() {
        let (writes, key) = (RecentWrites::default(), ObjectKey::new("default", "web"));
        let newer = |version: &str| {
            let newer = writes.newer(&key, Arc::new(set(version))).unwrap();
            newer.metadata.resource_version.clone().expect("a version")
        };
        assert_eq!(newer("1"), "1");
        writes.record(&key, &set("1"), set("2")).unwrap();
        writes.record(&key, &set("2"), set("3")).unwrap();
        assert_eq!(newer("1"), "3");
        assert_eq!(newer("2"), "3");
        // The version of another writer is newer than all recorded versions.
        assert_eq!(newer("9"), "9");
        assert_eq!(newer("1"), "1");
    }

    #[test]
    fn a_set_of_the_same_name_is_another_set() {
        let (writes, key) = (RecentWrites::default(), ObjectKey::new("default", "web"));
        writes.record(&key, &set("1"), set("2")).unwrap();
        let mut other = set("1");
        other.metadata.uid = Some("other".to_owned());
        let newer = writes.newer(&key, Arc::new(other)).unwrap();
        assert_eq!(newer.metadata.resource_version.as_deref(), Some("1"));
    }

    #[test]
    fn a_write_that_changed_nothing_is_not_waited_for() {
        let (writes, key) = (RecentWrites::default(), ObjectKey::new("default", "web"));
        writes.record(&key, &set("1"), set("1")).unwrap();
        assert!(writes.all().is_empty());
    }
}
