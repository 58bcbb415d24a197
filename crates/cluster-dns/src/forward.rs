//! Queries to upstream servers, and the cache of their responses.
//!
//! Equal concurrent queries are forwarded once. A query that returns to this server through an upstream server
//! therefore waits for itself and fails, instead of looping.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::future::{BoxFuture, FutureExt, Shared};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use process_telemetry::refusals::{self, Budget};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::limits;
use crate::upstreams::Upstreams;
use crate::wire::{self, Response};

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    name: String,
    kind: RecordType,
    proof: bool,
}

struct CachedResponse {
    response: Arc<Response>,
    at: Instant,
    ttl: u32,
}

type PendingQuery = Shared<BoxFuture<'static, Arc<Response>>>;

/// Forwards queries to upstream servers; clones share the cache.
#[derive(Clone)]
pub(crate) struct Forwarder {
    shared: Arc<Inner>,
}

struct Inner {
    upstreams: Mutex<Upstreams>,
    cached: Mutex<HashMap<Key, CachedResponse>>,
    pending: Mutex<HashMap<Key, PendingQuery>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Forwarder {
    pub(crate) fn new(upstreams: Upstreams) -> Forwarder {
        let inner = Inner {
            upstreams: Mutex::new(upstreams),
            cached: Mutex::default(),
            pending: Mutex::default(),
        };
        Forwarder {
            shared: Arc::new(inner),
        }
    }

    /// Returns a cached response with its remaining time to live.
    pub(crate) fn cached(&self, query: &Query, proof: bool) -> Option<Response> {
        let key = key(query, proof);
        let cache = locked(&self.shared.cached);
        let cache = cache.get(&key)?;
        let age = u32::try_from(cache.at.elapsed().as_secs()).unwrap_or(u32::MAX);
        let remaining = cache
            .ttl
            .checked_sub(age)
            .filter(|remaining| *remaining > 0)?;
        let mut response = (*cache.response).clone();
        for record in sections(&mut response) {
            record.ttl = record.ttl.saturating_sub(age).clamp(1, remaining.max(1));
        }
        Some(response)
    }

    /// Forwards a query to the upstream servers. The response is SERVFAIL if no server responds.
    pub(crate) async fn ask(&self, query: &Query, proof: bool) -> Response {
        if let Some(response) = self.cached(query, proof) {
            return response;
        }
        let key = key(query, proof);
        let query_result = {
            let mut pending = locked(&self.shared.pending);
            if pending.len() >= limits::FORWARDS_MAX && !pending.contains_key(&key) {
                return Response::code(ResponseCode::ServFail);
            }
            let start = || {
                self.clone()
                    .run(key.clone(), query.clone(), proof)
                    .boxed()
                    .shared()
            };
            pending.entry(key.clone()).or_insert_with(start).clone()
        };
        let response = query_result.await;
        (*response).clone()
    }

    async fn run(self, key: Key, query: Query, proof: bool) -> Arc<Response> {
        // Removed even if the requester disconnects: otherwise the next requester would wait without end.
        let entry = PendingEntry {
            forwarder: self.clone(),
            key: key.clone(),
        };
        let response = Arc::new(self.ask_servers(&query, proof).await);
        if let Some(ttl) = caching_seconds(&response) {
            let cached = CachedResponse {
                response: response.clone(),
                at: Instant::now(),
                ttl,
            };
            store(&mut locked(&self.shared.cached), key, cached);
        }
        drop(entry);
        response
    }

    async fn ask_servers(&self, query: &Query, proof: bool) -> Response {
        let file = locked(&self.shared.upstreams).outdated_file(Instant::now());
        if let Some(path) = file {
            let text = tokio::fs::read_to_string(&path).await.unwrap_or_default();
            locked(&self.shared.upstreams).was_read(text, Instant::now());
        }
        let servers = locked(&self.shared.upstreams).candidates(Instant::now());
        let Some(servers) = servers else {
            // Without upstream servers an unknown name does not exist.
            return Response::code(ResponseCode::NXDomain);
        };
        let mut last = Response::code(ResponseCode::ServFail);
        for server in servers {
            let query_of_server = self.clone().ask_one(server.address, query.clone(), proof);
            let result = match server.is_on_trial {
                false => query_of_server.await,
                // The trial continues without the requester, because a slow server may be healthy, too.
                true => {
                    match tokio::time::timeout(
                        limits::UPSTREAM_TRIAL,
                        tokio::spawn(query_of_server),
                    )
                    .await
                    {
                        Ok(ended) => ended.unwrap_or_else(|error| Err(io::Error::other(error))),
                        Err(_) => Err(io::ErrorKind::TimedOut.into()),
                    }
                }
            };
            match result {
                Ok(message) => {
                    last = response_from(message);
                    if matches!(last.code, ResponseCode::NoError | ResponseCode::NXDomain) {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(server = %server.address, %error, "upstream did not answer");
                }
            }
        }
        last
    }

    /// Sends the query to one server, and records whether it responded.
    async fn ask_one(self, server: SocketAddr, query: Query, proof: bool) -> io::Result<Message> {
        let request = tokio::time::timeout(limits::UPSTREAM_TIMEOUT, ask(server, &query, proof));
        let result = request
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        locked(&self.shared.upstreams).note(server, result.is_ok(), Instant::now());
        result
    }
}

/// Removes the entry of a running query when the query ends, however it ends.
struct PendingEntry {
    forwarder: Forwarder,
    key: Key,
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        locked(&self.forwarder.shared.pending).remove(&self.key);
    }
}

/// Adds a response to the cache if it is small enough and the cache has capacity; expired responses are removed first.
fn store(cache: &mut HashMap<Key, CachedResponse>, key: Key, cached: CachedResponse) {
    let Response {
        answers,
        authorities,
        additionals,
        ..
    } = &*cached.response;
    if answers.len() + authorities.len() + additionals.len() > limits::CACHE_RECORDS_MAX {
        return refusals::count(Budget::DnsAnswers);
    }
    if cache.len() >= limits::CACHE_ENTRIES_MAX {
        cache.retain(|_, cache| cache.at.elapsed().as_secs() < u64::from(cache.ttl));
    }
    if cache.len() >= limits::CACHE_ENTRIES_MAX {
        return refusals::count(Budget::DnsAnswers);
    }
    cache.insert(key, cached);
}

fn key(query: &Query, proof: bool) -> Key {
    Key {
        name: query.name.to_lowercase().to_ascii(),
        kind: query.query_type,
        proof,
    }
}

fn sections(response: &mut Response) -> impl Iterator<Item = &mut Record> {
    let Response {
        answers: records,
        authorities,
        additionals,
        ..
    } = response;
    records.iter_mut().chain(authorities).chain(additionals)
}

/// Returns the caching time of a response; `None` if it must not be cached.
pub(crate) fn caching_seconds(response: &Response) -> Option<u32> {
    let negative = response.answers.is_empty();
    let max = match (response.code, negative) {
        (ResponseCode::NoError, false) => limits::CACHE_TTL_SECONDS_MAX,
        (ResponseCode::NoError | ResponseCode::NXDomain, _) if !response.authorities.is_empty() => {
            limits::CACHE_NEGATIVE_TTL_SECONDS_MAX
        }
        _ => return None,
    };
    let records = response.answers.iter().chain(&response.authorities);
    records
        .map(|record| record.ttl)
        .min()
        .map(|ttl| ttl.min(max))
        .filter(|ttl| *ttl > 0)
}

pub(crate) fn response_from(message: Message) -> Response {
    Response {
        code: message.metadata.response_code,
        authoritative: false,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    }
}

async fn ask(server: SocketAddr, query: &Query, proof: bool) -> io::Result<Message> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(u16::try_from(limits::UDP_BYTES_MAX).unwrap_or(u16::MAX));
    edns.set_dnssec_ok(proof);
    message.set_edns(edns);
    let id = message.metadata.id;
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let response = by_udp(server, &bytes, id, query).await?;
    if !response.metadata.truncation {
        return Ok(response);
    }
    // A truncated response is better than no response where TCP is blocked.
    Ok(by_tcp(server, &bytes, id, query).await.unwrap_or(response))
}

