//! A small cache of values that are computed from the newest versions of objects, and that several watches need.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) const PLACES: usize = 128;

/// A cache with one value in each slot; a new value replaces the old value of its slot.
pub(crate) struct RecentValues<K, V> {
    places: [Mutex<Option<(K, V)>>; PLACES],
}

impl<K, V> Default for RecentValues<K, V> {
    fn default() -> Self {
        Self {
            places: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl<K, V: Clone> RecentValues<K, V> {
    /// The value in a slot; `None` if its key does not match. Callers derive `place` from the revision of an object,
    /// so consecutive revisions use different slots. The slot is `place` modulo [`PLACES`].
    pub(crate) fn get(&self, place: u64, is_wanted: impl FnOnce(&K) -> bool) -> Option<V> {
        let kept = self.place(place);
        let (key, value) = kept.as_ref()?;
        is_wanted(key).then(|| value.clone())
    }

    /// Stores a value in its slot.
    pub(crate) fn put(&self, place: u64, key: K, value: V) {
        *self.place(place) = Some((key, value));
    }

    fn place(&self, place: u64) -> MutexGuard<'_, Option<(K, V)>> {
        let index = usize::try_from(place % PLACES as u64).unwrap_or_default();
        self.places[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
