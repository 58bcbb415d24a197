//! The bytes of live pairs by owner. The program that uses the store says which part of a key is its owner.

use std::{collections::BTreeMap, sync::Arc};

use super::{LiveKeys, history::Commit, pair_bytes};
use crate::KeyValue;

/// The owner that a key names, if it has one.
pub type OwnerOf = fn(&[u8]) -> Option<&[u8]>;

/// The bytes of the live pairs of each owner. Empty until the owners are known.
#[derive(Debug, Default)]
pub(super) struct OwnedBytes {
    owner_of: Option<OwnerOf>,
    /// Owners without a pair are not in it.
    bytes: BTreeMap<Arc<[u8]>, u64>,
}

impl OwnedBytes {
    /// Counts all pairs.
    pub(super) fn count(owner_of: Option<OwnerOf>, live: &LiveKeys) -> Self {
        let mut counted = Self {
            owner_of,
            bytes: BTreeMap::new(),
        };
        if owner_of.is_some() {
            live.values()
                .for_each(|pair| counted.change(None, Some(pair)));
        }
        counted
    }

    /// Counts the changes of a commit.
    pub(super) fn apply(&mut self, commit: &Commit) {
        for change in &commit.changes {
            self.change(change.previous.as_deref(), change.current.as_deref());
        }
    }

    fn change(&mut self, previous: Option<&KeyValue>, current: Option<&KeyValue>) {
        let (Some(owner_of), Some(either)) = (self.owner_of, previous.or(current)) else {
            return;
        };
        let Some(owner) = owner_of(&either.key) else {
            return;
        };
        let size = |pair: Option<&KeyValue>| {
            pair.map_or(0, |pair| pair_bytes(&pair.key, pair.value.len()))
        };
        let after = (self.of(owner) + size(current)).saturating_sub(size(previous));
        match (self.bytes.get_mut(owner), after) {
            (Some(_), 0) => drop(self.bytes.remove(owner)),
            (Some(bytes), after) => *bytes = after,
            (None, after) => drop(self.bytes.insert(Arc::from(owner), after)),
        }
    }

    /// The bytes of an owner.
    pub(super) fn of(&self, owner: &[u8]) -> u64 {
        self.bytes.get(owner).copied().unwrap_or(0)
    }

    /// The owner with the most bytes.
    pub(super) fn largest(&self) -> Option<(Arc<[u8]>, u64)> {
        let largest = self.bytes.iter().max_by_key(|(_, bytes)| **bytes);
        largest.map(|(owner, bytes)| (Arc::clone(owner), *bytes))
    }

    pub(super) fn owner_of(&self) -> Option<OwnerOf> {
        self.owner_of
    }
}
