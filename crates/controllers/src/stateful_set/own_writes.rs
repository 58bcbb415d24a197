//! The sets as this controller last wrote them, until they are visible in the cache: a plan from an older version would
//! repeat the write of a status, and the API server would refuse it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::apps::v1::StatefulSet;
use object_model::ObjectKey;

/// The written sets. Bounded by the number of sets, and by the versions that are not in the cache yet.
#[derive(Default)]
pub(super) struct OwnWrites(Mutex<BTreeMap<ObjectKey, Written>>);

struct Written {
    /// The versions before `set`. The API server accepts a status only over the version that the plan was computed for,
    /// so no other version lies between these versions.
    older: Vec<Option<String>>,
    set: Arc<StatefulSet>,
}

impl OwnWrites {
    fn all(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newer of the cached set and the written set.
    pub fn newer(&self, key: &ObjectKey, cached: Arc<StatefulSet>) -> Arc<StatefulSet> {
        let mut all = self.all();
        if let Some(written) = all.get(key)
            && written.set.metadata.uid == cached.metadata.uid
            && written.older.contains(&cached.metadata.resource_version)
        {
            return written.set.clone();
        }
        all.remove(key);
        cached
    }

    /// Records a write over `before`.
    pub fn record(&self, key: &ObjectKey, before: &StatefulSet, set: StatefulSet) {
        let version = &before.metadata.resource_version;
        if set.metadata.resource_version == *version {
            return;
        }
        let mut all = self.all();
        let mut older = match all.remove(key) {
            Some(last) if last.set.metadata.resource_version == *version => last.older,
            _ => Vec::new(),
        };
        older.push(version.clone());
        let set = Arc::new(set);
        all.insert(key.clone(), Written { older, set });
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
        let (writes, key) = (OwnWrites::default(), ObjectKey::new("default", "web"));
        let newer = |version: &str| {
            let newer = writes.newer(&key, Arc::new(set(version)));
            newer.metadata.resource_version.clone().expect("a version")
        };
        assert_eq!(newer("1"), "1");
        writes.record(&key, &set("1"), set("2"));
        writes.record(&key, &set("2"), set("3"));
        assert_eq!(newer("1"), "3");
        assert_eq!(newer("2"), "3");
        // The version of another writer is newer than all recorded versions.
        assert_eq!(newer("9"), "9");
        assert_eq!(newer("1"), "1");
    }

    #[test]
    fn a_set_of_the_same_name_is_another_set() {
        let (writes, key) = (OwnWrites::default(), ObjectKey::new("default", "web"));
        writes.record(&key, &set("1"), set("2"));
        let mut other = set("1");
        other.metadata.uid = Some("other".to_owned());
        let newer = writes.newer(&key, Arc::new(other));
        assert_eq!(newer.metadata.resource_version.as_deref(), Some("1"));
    }

    #[test]
    fn a_write_that_changed_nothing_is_not_waited_for() {
        let (writes, key) = (OwnWrites::default(), ObjectKey::new("default", "web"));
        writes.record(&key, &set("1"), set("1"));
        assert!(writes.all().is_empty());
    }
}
