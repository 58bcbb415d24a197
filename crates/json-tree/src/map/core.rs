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
    positions: HashTable<usize>,
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
                .position(|(other, _)| other.borrow() == key),
            Some(index) => index.find(&self.entries, key),
        }
    }

    /// Adds an entry whose key is not in the map, and returns its position.
    #[inline]
    pub(super) fn push(&mut self, key: K, value: V) -> usize {
        let position = self.entries.len();
        self.entries.push((key, value));
        if self.index.is_some() || position >= SEARCHED_MAX {
            self.index_last();
        }
        position
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
                positions: HashTable::with_capacity(self.entries.len()),
                hasher: RandomState::new(),
            });
            for position in 0..self.entries.len() {
                index.add(&self.entries, position);
            }
            self.index = Some(index);
        }
    }

    /// Removes the entry at a position; the last entry moves to that position.
    pub(super) fn swap_remove(&mut self, position: usize) -> (K, V) {
        let last = self.entries.len() - 1;
        if let Some(index) = &mut self.index {
            index.remove(&self.entries, position);
            if position != last {
                index.remove(&self.entries, last);
            }
        }
        let removed = self.entries.swap_remove(position);
        if let Some(index) = &mut self.index
            && position != last
        {
            index.add(&self.entries, position);
        }
        removed
    }

    /// Removes the entry at a position; later entries move forward by one.
    pub(super) fn shift_remove(&mut self, position: usize) -> (K, V) {
        if let Some(index) = &mut self.index {
            index.remove(&self.entries, position);
            for other in index.positions.iter_mut() {
                *other -= usize::from(*other > position);
            }
        }
        self.entries.remove(position)
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
        let is_equal = |position: &usize| entries[*position].0.borrow() == key;
        self.positions.find(hash, is_equal).copied()
    }

    fn add<K: Hash, V>(&mut self, entries: &[(K, V)], position: usize) {
        let hash_of = |position: &usize| self.hasher.hash_one(&entries[*position].0);
        let hash = hash_of(&position);
        self.positions.insert_unique(hash, position, hash_of);
    }

    fn remove<K: Hash, V>(&mut self, entries: &[(K, V)], position: usize) {
        let hash = self.hasher.hash_one(&entries[position].0);
        if let Ok(entry) = self.positions.find_entry(hash, |other| *other == position) {
            entry.remove();
        }
    }
}
