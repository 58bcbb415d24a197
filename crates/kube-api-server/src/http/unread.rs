//! Response bytes that clients have not read yet: counted by sender and by connection, and limited.
//!
//! A sender can occupy memory of this process with requests whose responses it does not read. A response counts from
//! the moment at which its size is known, before it is built, until the connection has written it: each frame owns
//! its part of the count. A sender with too many unread bytes gets 429. If all senders together have too many, the
//! server closes the largest connection of the sender with the most unread bytes, so that the unread responses of one
//! sender never block the responses of another sender. Bodies of unknown length (watches, logs) wait, and produce
//! nothing meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_model::{Status, StatusDetails, StatusReason};
use process_telemetry::prometheus::{Metric, Page};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::http::limits::{UNREAD_BYTES_PER_SECOND_MIN, UNREAD_GRACE, UNREAD_TIME_MAX};

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

/// Limits on the unread bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnreadBounds {
    pub(crate) all: usize,
    pub(crate) per_sender: usize,
}

/// Whether further bytes are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowance {
    Enough,
    /// The sender has too many unread bytes.
    SenderFull,
    /// All senders together have too many unread bytes.
    ServerFull,
}

impl UnreadBounds {
    /// Decides whether a sender with `sender_bytes` of all `all` unread bytes may have `more`. A single response that is
    /// larger than the limit of a sender counts as large as the limit.
    fn decide(self, sender_bytes: usize, all: usize, more: usize) -> Allowance {
        if sender_bytes.saturating_add(self.counted(more)) > self.per_sender {
            Allowance::SenderFull
        } else if all.saturating_add(self.counted(more)) > self.all {
            Allowance::ServerFull
        } else {
            Allowance::Enough
        }
    }

    fn counted(self, bytes: usize) -> usize {
        bytes.min(self.per_sender)
    }
}

/// The unread bytes of all senders.
#[derive(Debug)]
pub(crate) struct UnreadResponses {
    bounds: UnreadBounds,
    state: Mutex<State>,
    /// The number of refused requests, and the number of closed connections.
    refused: AtomicU64,
    closed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    all: usize,
    senders: BTreeMap<Arc<str>, BySender>,
}

#[derive(Debug, Default)]
struct BySender {
    unread_bytes: usize,
    connections: BTreeMap<u64, ByConnection>,
}

#[derive(Debug)]
struct ByConnection {
    unread_bytes: usize,
    /// The time since which the connection has unread bytes.
    since: Instant,
    /// The time until which the client counts as one that reads; `None` while the server still builds all the
    /// responses that the bytes are reserved for.
    reads_until: Option<Instant>,
    close: CancellationToken,
}

impl ByConnection {
    /// Whether the client reads more slowly than [`UNREAD_BYTES_PER_SECOND_MIN`], or has had unread responses for
    /// [`UNREAD_TIME_MAX`].
    fn is_slow(&self, now: Instant) -> bool {
        let is_idle = self.reads_until.is_some_and(|until| now >= until);
        is_idle || now - self.since >= UNREAD_TIME_MAX
    }

    /// Starts the time of the client, which can read a response now.
    fn record_sent(&mut self, now: Instant) {
        self.reads_until.get_or_insert(now + UNREAD_GRACE);
    }

    /// Extends the time of the client, which has read these bytes. Buffers of the kernel take much at once from a
    /// client that then reads nothing, so the time never ends later than [`UNREAD_GRACE`] from now.
    fn record_read(&mut self, bytes: usize, now: Instant) {
        if let Some(until) = &mut self.reads_until {
            let earned = bytes as f64 / UNREAD_BYTES_PER_SECOND_MIN as f64;
            let extended = (*until).max(now) + Duration::from_secs_f64(earned);
            *until = extended.min(now + UNREAD_GRACE);
        }
    }
}

/// The connection of a request, by which its unread bytes are counted.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    id: u64,
    close: CancellationToken,
}

impl Reader {
    /// Cancelling `close` closes the connection.
    pub(crate) fn new(close: CancellationToken) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { id, close }
    }
}

