//! The entries of a map, and their index.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

use super::SEARCHED_MAX;

#[derive(Clone)]
pub(super) struct Core<K, V> {
    pub(super) entries: Vec<(K, V)>,
    /// The index of a map with more than [`SEARCHED_MAX`](super::SEARCHED_MAX) entries; a map that shrinks
    /// may retain it.
    index: Option<Box<Index>>,
}

/// The positions of the entries, by the hashes of their keys.
#[derive(Clone)]
struct Index {
    places: HashTable<usize>,
    hasher: RandomState,
}

impl<K, V> Core<K, V> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            index: None,
        }
    }

    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            entries: Vec::with_capacity(capacity),
            index: None,
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.index = None;
    }
}

impl<K: Hash + Eq, V> Core<K, V> {
    /// The position of a key.
    #[inline]
    pub(super) fn find<Q>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        match &self.index {
            None => self
                .entries
                .iter()
                .position(|(known, _)| known.borrow() == key),
            Some(index) => index.find(&self.entries, key),
        }
    }

    /// Adds an entry whose key is not in the map, and returns its position.
    #[inline]
    pub(super) fn push(&mut self, key: K, value: V) -> usize {
        let place = self.entries.len();
        self.entries.push((key, value));
        if self.index.is_some() || place >= SEARCHED_MAX {
            self.index_last();
        }
        place
    }

    #[cold]
    fn index_last(&mut self) {
        match &mut self.index {
            Some(index) => index.add(&self.entries, self.entries.len() - 1),
            None => self.index_again(),
        }
    }

    /// Rebuilds the index after a change of the order.
    pub(super) fn index_again(&mut self) {
        self.index = None;
        if self.entries.len() > SEARCHED_MAX {
            let mut index = Box::new(Index {
                places: HashTable::with_capacity(self.entries.len()),
                hasher: RandomState::new(),
            });
            for place in 0..self.entries.len() {
                index.add(&self.entries, place);
            }
            self.index = Some(index);
        }
    }

    /// Removes the entry at a position; the last entry moves to that position.
    pub(super) fn swap_remove(&mut self, place: usize) -> (K, V) {
        let last = self.entries.len() - 1;
        if let Some(index) = &mut self.index {
            index.remove(&self.entries, place);
            if place != last {
                index.remove(&self.entries, last);
            }
        }
        let removed = self.entries.swap_remove(place);
        if let Some(index) = &mut self.index
            && place != last
        {
            index.add(&self.entries, place);
        }
        removed
    }

    /// Removes the entry at a position; later entries move forward by one.
    pub(super) fn shift_remove(&mut self, place: usize) -> (K, V) {
        if let Some(index) = &mut self.index {
            index.remove(&self.entries, place);
            for known in index.places.iter_mut() {
                *known -= usize::from(*known > place);
            }
        }
        self.entries.remove(place)
    }
}

/// Functions in a separate block that is never inlined: most maps have no index, and their search is faster
/// without this code.
impl Index {
    #[inline(never)]
    fn find<K, V, Q>(&self, entries: &[(K, V)], key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let is_it = |place: &usize| entries[*place].0.borrow() == key;
        self.places.find(hash, is_it).copied()
    }

    fn add<K: Hash, V>(&mut self, entries: &[(K, V)], place: usize) {
        let hash_of = |place: &usize| self.hasher.hash_one(&entries[*place].0);
        let hash = hash_of(&place);
        self.places.insert_unique(hash, place, hash_of);
    }

    fn remove<K: Hash, V>(&mut self, entries: &[(K, V)], place: usize) {
        let hash = self.hasher.hash_one(&entries[place].0);
        if let Ok(found) = self.places.find_entry(hash, |known| *known == place) {
            found.remove();
        }
    }
}
