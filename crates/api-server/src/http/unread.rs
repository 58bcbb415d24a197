//! Bytes of answers that wait for their readers: counted by sender and by connection, and bounded.
//!
//! A sender costs this process memory by requests whose answers it does not read. An answer counts from the moment at
//! which its size is known, before it is made, until the connection has written it: its frames own their part of the
//! count. A sender with too much of its own gets 429. If all senders together have too much, the connection that holds
//! most of the sender that holds most is closed, so that one sender's unread answers are never in the way of
//! another's. Bodies of unknown length (watches, logs) wait, and produce nothing meanwhile.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_model::{Status, StatusDetails, StatusReason};
use process_telemetry::prometheus::{Metric, Page};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::http::body::{BoxBody, BoxError};
use crate::http::limits::{
    UNREAD_FRAME_BYTES, UNREAD_GRACE, UNREAD_LOOK_INTERVAL, UNREAD_REQUEST_BYTES,
};

const BYTES: Metric = Metric::gauge(
    "mainstay_unread_answer_bytes",
    "Bytes of answers that wait for their readers.",
);
const REFUSED: Metric = Metric::counter(
    "mainstay_unread_answer_refusals_total",
    "Requests refused because too many answers to their sender were unread.",
);
const CLOSED: Metric = Metric::counter(
    "mainstay_unread_answer_closed_connections_total",
    "Connections closed because their clients did not read the answers.",
);

/// The most bytes that may wait for readers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnreadBounds {
    pub(crate) all: usize,
    pub(crate) per_sender: usize,
}

/// The verdict on further bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// The sender itself has too many.
    SenderFull,
    /// All senders together have too many.
    ServerFull,
}

impl UnreadBounds {
    /// Whether a sender that holds `own` of `all` bytes may have `more`. One answer larger than the share of a sender
    /// counts as large as the share.
    fn room(self, own: usize, all: usize, more: usize) -> Room {
        if own.saturating_add(self.counted(more)) > self.per_sender {
            Room::SenderFull
        } else if all.saturating_add(self.counted(more)) > self.all {
            Room::ServerFull
        } else {
            Room::Enough
        }
    }

    fn counted(self, bytes: usize) -> usize {
        bytes.min(self.per_sender)
    }
}

/// All bytes that wait for readers.
#[derive(Debug)]
pub(crate) struct UnreadAnswers {
    bounds: UnreadBounds,
    state: Mutex<State>,
    /// Requests that were refused for them, and connections that were closed.
    refused: AtomicU64,
    closed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    all: usize,
    /// Senders with unread bytes.
    senders: BTreeMap<Arc<str>, BySender>,
}

#[derive(Debug, Default)]
struct BySender {
    held: usize,
    connections: BTreeMap<u64, ByConnection>,
}

#[derive(Debug)]
struct ByConnection {
    held: usize,
    /// The time since which something is unread.
    since: Instant,
    close: CancellationToken,
}

/// The connection of a request, as far as its unread bytes go.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    id: u64,
    close: CancellationToken,
}

impl Reader {
    /// A new connection; `close` ends it.
    pub(crate) fn new(close: CancellationToken) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { id, close }
    }
}

/// The account of a sender at one of its connections.
#[derive(Clone, Debug)]
pub(crate) struct UnreadAccount {
    answers: Arc<UnreadAnswers>,
    sender: Arc<str>,
    reader: Reader,
    /// Whether nothing is refused; the bytes count nevertheless.
    is_exempt: bool,
}

/// Counted bytes; no longer counted when dropped.
#[derive(Debug)]
pub(crate) struct UnreadBytes {
    account: UnreadAccount,
    bytes: usize,
}

impl UnreadAnswers {
    pub(crate) fn new(bounds: UnreadBounds) -> Self {
        Self {
            bounds,
            state: Mutex::default(),
            refused: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        }
    }

    /// The account of a sender: the name of a user, of a namespace with all its accounts, or an address.
    pub(crate) fn account(
        self: &Arc<Self>,
        sender: &str,
        reader: &Reader,
        is_exempt: bool,
    ) -> UnreadAccount {
        UnreadAccount {
            answers: self.clone(),
            sender: sender.into(),
            reader: reader.clone(),
            is_exempt,
        }
    }

    /// Adds the figures to the metrics.
    pub(crate) fn write_metrics(&self, page: &mut Page) {
        let (bytes, refused, closed) = self.figures();
        page.add(BYTES, &[], bytes);
        page.add(REFUSED, &[], refused);
        page.add(CLOSED, &[], closed);
    }

