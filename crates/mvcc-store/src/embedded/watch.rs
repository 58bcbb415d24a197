//! Who watches what, and the bounded buffer between the commit thread and each watcher.
//!
//! The commit thread only hands a reference to the commit to the watchers that it concerns;
//! picking out and copying the events happens in the watcher's own task.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{history::Commit, limits::Limits};
use crate::{Event, Revision, StoreError, WatchEvents};

enum Item {
    Commit(Arc<Commit>),
    Progress(Revision),
}

/// What both ends of a watcher's buffer see.
#[derive(Default)]
struct Buffer {
    /// Bytes of the commits that wait.
    bytes: AtomicUsize,
    /// Set when the watcher was cut off.
    cut: AtomicBool,
}

struct Watcher {
    prefix: Arc<[u8]>,
    sender: mpsc::Sender<Item>,
    buffer: Arc<Buffer>,
    /// Everything up to here has been handed over or does not concern this watcher and was
    /// marked as passed.
    marked: Revision,
}

/// All watchers of a store.
///
/// Invariant: `by_prefix` and `prefix_lengths` list exactly the watchers in `watchers`.
pub(crate) struct Hub {
    watchers: BTreeMap<u64, Watcher>,
    by_prefix: HashMap<Arc<[u8]>, BTreeSet<u64>>,
    /// How many watched prefixes have each length, so that the watchers of a key are found by
    /// looking up a few of its own prefixes.
    prefix_lengths: BTreeMap<usize, usize>,
    next_id: u64,
    commits_max: usize,
    bytes_max: usize,
}

/// A hub that watchers and the commit thread share.
pub(crate) type SharedHub = Arc<Mutex<Hub>>;

/// Locks the hub. Its methods do not panic half-way, so a poisoned lock is still good.
pub(crate) fn lock(hub: &Mutex<Hub>) -> MutexGuard<'_, Hub> {
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// A hub without watchers.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            watchers: BTreeMap::new(),
            by_prefix: HashMap::new(),
            prefix_lengths: BTreeMap::new(),
            next_id: 0,
            commits_max: limits.watcher_commits_max.max(1),
            bytes_max: limits.watcher_bytes_max,
        }
    }

    /// Registers a watcher that first gets `replay` and then everything after `revision`.
    pub(crate) fn register(
        &mut self,
        shared: &SharedHub,
        prefix: &[u8],
        replay: VecDeque<Arc<Commit>>,
        revision: Revision,
    ) -> Watch {
        let id = self.next_id;
        self.next_id += 1;
        let prefix: Arc<[u8]> = match self.by_prefix.get_key_value(prefix) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(prefix),
        };
        let same = self.by_prefix.entry(Arc::clone(&prefix)).or_default();
        if same.is_empty() {
            *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
        }
        same.insert(id);
        let (sender, receiver) = mpsc::channel(self.commits_max);
        let buffer = Arc::new(Buffer::default());
        let watcher = Watcher {
            prefix: Arc::clone(&prefix),
            sender,
            buffer: Arc::clone(&buffer),
            marked: revision,
        };
        self.watchers.insert(id, watcher);
        Watch {
            id,
            hub: Arc::downgrade(shared),
            prefix,
            replay,
            first_mark: Some(revision),
            receiver,
            buffer,
            ended: false,
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(watcher) = self.watchers.remove(&id) else {
            return;
        };
        let prefix = &watcher.prefix;
        let Some(same) = self.by_prefix.get_mut(prefix) else {
            return;
        };
        same.remove(&id);
        if same.is_empty() {
            self.by_prefix.remove(prefix);
            if let Some(count) = self.prefix_lengths.get_mut(&prefix.len()) {
                *count -= 1;
                if *count == 0 {
                    self.prefix_lengths.remove(&prefix.len());
                }
            }
        }
    }

    /// Hands a commit to every watcher that it concerns.
    pub(crate) fn publish(&mut self, commit: &Arc<Commit>) {
        for id in self.concerned(commit) {
            if let Some(watcher) = self.watchers.get_mut(&id)
                && !watcher.offer(commit, self.bytes_max)
            {
                self.remove(id);
            }
        }
    }

    fn concerned(&self, commit: &Commit) -> BTreeSet<u64> {
        let mut ids = BTreeSet::new();
        for change in &commit.changes {
            for prefix in self
                .prefix_lengths
                .keys()
                .map_while(|len| change.key.get(..*len))
            {
                ids.extend(self.by_prefix.get(prefix).into_iter().flatten());
            }
        }
        ids
    }

    /// Tells every watcher that lags only because nothing concerned it how far history has got.
    pub(crate) fn mark_progress(&mut self, revision: Revision) {
        for watcher in self
            .watchers
            .values_mut()
            .filter(|watcher| watcher.marked < revision)
        {
            // A full buffer needs no mark: its events say how far the watcher is.
            if watcher.sender.try_send(Item::Progress(revision)).is_ok() {
                watcher.marked = revision;
            }
        }
    }

    /// Whether anybody watches.
    pub(crate) fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Ends all streams.
    pub(crate) fn close(&mut self) {
        self.watchers.clear();
        self.by_prefix.clear();
        self.prefix_lengths.clear();
    }
}

impl Watcher {
    /// Returns whether the watcher is still there.
    fn offer(&mut self, commit: &Arc<Commit>, bytes_max: usize) -> bool {
        let waiting = self
            .buffer
            .bytes
            .fetch_add(commit.bytes_watched, Ordering::Relaxed);
        if waiting > bytes_max {
            self.buffer.cut.store(true, Ordering::Release);
            return false;
        }
        match self.sender.try_send(Item::Commit(Arc::clone(commit))) {
            Ok(()) => {
                self.marked = commit.revision;
                true
            }
            Err(TrySendError::Full(_)) => {
                self.buffer.cut.store(true, Ordering::Release);
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

/// The receiving end: a stream of events. Dropping it ends the watch.
pub(crate) struct Watch {
    id: u64,
    hub: Weak<Mutex<Hub>>,
    prefix: Arc<[u8]>,
    replay: VecDeque<Arc<Commit>>,
    /// Sent once after the replay.
    first_mark: Option<Revision>,
    receiver: mpsc::Receiver<Item>,
    buffer: Arc<Buffer>,
    ended: bool,
}

impl Watch {
    fn events(&self, commit: &Commit) -> Vec<Event> {
        let changes = commit.changes.iter();
        let under_prefix = changes.filter(|change| change.key.starts_with(&self.prefix));
        under_prefix
            .map(|change| change.event(commit.revision))
            .collect()
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvents, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(commit) = self.replay.pop_front() {
            return Poll::Ready(Some(Ok(WatchEvents::Events(self.events(&commit)))));
        }
        if let Some(revision) = self.first_mark.take() {
            self.replay = VecDeque::new();
            return Poll::Ready(Some(Ok(WatchEvents::Progress(revision))));
        }
        match futures::ready!(self.receiver.poll_recv(context)) {
            Some(Item::Commit(commit)) => {
                self.buffer
                    .bytes
                    .fetch_sub(commit.bytes_watched, Ordering::Relaxed);
                Poll::Ready(Some(Ok(WatchEvents::Events(self.events(&commit)))))
            }
            Some(Item::Progress(revision)) => {
                Poll::Ready(Some(Ok(WatchEvents::Progress(revision))))
            }
            None => {
                self.ended = true;
                let cut = self.buffer.cut.load(Ordering::Acquire);
                Poll::Ready(cut.then_some(Err(StoreError::WatcherTooSlow)))
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            lock(&hub).remove(self.id);
        }
    }
}
