//! Encryption at rest: a store over another store. Writes encrypt the chosen resources, and reads decrypt them.
//!
//! The encrypted text of an object does not contain its resource version, because the revision is unknown before the
//! write; the version is inserted at decryption. Other values are not changed.

mod cipher;
mod config;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use mvcc_store::{
    Compare, Event, EventKind, KeyValue, Operation, OperationResult, Range, RangeResult, Revision,
    Store, StoreError, StoreLayer, Txn, TxnResult, Value, WatchEvents, WatchStream,
};

use crate::catalog::registry::end_of;
use crate::objects::storage::with_revision;
use cipher::{Key, SEALED};

pub use config::{ConfigError, EncryptionConfig};

/// The error of opening a store with encryption.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("read what is stored")]
    Store(#[source] StoreError),
    /// A value is encrypted with a key that is missing or different.
    #[error("{place} cannot be opened: {why}")]
    Sealed {
        /// The storage key, which contains the name of the object.
        place: String,
        why: String,
    },
}

/// Adds encryption to a store, if it is configured. All stored objects are decrypted as a check. Objects that are not
/// in the configured form (encrypted with the first key, or plain) are rewritten.
///
/// *Errors.* Encrypted objects that no key decrypts, or encrypted objects without a configuration.
pub async fn over(
    store: Arc<dyn Store>,
    config: Option<EncryptionConfig>,
) -> Result<Arc<dyn Store>, EncryptionError> {
    let Some(config) = config else {
        check(store.as_ref(), &Keyring::default()).await?;
        return Ok(store);
    };
    let ring = Arc::new(Keyring {
        entries: config.entries,
    });
    let stale = check(store.as_ref(), &ring).await?;
    let sealed = Encrypted { inner: store, ring };
    for item in stale {
        sealed.renew(item).await.map_err(EncryptionError::Store)?;
    }
    Ok(Arc::new(sealed))
}

/// Decrypts all encrypted values; returns the values that are not in the configured form.
async fn check(store: &dyn Store, ring: &Keyring) -> Result<Vec<KeyValue>, EncryptionError> {
    let start = b"/registry/".to_vec();
    let end = Some(end_of(&start));
    let range = Range {
        start,
        end,
        ..Range::default()
    };
    let listed = store.range(range).await.map_err(EncryptionError::Store)?;
    let mut stale = Vec::new();
    for item in listed.items {
        let fresh = ring.is_fresh(&item);
        let storage_key = String::from_utf8_lossy(&item.key).into_owned();
        let item = ring.open(item).map_err(|why| EncryptionError::Sealed {
            place: storage_key,
            why,
        })?;
        if !fresh {
            stale.push(item);
        }
    }
    Ok(stale)
}

/// All keys, with the resources that they encrypt.
#[derive(Debug, Default)]
struct Keyring {
    entries: Vec<config::ResourceProviders>,
}

impl Keyring {
    /// The key for new values of a storage key; `None` for plain text.
    fn writer(&self, storage_key: &[u8]) -> Option<&Key> {
        let entry = self.entries.iter().find(|entry| {
            let mut prefixes = entry.prefixes.iter();
            prefixes.any(|prefix| storage_key.starts_with(prefix))
        });
        entry?.providers.first()?.as_ref()
    }

    fn is_fresh(&self, item: &KeyValue) -> bool {
        match self.writer(&item.key) {
            Some(key) => key.is_named_by(&item.value),
            None => !item.value.starts_with(SEALED),
        }
    }

    fn seal(&self, operation: Operation) -> Result<Operation, StoreError> {
        let Operation::Put { key, value, lease } = operation else {
            return Ok(operation);
        };
        let Some(writer) = self.writer(&key) else {
            return Ok(Operation::Put { key, value, lease });
        };
        let text = match value {
            Value::Plain(bytes) => bytes,
            Value::Stamped { before, after, .. } => [before, after].concat().into(),
        };
        let sealed = writer
            .seal(&key, &text)
            .ok_or_else(|| StoreError::Io("the system has no random numbers".to_owned()))?;
        let value = Value::Plain(sealed.into());
        Ok(Operation::Put { key, value, lease })
    }

