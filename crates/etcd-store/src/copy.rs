//! Copies of all pairs between another store and etcd, in both directions, while no server uses either store.
//!
//! The record of the origin protects every step. A copy into etcd begins with the record: servers do not start until
//! the copy is complete, and each write of the copy compares the record. A copy out of etcd ends with the record, under
//! the condition that nothing was written since the pairs were read: a server that still runs cannot write afterwards.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use futures::future::BoxFuture;
use mvcc_store::{KeyValue, Revision, published::LiveKeys};
use rpc_channel::RpcError;
use service_protocols::etcdserverpb::{RangeRequest, kv};
use tokio::time::Instant;

use crate::{
    connections::Connections,
    keys::Keys,
    messages::{self, Condition, RequestOp, TxnRequest, TxnResponse},
    mirror,
    options::{ConnectError, EtcdOptions, unusable},
    origin::{self, Origin, OriginRecord},
    revision::EtcdRevision,
    value,
};

/// Maximum time of one attempt of a call, and of all its attempts.
const ATTEMPT: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);
/// Maximum number of keys and bytes in one transaction.
const BATCH_KEYS: usize = 100;
const BATCH_BYTES: usize = 1_000_000;

/// The data below a prefix, for a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixContents {
    /// No key.
    Nothing,
    /// A copy that was interrupted.
    Incomplete {
        /// The instance that owns the data.
        instance: String,
    },
    /// Data in use, or to be used.
    Data {
        /// The number of keys, including the keys of the servers themselves.
        keys: u64,
    },
    /// Data that was copied elsewhere, and is not used any more.
    Moved {
        /// The store that continues with the data.
        to: String,
    },
}

/// The error of a copy of a store into or out of etcd.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// etcd cannot be used, or does not respond.
    #[error(transparent)]
    Etcd(#[from] ConnectError),
    /// Something else has written below the prefix.
    #[error("another program has written to etcd meanwhile: stop all servers that use it")]
    Written,
}

impl From<RpcError> for CopyError {
    fn from(error: RpcError) -> Self {
        Self::Etcd(unusable(error).into())
    }
}

/// The pairs of the store in etcd at one revision.
#[derive(Clone, Debug)]
pub struct LivePairs {
    /// All pairs with the server's prefix.
    pub live: LiveKeys,
    /// The revision at which servers report these pairs.
    pub revision: Revision,
    in_etcd: EtcdRevision,
}

impl LivePairs {
    /// The pairs that are copied: pairs without a lease, because the expiry of a lease deletes its pairs.
    pub fn without_lease(&self) -> impl Iterator<Item = &KeyValue> {
        let pairs = self.live.values().map(Arc::as_ref);
        pairs.filter(|pair| pair.lease.is_none())
    }
}

/// One side of a copy.
pub struct EtcdCopy {
    connections: Connections,
    keys: Keys,
    batch: Vec<RequestOp>,
    batch_bytes: usize,
}

/// A copy into etcd that has started.
pub struct StartedCopy(EtcdRevision);

