//! The live keys, their revision and the recent history.

use std::{ops::Bound, sync::Arc};

use tokio::task::yield_now;

use super::{
    LiveKeys,
    history::{Commit, History},
    owners::{OwnedBytes, OwnerOf},
    pair_bytes,
};
use crate::{KeyValue, Limits, Range, RangeResult, Revision, StoreError};

/// The state that readers see: the live keys and the recent commits.
#[derive(Debug)]
pub(super) struct PublishedState {
    pub(super) live: LiveKeys,
    /// The size of the live pairs in bytes.
    pub(super) live_bytes: u64,
    pub(super) owned: OwnedBytes,
    pub(super) revision: Revision,
    pub(super) history: History,
}

impl PublishedState {
    /// The state directly after opening. Earlier history is unknown, except in a new store.
    pub(super) fn new(
        live: LiveKeys,
        revision: Revision,
        limits: &Limits,
        owner_of: Option<OwnerOf>,
    ) -> Self {
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
            owned: OwnedBytes::count(owner_of, &live),
            live,
            live_bytes,
            revision,
            history: History::new(floor, limits),
        }
    }

    /// The data for reading a range, taken under the lock. It takes constant time for the newest revision.
    pub(super) fn snapshot(&self, revision: Option<Revision>) -> Result<Snapshot, StoreError> {
        let revision = match revision {
            None => self.revision,
            Some(requested) if requested > self.revision => {
                return Err(StoreError::Future {
                    requested,
                    newest: self.revision,
                });
            }
            Some(requested) => requested,
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

/// The state at one revision, independent of the store.
pub(super) struct Snapshot {
    live: LiveKeys,
    revision: Revision,
    /// The commits after `revision`, which must be undone.
    newer: Vec<Arc<Commit>>,
}

/// Number of pairs that are read in one poll: 5,000 pairs took 5 ms on a busy machine. A count copies nothing, and is
/// not split.
const PAIRS_IN_A_POLL: usize = 1000;

impl Snapshot {
    /// Reads a range at its revision, in the order of keys. Other tasks run after each [`PAIRS_IN_A_POLL`] pairs.
    pub(super) async fn range(mut self, range: &Range) -> RangeResult {
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
                        if items.len() % PAIRS_IN_A_POLL == 0 {
                            yield_now().await;
                        }
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

    /// Undoes the newer commits within the range, starting with the newest.
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;

    use super::*;
    use crate::Omittable;

    /// A read of many pairs is split, so that other requests do not wait for a long list.
    #[test]
    fn a_bounded_number_of_pairs_is_read_in_one_poll() {
        let pair = |number: usize| {
            let key: Arc<[u8]> = format!("{number:06}").into_bytes().into();
            let pair = KeyValue {
                key: Arc::clone(&key),
                value: Bytes::new(),
                create_revision: Revision(1),
                mod_revision: Revision(1),
                lease: None,
                omittable: Omittable::UNKNOWN,
            };
            (key, Arc::new(pair))
        };
        let all = 3 * PAIRS_IN_A_POLL + 1;
        let live: LiveKeys = (0..all).map(pair).collect();
        let polls = |limit: Option<usize>| {
            let snapshot = Snapshot {
                live: live.clone(),
                revision: Revision(1),
                newer: Vec::new(),
            };
            let range = Range {
                end: Some(b"9".to_vec()),
                limit,
                ..Range::default()
            };
            let mut read = pin!(snapshot.range(&range));
            let mut cx = Context::from_waker(Waker::noop());
            for polls in 1.. {
                if let Poll::Ready(result) = read.as_mut().poll(&mut cx) {
                    assert!(result.items.is_sorted_by(|a, b| a.key < b.key));
                    assert_eq!(result.items.len(), limit.unwrap_or(all).min(all));
                    assert_eq!(result.count, all);
                    return polls;
                }
            }
            unreachable!("it ends")
        };
        assert_eq!(polls(None), 4);
        assert_eq!(polls(Some(PAIRS_IN_A_POLL - 1)), 1);
        // A count copies nothing.
        assert_eq!(polls(Some(0)), 1);
    }
}