/// The unread bytes of a sender on one connection are counted here.
#[derive(Clone, Debug)]
pub(crate) struct UnreadAccount {
    unread: Arc<UnreadResponses>,
    sender: Arc<str>,
    reader: Reader,
    /// Whether no request of the sender is refused. The bytes are counted nevertheless.
    is_exempt: bool,
}

/// Counted bytes; subtracted from the count on drop.
#[derive(Debug)]
pub(crate) struct UnreadBytes {
    account: UnreadAccount,
    bytes: usize,
}

impl UnreadResponses {
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
            unread: self.clone(),
            sender: sender.into(),
            reader: reader.clone(),
            is_exempt,
        }
    }

    pub(crate) fn write_metrics(&self, page: &mut Page) {
        let (bytes, refused, closed) = self.figures();
        page.add(BYTES, &[], bytes);
        page.add(REFUSED, &[], refused);
        page.add(CLOSED, &[], closed);
    }

    /// The unread bytes, the number of refused requests, and the number of connections that were closed.
    pub(crate) fn figures(&self) -> (usize, u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (self.lock().all, count(&self.refused), count(&self.closed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&self, sender: &str) -> usize {
        self.senders
            .get(sender)
            .map_or(0, |sender| sender.unread_bytes)
    }

    /// Counts bytes; `is_sent` if the client can read them now.
    fn add(&mut self, account: &UnreadAccount, bytes: usize, is_sent: bool, now: Instant) {
        if bytes == 0 {
            return;
        }
        let sender = self.senders.entry(account.sender.clone()).or_default();
        let connections = sender.connections.entry(account.reader.id);
        let connection = connections.or_insert_with(|| ByConnection {
            unread_bytes: 0,
            since: now,
            reads_until: None,
            close: account.reader.close.clone(),
        });
        connection.unread_bytes += bytes;
        if is_sent {
            connection.record_sent(now);
        }
        sender.unread_bytes += bytes;
        self.all += bytes;
    }

    fn remove(&mut self, account: &UnreadAccount, bytes: usize) {
        let Some(sender) = self.senders.get_mut(&account.sender) else {
            return;
        };
        let Some(connection) = sender.connections.get_mut(&account.reader.id) else {
            return;
        };
        // A connection that was closed for its unread bytes no longer counts the bytes that it had.
        let bytes = bytes.min(connection.unread_bytes);
        connection.unread_bytes -= bytes;
        sender.unread_bytes -= bytes;
        self.all -= bytes;
        if connection.unread_bytes == 0 {
            sender.connections.remove(&account.reader.id);
        }
        if sender.unread_bytes == 0 {
            self.senders.remove(&account.sender);
        }
    }

    fn connection(&mut self, account: &UnreadAccount) -> Option<&mut ByConnection> {
        let sender = self.senders.get_mut(&account.sender)?;
        sender.connections.get_mut(&account.reader.id)
    }

    /// The connection to close so that the sender `newcomer` gets its response: of the senders that have more unread
    /// bytes than the newcomer and a client that reads slowly, the sender with the most unread bytes; of its slow
    /// connections, the largest.
    fn victim(&self, newcomer: &str, now: Instant) -> Option<(Arc<str>, u64)> {
        let newcomer_bytes = self.of(newcomer);
        let larger = self.senders.iter();
        let larger = larger.filter(|(_, sender)| sender.unread_bytes > newcomer_bytes);
        let connections = larger.flat_map(|(name, sender)| {
            let connections = sender.connections.iter();
            connections.map(move |(id, connection)| (name, sender, id, connection))
        });
        let slow = connections.filter(|(_, _, _, connection)| connection.is_slow(now));
        let (name, _, id, _) = slow.max_by_key(|(_, sender, _, connection)| {
            (sender.unread_bytes, connection.unread_bytes)
        })?;
        Some((name.clone(), *id))
    }

    /// Closes the connection of [`Self::victim`]; returns whether a connection was closed.
    fn evict(&mut self, newcomer: &str, now: Instant) -> bool {
        let Some((name, id)) = self.victim(newcomer, now) else {
            return false;
        };
        let Some(sender) = self.senders.get_mut(&name) else {
            return false;
        };
        if let Some(connection) = sender.connections.remove(&id) {
            sender.unread_bytes -= connection.unread_bytes;
            self.all -= connection.unread_bytes;
            connection.close.cancel();
            let bytes = connection.unread_bytes;
            tracing::info!(sender = %name, bytes, "a connection is closed: its client does not read the answers");
        }
        if sender.unread_bytes == 0 {
            self.senders.remove(&name);
        }
        true
    }
}

impl UnreadAccount {
    /// Counts the bytes of a response that will be built.
    ///
    /// *Errors.* 429 if the sender has too many unread bytes.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<UnreadBytes, Status> {
        if self.has_capacity_for(bytes) {
            return Ok(self.count(bytes, false));
        }
        self.unread.refused.fetch_add(1, Ordering::Relaxed);
        let text =
            "Too many answers to this client are not read, please read them and try again later.";
        let mut status = Status::new(StatusReason::TooManyRequests, text);
        status.details = Some(Box::new(StatusDetails {
            retry_after_seconds: 1,
            ..StatusDetails::default()
        }));
        Err(status)
    }

    /// Counts the bytes of a response that exists already.
    pub(crate) fn count_existing(&self, bytes: usize) -> UnreadBytes {
        self.count(bytes, true)
    }

    fn count(&self, bytes: usize, is_sent: bool) -> UnreadBytes {
        let bytes = self.unread.bounds.counted(bytes);
        let mut state = self.unread.lock();
        state.add(self, bytes, is_sent, Instant::now());
        drop(state);
        let account = self.clone();
        UnreadBytes { account, bytes }
    }

    /// Whether the sender may have that many more bytes. If only other senders prevent that, closes their
    /// connections.
    pub(crate) fn has_capacity_for(&self, bytes: usize) -> bool {
        let UnreadResponses { bounds, closed, .. } = &*self.unread;
        let mut state = self.unread.lock();
        let now = Instant::now();
        loop {
            match bounds.decide(state.of(&self.sender), state.all, bytes) {
                _ if self.is_exempt => return true,
                Allowance::Enough => return true,
                Allowance::SenderFull => {
                    cov_mark::hit!(findings_2_s38);
                    return false;
                }
                Allowance::ServerFull if !state.evict(&self.sender, now) => return false,
                Allowance::ServerFull => closed.fetch_add(1, Ordering::Relaxed),
            };
        }
    }
}

