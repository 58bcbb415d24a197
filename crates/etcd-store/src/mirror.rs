//! The copy of all keys in memory, which serves every read and every watch. One watch of etcd updates the copy.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::OptionFuture;
use mvcc_store::{
    KeyValue, LeaseId, Limits, Omittable, Revision, StoreError,
    published::{Commit, LiveKeys, Published},
};
use process_telemetry::backoff;
use rpc_channel::{Code, RpcError, Stream};
use service_protocols::etcdserverpb::{self as api, RangeRequest, kv};
use tokio::sync::{Notify, watch};

use crate::{
    connections::{Connections, CurrentConnection},
    keys::Keys,
    messages::{self, RangeResponse, StoredPair, WatchEvent, WatchResponse},
    origin::Origin,
    revision::EtcdRevision,
    value,
};

/// Keys per page of the first read.
const PAGE_KEYS: i64 = 256;
/// Maximum time of the read of one page, and of the start of a watch.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for reading everything.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause before the watch is started again after a failure.
const PAUSE: Duration = Duration::from_millis(100);
/// The first part of a wait for a revision: usually etcd has already sent the event.
const EVENT_TIME: Duration = Duration::from_millis(10);
/// Interval of requests for progress while a caller waits for a revision.
const NUDGE_INTERVAL: Duration = Duration::from_millis(30);
/// Minimum interval between two trims of the history.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// The trace of a transaction of this process in the watch.
#[derive(Clone)]
pub(crate) enum MarkState {
    /// Nothing yet.
    Awaited,
    /// The event of the mark has arrived, with these changes.
    Arrived(Arc<Commit>),
    /// The event of the mark may be among the events that were lost to a compaction.
    Missed,
}

/// The copy, and the tasks that wait for it.
pub(crate) struct Mirror {
    pub(crate) published: Published,
    pub(crate) origin: Origin,
    keys: Keys,
    /// Whether the data in etcd was replaced after the start of this server.
    is_replaced: AtomicBool,
    progress_interval: Duration,
    /// The published revision. The marks of a revision are recorded before the revision is sent here.
    reached: watch::Sender<Revision>,
    nudge: Notify,
    marks: Mutex<HashMap<u64, MarkState>>,
    failure: RwLock<Option<StoreError>>,
}

/// Why a watch of etcd has ended.
enum WatchEnd {
    /// Events were lost to a compaction.
    Compacted,
    /// Another member is in use.
    Moved,
    /// An error of this connection.
    Failed(u64, RpcError),
}

impl Mirror {
    /// Reads all keys of the store.
    pub(crate) async fn load(
        connections: &Connections,
        keys: Keys,
        origin: Origin,
        limits: &Limits,
    ) -> Result<Self, RpcError> {
        let (live, revision) = load(connections, &keys, origin).await?;
        Ok(Self {
            origin,
            is_replaced: AtomicBool::new(false),
            published: Published::new(live, revision, limits),
            keys,
            progress_interval: limits.progress_interval,
            reached: watch::Sender::new(revision),
            nudge: Notify::new(),
            marks: Mutex::default(),
            failure: RwLock::new(None),
        })
    }

    /// The reason why the copy does not follow etcd, if it does not.
    pub(crate) fn failure(&self) -> Option<StoreError> {
        let failure = self.failure.read();
        let failure = failure.unwrap_or_else(PoisonError::into_inner).clone();
        self.failure_for_ever().or(failure)
    }

    /// The reason why this server needs a restart; `None` if it does not need a restart.
    pub(crate) fn failure_for_ever(&self) -> Option<StoreError> {
        self.is_replaced.load(Ordering::Relaxed).then(replaced)
    }

    /// Records that the data in etcd was replaced after the start of this server.
    pub(crate) fn note_replaced(&self) {
        self.is_replaced.store(true, Ordering::Relaxed);
    }

    fn note_failure(&self, failure: Option<StoreError>) {
        *self.failure.write().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<u64, MarkState>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects the mark of a transaction until the result is dropped.
    pub(crate) fn expect(&self, number: u64) -> AwaitedMark<'_> {
        self.marks().insert(number, MarkState::Awaited);
        AwaitedMark {
            mirror: self,
            number,
        }
    }

    /// Waits until the copy includes the revision; `false` at the deadline.
    pub(crate) async fn wait(&self, revision: Revision, deadline: tokio::time::Instant) -> bool {
        let mut reached = self.reached.subscribe();
        let mut patience = EVENT_TIME;
        while *reached.borrow_and_update() < revision {
            let until = (tokio::time::Instant::now() + patience).min(deadline);
            match tokio::time::timeout_at(until, reached.changed()).await {
                Ok(Ok(())) => continue,
                Ok(Err(_)) => return false,
                Err(_) if until == deadline => return false,
                Err(_) => {}
            }
            self.nudge.notify_one();
            patience = NUDGE_INTERVAL;
        }
        true
    }

