//! The conversion of a transaction into a transaction of etcd, and of the response into a result. Pure.
//!
//! Each transaction with changes contains two keys of this process. The transaction compares the **fence**: a
//! transaction that was sent before the last write of the fence cannot be executed any more. The transaction writes its
//! number into the **mark**: the event of the mark proves that the transaction was executed, and has its revision. With
//! both keys, the outcome of a transaction without a response can be determined. Both keys have the lease of this
//! process (`session`), and expire with the lease.

use std::sync::Arc;

use mvcc_store::{
    Compare, KeyValue, LeaseId, Operation, OperationResult, Revision, StoreError, Txn, TxnResult,
    published::{Commit, LiveKeys},
};
use prost::Message as _;
use rpc_channel::{Code, RpcError};
use service_protocols::etcdserverpb as api;

use crate::{
    keys::Keys,
    messages::{Condition, RequestOp, StoredPair, TxnRequest, TxnResponse},
    mirror::loaded,
    origin::Origin,
    revision::EtcdRevision,
    value,
};

/// etcd's default `--max-request-bytes`.
const REQUEST_BYTES_MAX: usize = 1536 * 1024;

/// Whether a transaction that is carried out certainly changes something: a deletion does if a comparison
/// requires that the key exists.
pub(crate) fn always_changes(txn: &Txn) -> bool {
    let is_there = |key: &[u8]| {
        txn.compare.iter().any(|compare| match compare {
            Compare::ModRevision(compared, _) | Compare::Exists(compared) => compared == key,
            Compare::Absent(_) => false,
        })
    };
    txn.operations.iter().any(|operation| match operation {
        Operation::Put { .. } => true,
        Operation::Delete { key } => is_there(key),
    })
}

/// Whether the transaction puts nothing.
pub(crate) fn only_deletes(txn: &Txn) -> bool {
    let mut operations = txn.operations.iter();
    operations.all(|operation| matches!(operation, Operation::Delete { .. }))
}

/// Whether a second execution of the transaction changes nothing: the transaction only deletes without comparisons, or
/// only compares.
pub(crate) fn is_repeatable(txn: &Txn) -> bool {
    only_deletes(txn) && (txn.compare.is_empty() || txn.operations.is_empty())
}

/// The mark of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewMark {
    pub(crate) number: u64,
    /// The lease of this process: without it, etcd refuses the transaction.
    pub(crate) lease: LeaseId,
}

/// The comparisons that this process adds to each transaction.
#[derive(Clone, Copy)]
pub(crate) struct TxnGuards<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) origin: Origin,
    /// The revision at which the fence was last written; zero for never.
    pub(crate) fence: EtcdRevision,
}

impl TxnGuards<'_> {
    /// The conditions of a comparison. A copied pair has a revision that etcd does not know. The pair is unchanged
    /// while the copy in memory contains it, and while its revision in etcd is older than the record of the origin.
    fn conditions(&self, compare: &Compare, live: &LiveKeys) -> Vec<Condition> {
        let key = self.keys.data(compare.key());
        // No key has been written so often.
        let never = |key| vec![Condition::Version(key, u64::MAX >> 1)];
        match compare {
            Compare::Absent(_) => vec![Condition::Exists(key, false)],
            Compare::Exists(_) => vec![Condition::Exists(key, true)],
            // Zero would be an absent key, which has no revision.
            Compare::ModRevision(_, Revision(0)) => never(key),
            Compare::ModRevision(of, revision) if self.origin.is_copied(*revision) => {
                match live.get(of.as_slice()) {
                    Some(pair) if pair.mod_revision == *revision => vec![
                        Condition::Exists(key.clone(), true),
                        Condition::Before(key, self.origin.record),
                    ],
                    _ => never(key),
                }
            }
            Compare::ModRevision(_, revision) => {
                vec![Condition::ModRevision(key, self.origin.in_etcd(*revision))]
            }
        }
    }
}

/// The transaction for etcd. `live` is the copy of all keys.
///
/// *Errors.* `TooLarge`.
pub(crate) fn request(
    txn: &Txn,
    base: TxnGuards<'_>,
    live: &LiveKeys,
    mark: Option<NewMark>,
) -> Result<api::TxnRequest, StoreError> {
    let TxnGuards { keys, origin, .. } = base;
    let guards = [
        Condition::ModRevision(keys.fence.clone(), base.fence),
        Condition::ModRevision(keys.origin.clone(), origin.record),
    ];
    let compares = txn.compare.iter();
    let conditions = compares.flat_map(|compare| base.conditions(compare, live));
    let operations = txn.operations.iter().map(|operation| match operation {
        Operation::Put { key, value, lease } => RequestOp::Put {
            key: keys.data(key),
            value: value::store(value),
            lease: *lease,
        },
        Operation::Delete { key } => RequestOp::Delete(keys.data(key)),
    });
    let mark = mark.map(|mark| RequestOp::Put {
        key: keys.mark.clone(),
        value: mark.number.to_be_bytes().to_vec(),
        lease: Some(mark.lease),
    });
    let present = txn.compare.iter().map(|compare| keys.data(compare.key()));
    let request = TxnRequest {
        conditions: conditions.chain(guards).collect(),
        success: operations.chain(mark).collect(),
        failure: present
            .chain([keys.fence.clone(), keys.origin.clone()])
            .map(RequestOp::Get)
            .collect(),
    };
    let request = api::TxnRequest::from(request);
    let bytes = request.encoded_len();
    if bytes > REQUEST_BYTES_MAX {
        return Err(StoreError::TooLarge(format!(
            "a transaction of {bytes} bytes is larger than the limit of {REQUEST_BYTES_MAX}",
        )));
    }
    Ok(request)
}

