//! A small cache of values that are computed from the newest versions of objects, and that several watches need.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) const SLOTS: usize = 128;

/// A cache with one value in each slot; a new value replaces the old value of its slot.
pub(crate) struct RecentValues<K, V> {
    slots: [Mutex<Option<(K, V)>>; SLOTS],
}

impl<K, V> Default for RecentValues<K, V> {
    fn default() -> Self {
        Self {
            slots: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl<K, V: Clone> RecentValues<K, V> {
    /// The value in a slot; `None` if its key does not match. Callers derive `slot` from the revision of an object,
    /// so consecutive revisions use different slots. The slot number is taken modulo [`SLOTS`].
    pub(crate) fn get(&self, slot: u64, is_match: impl FnOnce(&K) -> bool) -> Option<V> {
        let entry = self.slot(slot);
        let (key, value) = entry.as_ref()?;
        is_match(key).then(|| value.clone())
    }

    /// Stores a value in its slot.
    pub(crate) fn put(&self, slot: u64, key: K, value: V) {
        *self.slot(slot) = Some((key, value));
    }

    fn slot(&self, slot: u64) -> MutexGuard<'_, Option<(K, V)>> {
        let index = usize::try_from(slot % SLOTS as u64).unwrap_or_default();
        self.slots[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