    /// The bytes that wait, the requests refused, and the connections closed for them.
    fn figures(&self) -> (usize, u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (self.lock().all, count(&self.refused), count(&self.closed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&self, sender: &str) -> usize {
        self.senders.get(sender).map_or(0, |sender| sender.held)
    }

    fn add(&mut self, account: &UnreadAccount, bytes: usize, now: Instant) {
        if bytes == 0 {
            return;
        }
        let sender = self.senders.entry(account.sender.clone()).or_default();
        let connections = sender.connections.entry(account.reader.id);
        let connection = connections.or_insert_with(|| ByConnection {
            held: 0,
            since: now,
            close: account.reader.close.clone(),
        });
        connection.held += bytes;
        sender.held += bytes;
        self.all += bytes;
    }

    fn remove(&mut self, account: &UnreadAccount, bytes: usize) {
        let Some(sender) = self.senders.get_mut(&account.sender) else {
            return;
        };
        let Some(connection) = sender.connections.get_mut(&account.reader.id) else {
            return;
        };
        // A connection that was closed for its unread bytes counts none of those that it had.
        let bytes = bytes.min(connection.held);
        connection.held -= bytes;
        sender.held -= bytes;
        self.all -= bytes;
        if connection.held == 0 {
            sender.connections.remove(&account.reader.id);
        }
        if sender.held == 0 {
            self.senders.remove(&account.sender);
        }
    }

    /// The connection to close in favour of a sender: the largest one of those that had something unread for a while, of
    /// the sender that holds most, and more than this one.
    fn victim(&self, newcomer: &str, now: Instant) -> Option<(Arc<str>, u64)> {
        let own = self.of(newcomer);
        let (name, sender) = self.senders.iter().max_by_key(|(_, sender)| sender.held)?;
        if sender.held <= own {
            return None;
        }
        let is_old = |connection: &ByConnection| now - connection.since >= UNREAD_GRACE;
        let candidates = sender.connections.iter().filter(|(_, one)| is_old(one));
        let (id, _) = candidates.max_by_key(|(_, connection)| connection.held)?;
        Some((name.clone(), *id))
    }

    /// Closes the connection of [`Self::victim`], and returns whether there was one.
    fn evict(&mut self, newcomer: &str, now: Instant) -> bool {
        let Some((name, id)) = self.victim(newcomer, now) else {
            return false;
        };
        let Some(sender) = self.senders.get_mut(&name) else {
            return false;
        };
        if let Some(connection) = sender.connections.remove(&id) {
            sender.held -= connection.held;
            self.all -= connection.held;
            connection.close.cancel();
            let bytes = connection.held;
            tracing::info!(sender = %name, bytes, "a connection is closed: its client does not read the answers");
        }
        if sender.held == 0 {
            self.senders.remove(&name);
        }
        true
    }
}

impl UnreadAccount {
    /// Counts bytes of an answer that will be made.
    ///
    /// *Errors.* 429 if the sender has too many unread bytes.
    pub(crate) fn take(&self, bytes: usize) -> Result<UnreadBytes, Status> {
        if self.room_for(bytes) {
            return Ok(self.take_anyway(bytes));
        }
        self.answers.refused.fetch_add(1, Ordering::Relaxed);
        let text =
            "Too many answers to this client are not read, please read them and try again later.";
        let mut status = Status::new(StatusReason::TooManyRequests, text);
        status.details = Some(Box::new(StatusDetails {
            retry_after_seconds: 1,
            ..StatusDetails::default()
        }));
        Err(status)
    }

    /// Counts bytes that are there already.
    fn take_anyway(&self, bytes: usize) -> UnreadBytes {
        let bytes = self.answers.bounds.counted(bytes);
        self.answers.lock().add(self, bytes, Instant::now());
        let account = self.clone();
        UnreadBytes { account, bytes }
    }

    /// Whether the sender may have that many more; makes room for it if others are in the way.
    fn room_for(&self, bytes: usize) -> bool {
        let UnreadAnswers { bounds, closed, .. } = &*self.answers;
        let mut state = self.answers.lock();
        let now = Instant::now();
        loop {
            match bounds.room(state.of(&self.sender), state.all, bytes) {
                _ if self.is_exempt => return true,
                Room::Enough => return true,
                Room::SenderFull => return false,
                Room::ServerFull if !state.evict(&self.sender, now) => return false,
                Room::ServerFull => closed.fetch_add(1, Ordering::Relaxed),
            };
        }
    }
}

impl UnreadBytes {
    /// Counts more bytes.
    ///
    /// *Errors.* As of [`UnreadAccount::take`].
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Status> {
        // One answer larger than the share counts as large as the share.
        let left = self.account.answers.bounds.per_sender;
        let left = left.saturating_sub(self.bytes);
        let mut more = self.account.take(more.min(left))?;
        self.bytes += std::mem::take(&mut more.bytes);
        Ok(())
    }

    /// Corrects the count of an answer whose length is known now.
    pub(crate) fn settle(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => {
                let mut more = self.account.take_anyway(more);
                self.bytes += std::mem::take(&mut more.bytes);
            }
            None => drop(self.part(self.bytes - bytes)),
        }
    }

    /// A part of the count, or all of it if it is smaller.
    fn part(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let account = self.account.clone();
        Self { account, bytes }
    }

    /// The count of a frame, out of this one as far as that goes.
    fn of_frame(&mut self, bytes: usize) -> Self {
        let mut frame = self.part(bytes);
        frame.settle(bytes);
        frame
    }
}

impl Drop for UnreadBytes {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account
                .answers
                .lock()
                .remove(&self.account, self.bytes);
        }
    }
}

