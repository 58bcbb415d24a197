//! The messages of etcd's v3 API, with the types of this crate.

use bytes::Bytes;
use mvcc_store::LeaseId;
use service_protocols::{
    etcdserverpb::{
        self as api, compare, compare::TargetUnion, request_op::Request, response_op::Response,
        watch_request::RequestUnion,
    },
    mvccpb::{self, event::EventType},
};

use crate::{keys, revision::EtcdRevision};

/// A read of the keys from `key` to `end`; `end` is empty in a read of a single key.
pub(crate) fn range(key: Vec<u8>, end: Vec<u8>) -> api::RangeRequest {
    api::RangeRequest {
        key,
        range_end: end,
        ..api::RangeRequest::default()
    }
}

/// A put of a key.
pub(crate) fn put(key: Vec<u8>, value: Vec<u8>, lease: Option<LeaseId>) -> api::PutRequest {
    api::PutRequest {
        key,
        value,
        lease: lease.map_or(0, |lease| lease.0.cast_signed()),
        ..api::PutRequest::default()
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

impl From<Condition> for api::Compare {
    fn from(condition: Condition) -> Self {
        use compare::CompareResult::{Equal, Greater, Less};
        use compare::CompareTarget::{Create, Mod, Version};
        let modified = |revision: EtcdRevision| TargetUnion::ModRevision(revision.to_message());
        let range_end = match &condition {
            Condition::AllBefore(prefix, _) => keys::end_of(prefix),
            _ => Vec::new(),
        };
        let (key, target, result, value) = match condition {
            Condition::ModRevision(key, revision) => (key, Mod, Equal, modified(revision)),
            Condition::Before(key, revision) | Condition::AllBefore(key, revision) => {
                (key, Mod, Less, modified(revision))
            }
            Condition::Exists(key, true) => (key, Create, Greater, TargetUnion::CreateRevision(0)),
            Condition::Exists(key, false) => (key, Create, Equal, TargetUnion::CreateRevision(0)),
            Condition::Version(key, version) => {
                let version = TargetUnion::Version(version.cast_signed());
                (key, Version, Equal, version)
            }
        };
        Self {
            result: result.into(),
            target: target.into(),
            key,
            range_end,
            target_union: Some(value),
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
    /// Deletes a key; the response has its former value.
    Delete(Vec<u8>),
    /// Deletes all keys with the prefix, which ends with a slash.
    DeleteAll(Vec<u8>),
}

impl From<RequestOp> for api::RequestOp {
    fn from(operation: RequestOp) -> Self {
        let request = match operation {
            RequestOp::Get(key) => Request::RequestRange(range(key, Vec::new())),
            RequestOp::Put { key, value, lease } => Request::RequestPut(put(key, value, lease)),
            RequestOp::Delete(key) => Request::RequestDeleteRange(api::DeleteRangeRequest {
                key,
                range_end: Vec::new(),
                prev_kv: true,
            }),
            RequestOp::DeleteAll(prefix) => Request::RequestDeleteRange(api::DeleteRangeRequest {
                range_end: keys::end_of(&prefix),
                key: prefix,
                prev_kv: false,
            }),
        };
        Self {
            request: Some(request),
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

impl From<TxnRequest> for api::TxnRequest {
    fn from(txn: TxnRequest) -> Self {
        Self {
            compare: txn.conditions.into_iter().map(Into::into).collect(),
            success: txn.success.into_iter().map(Into::into).collect(),
            failure: txn.failure.into_iter().map(Into::into).collect(),
        }
    }
}

/// `WatchRequest` that begins a watch of all keys from `key` to `end`.
pub(crate) fn watch(key: Vec<u8>, end: Vec<u8>, from: EtcdRevision) -> api::WatchRequest {
    let create = api::WatchCreateRequest {
        key,
        range_end: end,
        start_revision: from.to_message(),
        progress_notify: true,
        ..api::WatchCreateRequest::default()
    };
    api::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    }
}

/// `WatchRequest` for the progress of the stream.
pub(crate) fn progress() -> api::WatchRequest {
    let progress = api::WatchProgressRequest {};
    api::WatchRequest {
        request_union: Some(RequestUnion::ProgressRequest(progress)),
    }
}

/// The revision in the header of a response.
pub(crate) fn revision_of(header: Option<&api::ResponseHeader>) -> EtcdRevision {
    let revision = header.map_or(0, |header| header.revision);
    EtcdRevision::of_message(revision)
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
    /// The id of the lease of the pair; zero for a pair without a lease.
    pub(crate) lease: u64,
}

impl From<mvccpb::KeyValue> for StoredPair {
    fn from(pair: mvccpb::KeyValue) -> Self {
        Self {
            key: pair.key,
            value: pair.value.into(),
            create_revision: EtcdRevision::of_message(pair.create_revision),
            mod_revision: EtcdRevision::of_message(pair.mod_revision),
            version: pair.version.cast_unsigned(),
            lease: pair.lease.cast_unsigned(),
        }
    }
}

fn pairs(pairs: Vec<mvccpb::KeyValue>) -> Vec<StoredPair> {
    pairs.into_iter().map(Into::into).collect()
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

impl From<api::RangeResponse> for RangeResponse {
    fn from(response: api::RangeResponse) -> Self {
        Self {
            revision: revision_of(response.header.as_ref()),
            pairs: pairs(response.kvs),
            more: response.more,
            count: response.count.cast_unsigned(),
        }
    }
}

/// `TxnResponse`: for each operation the pairs that it read or deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TxnResponse {
    pub(crate) revision: EtcdRevision,
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<Vec<StoredPair>>,
}

impl From<api::TxnResponse> for TxnResponse {
    fn from(response: api::TxnResponse) -> Self {
        Self {
            revision: revision_of(response.header.as_ref()),
            succeeded: response.succeeded,
            responses: response.responses.into_iter().map(pairs_of).collect(),
        }
    }
}

/// The pairs of an operation: the pairs of a range, or the pairs that a deletion removed.
fn pairs_of(operation: api::ResponseOp) -> Vec<StoredPair> {
    match operation.response {
        Some(Response::ResponseRange(range)) => pairs(range.kvs),
        Some(Response::ResponseDeleteRange(deletion)) => pairs(deletion.prev_kvs),
        Some(Response::ResponsePut(_) | Response::ResponseTxn(_)) | None => Vec::new(),
    }
}

/// A change of one key: the pair, or only its key and revision if it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchEvent {
    pub(crate) is_delete: bool,
    pub(crate) pair: StoredPair,
}

impl From<mvccpb::Event> for WatchEvent {
    fn from(event: mvccpb::Event) -> Self {
        Self {
            is_delete: event.r#type() == EventType::Delete,
            pair: event.kv.unwrap_or_default().into(),
        }
    }
}

/// `WatchResponse`: events, progress, or the end of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WatchResponse {
    /// The revision of the member. A response without events means that all events up to this revision were sent.
    pub(crate) revision: EtcdRevision,
    pub(crate) is_created: bool,
    /// The reason for the end of the watch, if it has ended.
    pub(crate) canceled: Option<String>,
    /// The oldest revision that can be watched, if that is why the watch has ended.
    pub(crate) compact_revision: EtcdRevision,
    pub(crate) events: Vec<WatchEvent>,
}

impl From<api::WatchResponse> for WatchResponse {
    fn from(response: api::WatchResponse) -> Self {
        Self {
            revision: revision_of(response.header.as_ref()),
            is_created: response.created,
            canceled: response.canceled.then_some(response.cancel_reason),
            compact_revision: EtcdRevision::of_message(response.compact_revision),
            events: response.events.into_iter().map(Into::into).collect(),
        }
    }
}

/// Whether any member has the alarm NOSPACE.
pub(crate) fn has_no_space(response: &api::AlarmResponse) -> bool {
    let mut alarms = response.alarms.iter();
    alarms.any(|member| member.alarm() == api::AlarmType::Nospace)
}
