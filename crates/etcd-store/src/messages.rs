//! The messages of etcd's v3 API that are in use: requests as bytes, answers as plain data.
//!
//! Field numbers: `api/etcdserverpb/rpc.proto` and `api/mvccpb/kv.proto` of etcd. Unknown fields are
//! skipped.

use bytes::Bytes;
use mvcc_store::LeaseId;
use object_model::protobuf::{Wire, WireError, Writer, bytes, fields, number};

use crate::{keys, revision::EtcdRevision};

pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(crate) const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(crate) const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub(crate) const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
pub(crate) const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub(crate) const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub(crate) const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";

/// `RangeRequest`: a read of one key or of a range of keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeRequest<'a> {
    pub(crate) key: &'a [u8],
    /// Empty for the single key.
    pub(crate) end: &'a [u8],
    /// The largest number of pairs; zero for no limit.
    pub(crate) limit: u64,
    /// The revision to read at; zero for the newest.
    pub(crate) revision: u64,
    pub(crate) count_only: bool,
}

impl RangeRequest<'_> {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write_to(&mut out);
        out.0
    }

    fn write_to(&self, out: &mut Writer) {
        out.bytes(bytes(1), self.key);
        if !self.end.is_empty() {
            out.bytes(bytes(2), self.end);
        }
        if self.limit > 0 {
            out.varint(number(3), self.limit);
        }
        if self.revision > 0 {
            out.varint(number(4), self.revision);
        }
        if self.count_only {
            out.varint(number(9), 1);
        }
    }
}

/// Encodes `PutRequest`.
pub(crate) fn put(key: &[u8], value: &[u8], lease: Option<LeaseId>) -> Vec<u8> {
    let mut out = Writer::default();
    write_put(&mut out, key, value, lease);
    out.0
}

fn write_put(out: &mut Writer, key: &[u8], value: &[u8], lease: Option<LeaseId>) {
    out.bytes(bytes(1), key);
    out.bytes(bytes(2), value);
    if let Some(lease) = lease {
        out.varint(number(3), lease.0);
    }
}

/// A condition on one key.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// The newest write of the key has this revision; zero for an absent key.
    ModRevision(Vec<u8>, EtcdRevision),
    /// The newest write of the key is older than the revision, or the key is absent.
    Before(Vec<u8>, EtcdRevision),
    /// The newest write of all keys with the prefix is older than the revision; the prefix ends with a slash.
    AllBefore(Vec<u8>, EtcdRevision),
    /// The key exists, or does not.
    Exists(Vec<u8>, bool),
    /// The key has been written this many times since it was created.
    Version(Vec<u8>, u64),
}

impl Condition {
    fn write(&self, out: &mut Writer) {
        const EQUAL: u64 = 0;
        const GREATER: u64 = 1;
        const LESS: u64 = 2;
        const VERSION: u64 = 0;
        const CREATE: u64 = 1;
        const MOD: u64 = 2;
        let (key, target, result, field, value) = match self {
            Self::ModRevision(key, revision) => (key, MOD, EQUAL, 6, revision.0),
            Self::Before(key, revision) | Self::AllBefore(key, revision) => {
                (key, MOD, LESS, 6, revision.0)
            }
            Self::Exists(key, true) => (key, CREATE, GREATER, 5, 0),
            Self::Exists(key, false) => (key, CREATE, EQUAL, 5, 0),
            Self::Version(key, version) => (key, VERSION, EQUAL, 4, *version),
        };
        out.varint(number(1), result);
        out.varint(number(2), target);
        out.bytes(bytes(3), key);
        out.varint(number(field), value);
        if let Self::AllBefore(prefix, _) = self {
            out.bytes(bytes(64), &keys::end_of(prefix));
        }
    }
}

/// An operation of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum RequestOp {
    /// Reads one key.
    Get(Vec<u8>),
    /// Writes a key.
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        lease: Option<LeaseId>,
    },
    /// Deletes a key, and answers with its former value.
    Delete(Vec<u8>),
    /// Deletes all keys with the prefix, which ends with a slash.
    DeleteAll(Vec<u8>),
}

