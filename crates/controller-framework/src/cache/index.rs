//! The contents of an index: for each term, the slots of the objects that have it. The code does not know the type of
//! the objects.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use crate::changes::Stored;
use object_model::ObjectKey;

use super::objects::ObjectSlot;

type TermsOf = dyn Fn(&Stored) -> Vec<String> + Send + Sync;
type Unchanged = dyn Fn(&Stored, &Stored) -> bool + Send + Sync;

/// The terms under which an index lists an object.
pub(super) struct IndexTerms {
    pub of: Box<TermsOf>,
    /// Compares two states of an object without computing their terms. `true` if the terms are certainly equal; `false`
    /// if only the terms can decide.
    pub unchanged: Box<Unchanged>,
}

pub(super) struct IndexState {
    terms: IndexTerms,
    entries: HashMap<String, Keys>,
}

/// The objects with one term; never empty. Many terms belong to one object only, such as the name of a pod in a label,
/// and need no map.
enum Keys {
    One(ObjectKey, ObjectSlot),
    Many(BTreeMap<ObjectKey, ObjectSlot>),
}

impl Keys {
    fn insert(&mut self, key: &ObjectKey, slot: ObjectSlot) {
        match self {
            Self::One(only, at) if only == key => *at = slot,
            Self::One(only, at) => {
                *self = Self::Many([(only.clone(), *at), (key.clone(), slot)].into());
            }
            Self::Many(all) => {
                all.insert(key.clone(), slot);
            }
        }
    }

    /// Removes a key. Returns whether the set is empty afterwards.
    fn remove(&mut self, key: &ObjectKey) -> bool {
        match self {
            Self::One(only, _) => only == key,
            Self::Many(all) => {
                all.remove(key);
                all.is_empty()
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Many(all) => all.len(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&ObjectKey, ObjectSlot)> {
        let (one, many) = match self {
            Self::One(only, slot) => (Some((only, *slot)), None),
            Self::Many(all) => (None, Some(all)),
        };
        let many = many.into_iter().flatten();
        one.into_iter().chain(many.map(|(key, slot)| (key, *slot)))
    }
}

impl IndexState {
    pub fn new(terms: IndexTerms) -> Self {
        Self {
            terms,
            entries: HashMap::new(),
        }
    }

    /// The slots of the objects with the given term, sorted by key.
    pub fn slots(&self, term: &str) -> impl Iterator<Item = ObjectSlot> {
        self.entries_of(term).map(|(_, slot)| slot)
    }

    /// Whether an object has that term.
    pub fn has(&self, term: &str) -> bool {
        self.entries.contains_key(term)
    }

    fn entries_of(&self, term: &str) -> impl Iterator<Item = (&ObjectKey, ObjectSlot)> {
        self.entries.get(term).into_iter().flat_map(Keys::iter)
    }

    /// The objects that have any term of a set. The set with the fewest objects is used. Sorted by key.
    pub fn slots_of_smallest(&self, sets: &[Vec<String>]) -> impl Iterator<Item = ObjectSlot> {
        let size = |terms: &&Vec<String>| -> usize {
            let counts = terms.iter().map(|term| self.count(term));
            counts.sum()
        };
        let smallest = sets.iter().min_by_key(size);
        let terms = smallest.map(Vec::as_slice).unwrap_or_default();
        let entries = terms.iter().flat_map(|term| self.entries_of(term));
        let mut entries: Vec<(&ObjectKey, ObjectSlot)> = entries.collect();
        if terms.len() > 1 {
            entries.sort_unstable_by_key(|(key, _)| *key);
            entries.dedup_by_key(|(key, _)| *key);
        }
        entries.into_iter().map(|(_, slot)| slot)
    }

    pub fn insert(&mut self, key: &ObjectKey, slot: ObjectSlot, object: &Stored) {
        self.add(key, slot, (self.terms.of)(object));
    }

    pub fn remove(&mut self, key: &ObjectKey, object: &Stored) {
        self.subtract(key, (self.terms.of)(object));
    }

    /// Updates the terms of an object. Most changes of an object do not change its terms.
    pub fn replace(&mut self, key: &ObjectKey, slot: ObjectSlot, old: &Stored, new: &Stored) {
        if (self.terms.unchanged)(old, new) {
            return;
        }
        let (before, after) = ((self.terms.of)(old), (self.terms.of)(new));
        if before != after {
            self.subtract(key, before);
            self.add(key, slot, after);
        }
    }

    fn count(&self, term: &str) -> usize {
        self.entries.get(term).map_or(0, Keys::len)
    }

    fn add(&mut self, key: &ObjectKey, slot: ObjectSlot, terms: Vec<String>) {
        for term in terms {
            match self.entries.entry(term) {
                Entry::Occupied(mut keys) => keys.get_mut().insert(key, slot),
                Entry::Vacant(entry) => {
                    entry.insert(Keys::One(key.clone(), slot));
                }
            }
        }
    }

    fn subtract(&mut self, key: &ObjectKey, terms: Vec<String>) {
        for term in terms {
            if let Entry::Occupied(mut keys) = self.entries.entry(term)
                && keys.get_mut().remove(key)
            {
                keys.remove();
            }
        }
    }
}
