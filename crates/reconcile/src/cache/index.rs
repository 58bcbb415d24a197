//! The contents of an index: the keys of objects by their terms, without the type of the objects.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use crate::Key;
use crate::changes::Stored;

type TermsOf = dyn Fn(&Stored) -> Vec<String> + Send + Sync;
type Unchanged = dyn Fn(&Stored, &Stored) -> bool + Send + Sync;

/// The terms by which an index finds an object.
pub(super) struct Terms {
    pub of: Box<TermsOf>,
    /// Whether two states of an object have the same terms, without the cost of the terms; `false`
    /// if only the terms can tell.
    pub unchanged: Box<Unchanged>,
}

pub(super) struct IndexState {
    terms: Terms,
    entries: HashMap<String, Keys>,
}

/// The keys of the objects with one term, never empty. Many terms have one object, such as the name
/// of a pod in a label; it needs no set.
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

impl IndexState {
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            entries: HashMap::new(),
        }
    }

    /// The keys of the objects with that term, sorted.
    pub fn keys(&self, term: &str) -> impl Iterator<Item = &Key> {
        self.entries.get(term).into_iter().flat_map(Keys::iter)
    }

    /// The keys of the objects with a term of one of the sets: of the set that has the fewest
    /// objects. Sorted.
    pub fn keys_of_smallest(&self, sets: &[Vec<String>]) -> Vec<&Key> {
        let size = |terms: &&Vec<String>| -> usize {
            let counts = terms.iter().map(|term| self.count(term));
            counts.sum()
        };
        let smallest = sets.iter().min_by_key(size);
        let terms = smallest.map(Vec::as_slice).unwrap_or_default();
        let mut keys: Vec<&Key> = terms.iter().flat_map(|term| self.keys(term)).collect();
        if terms.len() > 1 {
            keys.sort();
            keys.dedup();
        }
        keys
    }

    pub fn insert(&mut self, key: &Key, object: &Stored) {
        self.add(key, (self.terms.of)(object));
    }

    pub fn remove(&mut self, key: &Key, object: &Stored) {
        self.take(key, (self.terms.of)(object));
    }

    /// Most changes of an object change none of its terms.
    pub fn replace(&mut self, key: &Key, old: &Stored, new: &Stored) {
        if (self.terms.unchanged)(old, new) {
            return;
        }
        let (before, after) = ((self.terms.of)(old), (self.terms.of)(new));
        if before != after {
            self.take(key, before);
            self.add(key, after);
        }
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
