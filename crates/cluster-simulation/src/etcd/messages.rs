//! The messages of etcd's v3 API, from the side of a member: requests are decoded, responses are encoded. Only the
//! fields that the engine over etcd sends are read.

use bytes::Bytes;
use prost::{DecodeError, Message as _};
use service_protocols::{
    etcdserverpb::{
        self as api, compare::TargetUnion, request_op::Request, response_op::Response,
        watch_request::RequestUnion,
    },
    mvccpb::{self, event::EventType},
};

use super::keys::{Change, Pair, Span};

/// A `RangeRequest`.
#[derive(Clone, Debug, Default)]
pub struct Range {
    pub span: Span,
    /// Zero for no limit.
    pub limit: u64,
    /// Zero for the newest revision.
    pub revision: u64,
    pub count_only: bool,
}

impl From<api::RangeRequest> for Range {
    fn from(range: api::RangeRequest) -> Self {
        Self {
            span: Span {
                key: range.key,
                end: range.range_end,
            },
            limit: range.limit.cast_unsigned(),
            revision: range.revision.cast_unsigned(),
            count_only: range.count_only,
        }
    }
}

/// An operation of a transaction.
#[derive(Clone, Debug)]
pub enum Operation {
    Get(Span),
    Put {
        key: Vec<u8>,
        value: Bytes,
        /// Zero for no lease.
        lease: u64,
    },
    Delete(Span),
}

impl From<api::PutRequest> for Operation {
    fn from(put: api::PutRequest) -> Self {
        Self::Put {
            key: put.key,
            value: put.value.into(),
            lease: put.lease.cast_unsigned(),
        }
    }
}

/// The supported operations; the engine sends no operations of other kinds.
fn operations(operations: Vec<api::RequestOp>) -> Vec<Operation> {
    let supported = operations
        .into_iter()
        .filter_map(|operation| match operation.request? {
            Request::RequestRange(range) => Some(Operation::Get(Range::from(range).span)),
            Request::RequestPut(put) => Some(put.into()),
            Request::RequestDeleteRange(deletion) => Some(Operation::Delete(Span {
                key: deletion.key,
                end: deletion.range_end,
            })),
            Request::RequestTxn(_) => None,
        });
    supported.collect()
}

/// A `Compare`: compares a number of the pair with `value`.
#[derive(Clone, Debug, Default)]
pub struct Compare {
    pub span: Span,
    /// Equal, greater, less, or not equal.
    pub relation: u64,
    /// The compared number: the version, the revision of the creation, or that of the last write.
    pub target: u64,
    pub value: u64,
}

impl From<api::Compare> for Compare {
    fn from(compare: api::Compare) -> Self {
        let value = match compare.target_union {
            Some(
                TargetUnion::Version(number)
                | TargetUnion::CreateRevision(number)
                | TargetUnion::ModRevision(number)
                | TargetUnion::Lease(number),
            ) => number.cast_unsigned(),
            Some(TargetUnion::Value(_)) | None => 0,
        };
        let number = |of: i32| u64::from(of.cast_unsigned());
        Self {
            span: Span {
                key: compare.key,
                end: compare.range_end,
            },
            relation: number(compare.result),
            target: number(compare.target),
            value,
        }
    }
}

/// A `TxnRequest`.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<Operation>,
    pub failure: Vec<Operation>,
}

impl From<api::TxnRequest> for Txn {
    fn from(txn: api::TxnRequest) -> Self {
        Self {
            compares: txn.compare.into_iter().map(Into::into).collect(),
            success: operations(txn.success),
            failure: operations(txn.failure),
        }
    }
}

/// A `WatchRequest`.
#[derive(Clone, Debug)]
pub enum WatchRequest {
    Create { span: Span, from: u64 },
    Progress,
}

impl WatchRequest {
    pub fn read(message: &[u8]) -> Result<Self, DecodeError> {
        let request = api::WatchRequest::decode(message)?;
        Ok(match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => Self::Create {
                span: Span {
                    key: create.key,
                    end: create.range_end,
                },
                from: create.start_revision.cast_unsigned(),
            },
            _ => Self::Progress,
        })
    }
}

fn header(revision: u64) -> Option<api::ResponseHeader> {
    Some(api::ResponseHeader {
        revision: revision.cast_signed(),
        ..api::ResponseHeader::default()
    })
}

fn pair(pair: &Pair) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: pair.key.clone(),
        create_revision: pair.created.cast_signed(),
        mod_revision: pair.modified.cast_signed(),
        version: pair.version.cast_signed(),
        value: pair.value.to_vec(),
        lease: pair.lease.cast_signed(),
    }
}

