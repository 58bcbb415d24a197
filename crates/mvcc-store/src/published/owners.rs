//! The bytes of live pairs by owner. The user of the store defines which part of a key is the owner.

use std::{collections::BTreeMap, sync::Arc};

use super::{LiveKeys, history::Commit, pair_bytes};
use crate::KeyValue;

/// Returns the owner of a key; `None` if the key has no owner.
pub type OwnerOf = fn(&[u8]) -> Option<&[u8]>;

/// The bytes of the live pairs of each owner. Empty until counting starts.
#[derive(Debug, Default)]
pub(super) struct OwnedBytes {
    owner_of: Option<OwnerOf>,
    /// Owners without a pair have no entry.
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

    /// Applies the changes of a commit to the counts.
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
        let after = (self.owned_bytes(owner) + size(current)).saturating_sub(size(previous));
        match (self.bytes.get_mut(owner), after) {
            (Some(_), 0) => drop(self.bytes.remove(owner)),
            (Some(bytes), after) => *bytes = after,
            (None, after) => drop(self.bytes.insert(Arc::from(owner), after)),
        }
    }

    /// The bytes of an owner.
    pub(super) fn owned_bytes(&self, owner: &[u8]) -> u64 {
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
