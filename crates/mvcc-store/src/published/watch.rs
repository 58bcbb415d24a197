//! The watchers, and the bounded buffer between the commit thread and each watcher.
//!
//! The commit thread only passes a reference to the commit to the affected watchers; the task of each watcher filters
//! and copies the events. A watcher with a full buffer loses the buffer at once and keeps only its position in the
//! history, so that a client that does not read keeps no old commits in memory. The watcher continues from the history,
//! and is cut off if the history no longer has the missed commits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
    task::{Context, Poll},
};

use futures::{Stream, task::AtomicWaker};

use super::{history::Commit, state::PublishedState};
use crate::{Limits, Revision, StoreError, WatchEvents};

/// Capacity that an empty buffer keeps, in items.
const IDLE_ITEMS_MAX: usize = 16;

/// Number of commits in the history that a watcher processes in one step while new commits wait.
const CATCH_UP_COMMITS: usize = 1000;

enum Item {
    /// A change from the history.
    Replay(Arc<Commit>),
    Commit(Arc<Commit>),
    Progress(Revision),
}

impl Item {
    /// The first revision that the watcher has not received before this item.
    fn first_missing(&self) -> Revision {
        match self {
            Self::Replay(commit) | Self::Commit(commit) => commit.revision,
            Self::Progress(revision) => Revision(revision.0.saturating_add(1)),
        }
    }
}

/// The reason why a stream has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The watcher was slower than the history.
    Cut,
    /// The store closed.
    Closed,
}

/// The buffer of a watcher.
#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// The number and size of the items after the replay.
    commits: usize,
    bytes: usize,
    /// The first revision to read from the history after the items; set when the buffer was full.
    behind: Option<Revision>,
    end: Option<End>,
}

/// The next step of a watcher.
enum NextItem {
    Item(Item),
    /// Read the history from this revision on.
    History(Revision),
    End(End),
    Nothing,
}

/// The state that both ends of a watcher's buffer share.
#[derive(Default)]
struct Buffer {
    waiting: Mutex<Waiting>,
    waker: AtomicWaker,
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the stream. If the stream has ended already, the earlier reason stays.
    fn end(&self, why: End) {
        let mut waiting = self.lock();
        if waiting.end.is_none() {
            waiting.end = Some(why);
        }
        if why == End::Cut {
            waiting.items = VecDeque::new();
            waiting.behind = None;
        }
        drop(waiting);
        self.waker.wake();
    }
}

struct Watcher {
    prefix: Arc<[u8]>,
    buffer: Arc<Buffer>,
    /// The revision up to which all changes were delivered or do not concern this watcher.
    marked: Revision,
}

/// All watchers of a store.
///
/// Invariant: `by_prefix` and `prefix_lengths` list exactly the watchers in `watchers`.
pub(super) struct WatchHub {
    watchers: BTreeMap<u64, Watcher>,
    by_prefix: HashMap<Arc<[u8]>, BTreeSet<u64>>,
    /// The number of watched prefixes of each length. The watchers of a key are found by a lookup of a few prefixes of
    /// the key.
    prefix_lengths: BTreeMap<usize, usize>,
    next_id: u64,
    commits_max: usize,
    bytes_max: usize,
}

/// The hub, which watchers and the commit thread share.
pub(super) type SharedHub = Arc<Mutex<WatchHub>>;

/// The state, which watchers and the commit thread share.
pub(super) type SharedState = Arc<RwLock<PublishedState>>;