/// The meaning of etcd's response.
#[derive(Debug, PartialEq)]
pub(crate) enum TxnOutcome {
    /// The operations were executed; with the former pairs of deleted keys.
    Committed(Revision, Vec<Option<KeyValue>>),
    /// A comparison failed.
    Refused(TxnResult),
    /// The fence was written after the transaction was sent, last at this revision: the results of the comparisons are
    /// unknown.
    Fenced(EtcdRevision),
    /// The data below the prefix was replaced after the start of this server.
    Replaced,
}

/// Reads the response to a transaction.
///
/// *Errors.* The response does not fit the transaction.
pub(crate) fn outcome(
    txn: &Txn,
    base: TxnGuards<'_>,
    response: &TxnResponse,
) -> Result<TxnOutcome, RpcError> {
    let strange = || RpcError::Broken("etcd's answer does not fit the transaction".to_owned());
    let of_store = |pair: &StoredPair| {
        let key = base.keys.data_in(&pair.key)?;
        Some(loaded(key, pair, base.origin))
    };
    let pairs = response.responses.iter();
    let pairs_in_store: Vec<_> = pairs
        .map(|pairs| pairs.first().and_then(of_store))
        .collect();
    if response.succeeded {
        let results = pairs_in_store
            .get(..txn.operations.len())
            .ok_or_else(strange)?;
        let revision = base.origin.in_store(response.revision);
        return Ok(TxnOutcome::Committed(revision, results.to_vec()));
    }
    let guard_revision = |number: usize| {
        let pairs = response.responses.get(txn.compare.len() + number);
        let pair = pairs.ok_or_else(strange)?.first();
        Ok(pair.map_or(EtcdRevision(0), |pair| pair.mod_revision))
    };
    if guard_revision(1)? != base.origin.record {
        return Ok(TxnOutcome::Replaced);
    }
    let fence_now = guard_revision(0)?;
    if fence_now != base.fence {
        return Ok(TxnOutcome::Fenced(fence_now));
    }
    Ok(TxnOutcome::Refused(TxnResult::Refused {
        revision: base.origin.in_store(response.revision),
        present: pairs_in_store.into_iter().take(txn.compare.len()).collect(),
    }))
}

/// The result of a transaction that only deletes keys, of which some may have been absent.
pub(crate) fn deletions(revision: Revision, former: Vec<Option<KeyValue>>) -> TxnResult {
    TxnResult::Committed {
        revision,
        results: former.into_iter().map(OperationResult::Delete).collect(),
    }
}

/// The result of a transaction, computed from the changes in the history; `None` if the changes belong to another
/// transaction.
pub(crate) fn committed(txn: &Txn, commit: &Commit) -> Option<TxnResult> {
    let change = |key: &[u8]| commit.changes.iter().find(|change| *change.key == *key);
    let pair = |pair: &Arc<KeyValue>| KeyValue::clone(pair);
    let results = txn.operations.iter().map(|operation| {
        Some(match operation {
            Operation::Put { key, .. } => {
                OperationResult::Put(pair(change(key)?.current.as_ref()?))
            }
            Operation::Delete { key } => {
                let former = change(key).and_then(|change| change.previous.as_ref());
                OperationResult::Delete(former.map(pair))
            }
        })
    });
    Some(TxnResult::Committed {
        revision: commit.revision,
        results: results.collect::<Option<_>>()?,
    })
}

/// The error of the store for a call that had no effect.
pub(crate) fn refusal(error: &RpcError, lease: Option<LeaseId>) -> StoreError {
    let RpcError::Status { code, message } = error else {
        return StoreError::Unavailable(error.to_string());
    };
    let has = |words: &str| message.contains(words);
    match (*code, lease) {
        (Code::NOT_FOUND, Some(lease)) => StoreError::LeaseNotFound(lease),
        (Code::RESOURCE_EXHAUSTED, _) if has("database space exceeded") => StoreError::Full(
            format!("{message}; compact and defragment etcd, or raise its quota"),
        ),
        (Code::RESOURCE_EXHAUSTED, _) if has("larger than max") => {
            StoreError::TooLarge(message.clone())
        }
        (Code::INVALID_ARGUMENT, _) if has("too large") || has("too many operations") => {
            StoreError::TooLarge(message.clone())
        }
        (Code::INVALID_ARGUMENT, _) => StoreError::Invalid(message.clone()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// The lease of a transaction's operations.
pub(crate) fn lease_of(txn: &Txn) -> Option<LeaseId> {
    txn.operations.iter().find_map(|operation| match operation {
        Operation::Put { lease, .. } => *lease,
        Operation::Delete { .. } => None,
    })
}
