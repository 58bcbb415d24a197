//! Calls about etcd's leases.

use std::time::Duration;

use mvcc_store::{LeaseId, StoreError};
use rpc_channel::RpcError;
use service_protocols::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, lease,
};
use tokio::time::Instant;

use crate::{
    connections::{Connections, is_of_member},
    txn,
};

/// Longest time for an attempt of a call.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Creates a lease with a time to live in seconds; etcd raises very short times. A repeated call may leave a lease
/// without keys, which expires.
pub(crate) async fn grant(
    connections: &Connections,
    seconds: u64,
    deadline: Instant,
) -> Result<LeaseId, StoreError> {
    let request = LeaseGrantRequest {
        ttl: i64::try_from(seconds).unwrap_or(i64::MAX),
        // etcd chooses the number.
        id: 0,
    };
    let granted = connections.call(lease::LEASE_GRANT, &request, ATTEMPT, deadline);
    let granted = granted.await.map_err(|error| txn::refusal(&error, None))?;
    Ok(LeaseId(granted.id.cast_unsigned()))
}

/// The request that revokes a lease.
pub(crate) fn revocation(lease: LeaseId) -> LeaseRevokeRequest {
    LeaseRevokeRequest {
        id: lease.0.cast_signed(),
    }
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
        let request = LeaseKeepAliveRequest {
            id: lease.0.cast_signed(),
        };
        let stream = current
            .channel
            .stream(lease::LEASE_KEEP_ALIVE, &request, ATTEMPT);
        stream.await?.next().await
    };
    let response = tokio::time::timeout(ATTEMPT, renewal).await;
    let response = response.unwrap_or(Err(RpcError::TimedOut(ATTEMPT)));
    if response.as_ref().is_err_and(is_of_member) {
        connections.give_up(current.number).await;
    }
    let renewed = response.map_err(|error| txn::refusal(&error, Some(lease)))?;
    match renewed.ttl > 0 {
        true => Ok(()),
        false => Err(StoreError::LeaseNotFound(lease)),
    }
}
