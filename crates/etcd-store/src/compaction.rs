//! Compaction of etcd's own history, by one of the servers at a time.
//!
//! At each interval, each server tries to write the key of the compaction, under the condition that no other server has
//! written the key since its last attempt. The server whose write succeeds compacts to the revision that it read one
//! interval before, as `kube-apiserver` does (`k8s.io/apiserver/pkg/storage/etcd3/compact.go`). A full etcd refuses the
//! write, but not compactions: then each server compacts to the revision that it read one interval before.

use std::{sync::Arc, time::Duration};

use mvcc_store::StoreError;
use rpc_channel::{Code, RpcError};
use service_protocols::etcdserverpb::{CompactionRequest, kv};
use tokio::time::Instant;

use crate::{
    connections::Connections,
    keys::Keys,
    messages::{Condition, RequestOp, TxnRequest, TxnResponse},
    revision::EtcdRevision,
    txn,
};

/// Minimum age of the history in etcd: a server that was disconnected for less time continues its watch.
const INTERVAL: Duration = Duration::from_secs(300);
/// Longest time for a call.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The state at the previous read of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CompactionState {
    /// The number of writes of the key.
    version: u64,
    /// The revision of the cluster.
    revision: EtcdRevision,
}

/// Compacts at each interval, until the task is aborted.
pub(crate) async fn run(connections: Arc<Connections>, keys: Keys) {
    let mut previous = CompactionState::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        match try_compaction(&connections, &keys, previous).await {
            Ok((now, compact)) => {
                previous = now;
                if let Some(revision) = compact
                    && let Err(error) = self::compact(&connections, revision).await
                {
                    tracing::warn!(%error, "etcd could not be compacted");
                }
            }
            Err(error) => tracing::warn!(%error, "the servers could not agree on a compaction"),
        }
    }
}

/// One attempt: the new state, and the revision to compact to if this server made the newest write of the key.
async fn try_compaction(
    connections: &Connections,
    keys: &Keys,
    previous: CompactionState,
) -> Result<(CompactionState, Option<EtcdRevision>), RpcError> {
    let request = TxnRequest {
        conditions: vec![Condition::Version(
            keys.compaction.clone(),
            previous.version,
        )],
        success: vec![RequestOp::Put {
            key: keys.compaction.clone(),
            value: previous.revision.0.to_string().into_bytes(),
            lease: None,
        }],
        failure: vec![RequestOp::Get(keys.compaction.clone())],
    };
    match send(connections, request.clone()).await {
        Err(error) if matches!(txn::refusal(&error, None), StoreError::Full(_)) => {
            let request = TxnRequest {
                conditions: Vec::new(),
                success: request.failure,
                failure: Vec::new(),
            };
            Ok(judge_full(previous, &send(connections, request).await?))
        }
        response => Ok(judge(previous, &response?)),
    }
}

/// Sends a transaction. If the transaction is executed twice, the second execution reports that another write was
/// first.
async fn send(connections: &Connections, request: TxnRequest) -> Result<TxnResponse, RpcError> {
    let request = request.into();
    let deadline = Instant::now() + ATTEMPT;
    let response = connections.call(kv::TXN, &request, ATTEMPT, deadline);
    response.await.map(Into::into)
}

fn judge(
    previous: CompactionState,
    response: &TxnResponse,
) -> (CompactionState, Option<EtcdRevision>) {
    let version = match response.succeeded {
        true => previous.version + 1,
        false => stored_version(response),
    };
    let now = CompactionState {
        version,
        revision: response.revision,
    };
    let compacts = response.succeeded && previous.revision > EtcdRevision(0);
    (now, compacts.then_some(previous.revision))
}

/// The decision without an agreement: repeated compactions do no harm.
fn judge_full(
    previous: CompactionState,
    response: &TxnResponse,
) -> (CompactionState, Option<EtcdRevision>) {
    let now = CompactionState {
        version: stored_version(response),
        revision: response.revision,
    };
    let compacts = previous.revision > EtcdRevision(0);
    (now, compacts.then_some(previous.revision))
}

/// The number of writes of the key that was read.
fn stored_version(response: &TxnResponse) -> u64 {
    let pair = response.responses.first().and_then(|pairs| pairs.first());
    pair.map_or(0, |pair| pair.version)
}

/// Makes etcd forget its history before the revision.
pub(crate) async fn compact(
    connections: &Connections,
    revision: EtcdRevision,
) -> Result<(), RpcError> {
    let request = CompactionRequest {
        revision: revision.to_message(),
        physical: false,
    };
    let deadline = Instant::now() + ATTEMPT;
    let compacted = connections.call(kv::COMPACT, &request, ATTEMPT, deadline);
    match compacted.await {
        // The revision was compacted before.
        Err(RpcError::Status { code, message })
            if code == Code::OUT_OF_RANGE && message.contains("compacted") =>
        {
            Ok(())
        }
        done => done.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::StoredPair;

    fn response(succeeded: bool, revision: u64, version: Option<u64>) -> TxnResponse {
        let pair = version.map(|version| StoredPair {
            version,
            ..StoredPair::default()
        });
        TxnResponse {
            revision: EtcdRevision(revision),
            succeeded,
            responses: vec![pair.into_iter().collect()],
        }
    }

    fn state(version: u64, revision: u64) -> CompactionState {
        CompactionState {
            version,
            revision: EtcdRevision(revision),
        }
    }

    #[test]
    fn one_server_compacts_to_what_it_saw_an_interval_before() {
        // The first attempt of the first server, and its second attempt.
        let first = judge(CompactionState::default(), &response(true, 10, None));
        assert_eq!(first, (state(1, 10), None));
        let second = judge(first.0, &response(true, 90, None));
        assert_eq!(second, (state(2, 90), Some(EtcdRevision(10))));
        // The attempt of another server is too late; the server tries again later.
        let late = judge(state(1, 20), &response(false, 91, Some(2)));
        assert_eq!(late, (state(2, 91), None));
    }

    #[test]
    fn a_full_etcd_is_compacted_by_each_server() {
        let first = judge_full(CompactionState::default(), &response(true, 10, Some(3)));
        assert_eq!(first, (state(3, 10), None));
        let second = judge_full(first.0, &response(true, 12, Some(3)));
        assert_eq!(second, (state(3, 12), Some(EtcdRevision(10))));
        // With free space in etcd, only one server compacts again.
        let agreed = judge(second.0, &response(true, 20, None));
        assert_eq!(agreed, (state(4, 20), Some(EtcdRevision(12))));
    }
}