    /// As [`wait`](Self::wait), for a revision that may concern only keys that are not watched.
    pub(crate) async fn wait_with_progress(
        &self,
        revision: Revision,
        deadline: tokio::time::Instant,
    ) -> bool {
        if *self.reached.borrow() < revision {
            self.nudge.notify_one();
        }
        self.wait(revision, deadline).await
    }

    /// Follows etcd until the task is aborted.
    pub(crate) async fn run(self: Arc<Self>, connections: Arc<Connections>) {
        loop {
            match self.follow(&connections).await {
                WatchEnd::Moved => {}
                WatchEnd::Compacted => self.reload(&connections).await,
                WatchEnd::Failed(number, error) => {
                    tracing::warn!(%error, "the watch of etcd ended");
                    self.note_failure(Some(StoreError::Unavailable(error.to_string())));
                    connections.give_up(number).await;
                    tokio::time::sleep(backoff::jittered(PAUSE)).await;
                }
            }
        }
    }

    /// Replaces the copy after events were lost. All watches of clients are ended.
    async fn reload(&self, connections: &Connections) {
        tracing::warn!("etcd has compacted events that were not seen yet; all keys are read again");
        loop {
            match load(connections, &self.keys, self.origin).await {
                Ok((live, revision)) => {
                    for mark in self.marks().values_mut() {
                        if matches!(mark, MarkState::Awaited) {
                            *mark = MarkState::Missed;
                        }
                    }
                    self.published.replace(live, revision);
                    self.reached.send_replace(revision);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the keys could not be read");
                    self.note_failure(Some(StoreError::Unavailable(error.to_string())));
                    tokio::time::sleep(backoff::jittered(PAUSE)).await;
                }
            }
        }
    }

    /// Processes the events of one watch until the watch ends.
    async fn follow(&self, connections: &Connections) -> WatchEnd {
        let mut changes = connections.changes();
        let CurrentConnection { number, channel } = match connections.current().await {
            Ok(current) => current,
            Err(error) => return WatchEnd::Failed(0, error),
        };
        changes.borrow_and_update();
        let failed = |error| WatchEnd::Failed(number, error);
        let (start, end) = self.keys.all();
        let newest = self.origin.in_etcd(self.published.revision());
        let begin = messages::watch(start, end, EtcdRevision(newest.0 + 1));
        let mut stream = match channel
            .stream(api::watch::WATCH, &begin, PAGE_TIMEOUT)
            .await
        {
            Ok(stream) => stream,
            Err(error) => return failed(error),
        };
        let mut mark_due: Option<Instant> = None;
        let mut trim_due: Option<Instant> = None;
        loop {
            let due = [mark_due, trim_due].into_iter().flatten().min();
            let timer: OptionFuture<_> = due.map(|due| tokio::time::sleep_until(due.into())).into();
            tokio::select! {
                response = stream.next() => {
                    let response = match response {
                        Ok(response) => WatchResponse::from(response),
                        Err(error) => return failed(error),
                    };
                    if response.compact_revision > EtcdRevision(0) {
                        return WatchEnd::Compacted;
                    }
                    if let Some(reason) = response.canceled {
                        return failed(RpcError::Broken(format!("etcd ended the watch: {reason}")));
                    }
                    if self.failure().is_some() {
                        tracing::info!("the watch of etcd continues");
                        self.note_failure(None);
                    }
                    self.apply_response(response);
                    let now = Instant::now();
                    mark_due.get_or_insert(now + self.progress_interval);
                    trim_due.get_or_insert(now + TRIM_INTERVAL);
                }
                () = self.nudge.notified() => {
                    if let Err(error) = ask_for_progress(&stream) {
                        return failed(error);
                    }
                }
                changed = changes.changed() => {
                    if changed.is_err() || *changes.borrow_and_update() != number {
                        return WatchEnd::Moved;
                    }
                }
                Some(()) = timer => {
                    let now = Instant::now();
                    if mark_due.take_if(|due| *due <= now).is_some() {
                        self.published.mark_progress();
                    }
                    if trim_due.take_if(|due| *due <= now).is_some() {
                        self.published.trim(now);
                        let expiry = self.published.next_expiry();
                        trim_due = expiry.map(|expiry| expiry.max(now + TRIM_INTERVAL));
                    }
                }
            }
        }
    }

    /// Publishes the changes in a message of the watch.
    fn apply_response(&self, response: WatchResponse) {
        // The revision of a message with events is the member's, and may be ahead of the watch.
        let progress = (response.events.is_empty() && !response.is_created)
            .then_some((response.revision, Vec::new()));
        let by_revision = response
            .events
            .chunk_by(|one, other| one.pair.mod_revision == other.pair.mod_revision)
            .map(|events| (events[0].pair.mod_revision, events.to_vec()));
        for (revision, events) in by_revision.chain(progress) {
            let revision = self.origin.in_store(revision);
            if revision > self.published.revision() {
                self.publish(revision, events);
            }
        }
    }