impl RequestOp {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Get(key) => {
                let range = RangeRequest {
                    key,
                    ..RangeRequest::default()
                };
                out.message(bytes(1), |out| range.write_to(out));
            }
            Self::Put { key, value, lease } => {
                out.message(bytes(2), |out| write_put(out, key, value, *lease));
            }
            Self::Delete(key) => out.message(bytes(3), |out| {
                out.bytes(bytes(1), key);
                out.varint(number(3), 1);
            }),
            Self::DeleteAll(prefix) => out.message(bytes(3), |out| {
                out.bytes(bytes(1), prefix);
                out.bytes(bytes(2), &keys::end_of(prefix));
            }),
        }
    }
}

/// `TxnRequest`: `success` if all conditions hold, `failure` otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct TxnRequest {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) success: Vec<RequestOp>,
    pub(crate) failure: Vec<RequestOp>,
}

impl TxnRequest {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Writer::default();
        for condition in &self.conditions {
            out.message(bytes(1), |out| condition.write(out));
        }
        for operation in &self.success {
            out.message(bytes(2), |out| operation.write(out));
        }
        for operation in &self.failure {
            out.message(bytes(3), |out| operation.write(out));
        }
        out.0
    }
}

/// Encodes `CompactionRequest`.
pub(crate) fn compaction(revision: EtcdRevision) -> Vec<u8> {
    let mut out = Writer::default();
    out.varint(number(1), revision.0);
    out.0
}

/// `WatchRequest` that begins a watch of all keys from `key` to `end`.
pub(crate) fn watch(key: &[u8], end: &[u8], from: EtcdRevision) -> Vec<u8> {
    let mut out = Writer::default();
    out.message(bytes(1), |out| {
        out.bytes(bytes(1), key);
        out.bytes(bytes(2), end);
        out.varint(number(3), from.0);
        out.varint(number(4), 1);
    });
    out.0
}

/// `WatchRequest` that asks for the progress of the stream.
pub(crate) fn progress() -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(bytes(3), b"");
    out.0
}

/// `LeaseGrantRequest`; etcd chooses the number.
pub(crate) fn lease_grant(seconds: u64) -> Vec<u8> {
    let mut out = Writer::default();
    out.varint(number(1), seconds);
    out.0
}

/// Encodes `LeaseRevokeRequest` or `LeaseKeepAliveRequest`: both have the same fields.
pub(crate) fn lease(lease: LeaseId) -> Vec<u8> {
    let mut out = Writer::default();
    out.varint(number(1), lease.0);
    out.0
}

/// The revision in a `ResponseHeader`.
fn header(wire: Wire<'_>) -> Result<EtcdRevision, WireError> {
    let mut revision = 0;
    fields(wire.bytes()?, |field, wire| {
        if field == 3 {
            revision = wire.varint()?;
        }
        Ok(())
    })?;
    Ok(EtcdRevision(revision))
}

/// A key with its value, as etcd has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredPair {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Bytes,
    pub(crate) create_revision: EtcdRevision,
    pub(crate) mod_revision: EtcdRevision,
    /// The number of writes since the key was created.
    pub(crate) version: u64,
    /// The id of the pair's lease; zero for none.
    pub(crate) lease: u64,
}

