//! The gRPC interface of a member: HTTP/2, on a connection that may be slow, cut or broken.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use etcd_store::{Connection, Dialer};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{FutureExt, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mvcc_store::{Event, EventKind, KeyValue, LeaseId, Omittable, Revision, WatchEvents};
use object_model::varint;
use prost::Message as _;
use rpc_channel::{Code, framing};
use service_protocols::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, TxnRequest, kv, lease, maintenance, watch,
};
use tokio::io::DuplexStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::keys::{Change, Pair, Refusal, Span};
use super::messages::{self, Range, Txn, WatchRequest};
use super::{Cluster, lock};
use crate::process::Process;
use crate::random::{between, millis};

/// Size of the buffer of a connection, in bytes.
const BUFFER: usize = 1 << 20;
/// Maximum length of a message, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The prefix of the keys of the store.
const DATA: &[u8] = b"/mainstay/data/";
/// The time after which a member without a leader ends its watches, in milliseconds.
const NOTICED_MILLIS: (u64, u64) = (500, 3_000);

type Body = UnsyncBoxBody<Bytes, Infallible>;
type MemberResult = Result<Vec<u8>, Refusal>;

/// The link between a server and the members.
#[derive(Default)]
pub struct StoreLink {
    /// The process of the link's connections, which is suspended while the link is cut.
    connections: Process,
    /// Maximum latency in one direction, in milliseconds.
    slowest: AtomicU64,
    /// Cancelled when the connections break.
    broken: Mutex<CancellationToken>,
}

impl StoreLink {
    /// Cuts or repairs the link. Bytes that are sent while the link is cut arrive late.
    pub fn set_cut(&self, is_cut: bool) {
        self.connections.set_suspended(is_cut);
    }

    /// Breaks all connections.
    pub fn break_connections(&self) {
        let broken = std::mem::take(&mut *lock(&self.broken));
        broken.cancel();
    }

    /// Sets the maximum latency in one direction.
    pub fn set_slowest(&self, slowest: Duration) {
        let millis = u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX);
        self.slowest.store(millis, Ordering::Relaxed);
    }

    async fn delay(&self) {
        sleep(millis(0, self.slowest.load(Ordering::Relaxed))).await;
    }
}

impl Cluster {
    /// Opens connections over a link, until the server at its end has stopped.
    pub fn dialer(self: &Arc<Self>, link: &Arc<StoreLink>, dead: CancellationToken) -> Dialer {
        let (cluster, link) = (Arc::clone(self), Arc::clone(link));
        Dialer::new(move |host| {
            let member = host
                .rsplit_once('-')
                .and_then(|(_, number)| number.parse().ok());
            let (cluster, link, dead) = (cluster.clone(), link.clone(), dead.clone());
            async move {
                let connected = async {
                    link.connections.wait_for_suspended(false).await;
                    link.delay().await;
                    cluster.connect(member.unwrap_or(0), &link, dead.clone())
                };
                tokio::select! {
                    biased;
                    () = dead.cancelled() => std::future::pending().await,
                    connected = connected => connected,
                }
            }
            .boxed()
        })
    }

