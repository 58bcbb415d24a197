//! The lease of this process for its two keys in etcd, the fence and the mark: the keys expire some time after the
//! process has exited.
//!
//! etcd executes a transaction with a mark only while the lease exists, and the fence exists as long as the lease.
//! After the expiry of a lease, no transaction of its session can be executed, and the next lease begins without a
//! fence.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use mvcc_store::{LeaseId, StoreError};
use tokio::{sync::Mutex, time::Instant};

use crate::{connections::Connections, leases, revision::EtcdRevision};

/// Time to live, much longer than a transaction can remain in the network.
const SECONDS: u64 = 3600;
/// Interval between two renewals of the lease: a third of its life.
pub(crate) const RENEWAL: Duration = Duration::from_secs(SECONDS / 3);

/// A lease, and the fence that was written under it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) lease: Option<LeaseId>,
    /// The newest known revision of the fence; zero if the fence was never written.
    pub(crate) fence: EtcdRevision,
}

/// The current session of this process.
pub(crate) struct Sessions {
    connections: Arc<Connections>,
    present: RwLock<Session>,
    beginning: Mutex<()>,
}

impl Sessions {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self {
            connections,
            present: RwLock::default(),
            beginning: Mutex::default(),
        }
    }

    pub(crate) fn present(&self) -> Session {
        *self.present.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current session with its lease, which is created if there is no lease.
    pub(crate) async fn begun(&self, deadline: Instant) -> Result<(Session, LeaseId), StoreError> {
        let present = || {
            let session = self.present();
            session.lease.map(|lease| (session, lease))
        };
        if let Some(session) = present() {
            return Ok(session);
        }
        let _one_at_a_time = self.beginning.lock().await;
        if let Some(session) = present() {
            return Ok(session);
        }
        let lease = leases::grant(&self.connections, SECONDS, deadline).await?;
        let session = Session {
            lease: Some(lease),
            fence: EtcdRevision(0),
        };
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = session;
        Ok((session, lease))
    }

    /// Records that the fence was written under the lease.
    pub(crate) fn fenced(&self, lease: Option<LeaseId>, at: EtcdRevision) {
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        if present.lease == lease {
            present.fence = present.fence.max(at);
        }
    }

    /// Records that the lease no longer exists.
    pub(crate) fn record_end(&self, lease: LeaseId) {
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        if present.lease == Some(lease) {
            tracing::debug!("the lease of this process in etcd has ended");
            *present = Session::default();
        }
    }

    /// Renews the lease; returns whether the lease exists.
    ///
    /// *Errors.* etcd does not respond.
    pub(crate) async fn exists(&self, lease: LeaseId) -> Result<bool, StoreError> {
        match leases::keep_alive(&self.connections, lease).await {
            Ok(()) => Ok(true),
            Err(StoreError::LeaseNotFound(_)) => {
                self.record_end(lease);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
