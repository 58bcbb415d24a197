//! Values made of the newest versions of objects, which several watches need.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of values that are kept.
pub(crate) const PLACES: usize = 128;

/// One value in each place: a newer one replaces it.
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
    /// The value of a place, if its key is the wanted one. Places are counted from the revision of an object, so that
    /// the next versions have other ones; a number beyond the last place begins again at the first.
    pub(crate) fn get(&self, place: u64, is_wanted: impl FnOnce(&K) -> bool) -> Option<V> {
        let kept = self.place(place);
        let (key, value) = kept.as_ref()?;
        is_wanted(key).then(|| value.clone())
    }

    /// Keeps a value in its place.
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
