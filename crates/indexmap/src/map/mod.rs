//! The map, its entries and its iterators.

mod entry;
mod iterators;

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, RandomState};
use std::marker::PhantomData;
use std::ops::Index;

pub use entry::{Entry, OccupiedEntry, VacantEntry};
pub use iterators::{IntoIter, IntoValues, Iter, IterMut, Keys, Values, ValuesMut};

use crate::core::Core;

/// A map in the order of insertion. The parameter `S` is that of the published crate and has no effect: hashes
/// have random keys always.
pub struct IndexMap<K, V, S = RandomState> {
    core: Core<K, V>,
    hasher: PhantomData<S>,
}

impl<K, V> IndexMap<K, V> {
    /// An empty map.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<K, V, S> IndexMap<K, V, S> {
    #[inline]
    fn of(core: Core<K, V>) -> Self {
        Self {
            core,
            hasher: PhantomData,
        }
    }

    /// An empty map with room. The hasher has no effect.
    #[inline]
    pub fn with_capacity_and_hasher(capacity: usize, _: S) -> Self {
        Self::of(Core::with_capacity(capacity))
    }

    /// The number of entries.
    #[inline]
    pub fn len(&self) -> usize {
        self.core.entries.len()
    }

    /// Whether there are no entries.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.core.entries.is_empty()
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.core.clear();
    }

    /// The entry at a place.
    pub fn get_index(&self, place: usize) -> Option<(&K, &V)> {
        self.core
            .entries
            .get(place)
            .map(|(key, value)| (key, value))
    }
}

impl<K: Hash + Eq, V, S> IndexMap<K, V, S> {
    /// The value of a key.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The key that is equal to another, and its value.
    #[inline]
    pub fn get_key_value<Q>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let place = self.core.find(key)?;
        self.get_index(place)
    }

    /// The value of a key, for a change.
    #[inline]
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let place = self.core.find(key)?;
        Some(&mut self.core.entries[place].1)
    }

    /// Whether the key is in the map.
    #[inline]
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.core.find(key).is_some()
    }

    /// Sets the value of a key, and returns the former one. A new key is the last.
    #[inline]
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.core.find(&key) {
            Some(place) => Some(std::mem::replace(&mut self.core.entries[place].1, value)),
            None => {
                self.core.push(key, value);
                None
            }
        }
    }

    /// Sets the value of a key, which moves to a place or is inserted there. Returns the former value.
    ///
    /// # Panics
    ///
    /// If the place is behind the last one.
    pub fn shift_insert(&mut self, place: usize, key: K, value: V) -> Option<V> {
        let found = self.core.find(&key);
        let former = found.map(|found| self.core.entries.remove(found).1);
        self.core.entries.insert(place, (key, value));
        self.core.index_again();
        former
    }

    /// The entry of a key, which may be vacant.
    #[inline]
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        Entry::find(&mut self.core, key)
    }

    /// Removes a key; the last entry takes its place.
    pub fn swap_remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.swap_remove_entry(key).map(|(_, value)| value)
    }

    /// Removes a key and returns it, too; the last entry takes its place.
    pub fn swap_remove_entry<Q>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let place = self.core.find(key)?;
        Some(self.core.swap_remove(place))
    }

    /// Removes a key; the entries behind it move up.
    pub fn shift_remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shift_remove_entry(key).map(|(_, value)| value)
    }

    /// Removes a key and returns it, too; the entries behind it move up.
    pub fn shift_remove_entry<Q>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let place = self.core.find(key)?;
        Some(self.core.shift_remove(place))
    }

    /// Removes the last entry.
    pub fn pop(&mut self) -> Option<(K, V)> {
        let last = self.core.entries.len().checked_sub(1)?;
        Some(self.core.swap_remove(last))
    }

    /// Keeps the entries for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.core
            .entries
            .retain_mut(|(key, value)| keep(key, value));
        self.core.index_again();
    }

    /// Sorts the entries by their keys.
    pub fn sort_unstable_keys(&mut self)
    where
        K: Ord,
    {
        let entries = &mut self.core.entries;
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        self.core.index_again();
    }
}

impl<K, V, S> Default for IndexMap<K, V, S> {
    #[inline]
    fn default() -> Self {
        Self::of(Core::new())
    }
}

impl<K: Clone, V: Clone, S> Clone for IndexMap<K, V, S> {
    fn clone(&self) -> Self {
        Self::of(self.core.clone())
    }
}

impl<K: fmt::Debug, V: fmt::Debug, S> fmt::Debug for IndexMap<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Maps with the same entries are equal in any order.
impl<K: Hash + Eq, V: PartialEq, S> PartialEq for IndexMap<K, V, S> {
    fn eq(&self, other: &Self) -> bool {
        let (these, those) = (&self.core.entries, &other.core.entries);
        these.len() == those.len()
            && these
                .iter()
                .zip(those)
                .all(|((key, value), (known, there))| match key == known {
                    // Equal maps mostly have the same order.
                    true => value == there,
                    false => other.get(key) == Some(value),
                })
    }
}

impl<K: Hash + Eq, V: Eq, S> Eq for IndexMap<K, V, S> {}

impl<K, V, Q, S> Index<&Q> for IndexMap<K, V, S>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key)
            .expect("the key of an indexed entry is in the map")
    }
}

impl<K: Hash + Eq, V, S> Extend<(K, V)> for IndexMap<K, V, S> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Hash + Eq, V, S> FromIterator<(K, V)> for IndexMap<K, V, S> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let entries = entries.into_iter();
        let mut map = Self::of(Core::with_capacity(entries.size_hint().0));
        map.extend(entries);
        map
    }
}
