//! Indexes of a cache: objects by something other than their name.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Cache, Shared};
use crate::Key;

/// Finds objects by something other than their name, for instance pods by their owner's uid.
/// Always as current as the cache it belongs to.
pub struct Index<K> {
    shared: Arc<Shared<K>>,
    number: usize,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            number: self.number,
        }
    }
}

impl<K: Send + Sync + 'static> Cache<K> {
    /// Adds an index: objects are found by each of their `terms`.
    pub fn index(&self, terms: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        self.index_unless(|_, _| false, terms)
    }

    /// Adds an index; the terms of a changed object are not computed if they are the `same` by a
    /// cheaper comparison.
    pub(super) fn index_unless(
        &self,
        same: fn(&K, &K) -> bool,
        terms: impl Fn(&K) -> Vec<String> + Send + Sync + 'static,
    ) -> Index<K> {
        let mut state = self.shared.write();
        let mut index = IndexState {
            terms: Box::new(terms),
            same,
            entries: HashMap::new(),
        };
        for (key, object) in &state.objects {
            index.insert(key, object);
        }
        state.indexes.push(index);
        Index {
            shared: self.shared.clone(),
            number: state.indexes.len() - 1,
        }
    }
}

impl<K> Index<K> {
    /// The objects with that term, sorted by namespace and name.
    pub fn get(&self, term: &str) -> Vec<Arc<K>> {
        let state = self.shared.read();
        let index = state.indexes.get(self.number);
        let keys = index.into_iter().flat_map(|index| index.keys(term));
        keys.filter_map(|key| state.objects.get(key).cloned())
            .collect()
    }

    /// The objects with a term of one of the sets: of the set that has the fewest objects. Sorted by
    /// namespace and name.
    pub(super) fn of_smallest(&self, sets: &[Vec<String>]) -> Vec<Arc<K>> {
        let state = self.shared.read();
        let Some(index) = state.indexes.get(self.number) else {
            return Vec::new();
        };
        let size = |terms: &&Vec<String>| -> usize {
            let counts = terms.iter().map(|term| index.count(term));
            counts.sum()
        };
        let smallest = sets.iter().min_by_key(size);
        let terms = smallest.map(Vec::as_slice).unwrap_or_default();
        let mut keys: Vec<&Key> = terms.iter().flat_map(|term| index.keys(term)).collect();
        if terms.len() > 1 {
            keys.sort();
            keys.dedup();
        }
        keys.into_iter()
            .filter_map(|key| state.objects.get(key).cloned())
            .collect()
    }
}

type Terms<K> = dyn Fn(&K) -> Vec<String> + Send + Sync;

/// The contents of an index.
pub(super) struct IndexState<K> {
    terms: Box<Terms<K>>,
    same: fn(&K, &K) -> bool,
    entries: HashMap<String, Keys>,
}

/// The keys of the objects with one term. Many terms have one object, such as the name of a pod in
/// a label; it needs no set.
enum Keys {
    One(Key),
    Many(BTreeSet<Key>),
}

impl Keys {
    fn insert(&mut self, key: &Key) {
        match self {
            Self::One(only) if only == key => {}
            Self::One(only) => *self = Self::Many([only.clone(), key.clone()].into()),
            Self::Many(all) => {
                all.insert(key.clone());
            }
        }
    }

    /// Removes a key; returns whether none is left.
    fn remove(&mut self, key: &Key) -> bool {
        match self {
            Self::One(only) => only == key,
            Self::Many(all) => {
                all.remove(key);
                all.is_empty()
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(all) => all.len(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Key> {
        let (one, many) = match self {
            Self::One(only) => (Some(only), None),
            Self::Many(all) => (None, Some(all)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl<K> IndexState<K> {
    pub fn insert(&mut self, key: &Key, object: &K) {
        self.add(key, (self.terms)(object));
    }

    pub fn remove(&mut self, key: &Key, object: &K) {
        self.take(key, (self.terms)(object));
    }

    /// Most changes of an object change none of its terms.
    pub fn replace(&mut self, key: &Key, old: &K, new: &K) {
        if (self.same)(old, new) {
            return;
        }
        let (before, after) = ((self.terms)(old), (self.terms)(new));
        if before != after {
            self.take(key, before);
            self.add(key, after);
        }
    }

    fn keys(&self, term: &str) -> impl Iterator<Item = &Key> {
        self.entries.get(term).into_iter().flat_map(Keys::iter)
    }

    fn count(&self, term: &str) -> usize {
        self.entries.get(term).map_or(0, Keys::len)
    }

    fn add(&mut self, key: &Key, terms: Vec<String>) {
        for term in terms {
            match self.entries.entry(term) {
                Entry::Occupied(mut keys) => keys.get_mut().insert(key),
                Entry::Vacant(place) => {
                    place.insert(Keys::One(key.clone()));
                }
            }
        }
    }

    fn take(&mut self, key: &Key, terms: Vec<String>) {
        for term in terms {
            if let Entry::Occupied(mut keys) = self.entries.entry(term)
                && keys.get_mut().remove(key)
            {
                keys.remove();
            }
        }
    }
}
