//! Synchronous reads for admission and allocation, at the newest revision.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::FutureExt;
use json_tree::Value;
use mvcc_store::{KeyValue, Range, Revision};
use object_model::Status;
use resource_kinds::{AllocationLookup, ObjectReader, ServiceRange, networking};
use tokio::runtime::Handle;

use super::Objects;
use crate::catalog::registry::{Resource, end_of};
use crate::http::work::block_in_place;

/// The key of an allocation. The prefix is part of the storage format.
pub(crate) fn allocation_key(key: &str) -> Vec<u8> {
    format!("/exclusive/{key}").into_bytes()
}

/// Calls `decide` with a reader of the newest state.
///
/// *Errors.* The error of `decide`; 500 if an object could not be read or decoded, whatever `decide` returns: an
/// unreadable object is not an absent object, so the decision is invalid.
pub(crate) fn reading<T>(
    objects: &Objects,
    decide: impl FnOnce(&SyncReads<'_>) -> Result<T, Status>,
) -> Result<T, Status> {
    reading_once(objects, &ReadObjects::default(), decide)
}

/// As [`reading`], but an object is read only once per request.
///
/// *Errors.* As of [`reading`].
pub(crate) fn reading_once<T>(
    objects: &Objects,
    cached: &ReadObjects,
    decide: impl FnOnce(&SyncReads<'_>) -> Result<T, Status>,
) -> Result<T, Status> {
    let reads = SyncReads {
        objects,
        cached,
        failed: OnceLock::new(),
    };
    let decided = decide(&reads);
    match reads.failed.into_inner() {
        Some(status) => Err(status),
        None => decided,
    }
}

/// The first objects that the admission of a request has read, by their keys. Several admission rules read the
/// namespace and the account of a pod.
#[derive(Default)]
pub(crate) struct ReadObjects(Mutex<Vec<ReadObject>>);

/// The key of an object, and its decoded form.
type ReadObject = (Arc<[u8]>, Arc<Value>);

impl ReadObjects {
    /// The number of objects that most requests read more than once.
    const MAX: usize = 4;

    fn with<T>(&self, visit: impl FnOnce(&mut Vec<ReadObject>) -> T) -> T {
        visit(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn get(&self, key: &[u8]) -> Option<Arc<Value>> {
        self.with(|entries| {
            let mut entries = entries.iter();
            let entry = entries.find(|(other, _)| **other == *key);
            entry.map(|(_, object)| object.clone())
        })
    }

    fn add(&self, key: Arc<[u8]>, object: &Arc<Value>) {
        self.with(|entries| {
            if entries.len() < Self::MAX {
                entries.push((key, object.clone()));
            }
        });
    }
}

/// Synchronous reads of the store; only [`reading_once`] creates it.
///
/// The embedded store responds from memory at once, unless more than a thousand objects are read. Otherwise the
/// calling thread blocks, and the runtime moves its other tasks to other threads.
pub(crate) struct SyncReads<'s> {
    objects: &'s Objects,
    cached: &'s ReadObjects,
    /// The error of the first read that failed.
    failed: OnceLock<Status>,
}

impl SyncReads<'_> {
    fn range(&self, range: Range) -> Vec<KeyValue> {
        let mut reading = self.objects.store.range(range);
        let result = match (&mut reading).now_or_never() {
            Some(ready) => ready,
            None => block_in_place(|| Handle::current().block_on(reading)),
        };
        let result = result.map_err(|error| super::refusal(&error));
        result.map_or_else(|status| self.note(status), |result| result.items)
    }

    /// The revision of the last write of a key; `None` if the key does not exist.
    pub(crate) fn revision_of(&self, key: &[u8]) -> Option<Revision> {
        let range = Range {
            start: key.to_vec(),
            ..Range::default()
        };
        self.range(range).pop().map(|item| item.mod_revision)
    }

    /// Records that a decision is not possible.
    fn note<T: Default>(&self, status: Status) -> T {
        // Only the first failure is reported.
        let _ = self.failed.set(status);
        T::default()
    }

    /// A decoded object; `None`, and a recorded error, if the object is unreadable.
    fn readable<T>(&self, item: &KeyValue, decoded: Result<T, Status>) -> Option<T> {
        match decoded {
            Ok(object) => Some(object),
            Err(status) => {
                let key = String::from_utf8_lossy(&item.key);
                tracing::error!(%key, error = %status.message, "a stored object is unreadable");
                let text = format!("read {key} to decide about the request: {}", status.message);
                self.note::<()>(Status::internal(text));
                None
            }
        }
    }

    /// All objects of a kind in a namespace, or of all namespaces.
    fn stored(&self, resource: &Resource, namespace: &str) -> Vec<KeyValue> {
        let start = resource.prefix(namespace);
        let end = Some(end_of(&start));
        self.range(Range {
            start,
            end,
            ..Range::default()
        })
    }

    /// The objects of a namespace whose stored form contains all these words. Other objects are not decoded.
    pub(crate) fn list_with(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        words: &[&str],
    ) -> Vec<Value> {
        let Some(resource) = self.objects.catalog.any_version(group, plural) else {
            return Vec::new();
        };
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        let words: Vec<_> = quoted
            .iter()
            .map(|word| memchr::memmem::Finder::new(word.as_bytes()))
            .collect();
        self.stored(&resource, namespace)
            .iter()
            .filter(|item| words.iter().all(|word| word.find(&item.value).is_some()))
            .filter_map(|item| {
                let object = self.objects.decode_unconverted(&resource, item);
                self.readable(item, object)
            })
            .collect()
    }

    /// All objects of a kind in a namespace (empty for all or cluster scope), decoded for this caller and not
    /// shared.
    pub(crate) fn all(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
        self.list_with(group, plural, namespace, &[])
    }

    fn shared(&self, resource: &Resource, item: &KeyValue) -> Option<Arc<Value>> {
        self.readable(item, self.objects.shared(resource, item))
    }
}

impl ObjectReader for SyncReads<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let resource = self.objects.catalog.any_version(group, plural)?;
        let key = resource.key(namespace, name);
        if let Some(cached) = self.cached.get(&key) {
            return Some(cached);
        }
        let range = Range {
            start: key,
            ..Range::default()
        };
        let item = self.range(range).pop()?;
        let object = self.shared(&resource, &item)?;
        // If several kinds use one key, the decoded form depends on the kind, so the object is not cached.
        if resource.is_shown_as_stored() {
            self.cached.add(item.key, &object);
        }
        Some(object)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
        let Some(resource) = self.objects.catalog.any_version(group, plural) else {
            return Vec::new();
        };
        self.stored(&resource, namespace)
            .iter()
            .filter_map(|item| self.shared(&resource, item))
            .collect()
    }
}

impl AllocationLookup for SyncReads<'_> {
    fn is_allocated(&self, key: &str) -> bool {
        let range = Range {
            start: allocation_key(key),
            ..Range::default()
        };
        !self.range(range).is_empty()
    }

    fn service_ranges(&self) -> Vec<ServiceRange> {
        let objects = self.list("networking.k8s.io", "servicecidrs", "");
        let ranges = objects
            .iter()
            .map(|object| networking::ready_ranges(object));
        ranges.flatten().collect()
    }
}
