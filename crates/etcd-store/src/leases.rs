//! Calls about etcd's leases.

use std::time::Duration;

use grpc::RpcError;
use mvcc_store::{LeaseId, StoreError};
use object_model::protobuf::WireError;
use tokio::time::Instant;

use crate::{
    connections::{Connections, is_without_effect},
    messages::{self, LEASE_GRANT, LEASE_KEEP_ALIVE, LeaseResponse},
    txn,
};

/// Longest time for an attempt of a call.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Creates a lease for this many seconds; etcd raises very short ones. A repeated call may leave a lease
/// without keys behind, which expires.
pub(crate) async fn grant(
    connections: &Connections,
    seconds: u64,
    deadline: Instant,
) -> Result<LeaseId, StoreError> {
    let request = messages::lease_grant(seconds);
    let answer = connections.call(LEASE_GRANT, &request, ATTEMPT, deadline);
    let answer = answer.await.map_err(|error| txn::refusal(&error, None))?;
    let granted = LeaseResponse::read(&answer).map_err(malformed)?;
    Ok(LeaseId(granted.id))
}

/// Renews a lease for its full time to live.
///
/// *Errors.* `LeaseNotFound`, or `Unavailable`.
pub(crate) async fn keep_alive(
    connections: &Connections,
    lease: LeaseId,
) -> Result<(), StoreError> {
    let unavailable = |error: RpcError| StoreError::Unavailable(error.to_string());
    let current = connections.current().await.map_err(unavailable)?;
    let renewal = async {
        let request = messages::lease(lease);
        let stream = current.channel.stream(LEASE_KEEP_ALIVE, &request, ATTEMPT);
        stream.await?.next().await
    };
    let answer = tokio::time::timeout(ATTEMPT, renewal).await;
    let answer = answer.unwrap_or(Err(RpcError::TimedOut(ATTEMPT)));
    if answer
        .as_ref()
        .is_err_and(|error| !is_without_effect(error))
    {
        connections.give_up(current.number).await;
    }
    let answer = answer.map_err(|error| txn::refusal(&error, Some(lease)))?;
    let renewed = LeaseResponse::read(&answer).map_err(malformed)?;
    match renewed.seconds > 0 {
        true => Ok(()),
        false => Err(StoreError::LeaseNotFound(lease)),
    }
}

fn malformed(error: WireError) -> StoreError {
    StoreError::Unavailable(format!("etcd's answer is malformed: {error}"))
}