/// Data of a frame, counted until the connection drops them.
struct CountedFrame {
    data: Bytes,
    _count: UnreadBytes,
}

impl AsRef<[u8]> for CountedFrame {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// A body whose frames are counted, and which produces none while its sender has too many unread bytes.
pub(crate) struct CountedBody {
    body: BoxBody,
    count: UnreadBytes,
    /// Whether all of it was counted before.
    is_whole: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl CountedBody {
    /// A body that is there already, and is counted.
    pub(crate) fn whole(body: BoxBody, count: UnreadBytes) -> Self {
        Self {
            body,
            count,
            is_whole: true,
            pause: None,
        }
    }

    /// A body of unknown length, with the count of what it keeps.
    pub(crate) fn open_ended(body: BoxBody, mut count: UnreadBytes) -> Self {
        count.settle(count.bytes.saturating_sub(UNREAD_REQUEST_BYTES));
        Self {
            body,
            count,
            is_whole: false,
            pause: None,
        }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            if this.is_whole || this.count.account.room_for(1) {
                break;
            }
            this.pause = Some(Box::pin(sleep(UNREAD_LOOK_INTERVAL)));
        }
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()? else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) if data.is_empty() => Frame::data(data),
            Ok(data) => {
                let bytes = data.len() + UNREAD_FRAME_BYTES;
                let _count = this.count.of_frame(bytes);
                Frame::data(Bytes::from_owner(CountedFrame { data, _count }))
            }
            Err(other) => other,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::http::body::boxed;

    const BOUNDS: UnreadBounds = UnreadBounds {
        all: 100,
        per_sender: 60,
    };

    fn account(answers: &Arc<UnreadAnswers>, sender: &str) -> (UnreadAccount, CancellationToken) {
        let close = CancellationToken::new();
        let account = answers.account(sender, &Reader::new(close.clone()), false);
        (account, close)
    }

    /// findings-2 S38
    #[tokio::test(start_paused = true)]
    async fn a_sender_has_its_share_and_is_refused_beyond_it() {
        let answers = Arc::new(UnreadAnswers::new(BOUNDS));
        let (one, _) = account(&answers, "one");
        let (again, _) = account(&answers, "one");
        let first = one.take(40).unwrap();
        assert_eq!(again.take(21).unwrap_err().code, 429);
        let second = again.take(20).unwrap();
        assert!(account(&answers, "other").0.take(40).is_ok());
        drop(first);
        // An answer larger than the share is given when nothing else is unread.
        assert_eq!(one.take(1000).unwrap_err().code, 429);
        drop(second);
        let mut large = one.take(10).unwrap();
        large.grow(1000).unwrap();
        assert_eq!(answers.figures().0, 60);
        drop(large);
        assert_eq!(answers.figures(), (0, 2, 0));
        assert!(answers.lock().senders.is_empty());
    }

    /// findings-2 S38: the unread answers of one sender are never in the way of another's.
    #[tokio::test(start_paused = true)]
    async fn room_is_made_by_the_sender_that_holds_most() {
        let answers = Arc::new(UnreadAnswers::new(BOUNDS));
        let (large, large_closes) = account(&answers, "greedy");
        let (small, small_closes) = account(&answers, "greedy");
        let (other, other_closes) = account(&answers, "other");
        let _held = (large.take(35).unwrap(), small.take(20).unwrap());
        let of_other = other.take(40).unwrap();
        let (new, _) = account(&answers, "new");
        assert!(new.take(50).is_err(), "they have had no time to read");
        tokio::time::advance(UNREAD_GRACE).await;
        let of_new = new.take(35).unwrap();
        assert!(large_closes.is_cancelled());
        assert!(!small_closes.is_cancelled() && !other_closes.is_cancelled());
        assert_eq!(answers.figures().0, 20 + 40 + 35);
        // The sender that holds most cannot push out others.
        assert!(other.take(15).is_err());
        drop((of_other, of_new));
        assert_eq!(answers.figures().0, 20);
    }

    /// findings-2 S38: frames count until the connection drops them, and a body without room makes none.
    #[tokio::test(start_paused = true)]
    async fn a_body_produces_nothing_while_its_sender_has_too_much() {
        let bounds = UnreadBounds {
            all: 4 * UNREAD_FRAME_BYTES,
            per_sender: 2 * UNREAD_FRAME_BYTES,
        };
        let answers = Arc::new(UnreadAnswers::new(bounds));
        let (one, _) = account(&answers, "one");
        let body = |text: &'static str| {
            let body = boxed(Full::new(Bytes::from_static(text.as_bytes())));
            CountedBody::open_ended(body, one.take_anyway(0))
        };
        let first = body("first").frame().await.unwrap().unwrap();
        let second = body("second").frame().await.unwrap().unwrap();
        let mut third = body("third");
        let patience = Duration::from_secs(60);
        let early = tokio::time::timeout(patience, third.frame()).await;
        assert!(early.is_err(), "nothing was read");
        drop(second);
        let frame = third.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), "third");
        drop((first, frame));
        assert_eq!(answers.figures().0, 0);
    }
}