    fn open(&self, item: KeyValue) -> Result<KeyValue, String> {
        if !item.value.starts_with(SEALED) {
            return Ok(item);
        }
        let keys = || {
            let providers = self.entries.iter().flat_map(|entry| &entry.providers);
            providers.flatten()
        };
        let opened = keys().find_map(|key| key.open(&item.key, &item.value));
        let Some(text) = opened else {
            let name = name_of(&item.value);
            return Err(if keys().any(|key| key.is_named_by(&item.value)) {
                format!("the configured key {name:?} is not the one it was encrypted with")
            } else {
                format!("it is encrypted with the key {name:?}, which is not configured")
            });
        };
        let value = with_revision(&Bytes::from(text), item.mod_revision);
        Ok(KeyValue { value, ..item })
    }

    fn opened(&self, item: KeyValue) -> Result<KeyValue, StoreError> {
        if !item.value.starts_with(SEALED) {
            return Ok(item);
        }
        let storage_key = String::from_utf8_lossy(&item.key).into_owned();
        self.open(item)
            .map_err(|why| StoreError::Damaged(format!("{storage_key} cannot be opened: {why}")))
    }

    fn opened_event(&self, mut event: Event) -> Result<Event, StoreError> {
        if let EventKind::Put(item) = event.kind {
            event.kind = EventKind::Put(self.opened(item)?);
        }
        event.previous = event.previous.map(|item| self.opened(item)).transpose()?;
        Ok(event)
    }

    fn opened_result(&self, result: OperationResult) -> Result<OperationResult, StoreError> {
        Ok(match result {
            OperationResult::Put(item) => OperationResult::Put(self.opened(item)?),
            OperationResult::Delete(item) => {
                OperationResult::Delete(item.map(|item| self.opened(item)).transpose()?)
            }
        })
    }
}

/// The key name in the prefix of an encrypted value.
fn name_of(sealed: &[u8]) -> String {
    let mut parts = sealed.splitn(6, |byte| *byte == b':').skip(4);
    String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned()
}

/// A store that encrypts and decrypts.
struct Encrypted {
    inner: Arc<dyn Store>,
    ring: Arc<Keyring>,
}

impl Encrypted {
    /// Rewrites an item, unless it has changed in the meantime.
    async fn renew(&self, item: KeyValue) -> Result<(), StoreError> {
        let key = item.key.to_vec();
        let emptied = crate::objects::storage::without_revision(&item.value);
        let txn = Txn {
            compare: vec![Compare::ModRevision(key.clone(), item.mod_revision)],
            operations: vec![Operation::Put {
                key,
                value: emptied,
                lease: item.lease,
            }],
        };
        Store::txn(self, txn).await.map(|_| ())
    }
}

impl StoreLayer for Encrypted {
    fn inner(&self) -> &dyn Store {
        self.inner.as_ref()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        async move {
            let operations = txn.operations.into_iter().map(|op| self.ring.seal(op));
            let txn = Txn {
                compare: txn.compare,
                operations: operations.collect::<Result<_, _>>()?,
            };
            Ok(match self.inner.txn(txn).await? {
                TxnResult::Committed { revision, results } => {
                    let results = results.into_iter().map(|one| self.ring.opened_result(one));
                    TxnResult::Committed {
                        revision,
                        results: results.collect::<Result<_, _>>()?,
                    }
                }
                TxnResult::Refused { revision, present } => {
                    let present = present
                        .into_iter()
                        .map(|item| item.map(|item| self.ring.opened(item)).transpose());
                    TxnResult::Refused {
                        revision,
                        present: present.collect::<Result<_, _>>()?,
                    }
                }
            })
        }
        .boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        async move {
            let mut listed = self.inner.range(range).await?;
            let items = listed.items.into_iter().map(|item| self.ring.opened(item));
            listed.items = items.collect::<Result<_, _>>()?;
            Ok(listed)
        }
        .boxed()
    }

    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError> {
        let ring = self.ring.clone();
        let events = self.inner.watch(prefix, from)?;
        let opened = events.map(move |batch| match batch? {
            WatchEvents::Events(events) => {
                let events = events.into_iter().map(|event| ring.opened_event(event));
                events.collect::<Result<_, _>>().map(WatchEvents::Events)
            }
            progress => Ok(progress),
        });
        Ok(opened.boxed())
    }
}