/// A `RangeResponse`.
pub fn range_response(revision: u64, pairs: &[&Pair], count: usize, more: bool) -> Vec<u8> {
    let response = api::RangeResponse {
        header: header(revision),
        kvs: pairs.iter().map(|item| pair(item)).collect(),
        more,
        count: (count as u64).cast_signed(),
    };
    response.encode_to_vec()
}

/// The result of an operation.
#[derive(Clone, Debug)]
pub enum OperationResult {
    Got(Vec<Pair>),
    Put,
    Deleted(Vec<Pair>),
}

impl OperationResult {
    fn response(&self, revision: u64) -> Response {
        match self {
            Self::Got(pairs) => Response::ResponseRange(api::RangeResponse {
                kvs: pairs.iter().map(pair).collect(),
                ..api::RangeResponse::default()
            }),
            Self::Put => Response::ResponsePut(api::PutResponse {
                header: header(revision),
                prev_kv: None,
            }),
            Self::Deleted(pairs) => Response::ResponseDeleteRange(api::DeleteRangeResponse {
                deleted: (pairs.len() as u64).cast_signed(),
                prev_kvs: pairs.iter().map(pair).collect(),
                ..api::DeleteRangeResponse::default()
            }),
        }
    }
}

/// A `TxnResponse`.
pub fn txn_response(revision: u64, succeeded: bool, results: &[OperationResult]) -> Vec<u8> {
    let responses = results.iter().map(|result| api::ResponseOp {
        response: Some(result.response(revision)),
    });
    let response = api::TxnResponse {
        header: header(revision),
        succeeded,
        responses: responses.collect(),
    };
    response.encode_to_vec()
}

/// A response with a header only. All responses have the header in the same field.
pub fn header_response(revision: u64) -> Vec<u8> {
    let response = api::PutResponse {
        header: header(revision),
        prev_kv: None,
    };
    response.encode_to_vec()
}

/// A `LeaseGrantResponse`.
pub fn lease_response(revision: u64, lease: u64, seconds: u64) -> Vec<u8> {
    let response = api::LeaseGrantResponse {
        header: header(revision),
        id: lease.cast_signed(),
        ttl: seconds.cast_signed(),
        ..api::LeaseGrantResponse::default()
    };
    response.encode_to_vec()
}

/// A `LeaseKeepAliveResponse`.
pub fn renewal_response(revision: u64, lease: u64, seconds: u64) -> Vec<u8> {
    let response = api::LeaseKeepAliveResponse {
        header: header(revision),
        id: lease.cast_signed(),
        ttl: seconds.cast_signed(),
    };
    response.encode_to_vec()
}

/// A `StatusResponse`.
pub fn status_response(revision: u64) -> Vec<u8> {
    let response = api::StatusResponse {
        header: header(revision),
        version: "3.6.0".to_owned(),
        db_size: 1 << 20,
        ..api::StatusResponse::default()
    };
    response.encode_to_vec()
}

/// A `WatchResponse` that reports the creation of the watch, or progress.
pub fn watch_state(revision: u64, created: bool) -> Vec<u8> {
    let response = api::WatchResponse {
        header: header(revision),
        created,
        ..api::WatchResponse::default()
    };
    response.encode_to_vec()
}

/// A `WatchResponse` that ends the watch, because the next events are compacted.
pub fn watch_compacted(revision: u64, compacted: u64) -> Vec<u8> {
    let response = api::WatchResponse {
        header: header(revision),
        canceled: true,
        compact_revision: compacted.cast_signed(),
        cancel_reason: "etcdserver: mvcc: required revision has been compacted".to_owned(),
        ..api::WatchResponse::default()
    };
    response.encode_to_vec()
}

/// A `WatchResponse` with events.
pub fn watch_events(revision: u64, changes: &[&Change]) -> Vec<u8> {
    let response = api::WatchResponse {
        header: header(revision),
        events: changes.iter().map(|change| event(change)).collect(),
        ..api::WatchResponse::default()
    };
    response.encode_to_vec()
}

fn event(change: &Change) -> mvccpb::Event {
    let (kind, pair) = match &change.pair {
        Some(put) => (EventType::Put, pair(put)),
        None => {
            let deleted = mvccpb::KeyValue {
                key: change.key.clone(),
                mod_revision: change.revision.cast_signed(),
                ..mvccpb::KeyValue::default()
            };
            (EventType::Delete, deleted)
        }
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(pair),
        prev_kv: None,
    }
}