    fn connect(
        self: &Arc<Self>,
        number: usize,
        link: &Arc<StoreLink>,
        dead: CancellationToken,
    ) -> io::Result<Box<dyn Connection>> {
        if self.rule().is_down[number] {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (client, server) = tokio::io::duplex(BUFFER);
        let killed = lock(&self.members[number].killed).clone();
        let broken = lock(&link.broken).clone();
        let served = self.clone().serve(number, link.clone(), server);
        let connections = link.connections.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = dead.cancelled() => {}
                () = killed.cancelled() => {}
                () = broken.cancelled() => {}
                () = connections.run(served) => {}
            }
        });
        Ok(Box::new(client))
    }

    async fn serve(self: Arc<Self>, member: usize, link: Arc<StoreLink>, stream: DuplexStream) {
        let service = service_fn(move |request| {
            let (cluster, link) = (self.clone(), link.clone());
            async move { Ok::<_, Infallible>(cluster.respond(member, link, request).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        // The client reports the reason of the broken connection.
        let _ended = connection.await;
    }

    async fn respond(
        self: Arc<Self>,
        member: usize,
        link: Arc<StoreLink>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let mut messages = Messages {
            body: request.into_body(),
            received: BytesMut::new(),
        };
        let Some(first) = messages.next().await else {
            return whole(Err(Refusal::new(Code::INVALID_ARGUMENT, "no message")));
        };
        link.delay().await;
        if path == watch::WATCH.path() {
            let (sending, receiving) = unbounded();
            let watch = self.watch(member, link, first, messages, sending);
            tokio::spawn(watch);
            return stream(receiving);
        }
        // A request that has arrived is executed, even if its client does not wait any more.
        let work = tokio::spawn(async move { self.handle(member, &path, &first).await });
        let reply = work.await;
        link.delay().await;
        whole(reply.unwrap_or_else(|_| Err(Refusal::new(Code::INTERNAL, "a panic"))))
    }

    async fn handle(&self, member: usize, path: &str, message: &[u8]) -> MemberResult {
        const RANGE: &str = kv::RANGE.path();
        const PUT: &str = kv::PUT.path();
        const TXN: &str = kv::TXN.path();
        const COMPACT: &str = kv::COMPACT.path();
        const LEASE_GRANT: &str = lease::LEASE_GRANT.path();
        const LEASE_REVOKE: &str = lease::LEASE_REVOKE.path();
        const LEASE_KEEP_ALIVE: &str = lease::LEASE_KEEP_ALIVE.path();
        const STATUS: &str = maintenance::STATUS.path();
        const ALARM: &str = maintenance::ALARM.path();
        match path {
            RANGE => {
                let range = Range::from(RangeRequest::decode(message)?);
                let newest_revision = self.read_index(member).await?;
                lock(&self.keys).range(&range, newest_revision)
            }
            PUT => {
                let txn = Txn {
                    success: vec![PutRequest::decode(message)?.into()],
                    ..Txn::default()
                };
                self.propose(member, |keys| {
                    keys.txn(&txn)?;
                    Ok(messages::header_response(keys.revision))
                })
                .await
            }
            TXN => {
                let txn = Txn::from(TxnRequest::decode(message)?);
                self.propose(member, |keys| keys.txn(&txn)).await
            }
            COMPACT => {
                let revision = CompactionRequest::decode(message)?.revision.cast_unsigned();
                self.propose(member, |keys| keys.compact(revision)).await
            }
            LEASE_GRANT => {
                let seconds = LeaseGrantRequest::decode(message)?.ttl.cast_unsigned();
                self.propose(member, |keys| Ok(keys.grant(seconds))).await
            }
            LEASE_REVOKE => {
                let lease = LeaseRevokeRequest::decode(message)?.id.cast_unsigned();
                self.propose(member, |keys| keys.revoke(lease)).await
            }
            LEASE_KEEP_ALIVE => {
                let lease = LeaseKeepAliveRequest::decode(message)?.id.cast_unsigned();
                self.propose(member, |keys| Ok(keys.keep_alive(lease)))
                    .await
            }
            STATUS => Ok(messages::status_response(
                *self.members[member].newest_revision.borrow(),
            )),
            ALARM => Ok(messages::header_response(*self.newest.borrow())),
            _ => Err(Refusal::new(Code::UNIMPLEMENTED, "unknown")),
        }
    }

    /// Serves one watch of a member that may be behind.
    async fn watch(
        self: Arc<Self>,
        member: usize,
        link: Arc<StoreLink>,
        first: Bytes,
        mut requests: Messages,
        sending: UnboundedSender<Frame<Bytes>>,
    ) {
        let send = |message: Vec<u8>| {
            let frame = Frame::data(framing::framed(&message));
            sending.unbounded_send(frame).is_ok()
        };
        let Ok(WatchRequest::Create { span, from }) = WatchRequest::read(&first) else {
            return;
        };
        let mut member_revision = self.members[member].newest_revision.subscribe();
        let mut next = match from {
            0 => *member_revision.borrow() + 1,
            from => from,
        };
        if !send(messages::watch_state(*member_revision.borrow(), true)) {
            return;
        }
        loop {
            let newest = *member_revision.borrow_and_update();
            match self.pending(&span, next, newest) {
                Pending::Compacted(at) => {
                    send(messages::watch_compacted(newest, at));
                    return;
                }
                Pending::Messages(all) => {
                    for message in all {
                        link.delay().await;
                        if !send(message) {
                            return;
                        }
                    }
                    next = next.max(newest + 1);
                }
            }
            tokio::select! {
                biased;
                changed = member_revision.changed() => if changed.is_err() { return },
                request = requests.next() => {
                    if request.is_none() {
                        return;
                    }
                    link.delay().await;
                    // All events before `next` have been sent.
                    if !send(messages::watch_state(next - 1, false)) {
                        return;
                    }
                }
                () = self.is_without_leader(member) => {
                    let refusal = super::no_leader();
                    let _closed = sending.unbounded_send(Frame::trailers(status(&refusal)));
                    return;
                }
            }
        }
    }

    fn pending(&self, span: &Span, next: u64, newest: u64) -> Pending {
        let keys = lock(&self.keys);
        if next < keys.compacted {
            return Pending::Compacted(keys.compacted);
        }
        let changes = keys.since(next - 1).iter();
        let changes: Vec<&Change> = changes
            .take_while(|change| change.revision <= newest)
            .filter(|change| span.contains(&change.key))
            .collect();
        let revisions: Vec<&[&Change]> = changes
            .chunk_by(|first, second| first.revision == second.revision)
            .collect();
        // A message contains the changes of one or several revisions.
        let size = between(1, 5) as usize;
        let messages = revisions
            .chunks(size)
            .map(|some| messages::watch_events(newest, &some.concat()));
        Pending::Messages(messages.collect())
    }

    /// Waits until a member has detected that it does not reach the leader.
    async fn is_without_leader(&self, member: usize) {
        loop {
            let is_without = || {
                let rule = self.rule();
                rule.leader.is_none() || !rule.reaches(member)
            };
            let (from, to) = NOTICED_MILLIS;
            let noticed = millis(from, to);
            if !is_without() {
                sleep(noticed).await;
                continue;
            }
            sleep(noticed).await;
            if is_without() {
                return;
            }
        }
    }
}

/// The pending messages of a watch.
enum Pending {
    Compacted(u64),
    Messages(Vec<Vec<u8>>),
}

/// The messages of a request.
struct Messages {
    body: Incoming,
    received: BytesMut,
}

impl Messages {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) =
                framing::split_message(&mut self.received, MESSAGE_BYTES_MAX).ok()?
            {
                return Some(message);
            }
            let data = self.body.frame().await?.ok()?.into_data().ok()?;
            self.received.extend_from_slice(&data);
        }
    }
}