impl EtcdCopy {
    /// Connects with a member.
    ///
    /// *Errors.* As of a store.
    pub fn connect(options: &EtcdOptions) -> BoxFuture<'_, Result<Self, ConnectError>> {
        async move {
            let connections = Connections::from_options(options).await?;
            connections.current().await.map_err(unusable)?;
            Ok(Self {
                connections,
                keys: Keys::new(&options.prefix, ""),
                batch: Vec::new(),
                batch_bytes: 0,
            })
        }
        .boxed()
    }

    /// Finds out which data is below the prefix.
    ///
    /// *Errors.* `Etcd`.
    pub async fn contents(&self) -> Result<PrefixContents, CopyError> {
        Ok(match origin::read(&self.connections, &self.keys).await?.1 {
            Some(OriginRecord::Copying { instance }) => PrefixContents::Incomplete { instance },
            Some(OriginRecord::Moved { to, .. }) => PrefixContents::Moved { to },
            Some(OriginRecord::Complete { .. }) | None => match self.count().await? {
                0 => PrefixContents::Nothing,
                keys => PrefixContents::Data { keys },
            },
        })
    }

    async fn count(&self) -> Result<u64, RpcError> {
        let (start, end) = self.keys.all();
        let request = RangeRequest {
            count_only: true,
            ..messages::range(start, end)
        };
        let range = self.connections.read(kv::RANGE, &request).await?;
        Ok(range.count.cast_unsigned())
    }

    /// Begins a copy of an instance, into an empty store or over an interrupted copy, whose pairs are deleted.
    ///
    /// *Errors.* `Etcd`; `Written` if the store has other data.
    pub async fn begin(&self, instance: &str) -> Result<StartedCopy, CopyError> {
        let (observed, existing) = origin::read(&self.connections, &self.keys).await?;
        let guard = match existing {
            None => vec![Condition::AllBefore(self.keys.all().0, EtcdRevision(1))],
            Some(OriginRecord::Copying { .. }) => Vec::new(),
            Some(_) => return Err(CopyError::Written),
        };
        let record = OriginRecord::Copying {
            instance: instance.to_owned(),
        };
        let deleted = RequestOp::DeleteAll(self.keys.all_data().0);
        self.note(observed, &record, guard, Some(deleted))
            .await
            .map(StartedCopy)
    }

    /// Adds a pair with its revisions. Leases are not copied.
    ///
    /// *Errors.* `Etcd`; `Written` if another copy has started.
    pub async fn put(&mut self, begun: &StartedCopy, pair: &KeyValue) -> Result<(), CopyError> {
        let bytes = pair.key.len() + pair.value.len();
        if self.batch.len() >= BATCH_KEYS || self.batch_bytes + bytes > BATCH_BYTES {
            self.flush(begun).await?;
        }
        self.batch_bytes += bytes;
        self.batch.push(RequestOp::Put {
            key: self.keys.data(&pair.key),
            value: value::store_copied(pair),
            lease: None,
        });
        Ok(())
    }

    async fn flush(&mut self, begun: &StartedCopy) -> Result<(), CopyError> {
        self.batch_bytes = 0;
        let request = TxnRequest {
            conditions: vec![Condition::ModRevision(self.keys.origin.clone(), begun.0)],
            success: std::mem::take(&mut self.batch),
            failure: Vec::new(),
        };
        match request.success.is_empty() || self.txn(request).await?.succeeded {
            true => Ok(()),
            false => Err(CopyError::Written),
        }
    }

    /// Writes the last pairs, then reads all pairs of the copy.
    ///
    /// *Errors.* As of [`put`](Self::put).
    pub async fn finish(&mut self, begun: &StartedCopy) -> Result<LiveKeys, CopyError> {
        self.flush(begun).await?;
        let origin = Origin {
            record: begun.0,
            offset: 0,
        };
        Ok(mirror::load(&self.connections, &self.keys, origin).await?.0)
    }

    /// Completes the copy, so that servers can use the data: their revisions begin above `revision`.
    ///
    /// *Errors.* As of [`put`](Self::put).
    pub async fn complete(&self, begun: StartedCopy, revision: Revision) -> Result<(), CopyError> {
        let record = OriginRecord::Complete { offset: revision.0 };
        self.note(begun.0, &record, Vec::new(), None)
            .await
            .map(drop)
    }

    /// All pairs, also of data that was copied elsewhere.
    ///
    /// *Errors.* `Etcd`, also for an incomplete copy.
    pub async fn pairs(&self) -> Result<LivePairs, CopyError> {
        let (record, existing) = origin::read(&self.connections, &self.keys).await?;
        let offset = match existing {
            None => 0,
            Some(OriginRecord::Complete { offset } | OriginRecord::Moved { offset, .. }) => offset,
            Some(OriginRecord::Copying { .. }) => return Err(ConnectError::Incomplete.into()),
        };
        let origin = Origin { record, offset };
        let (live, revision) = mirror::load(&self.connections, &self.keys, origin).await?;
        Ok(LivePairs {
            live,
            revision,
            in_etcd: origin.in_etcd(revision),
        })
    }

    /// Whether no server has written since the pairs were read.
    ///
    /// *Errors.* `Etcd`.
    pub async fn is_unchanged(&self, pairs: &LivePairs) -> Result<bool, CopyError> {
        Ok(self
            .pairs()
            .await?
            .without_lease()
            .eq(pairs.without_lease()))
    }

    /// Records that another store continues with the data: no server can use the data in this etcd any more.
    ///
    /// *Errors.* `Etcd`; `Written` if the copy lacks a pair.
    pub async fn leave(&self, pairs: &LivePairs, to: &str) -> Result<(), CopyError> {
        let (observed, existing) = origin::read(&self.connections, &self.keys).await?;
        let offset = match existing {
            None => 0,
            Some(OriginRecord::Complete { offset }) => offset,
            Some(OriginRecord::Moved { to: noted, .. }) if noted == to => return Ok(()),
            Some(_) => return Err(CopyError::Written),
        };
        let to = to.to_owned();
        let record = OriginRecord::Moved { offset, to };
        let next = EtcdRevision(pairs.in_etcd.0 + 1);
        let prefixes = [self.keys.all_data().0, self.keys.marks.clone()];
        let guard = prefixes.map(|prefix| Condition::AllBefore(prefix, next));
        let moved = self.note(observed, &record, guard.into(), None).await?;
        // From this point on, no server writes. The condition may have missed a deletion, because not every deletion
        // writes a mark.
        if self.is_unchanged(pairs).await? {
            return Ok(());
        }
        let record = OriginRecord::Complete { offset };
        self.note(moved, &record, Vec::new(), None).await?;
        Err(CopyError::Written)
    }

    /// Replaces the record that was observed, if the further conditions hold.
    async fn note(
        &self,
        observed: EtcdRevision,
        record: &OriginRecord,
        guard: Vec<Condition>,
        also: Option<RequestOp>,
    ) -> Result<EtcdRevision, CopyError> {
        let key = self.keys.origin.clone();
        let unchanged = Condition::ModRevision(key.clone(), observed);
        let put = RequestOp::Put {
            key,
            value: record.write(),
            lease: None,
        };
        let request = TxnRequest {
            conditions: guard.into_iter().chain([unchanged]).collect(),
            success: also.into_iter().chain([put]).collect(),
            failure: Vec::new(),
        };
        let response = self.txn(request).await?;
        if response.succeeded {
            return Ok(response.revision);
        }
        // An attempt without a response may have been executed.
        match origin::read(&self.connections, &self.keys).await? {
            (now, Some(existing)) if now > observed && existing == *record => Ok(now),
            _ => Err(CopyError::Written),
        }
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, CopyError> {
        let request = request.into();
        let deadline = Instant::now() + LIMIT;
        let call = self.connections.call(kv::TXN, &request, ATTEMPT, deadline);
        let response = call.await.map_err(|error| {
            let refused = crate::txn::refusal(&error, None);
            CopyError::Etcd(ConnectError::Store(refused))
        })?;
        Ok(response.into())
    }
}
