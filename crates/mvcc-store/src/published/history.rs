//! The window of recent commits, which serves watches and reads at older revisions.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Event, EventKind, KeyValue, Limits, Revision, StoreError};

/// Memory of a change in the history, in addition to the bytes of keys and former values.
const COMMIT_OVERHEAD_BYTES: usize = 256;

/// The change of one key in a commit.
#[derive(Debug)]
pub struct KeyChange {
    /// The changed key.
    pub key: Arc<[u8]>,
    /// The pair after the commit, if the key exists.
    pub current: Option<Arc<KeyValue>>,
    /// The pair before the commit, if the key existed.
    pub previous: Option<Arc<KeyValue>>,
}

impl KeyChange {
    /// Converts the change to a watch event.
    pub(super) fn event(&self, revision: Revision) -> Event {
        Event {
            key: Arc::clone(&self.key),
            revision,
            kind: match &self.current {
                Some(pair) => EventKind::Put(KeyValue::clone(pair)),
                None => EventKind::Delete,
            },
            previous: self.previous.as_deref().cloned(),
        }
    }
}

/// All changes of one revision.
#[derive(Debug)]
pub struct Commit {
    /// The revision of the commit.
    pub revision: Revision,
    pub(super) at: Instant,
    /// The changes; each key appears once.
    pub changes: Vec<KeyChange>,
    /// Approximate memory that only the history keeps alive: the former values.
    pub(super) bytes: usize,
    /// Approximate memory that a slow watcher may keep alive; it includes the new values.
    pub(super) bytes_watched: usize,
}

impl Commit {
    /// Collects the changes of a revision.
    pub(crate) fn new(revision: Revision, at: Instant, changes: Vec<KeyChange>) -> Self {
        let len = |pair: &Option<Arc<KeyValue>>| pair.as_ref().map_or(0, |pair| pair.value.len());
        let keys: usize = changes.iter().map(|change| change.key.len()).sum();
        let former: usize = changes.iter().map(|change| len(&change.previous)).sum();
        let new: usize = changes.iter().map(|change| len(&change.current)).sum();
        let bytes = keys + former + changes.len() * COMMIT_OVERHEAD_BYTES;
        Self {
            revision,
            at,
            changes,
            bytes,
            bytes_watched: bytes + new,
        }
    }

    /// Whether any change is under the prefix.
    pub(super) fn concerns(&self, prefix: &[u8]) -> bool {
        self.changes
            .iter()
            .any(|change| change.key.starts_with(prefix))
    }
}

/// Commits in order, newest last.
///
/// Invariant: holds every commit with a revision above `floor`.
#[derive(Debug)]
pub(super) struct History {
    commits: VecDeque<Arc<Commit>>,
    /// The oldest revision whose state is known.
    floor: Revision,
    bytes: usize,
    window: Duration,
    bytes_max: usize,
}

impl History {
    /// An empty history, in which the state at `floor` is known, but no state before it.
    pub(super) fn new(floor: Revision, limits: &Limits) -> Self {
        Self {
            commits: VecDeque::new(),
            floor,
            bytes: 0,
            window: limits.history_window,
            bytes_max: limits.history_bytes_max,
        }
    }

    /// The memory of the commits.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the newest commit; its revision is the highest.
    pub(super) fn push(&mut self, commit: Arc<Commit>) {
        self.bytes += commit.bytes;
        self.commits.push_back(commit);
    }

    /// Drops commits beyond the limits of age or size.
    pub(super) fn trim(&mut self, now: Instant) {
        while let Some(oldest) = self.commits.front() {
            let expired = now.saturating_duration_since(oldest.at) > self.window;
            if !expired && self.bytes <= self.bytes_max {
                break;
            }
            self.drop_oldest();
        }
        if self.commits.is_empty() {
            self.commits.shrink_to(64);
        }
    }

    /// Drops the history up to and including `revision`.
    pub(super) fn compact(&mut self, revision: Revision) {
        while self
            .commits
            .front()
            .is_some_and(|oldest| oldest.revision <= revision)
        {
            self.drop_oldest();
        }
        self.floor = self.floor.max(revision);
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.commits.pop_front() {
            self.bytes -= oldest.bytes;
            self.floor = self.floor.max(oldest.revision);
        }
    }

    /// The commits after `revision`, newest last. They serve to compute the state at `revision`.
    pub(super) fn after(
        &self,
        revision: Revision,
    ) -> Result<impl DoubleEndedIterator<Item = &Arc<Commit>>, StoreError> {
        if revision < self.floor {
            return Err(StoreError::Compacted {
                requested: revision,
                oldest: self.floor,
            });
        }
        let start = self
            .commits
            .partition_point(|commit| commit.revision <= revision);
        Ok(self.commits.range(start..))
    }

    /// The commits since `revision` (inclusive), newest last, for a watch.
    pub(super) fn from(
        &self,
        revision: Revision,
    ) -> Result<impl DoubleEndedIterator<Item = &Arc<Commit>>, StoreError> {
        match revision.0.checked_sub(1) {
            Some(before) if Revision(before) >= self.floor => self.after(Revision(before)),
            _ => Err(StoreError::Compacted {
                requested: revision,
                oldest: self.floor,
            }),
        }
    }

    /// The time at which the oldest commit leaves the window.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.commits.front().map(|oldest| oldest.at + self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(revisions: std::ops::RangeInclusive<u64>, at: Instant) -> History {
        let mut history = History::new(Revision(revisions.start() - 1), &Limits::default());
        for revision in revisions {
            let change = KeyChange {
                key: Arc::from(&b"k"[..]),
                current: None,
                previous: None,
            };
            history.push(Arc::new(Commit::new(Revision(revision), at, vec![change])));
        }
        history
    }

    fn revisions_from(history: &History, from: u64) -> Result<Vec<u64>, StoreError> {
        Ok(history
            .from(Revision(from))?
            .map(|commit| commit.revision.0)
            .collect())
    }

    #[test]
    fn a_watch_starts_above_the_floor() {
        let mut history = history(5..=9, Instant::now());
        assert_eq!(revisions_from(&history, 5).unwrap(), [5, 6, 7, 8, 9]);
        history.compact(Revision(6));
        assert_eq!(revisions_from(&history, 7).unwrap(), [7, 8, 9]);
        assert!(matches!(
            revisions_from(&history, 6),
            Err(StoreError::Compacted {
                requested: Revision(6),
                oldest: Revision(6)
            })
        ));
        assert_eq!(history.after(Revision(6)).unwrap().count(), 3);
        assert_eq!(revisions_from(&history, 10).unwrap(), [0; 0]);
    }

    #[test]
    fn the_window_and_the_byte_bound_both_trim() {
        let start = Instant::now();
        let mut by_time = history(2..=4, start);
        by_time.trim(start + Duration::from_secs(301));
        assert!(revisions_from(&by_time, 4).is_err());
        assert_eq!(by_time.bytes, 0);

        let mut by_size = history(2..=4, start);
        by_size.bytes_max = by_size.bytes - 1;
        by_size.trim(start);
        assert_eq!(revisions_from(&by_size, 3).unwrap(), [3, 4]);
    }
}