/// Sends the query from a new socket, because a random port makes forgery harder.
async fn by_udp(server: SocketAddr, bytes: &[u8], id: u16, query: &Query) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(message) if wire::answers(&message, id, query) => return Ok(message),
            _ => tracing::debug!(%server, "an answer to another question was ignored"),
        }
    }
}

async fn by_tcp(server: SocketAddr, bytes: &[u8], id: u16, query: &Query) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let message = Message::from_vec(&buffer).map_err(io::Error::other)?;
    match wire::answers(&message, id, query) {
        true => Ok(message),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData};

    use super::*;

    /// findings-2 S40: a message of 64 KiB with addresses occupies two megabytes of memory.
    #[test]
    fn an_answer_with_too_many_records_is_not_kept() {
        let mut cache = HashMap::new();
        let record = wire::record(&Name::root(), 60, RData::A(A(Ipv4Addr::LOCALHOST)));
        let mut store_response = |records: usize| {
            let key = Key {
                name: "n.".to_owned(),
                kind: RecordType::A,
                proof: false,
            };
            let response = Response {
                answers: vec![record.clone(); records - 1],
                additionals: vec![record.clone()],
                ..Response::default()
            };
            let cached = CachedResponse {
                response: Arc::new(response),
                at: Instant::now(),
                ttl: 60,
            };
            store(&mut cache, key, cached);
            cache.len()
        };
        assert_eq!(store_response(limits::CACHE_RECORDS_MAX + 1), 0);
        assert_eq!(store_response(limits::CACHE_RECORDS_MAX), 1);
    }

    #[test]
    fn answers_beyond_the_bound_are_counted_and_not_kept() {
        let mut cache = HashMap::new();
        let mut store_response = |number: usize, ttl| {
            let key = Key {
                name: format!("n{number}."),
                kind: RecordType::A,
                proof: false,
            };
            let cached = CachedResponse {
                response: Arc::new(Response::code(ResponseCode::NoError)),
                at: Instant::now(),
                ttl,
            };
            store(&mut cache, key, cached);
            cache.len()
        };
        for number in 1..limits::CACHE_ENTRIES_MAX {
            assert_eq!(store_response(number, 60), number);
        }
        // A response that expires at once.
        assert_eq!(store_response(0, 0), limits::CACHE_ENTRIES_MAX);
        let before = refusals::counted(Budget::DnsAnswers);
        let more = limits::CACHE_ENTRIES_MAX + 1;
        assert_eq!(store_response(more, 60), limits::CACHE_ENTRIES_MAX);
        assert_eq!(refusals::counted(Budget::DnsAnswers), before);
        assert_eq!(store_response(more + 1, 60), limits::CACHE_ENTRIES_MAX);
        assert_eq!(refusals::counted(Budget::DnsAnswers), before + 1);
    }
}