impl UnreadBytes {
    /// Counts more bytes.
    ///
    /// *Errors.* As of [`UnreadAccount::reserve`].
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Status> {
        // A single response that is larger than the limit counts as large as the limit.
        let left = self.account.unread.bounds.per_sender;
        let left = left.saturating_sub(self.bytes);
        let mut more = self.account.reserve(more.min(left))?;
        self.bytes += std::mem::take(&mut more.bytes);
        Ok(())
    }

    /// Corrects the count of a response whose length is known now.
    pub(crate) fn settle(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => {
                let mut more = self.account.count_existing(more);
                self.bytes += std::mem::take(&mut more.bytes);
            }
            None => drop(self.part(self.bytes - bytes)),
        }
    }

    /// Records that the client can read the response now.
    pub(crate) fn sent(&self) {
        if let Some(connection) = self.account.unread.lock().connection(&self.account) {
            connection.record_sent(Instant::now());
        }
    }

    /// Subtracts the bytes, which the client has read.
    pub(crate) fn read(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self.account.unread.lock();
        if let Some(connection) = state.connection(&self.account) {
            connection.record_read(bytes, Instant::now());
        }
        state.remove(&self.account, bytes);
    }

    pub(crate) fn account(&self) -> &UnreadAccount {
        &self.account
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Splits off a part of the count; all of it if the count is smaller.
    fn part(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let account = self.account.clone();
        Self { account, bytes }
    }

    /// The count of a frame, split off from this count as far as possible.
    pub(crate) fn of_frame(&mut self, bytes: usize) -> Self {
        let mut frame = self.part(bytes);
        frame.settle(bytes);
        frame
    }
}