impl StoredPair {
    fn read(wire: Wire<'_>) -> Result<Self, WireError> {
        let mut pair = Self::default();
        fields(wire.bytes()?, |field, wire| {
            match field {
                1 => pair.key = wire.bytes()?.to_vec(),
                2 => pair.create_revision = EtcdRevision(wire.varint()?),
                3 => pair.mod_revision = EtcdRevision(wire.varint()?),
                4 => pair.version = wire.varint()?,
                // A copy: the message may have many other values.
                5 => pair.value = Bytes::copy_from_slice(wire.bytes()?),
                6 => pair.lease = wire.varint()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(pair)
    }
}

/// `RangeResponse`: the pairs that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeResponse {
    pub(crate) revision: EtcdRevision,
    pub(crate) pairs: Vec<StoredPair>,
    /// There are more keys than the limit.
    pub(crate) more: bool,
    /// The number of keys in the whole range.
    pub(crate) count: u64,
}

impl RangeResponse {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut response = Self::default();
        fields(message, |field, wire| {
            match field {
                1 => response.revision = header(wire)?,
                2 => response.pairs.push(StoredPair::read(wire)?),
                3 => response.more = wire.varint()? != 0,
                4 => response.count = wire.varint()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

/// `TxnResponse`: for each operation the pairs that it read or deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TxnResponse {
    pub(crate) revision: EtcdRevision,
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<Vec<StoredPair>>,
}

impl TxnResponse {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut response = Self::default();
        fields(message, |field, wire| {
            match field {
                1 => response.revision = header(wire)?,
                2 => response.succeeded = wire.varint()? != 0,
                3 => response.responses.push(read_operation(wire)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

/// The pairs of a `ResponseOp`: of a range, or those that a deletion deleted.
fn read_operation(wire: Wire<'_>) -> Result<Vec<StoredPair>, WireError> {
    let mut pairs = Vec::new();
    fields(wire.bytes()?, |kind, wire| {
        let of_pairs = match kind {
            1 => 2,
            3 => 3,
            _ => return Ok(()),
        };
        fields(wire.bytes()?, |field, wire| {
            if field == of_pairs {
                pairs.push(StoredPair::read(wire)?);
            }
            Ok(())
        })
    })?;
    Ok(pairs)
}

/// A change of one key: the pair, or only its key and revision if it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchEvent {
    pub(crate) is_delete: bool,
    pub(crate) pair: StoredPair,
}

/// `WatchResponse`: events, progress, or the end of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WatchResponse {
    /// The revision of the member. Without events, all up to it have been sent.
    pub(crate) revision: EtcdRevision,
    pub(crate) is_created: bool,
    /// The reason for the end of the watch, if it has ended.
    pub(crate) canceled: Option<String>,
    /// The oldest revision that can be watched, if that is why the watch has ended.
    pub(crate) compact_revision: EtcdRevision,
    pub(crate) events: Vec<WatchEvent>,
}

impl WatchResponse {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut response = Self::default();
        let (mut is_canceled, mut reason) = (false, String::new());
        fields(message, |field, wire| {
            match field {
                1 => response.revision = header(wire)?,
                3 => response.is_created = wire.varint()? != 0,
                4 => is_canceled = wire.varint()? != 0,
                5 => response.compact_revision = EtcdRevision(wire.varint()?),
                6 => reason = String::from_utf8_lossy(wire.bytes()?).into_owned(),
                11 => response.events.push(read_event(wire)?),
                _ => {}
            }
            Ok(())
        })?;
        response.canceled = is_canceled.then_some(reason);
        Ok(response)
    }
}

fn read_event(wire: Wire<'_>) -> Result<WatchEvent, WireError> {
    let (mut is_delete, mut pair) = (false, StoredPair::default());
    fields(wire.bytes()?, |field, wire| {
        match field {
            1 => is_delete = wire.varint()? == 1,
            2 => pair = StoredPair::read(wire)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(WatchEvent { is_delete, pair })
}

/// `LeaseGrantResponse` or `LeaseKeepAliveResponse`: both have the same fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseResponse {
    pub(crate) id: u64,
    /// Seconds to live; not above zero if there is no such lease.
    pub(crate) seconds: i64,
}

impl LeaseResponse {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut response = Self::default();
        fields(message, |field, wire| {
            match field {
                2 => response.id = wire.varint()?,
                3 => response.seconds = wire.varint()?.cast_signed(),
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

/// The revision in the header of an answer of which nothing else is read.
pub(crate) fn revision_of(message: &[u8]) -> Result<EtcdRevision, WireError> {
    let mut revision = EtcdRevision(0);
    fields(message, |field, wire| {
        if field == 1 {
            revision = header(wire)?;
        }
        Ok(())
    })?;
    Ok(revision)
}

/// `StatusResponse`: version and database size of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatusResponse {
    pub(crate) version: String,
    /// The bytes of the member's database file.
    pub(crate) size: u64,
}

impl StatusResponse {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut response = Self::default();
        fields(message, |field, wire| {
            match field {
                2 => response.version = String::from_utf8_lossy(wire.bytes()?).into_owned(),
                3 => response.size = wire.varint()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

/// Whether an `AlarmResponse` has the alarm NOSPACE of any member.
pub(crate) fn has_no_space(message: &[u8]) -> Result<bool, WireError> {
    const NOSPACE: u64 = 1;
    let mut found = false;
    fields(message, |field, wire| {
        if field != 2 {
            return Ok(());
        }
        fields(wire.bytes()?, |field, wire| {
            found |= field == 2 && wire.varint()? == NOSPACE;
            Ok(())
        })
    })?;
    Ok(found)
}
