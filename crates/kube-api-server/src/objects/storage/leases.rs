//! Leases of the store for objects that expire (events).

use std::time::Instant;

use mvcc_store::{LeaseId, Store};
use object_model::Status;
use resource_kinds::KindInfo;
use tokio::sync::Mutex;

use crate::http::limits::{EVENT_TTL, LEASE_SHARED_FOR};

/// Provides leases. Objects that are written at about one time share a lease, so that a burst of events does not
/// create a burst of leases.
#[derive(Default)]
pub(crate) struct Leases {
    current: Mutex<Option<(LeaseId, Instant)>>,
}

impl Leases {
    /// The lease of a new object; `None` if objects of the kind do not expire.
    pub(crate) async fn lease_for(
        &self,
        store: &dyn Store,
        info: &KindInfo<'_>,
    ) -> Result<Option<LeaseId>, Status> {
        if info.storage != "events" {
            return Ok(None);
        }
        let mut current = self.current.lock().await;
        if let Some((lease, granted)) = *current
            && granted.elapsed() < LEASE_SHARED_FOR
        {
            return Ok(Some(lease));
        }
        let ttl = EVENT_TTL + LEASE_SHARED_FOR;
        let lease = store
            .lease_grant(ttl)
            .await
            .map_err(|e| super::refusal(&e))?;
        *current = Some((lease, Instant::now()));
        Ok(Some(lease))
    }
}