impl Drop for UnreadBytes {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.unread.lock().remove(&self.account, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: UnreadBounds = UnreadBounds {
        all: 100,
        per_sender: 60,
    };

    fn account(unread: &Arc<UnreadResponses>, sender: &str) -> (UnreadAccount, CancellationToken) {
        let close = CancellationToken::new();
        let account = unread.account(sender, &Reader::new(close.clone()), false);
        (account, close)
    }

    /// findings-2 S38
    #[tokio::test(start_paused = true)]
    async fn a_sender_has_its_share_and_is_refused_beyond_it() {
        cov_mark::check!(findings_2_s38);
        let unread = Arc::new(UnreadResponses::new(BOUNDS));
        let (one, _) = account(&unread, "one");
        let (again, _) = account(&unread, "one");
        let first = one.reserve(40).unwrap();
        assert_eq!(again.reserve(21).unwrap_err().code, 429);
        let second = again.reserve(20).unwrap();
        assert!(account(&unread, "other").0.reserve(40).is_ok());
        drop(first);
        // A response that is larger than the limit is allowed if the sender has no other unread bytes.
        assert_eq!(one.reserve(1000).unwrap_err().code, 429);
        drop(second);
        let mut large = one.reserve(10).unwrap();
        large.grow(1000).unwrap();
        assert_eq!(unread.figures().0, 60);
        drop(large);
        assert_eq!(unread.figures(), (0, 2, 0));
        assert!(unread.lock().senders.is_empty());
    }

    /// findings-2 S38: the unread responses of a sender never reduce the limit of another sender.
    #[tokio::test(start_paused = true)]
    async fn room_is_made_by_the_sender_that_holds_most() {
        let unread = Arc::new(UnreadResponses::new(BOUNDS));
        let (large, large_closes) = account(&unread, "greedy");
        let (small, small_closes) = account(&unread, "greedy");
        let (other, other_closes) = account(&unread, "other");
        let unread_responses = [large.reserve(35).unwrap(), small.reserve(20).unwrap()];
        let of_other = other.reserve(40).unwrap();
        let (new, _) = account(&unread, "new");
        tokio::time::advance(UNREAD_GRACE * 2).await;
        assert!(new.reserve(50).is_err(), "the responses are not built yet");
        unread_responses.iter().for_each(UnreadBytes::sent);
        of_other.sent();
        assert!(new.reserve(50).is_err(), "they have had no time to read");
        tokio::time::advance(UNREAD_GRACE).await;
        let of_new = new.reserve(35).unwrap();
        assert!(large_closes.is_cancelled());
        assert!(!small_closes.is_cancelled() && !other_closes.is_cancelled());
        assert_eq!(unread.figures().0, 20 + 40 + 35);
        // The sender with the most unread bytes cannot cause the connections of other senders to be closed.
        assert!(other.reserve(15).is_err());
        drop((of_other, of_new));
        assert_eq!(unread.figures().0, 20);
    }

    /// findings-2 S38: a client that reads is not taken for one that does not, however long its response is.
    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_client_reads_stays_open() {
        let second = UNREAD_BYTES_PER_SECOND_MIN;
        let unread = Arc::new(UnreadResponses::new(UnreadBounds {
            all: 10 * second,
            per_sender: 9 * second,
        }));
        let (reader, reader_closes) = account(&unread, "reader");
        let (new, _) = account(&unread, "new");
        let mut response = reader.reserve(9 * second).unwrap();
        response.sent();
        for _ in 0..4 {
            tokio::time::advance(Duration::from_secs(1)).await;
            response.part(second).read();
            assert!(new.reserve(9 * second).is_err());
        }
        assert!(!reader_closes.is_cancelled());
        // The client stops reading.
        tokio::time::advance(UNREAD_GRACE).await;
        assert!(new.reserve(9 * second).is_ok());
        assert!(reader_closes.is_cancelled());
        // A client that always has unread responses holds its bytes for some time only.
        let (endless, endless_closes) = account(&unread, "endless");
        let mut response = endless.reserve(9 * second).unwrap();
        response.sent();
        let started = Instant::now();
        while new.reserve(9 * second).is_err() {
            let mut frame = response.part(second / 2);
            response = endless.count_existing(9 * second);
            frame.read();
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert!(endless_closes.is_cancelled());
        assert_eq!(started.elapsed(), UNREAD_TIME_MAX);
    }
}