    fn publish(&self, revision: Revision, events: Vec<WatchEvent>) {
        let mut mark = None;
        let mut changed = Vec::with_capacity(events.len());
        for event in events {
            if event.pair.key == self.keys.mark && !event.is_delete {
                mark = event
                    .pair
                    .value
                    .as_ref()
                    .try_into()
                    .ok()
                    .map(u64::from_be_bytes);
            } else if event.pair.key == self.keys.origin {
                self.note_replaced();
            } else if let Some(key) = self.keys.data_in(&event.pair.key) {
                let pair = (!event.is_delete).then(|| loaded(key, &event.pair, self.origin));
                changed.push((Arc::from(key), pair));
            }
        }
        let commit = self.published.apply(revision, changed, Instant::now());
        if let Some(number) = mark
            && let Some(mark) = self.marks().get_mut(&number)
        {
            *mark = MarkState::Arrived(commit);
        }
        self.reached.send_replace(revision);
    }
}

/// A transaction whose mark is expected.
pub(crate) struct AwaitedMark<'m> {
    mirror: &'m Mirror,
    number: u64,
}

impl AwaitedMark<'_> {
    /// The mark up to now.
    pub(crate) fn mark(&self) -> MarkState {
        let marks = self.mirror.marks();
        marks
            .get(&self.number)
            .cloned()
            .unwrap_or(MarkState::Missed)
    }
}

impl Drop for AwaitedMark<'_> {
    fn drop(&mut self) {
        self.mirror.marks().remove(&self.number);
    }
}

fn ask_for_progress(
    stream: &Stream<api::WatchRequest, api::WatchResponse>,
) -> Result<(), RpcError> {
    stream.send(&messages::progress())
}

/// The error of a server whose data was copied elsewhere, or replaced.
pub(crate) fn replaced() -> StoreError {
    StoreError::Replaced(
        "the data in etcd was moved or replaced since this server has started; it does not use it any more"
            .to_owned(),
    )
}

/// The pair of the store in a pair of etcd.
pub(crate) fn loaded(key: &[u8], pair: &StoredPair, origin: Origin) -> KeyValue {
    if let Some((create_revision, mod_revision, value)) = value::copied(&pair.value) {
        return KeyValue {
            key: Arc::from(key),
            value,
            create_revision,
            mod_revision,
            lease: None,
            omittable: Omittable::UNKNOWN,
        };
    }
    let mod_revision = origin.in_store(pair.mod_revision);
    let value = value::load(&pair.value, mod_revision).unwrap_or_else(|| {
        let key = key.escape_ascii();
        tracing::error!(%key, "a value in etcd was not stored by this program");
        pair.value.clone()
    });
    KeyValue {
        key: Arc::from(key),
        value,
        create_revision: origin.in_store(pair.create_revision),
        mod_revision,
        lease: (pair.lease != 0).then_some(LeaseId(pair.lease)),
        omittable: Omittable::UNKNOWN,
    }
}

/// All keys at one revision. The revision is the newest revision of the cluster when the first page is read.
pub(crate) async fn load(
    connections: &Connections,
    keys: &Keys,
    origin: Origin,
) -> Result<(LiveKeys, Revision), RpcError> {
    let deadline = tokio::time::Instant::now() + LOAD_TIMEOUT;
    loop {
        match load_at_once(connections, keys, origin, deadline).await {
            // A compaction in between; the next attempt is at a newer revision.
            Err(RpcError::Status { code, .. })
                if code == Code::OUT_OF_RANGE && tokio::time::Instant::now() < deadline => {}
            loaded => return loaded,
        }
    }
}

async fn load_at_once(
    connections: &Connections,
    keys: &Keys,
    origin: Origin,
    deadline: tokio::time::Instant,
) -> Result<(LiveKeys, Revision), RpcError> {
    let (mut start, end) = keys.all_data();
    let mut live = LiveKeys::new();
    let mut revision = EtcdRevision(0);
    loop {
        let request = RangeRequest {
            limit: PAGE_KEYS,
            revision: revision.to_message(),
            ..messages::range(start.clone(), end.clone())
        };
        let page = connections.call(kv::RANGE, &request, PAGE_TIMEOUT, deadline);
        let page = RangeResponse::from(page.await?);
        if revision == EtcdRevision(0) {
            revision = page.revision;
        }
        for pair in &page.pairs {
            if let Some(key) = keys.data_in(&pair.key) {
                let pair = loaded(key, pair, origin);
                live.insert(Arc::clone(&pair.key), Arc::new(pair));
            }
        }
        match page.pairs.last() {
            Some(last) if page.more => {
                start.clone_from(&last.key);
                start.push(0);
            }
            _ => return Ok((live, origin.in_store(revision))),
        }
    }
}
