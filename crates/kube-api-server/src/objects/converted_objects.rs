//! Cache of objects that a conversion webhook has converted, and the conversions in progress. The stored bytes of an
//! object at a revision never change, so a converted object is valid as long as its definition.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mvcc_store::Revision;
use object_model::Status;
use tokio::sync::{Semaphore, watch};

use crate::http::limits::{CONVERSION_CALLS_MAX, CONVERTED_BYTES_MAX, CONVERTED_OBJECT_BYTES};

/// A stored object at a revision, and the version to which it is converted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConversionKey {
    /// The key in the store.
    pub(crate) key: Arc<[u8]>,
    pub(crate) revision: Revision,
    pub(crate) api_version: Arc<str>,
    /// The hash of the spec of the definition.
    pub(crate) spec_hash: u64,
}

/// The result of a conversion in progress; `None` until it ends.
pub(crate) type PendingResult = watch::Receiver<Option<Result<Bytes, Status>>>;

/// The state of a conversion when a request needs its result.
pub(crate) enum ConversionLookup<'c> {
    Cached(Bytes),
    /// Another request converts the object.
    Pending(PendingResult),
    /// The caller must convert the object.
    Claimed(Claim<'c>),
}

/// Converted objects, the object that was used last at the end; and the conversions in progress.
#[derive(Default)]
pub(crate) struct ConvertedObjects {
    state: Mutex<State>,
    permits: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

#[derive(Default)]
struct State {
    entries: HashMap<ConversionKey, Entry>,
    /// The keys by their last use.
    order: BTreeMap<u64, ConversionKey>,
    uses: u64,
    /// The total size of the entries.
    bytes: usize,
    pending: HashMap<ConversionKey, PendingResult>,
}

struct Entry {
    bytes: Bytes,
    last_use: u64,
}

/// The right and the duty to convert an object. If it is dropped without a result, the requests that wait for the
/// result convert the object themselves.
pub(crate) struct Claim<'c> {
    cache: &'c ConvertedObjects,
    key: ConversionKey,
    result: watch::Sender<Option<Result<Bytes, Status>>>,
}

impl ConvertedObjects {
    pub(crate) fn lookup(&self, key: ConversionKey) -> ConversionLookup<'_> {
        let mut state = self.lock();
        if let Some(bytes) = state.used(&key) {
            return ConversionLookup::Cached(bytes);
        }
        if let Some(pending) = state.pending.get(&key) {
            return ConversionLookup::Pending(pending.clone());
        }
        let (result, pending) = watch::channel(None);
        state.pending.insert(key.clone(), pending);
        ConversionLookup::Claimed(Claim {
            cache: self,
            key,
            result,
        })
    }

    /// The permits for concurrent calls of the webhook of a kind, by the key prefix of the kind.
    pub(crate) fn permits(&self, storage: &str) -> Arc<Semaphore> {
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(existing) = permits.get(storage) {
            return existing.clone();
        }
        // Permits that nobody uses are those of kinds without a call in progress.
        permits.retain(|_, unused| Arc::strong_count(unused) > 1);
        let created = Arc::new(Semaphore::new(CONVERSION_CALLS_MAX));
        permits.insert(storage.to_owned(), created.clone());
        created
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&mut self, key: &ConversionKey) -> Option<Bytes> {
        self.uses += 1;
        let entry = self.entries.get_mut(key)?;
        let key = self.order.remove(&entry.last_use)?;
        entry.last_use = self.uses;
        self.order.insert(self.uses, key);
        Some(entry.bytes.clone())
    }

    fn insert(&mut self, key: &ConversionKey, bytes: Bytes) {
        self.uses += 1;
        let last_use = self.uses;
        self.bytes += size(key, &bytes);
        self.order.insert(last_use, key.clone());
        let replaced = self.entries.insert(key.clone(), Entry { bytes, last_use });
        if let Some(replaced) = replaced {
            self.order.remove(&replaced.last_use);
            self.bytes -= size(key, &replaced.bytes);
        }
        while self.bytes > CONVERTED_BYTES_MAX {
            let Some((_, oldest)) = self.order.pop_first() else {
                return;
            };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.bytes -= size(&oldest, &entry.bytes);
            }
        }
    }
}