/// Locks the hub. Its methods do not panic in the middle of a change, so a poisoned lock is still usable.
pub(super) fn lock(hub: &Mutex<WatchHub>) -> MutexGuard<'_, WatchHub> {
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WatchHub {
    /// A hub without watchers, with the limits of their queues.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            watchers: BTreeMap::new(),
            by_prefix: HashMap::new(),
            prefix_lengths: BTreeMap::new(),
            next_id: 0,
            commits_max: limits.watcher_commits_max.max(1),
            bytes_max: limits.watcher_bytes_max,
        }
    }

    /// Registers a watcher that first gets `replay`, and then everything after `revision`.
    pub(super) fn register(
        &mut self,
        shared: &SharedHub,
        state: &SharedState,
        prefix: &[u8],
        replay: VecDeque<Arc<Commit>>,
        revision: Revision,
    ) -> Watch {
        let id = self.next_id;
        self.next_id += 1;
        let prefix: Arc<[u8]> = match self.by_prefix.get_key_value(prefix) {
            Some((shared_prefix, _)) => Arc::clone(shared_prefix),
            None => Arc::from(prefix),
        };
        let same = self.by_prefix.entry(Arc::clone(&prefix)).or_default();
        if same.is_empty() {
            *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
        }
        same.insert(id);
        let mut items: VecDeque<Item> = replay.into_iter().map(Item::Replay).collect();
        items.push_back(Item::Progress(revision));
        let waiting = Waiting {
            items,
            ..Waiting::default()
        };
        let buffer = Arc::new(Buffer {
            waiting: Mutex::new(waiting),
            ..Buffer::default()
        });
        let watcher = Watcher {
            prefix: Arc::clone(&prefix),
            buffer: Arc::clone(&buffer),
            marked: revision,
        };
        self.watchers.insert(id, watcher);
        Watch {
            id,
            hub: Arc::downgrade(shared),
            state: Arc::downgrade(state),
            prefix,
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

    /// Passes a commit to all affected watchers.
    pub(super) fn publish(&mut self, commit: &Arc<Commit>) {
        for id in self.concerned(commit) {
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.offer(commit, self.commits_max, self.bytes_max);
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

    /// Sends a progress mark to every watcher that is behind only because no commit concerned it.
    pub(super) fn mark_progress(&mut self, revision: Revision) {
        for watcher in self
            .watchers
            .values_mut()
            .filter(|watcher| watcher.marked < revision)
        {
            watcher.mark(revision);
        }
    }

    /// Whether there are no watchers.
    pub(super) fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Cuts off all watchers, because they missed changes.
    pub(super) fn cut(&mut self) {
        for watcher in self.watchers.values() {
            watcher.buffer.end(End::Cut);
        }
        self.close();
    }

    /// Ends the streams of all watchers.
    pub(super) fn close(&mut self) {
        self.watchers.clear();
        self.by_prefix.clear();
        self.prefix_lengths.clear();
    }
}

impl Watcher {
    /// Adds a commit, or drops a full buffer.
    fn offer(&mut self, commit: &Arc<Commit>, commits_max: usize, bytes_max: usize) {
        self.marked = commit.revision;
        let mut waiting = self.buffer.lock();
        if waiting.behind.is_some() {
            return;
        }
        if waiting.bytes > bytes_max || waiting.commits >= commits_max {
            let first = waiting.items.front().map(Item::first_missing);
            *waiting = Waiting {
                behind: Some(first.unwrap_or(commit.revision)),
                ..Waiting::default()
            };
        } else {
            waiting.bytes += commit.bytes_watched;
            waiting.commits += 1;
            waiting.items.push_back(Item::Commit(Arc::clone(commit)));
        }
        drop(waiting);
        self.buffer.waker.wake();
    }

    /// Adds a progress mark. Of consecutive marks, only the last one is kept.
    fn mark(&mut self, revision: Revision) {
        self.marked = revision;
        let mut waiting = self.buffer.lock();
        if waiting.behind.is_some() {
            return;
        }
        match waiting.items.back_mut() {
            Some(Item::Progress(last)) => *last = revision,
            _ => waiting.items.push_back(Item::Progress(revision)),
        }
        drop(waiting);
        self.buffer.waker.wake();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.buffer.end(End::Closed);
    }
}

/// The receiver of a watch: a stream of events. Dropping it ends the watch.
pub(super) struct Watch {
    id: u64,
    hub: Weak<Mutex<WatchHub>>,
    state: Weak<RwLock<PublishedState>>,
    prefix: Arc<[u8]>,
    buffer: Arc<Buffer>,
    ended: bool,
}

impl Watch {
    fn events(&self, commit: &Commit) -> WatchEvents {
        let changes = commit.changes.iter();
        let under_prefix = changes.filter(|change| change.key.starts_with(&self.prefix));
        let events = under_prefix.map(|change| change.event(commit.revision));
        WatchEvents::Events(events.collect())
    }

    fn pop(&self) -> NextItem {
        let mut waiting = self.buffer.lock();
        let Some(item) = waiting.items.pop_front() else {
            return match (waiting.behind, waiting.end) {
                (Some(from), _) => NextItem::History(from),
                (None, Some(end)) => NextItem::End(end),
                (None, None) => NextItem::Nothing,
            };
        };
        if let Item::Commit(commit) = &item {
            waiting.bytes -= commit.bytes_watched;
            waiting.commits -= 1;
        }
        if waiting.items.is_empty() && waiting.items.capacity() > IDLE_ITEMS_MAX {
            // Releases the memory of a burst, because most watchers are idle most of the time.
            waiting.items = VecDeque::new();
        }
        NextItem::Item(item)
    }

    /// Reads the next commits from the history, or ends the watch if the history no longer has them.
    fn catch_up(&self, from: Revision) {
        let (Some(hub), Some(state)) = (self.hub.upgrade(), self.state.upgrade()) else {
            self.buffer.lock().behind = None;
            return self.buffer.end(End::Closed);
        };
        // Locked while the history is read, so that no commit is lost between the history and the stream.
        let mut hub = lock(&hub);
        let state = state.read().unwrap_or_else(PoisonError::into_inner);
        let Ok(commits) = state.history.from(from) else {
            self.buffer.end(End::Cut);
            return hub.remove(self.id);
        };
        let mut waiting = self.buffer.lock();
        let mut bytes = 0;
        for (number, commit) in commits.enumerate() {
            if number == CATCH_UP_COMMITS || bytes > hub.bytes_max {
                waiting.behind = Some(commit.revision);
                return;
            }
            if commit.concerns(&self.prefix) {
                bytes += commit.bytes_watched;
                waiting.items.push_back(Item::Replay(Arc::clone(commit)));
            }
        }
        waiting.behind = None;
        waiting.items.push_back(Item::Progress(state.revision));
        if let Some(watcher) = hub.watchers.get_mut(&self.id) {
            watcher.marked = state.revision;
        }
    }

    /// The next item, or the reason for the end; `None` if there is neither yet.
    fn next(&self) -> Option<Result<Item, End>> {
        loop {
            match self.pop() {
                NextItem::Item(item) => return Some(Ok(item)),
                NextItem::History(from) => self.catch_up(from),
                NextItem::End(end) => return Some(Err(end)),
                NextItem::Nothing => return None,
            }
        }
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvents, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next_events = match self.next() {
            Some(next_events) => next_events,
            None => {
                self.buffer.waker.register(context.waker());
                // An item may have arrived in the meantime.
                match self.next() {
                    Some(next_events) => next_events,
                    None => return Poll::Pending,
                }
            }
        };
        let next = match next_events {
            Ok(Item::Replay(commit) | Item::Commit(commit)) => Ok(self.events(&commit)),
            Ok(Item::Progress(revision)) => Ok(WatchEvents::Progress(revision)),
            Err(end) => {
                self.ended = true;
                match end {
                    End::Cut => Err(StoreError::WatcherTooSlow),
                    End::Closed => return Poll::Ready(None),
                }
            }
        };
        Poll::Ready(Some(next))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            lock(&hub).remove(self.id);
        }
    }
}