fn status(refusal: &Refusal) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", refusal.code.0.into());
    if let Ok(message) = refusal.message.parse() {
        trailers.insert("grpc-message", message);
    }
    trailers
}

fn whole(reply: MemberResult) -> Response<Body> {
    let (sending, receiving) = unbounded();
    let frames = match reply {
        Ok(message) => [
            Some(Frame::data(framing::framed(&message))),
            Some(Frame::trailers(status(&Refusal::new(Code(0), "")))),
        ],
        Err(refusal) => [Some(Frame::trailers(status(&refusal))), None],
    };
    for frame in frames.into_iter().flatten() {
        let _received = sending.unbounded_send(frame);
    }
    stream(receiving)
}

fn stream(receiving: UnboundedReceiver<Frame<Bytes>>) -> Response<Body> {
    let body = StreamBody::new(receiving.map(Ok::<_, Infallible>));
    let mut response = Response::new(body.boxed_unsync());
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

/// The changes of one transaction in the store's form; `None` if no change is below its prefix.
pub(super) fn store_events(changes: &[Change]) -> Option<WatchEvents> {
    let events: Vec<Event> = changes.iter().filter_map(store_event).collect();
    (!events.is_empty()).then_some(WatchEvents::Events(events))
}

fn store_event(change: &Change) -> Option<Event> {
    let key = change.key.strip_prefix(DATA)?;
    let pair = |pair: &Arc<Pair>| store_pair(key, pair);
    Some(Event {
        key: key.into(),
        revision: Revision(change.revision),
        kind: match &change.pair {
            Some(put) => EventKind::Put(pair(put)),
            None => EventKind::Delete,
        },
        previous: change.previous.as_ref().map(pair),
    })
}

/// The engine marks a plain value with `p`, and a value that contains its revision with `s` and the length of the part
/// before.
fn store_pair(key: &[u8], pair: &Pair) -> KeyValue {
    let stamped = || {
        let mut rest = pair.value.strip_prefix(b"s")?;
        let length = usize::try_from(varint::read(&mut rest).ok()?).ok()?;
        let (before, after) = rest.split_at_checked(length)?;
        let revision = pair.modified.to_string();
        Some(Bytes::from([before, revision.as_bytes(), after].concat()))
    };
    let plain = || pair.value.strip_prefix(b"p").map(Bytes::copy_from_slice);
    KeyValue {
        key: key.into(),
        value: plain().or_else(stamped).unwrap_or_default(),
        create_revision: Revision(pair.created),
        mod_revision: Revision(pair.modified),
        lease: (pair.lease > 0).then_some(LeaseId(pair.lease)),
        omittable: Omittable::UNKNOWN,
    }
}
