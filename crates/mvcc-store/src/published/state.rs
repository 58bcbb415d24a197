//! The live keys, their revision and the recent history.

use std::{ops::Bound, sync::Arc};

use super::{
    LiveKeys,
    history::{Commit, History},
    pair_bytes,
};
use crate::{KeyValue, Limits, Range, RangeResult, Revision, StoreError};

/// The state that readers see: the live keys and the recent commits.
#[derive(Debug)]
pub(super) struct PublishedState {
    pub(super) live: LiveKeys,
    /// The size of the live pairs in bytes.
    pub(super) live_bytes: u64,
    pub(super) revision: Revision,
    pub(super) history: History,
}

impl PublishedState {
    /// The state right after opening. Earlier history is unknown, except in a new store.
    pub(super) fn new(live: LiveKeys, revision: Revision, limits: &Limits) -> Self {
        let floor = if revision <= Revision(1) {
            Revision(0)
        } else {
            revision
        };
        let pairs = live.iter();
        let live_bytes = pairs
            .map(|(key, pair)| pair_bytes(key, pair.value.len()))
            .sum();
        Self {
            live,
            live_bytes,
            revision,
            history: History::new(floor, limits),
        }
    }

    /// The data for answering a range, taken under the lock; constant time for the newest revision.
    pub(super) fn snapshot(&self, revision: Option<Revision>) -> Result<Snapshot, StoreError> {
        let revision = match revision {
            None => self.revision,
            Some(asked) if asked > self.revision => {
                return Err(StoreError::Future {
                    asked,
                    newest: self.revision,
                });
            }
            Some(asked) => asked,
        };
        let newer = if revision == self.revision {
            Vec::new()
        } else {
            self.history.after(revision)?.cloned().collect()
        };
        Ok(Snapshot {
            live: self.live.clone(),
            revision,
            newer,
        })
    }
}

/// The state at one revision, detached from the store.
pub(super) struct Snapshot {
    live: LiveKeys,
    revision: Revision,
    /// Commits after `revision`, still to be undone.
    newer: Vec<Arc<Commit>>,
}

impl Snapshot {
    /// Reads a range at its revision, in the order of keys.
    pub(super) fn range(mut self, range: &Range) -> RangeResult {
        self.rewind(range);
        let limit = range.limit.unwrap_or(usize::MAX);
        let mut items = Vec::new();
        let mut count = 0;
        match &range.end {
            None => {
                if let Some(pair) = self.live.get(range.start.as_slice()) {
                    count = 1;
                    items.extend((limit > 0).then(|| KeyValue::clone(pair)));
                }
            }
            // An empty or inverted range would make the map panic.
            Some(end) if range.start >= *end => {}
            Some(end) => {
                let bounds = (
                    Bound::Included(range.start.as_slice()),
                    Bound::Excluded(end.as_slice()),
                );
                for (_, pair) in self.live.range::<_, [u8]>(bounds) {
                    count += 1;
                    if items.len() < limit {
                        items.push(KeyValue::clone(pair));
                    }
                }
            }
        }
        RangeResult {
            revision: self.revision,
            items,
            count,
        }
    }

    /// Undoes the newer commits within the range, newest first.
    fn rewind(&mut self, range: &Range) {
        for commit in std::mem::take(&mut self.newer).iter().rev() {
            for change in commit
                .changes
                .iter()
                .filter(|change| within(range, &change.key))
            {
                match &change.previous {
                    Some(pair) => {
                        self.live.insert(Arc::clone(&change.key), Arc::clone(pair));
                    }
                    None => {
                        self.live.remove(&change.key);
                    }
                }
            }
        }
    }
}

fn within(range: &Range, key: &[u8]) -> bool {
    match &range.end {
        None => key == range.start,
        Some(end) => range.start.as_slice() <= key && key < end.as_slice(),
    }
}
