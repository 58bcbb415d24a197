//! The state that all members of the cluster agree on: the keys with their history, and the leases. Pure, except for
//! the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::DecodeError;
use rpc_channel::Code;
use tokio::time::Instant;

use super::messages::{self, Compare, Operation, OperationResult, Range, Txn};

/// A single key, or all keys before an end.
#[derive(Clone, Debug, Default)]
pub struct Span {
    pub key: Vec<u8>,
    /// Empty for a single key.
    pub end: Vec<u8>,
}

impl Span {
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end.is_empty() {
            true => key == self.key,
            false => key >= self.key.as_slice() && key < self.end.as_slice(),
        }
    }
}

/// A key with its value.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    pub key: Vec<u8>,
    pub value: Bytes,
    pub created: u64,
    pub modified: u64,
    pub version: u64,
    /// Zero without a lease.
    pub lease: u64,
}

/// A change of one key.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: u64,
    pub key: Vec<u8>,
    /// `None` after a deletion.
    pub pair: Option<Arc<Pair>>,
    pub previous: Option<Arc<Pair>>,
}

/// A gRPC error.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: Code,
    pub message: &'static str,
}

impl Refusal {
    pub fn new(code: Code, message: &'static str) -> Self {
        Self { code, message }
    }
}

impl From<DecodeError> for Refusal {
    fn from(_: DecodeError) -> Self {
        Self::new(Code::INVALID_ARGUMENT, "the message is not understood")
    }
}

struct Lease {
    time: Duration,
    expires_at: Instant,
    keys: BTreeSet<Vec<u8>>,
}

/// The states of a key, each with the revision from which it is valid.
type States = Vec<(u64, Option<Arc<Pair>>)>;

#[derive(Default)]
pub struct Keys {
    pub revision: u64,
    /// The oldest revision that can be read.
    pub compacted: u64,
    states: BTreeMap<Vec<u8>, States>,
    changes: Vec<Change>,
    leases: BTreeMap<u64, Lease>,
    last_lease: u64,
}

impl Keys {
    pub fn new() -> Self {
        Self {
            revision: 1,
            last_lease: 1000,
            ..Self::default()
        }
    }

    /// The changes after a revision.
    pub fn since(&self, revision: u64) -> &[Change] {
        let from = self
            .changes
            .partition_point(|change| change.revision <= revision);
        &self.changes[from..]
    }

    fn at(&self, key: &[u8], revision: u64) -> Option<&Arc<Pair>> {
        let states = self.states.get(key)?;
        let end_index = states.partition_point(|(at, _)| *at <= revision);
        states.get(end_index.checked_sub(1)?)?.1.as_ref()
    }

    fn all(&self, span: &Span, revision: u64) -> Vec<&Arc<Pair>> {
        if span.end.is_empty() {
            return self.at(&span.key, revision).into_iter().collect();
        }
        let keys = self.states.range(span.key.clone()..span.end.clone());
        keys.filter_map(|(key, _)| self.at(key, revision)).collect()
    }

    /// Reads keys as of the revision `newest`, up to which the member knows the state.
    pub fn range(&self, range: &Range, newest: u64) -> Result<Vec<u8>, Refusal> {
        let revision = match range.revision {
            0 => newest,
            requested if requested < self.compacted => {
                let message = "etcdserver: mvcc: required revision has been compacted";
                return Err(Refusal::new(Code::OUT_OF_RANGE, message));
            }
            requested => requested,
        };
        let pairs_in_span = self.all(&range.span, revision);
        let count = pairs_in_span.len();
        let limit = match range.limit {
            0 => count,
            limit => usize::try_from(limit).unwrap_or(count).min(count),
        };
        let pairs: Vec<&Pair> = pairs_in_span[..limit].iter().map(|pair| &***pair).collect();
        let listed = if range.count_only { &[] } else { &pairs[..] };
        let more = limit < count;
        Ok(messages::range_response(newest, listed, count, more))
    }