fn size(key: &ConversionKey, bytes: &Bytes) -> usize {
    key.key.len() + bytes.len() + CONVERTED_OBJECT_BYTES
}

impl Claim<'_> {
    /// Publishes the result.
    pub(crate) fn finish(self, result: Result<Bytes, Status>) {
        {
            let mut state = self.cache.lock();
            state.pending.remove(&self.key);
            if let Ok(bytes) = &result {
                state.insert(&self.key, bytes.clone());
            }
        }
        self.result.send_replace(Some(result));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let is_unfinished = self.result.borrow().is_none();
        if is_unfinished {
            self.cache.lock().pending.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(revision: u64) -> ConversionKey {
        ConversionKey {
            key: Arc::from(&b"/registry/example.org/boats/a"[..]),
            revision: Revision(revision),
            api_version: Arc::from("example.org/v1"),
            spec_hash: 7,
        }
    }

    fn cached(cache: &ConvertedObjects, key: ConversionKey) -> Option<Bytes> {
        match cache.lookup(key) {
            ConversionLookup::Cached(bytes) => Some(bytes),
            ConversionLookup::Pending(_) | ConversionLookup::Claimed(_) => None,
        }
    }

    fn convert(cache: &ConvertedObjects, key: ConversionKey, bytes: Vec<u8>) {
        let ConversionLookup::Claimed(claim) = cache.lookup(key) else {
            panic!("the object is not converted");
        };
        claim.finish(Ok(bytes.into()));
    }

    #[tokio::test]
    async fn requests_wait_for_one_conversion() {
        let cache = ConvertedObjects::default();
        let ConversionLookup::Claimed(claim) = cache.lookup(key(1)) else {
            panic!("nobody converts the object");
        };
        let ConversionLookup::Pending(mut pending) = cache.lookup(key(1)) else {
            panic!("the object is being converted");
        };
        claim.finish(Ok(Bytes::from_static(b"x")));
        let result = pending.wait_for(Option::is_some).await.unwrap().clone();
        assert_eq!(result.unwrap().unwrap(), "x");
        assert_eq!(cached(&cache, key(1)).unwrap(), "x");
        let other = ConversionKey {
            spec_hash: 8,
            ..key(1)
        };
        assert!(cached(&cache, other).is_none());
    }

    #[tokio::test]
    async fn a_failed_or_cancelled_conversion_is_not_cached() {
        let cache = ConvertedObjects::default();
        let ConversionLookup::Claimed(claim) = cache.lookup(key(1)) else {
            panic!("nobody converts the object");
        };
        let ConversionLookup::Pending(mut pending) = cache.lookup(key(1)) else {
            panic!("the object is being converted");
        };
        drop(claim);
        assert!(pending.wait_for(Option::is_some).await.is_err());
        let ConversionLookup::Claimed(claim) = cache.lookup(key(1)) else {
            panic!("the next request converts the object");
        };
        claim.finish(Err(Status::internal("no")));
        assert!(matches!(cache.lookup(key(1)), ConversionLookup::Claimed(_)));
    }

    #[test]
    fn the_bytes_have_a_bound_and_the_least_used_object_goes_first() {
        let cache = ConvertedObjects::default();
        let part = CONVERTED_BYTES_MAX / 8;
        for revision in 1..=20 {
            convert(&cache, key(revision), vec![0; part]);
            assert!(revision == 1 || cached(&cache, key(1)).is_some());
        }
        let state = cache.lock();
        assert!(state.bytes <= CONVERTED_BYTES_MAX && state.bytes > part);
        assert_eq!(state.entries.len(), state.order.len());
        assert!(state.entries.contains_key(&key(1)) && state.entries.contains_key(&key(20)));
        assert!(!state.entries.contains_key(&key(2)) && state.pending.is_empty());
    }

    #[test]
    fn kinds_have_permits_of_their_own() {
        let cache = ConvertedObjects::default();
        let boats = cache.permits("example.org/boats");
        assert!(Arc::ptr_eq(&boats, &cache.permits("example.org/boats")));
        assert_eq!(boats.available_permits(), CONVERSION_CALLS_MAX);
        drop(cache.permits("example.org/cars"));
        cache.permits("example.org/planes");
        assert_eq!(cache.permits.lock().unwrap().len(), 2);
    }
}
