//! A map in the order of insertion, small and cheap for few entries.
//!
//! Nearly all objects of a JSON tree have less than ten fields. A hash table for each of them would cost a
//! second allocation, a hash for each look-up and 40 bytes in each value. So a map of up to [`SEARCHED_MAX`]
//! entries is a list that is searched from the start, and a larger map has an index in addition to the list.
//! The hashes of the index have random keys, so that a client cannot choose keys that collide.

mod core;
mod entry;
mod iterators;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::ops::{Index, IndexMut};

pub use entry::{MapEntry, OccupiedEntry, VacantEntry};
pub use iterators::{IntoIter, IntoValues, Iter, IterMut, Keys, Values, ValuesMut};

use self::core::Core;

/// Maps up to this length have no index.
pub const SEARCHED_MAX: usize = 24;

/// A map in the order of insertion.
pub struct OrderedMap<K, V> {
    core: Core<K, V>,
}

impl<K, V> OrderedMap<K, V> {
    /// An empty map.
    #[inline]
    pub(crate) const fn empty() -> Self {
        Self { core: Core::new() }
    }

    /// An empty map with space for entries.
    #[inline]
    pub(crate) fn with_space(capacity: usize) -> Self {
        Self {
            core: Core::with_capacity(capacity),
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.core.entries.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.core.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.core.clear();
    }
}

impl<K: Hash + Eq, V> OrderedMap<K, V> {
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The stored key that equals `key`, and its value.
    #[inline]
    pub fn get_key_value<Q>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let position = self.core.find(key)?;
        let (key, value) = &self.core.entries[position];
        Some((key, value))
    }

    #[inline]
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let position = self.core.find(key)?;
        Some(&mut self.core.entries[position].1)
    }

    #[inline]
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.core.find(key).is_some()
    }

    /// Sets the value of a key, and returns the former value. A new key is the last.
    #[inline]
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.core.find(&key) {
            Some(position) => Some(std::mem::replace(&mut self.core.entries[position].1, value)),
            None => {
                self.core.push(key, value);
                None
            }
        }
    }

    /// Sets the value of a key and moves the key to a position; inserts a new key there. Returns the former
    /// value.
    ///
    /// # Panics
    ///
    /// If the position is after the last entry.
    pub fn shift_insert(&mut self, position: usize, key: K, value: V) -> Option<V> {
        let existing = self.core.find(&key);
        let former = existing.map(|existing| self.core.entries.remove(existing).1);
        self.core.entries.insert(position, (key, value));
        self.core.index_again();
        former
    }

    #[inline]
    pub fn entry(&mut self, key: impl Into<K>) -> MapEntry<'_, K, V> {
        MapEntry::find(&mut self.core, key.into())
    }

    /// Removes a key; the last entry moves to its position.
    #[inline]
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.swap_remove(key)
    }

    /// Removes a key and returns it, too; the last entry moves to its position.
    pub fn remove_entry<Q>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.swap_remove_entry(key)
    }

    /// Removes a key; the last entry moves to its position.
    pub fn swap_remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.swap_remove_entry(key).map(|(_, value)| value)
    }

    /// Removes a key and returns it, too; the last entry moves to its position.
    pub fn swap_remove_entry<Q>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let position = self.core.find(key)?;
        Some(self.core.swap_remove(position))
    }

    /// Removes a key; later entries move forward by one.
    pub fn shift_remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shift_remove_entry(key).map(|(_, value)| value)
    }

    /// Removes a key and returns it, too; later entries move forward by one.
    pub fn shift_remove_entry<Q>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let position = self.core.find(key)?;
        Some(self.core.shift_remove(position))
    }

    /// Moves all entries of another map to this map.
    pub fn append(&mut self, other: &mut Self) {
        self.extend(std::mem::take(other));
    }

    /// Removes the entries for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.core
            .entries
            .retain_mut(|(key, value)| keep(key, value));
        self.core.index_again();
    }

    /// Sorts the entries by their keys.
    pub fn sort_keys(&mut self)
    where
        K: Ord,
    {
        let entries = &mut self.core.entries;
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        self.core.index_again();
    }
}

impl<K, V> Default for OrderedMap<K, V> {
    #[inline]
    fn default() -> Self {
        Self { core: Core::new() }
    }
}

impl<K: Clone, V: Clone> Clone for OrderedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
        }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for OrderedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Maps with the same entries are equal in any order.
impl<K: Hash + Eq, V: PartialEq> PartialEq for OrderedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let (these, those) = (&self.core.entries, &other.core.entries);
        these.len() == those.len()
            && these
                .iter()
                .zip(those)
                .all(
                    |((key, value), (other_key, other_value))| match key == other_key {
                        // Equal maps usually have the same order.
                        true => value == other_value,
                        false => other.get(key) == Some(value),
                    },
                )
    }
}

impl<K: Hash + Eq, V: Eq> Eq for OrderedMap<K, V> {}

impl<K, V, Q> Index<&Q> for OrderedMap<K, V>
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

impl<K, V, Q> IndexMut<&Q> for OrderedMap<K, V>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    fn index_mut(&mut self, key: &Q) -> &mut V {
        self.get_mut(key)
            .expect("the key of an indexed entry is in the map")
    }
}

impl<K: Hash + Eq, V> Extend<(K, V)> for OrderedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Hash + Eq, V> FromIterator<(K, V)> for OrderedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let entries = entries.into_iter();
        let mut map = Self {
            core: Core::with_capacity(entries.size_hint().0),
        };
        map.extend(entries);
        map
    }
}