    /// Executes a transaction.
    pub fn txn(&mut self, txn: &Txn) -> Result<Vec<u8>, Refusal> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let operations = match succeeded {
            true => &txn.success,
            false => &txn.failure,
        };
        let has_lease = |operation: &Operation| match operation {
            Operation::Put { lease, .. } => *lease == 0 || self.leases.contains_key(lease),
            Operation::Get(_) | Operation::Delete(_) => true,
        };
        if !operations.iter().all(has_lease) {
            return Err(no_lease());
        }
        let before = self.revision;
        let results: Vec<OperationResult> = operations
            .iter()
            .map(|operation| self.execute(operation, before + 1))
            .collect();
        Ok(messages::txn_response(self.revision, succeeded, &results))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let holds = |pair: &Pair| {
            let number = match compare.target {
                0 => pair.version,
                1 => pair.created,
                _ => pair.modified,
            };
            match compare.relation {
                0 => number == compare.value,
                1 => number > compare.value,
                2 => number < compare.value,
                _ => number != compare.value,
            }
        };
        let pairs_in_span = self.all(&compare.span, self.revision);
        match pairs_in_span.is_empty() {
            true => holds(&Pair::default()),
            false => pairs_in_span.iter().all(|pair| holds(pair)),
        }
    }

    fn execute(&mut self, operation: &Operation, revision: u64) -> OperationResult {
        match operation {
            Operation::Get(span) => {
                let pairs_in_span = self.all(span, revision);
                OperationResult::Got(
                    pairs_in_span
                        .into_iter()
                        .map(|pair| Pair::clone(pair))
                        .collect(),
                )
            }
            Operation::Put { key, value, lease } => {
                let before = self.at(key, revision);
                let pair = Pair {
                    key: key.clone(),
                    value: value.clone(),
                    created: before.map_or(revision, |before| before.created),
                    modified: revision,
                    version: before.map_or(0, |before| before.version) + 1,
                    lease: *lease,
                };
                self.change(key, Some(Arc::new(pair)), revision);
                OperationResult::Put
            }
            Operation::Delete(span) => {
                let pairs_in_span: Vec<Arc<Pair>> =
                    self.all(span, revision).into_iter().cloned().collect();
                for pair in &pairs_in_span {
                    self.change(&pair.key, None, revision);
                }
                OperationResult::Deleted(
                    pairs_in_span.iter().map(|pair| Pair::clone(pair)).collect(),
                )
            }
        }
    }

    fn change(&mut self, key: &[u8], pair: Option<Arc<Pair>>, revision: u64) {
        let previous = self.at(key, revision).cloned();
        let lease = |pair: &Option<Arc<Pair>>| pair.as_ref().map_or(0, |pair| pair.lease);
        let (old, new) = (lease(&previous), lease(&pair));
        if let Some(old) = self.leases.get_mut(&old) {
            old.keys.remove(key);
        }
        if let Some(new) = self.leases.get_mut(&new) {
            new.keys.insert(key.to_vec());
        }
        let states = self.states.entry(key.to_vec()).or_default();
        states.push((revision, pair.clone()));
        self.changes.push(Change {
            revision,
            key: key.to_vec(),
            pair,
            previous,
        });
        self.revision = revision;
    }

    /// Removes the history before a revision.
    pub fn compact(&mut self, revision: u64) -> Result<Vec<u8>, Refusal> {
        if revision <= self.compacted {
            let message = "etcdserver: mvcc: required revision has been compacted";
            return Err(Refusal::new(Code::OUT_OF_RANGE, message));
        }
        self.compacted = revision.min(self.revision);
        let compacted = self.compacted;
        self.states.retain(|_, states| {
            let end_index = states.partition_point(|(at, _)| *at <= compacted);
            states.drain(..end_index.saturating_sub(1));
            !matches!(states.as_slice(), [(at, None)] if *at <= compacted)
        });
        self.changes.retain(|change| change.revision >= compacted);
        Ok(messages::header_response(self.revision))
    }

    /// Grants a lease.
    pub fn grant(&mut self, seconds: u64) -> Vec<u8> {
        self.last_lease += 1;
        let time = Duration::from_secs(seconds);
        let lease = Lease {
            time,
            expires_at: Instant::now() + time,
            keys: BTreeSet::new(),
        };
        self.leases.insert(self.last_lease, lease);
        messages::lease_response(self.revision, self.last_lease, seconds)
    }

    /// Renews a lease.
    pub fn keep_alive(&mut self, id: u64) -> Vec<u8> {
        let seconds = self.leases.get_mut(&id).map_or(0, |lease| {
            lease.expires_at = Instant::now() + lease.time;
            lease.time.as_secs()
        });
        messages::renewal_response(self.revision, id, seconds)
    }

    /// Ends a lease, and deletes its keys.
    pub fn revoke(&mut self, id: u64) -> Result<Vec<u8>, Refusal> {
        let lease = self.leases.remove(&id).ok_or_else(no_lease)?;
        let revision = self.revision + 1;
        for key in lease.keys {
            self.change(&key, None, revision);
        }
        Ok(messages::header_response(self.revision))
    }

    /// The expired leases.
    pub fn expired(&self, now: Instant) -> Vec<u64> {
        let expired = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires_at <= now);
        expired.map(|(id, _)| *id).collect()
    }
}

fn no_lease() -> Refusal {
    Refusal::new(Code::NOT_FOUND, "etcdserver: requested lease not found")
}
