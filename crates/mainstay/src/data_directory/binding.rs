//! The store's record of its instance.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use mvcc_store::{Compare, Operation, Range, Store, StoreError, Txn, Value};

use super::Claim;
use crate::output::warn;

/// The key of the record: beside the objects, which are below `/registry/`.
const KEY: &[u8] = b"/mainstay/instance";

/// Checks that the store belongs to the marked instance, and records the instance if the store has
/// none. A lost marker is restored from the record.
///
/// # Errors
/// The store belongs to another instance, or cannot be read or written. On a full disk the record
/// is written at a later start.
pub async fn bind(store: &dyn Store, claim: &mut Claim) -> Result<()> {
    let range = Range {
        start: KEY.to_vec(),
        ..Range::default()
    };
    let found = store
        .range(range)
        .await
        .context("read the store's instance")?;
    if let Some(noted) = found.items.first() {
        let noted = String::from_utf8_lossy(&noted.value).into_owned();
        return match noted == claim.marker.instance {
            true => Ok(()),
            false if claim.is_new => {
                claim.marker.instance = noted;
                Ok(())
            }
            false => bail!(
                "the store belongs to instance {noted}, the directory to instance {}: is \
                 the wrong disk mounted?",
                claim.marker.instance
            ),
        };
    }
    let note = Txn {
        compare: vec![Compare::Absent(KEY.to_vec())],
        operations: vec![Operation::Put {
            key: KEY.to_vec(),
            value: Value::Plain(Bytes::from(claim.marker.instance.clone())),
            lease: None,
        }],
    };
    match store.txn(note).await {
        Ok(_) => Ok(()),
        Err(StoreError::Full(why)) => {
            warn(&format!("mainstay: the store is not marked yet: {why}"));
            Ok(())
        }
        Err(error) => Err(error).context("record the store's instance"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mvcc_store::embedded::EmbeddedStore;

    use super::super::Role;
    use super::*;

    fn claimed() -> (tempfile::TempDir, Claim) {
        let directory = tempfile::tempdir().unwrap();
        let claim = super::super::claim(
            directory.path(),
            "host",
            Role::Up,
            Path::new("/nonexistent"),
        );
        (directory, claim.unwrap())
    }

    /// Findings R5: the store of another disk is not used for this directory.
    #[tokio::test]
    async fn a_store_belongs_to_one_instance() {
        let store = EmbeddedStore::in_memory();
        let (_one, mut first) = claimed();
        bind(store.as_ref(), &mut first).await.unwrap();
        first.is_new = false;
        bind(store.as_ref(), &mut first).await.unwrap();
        let (_two, mut second) = claimed();
        second.is_new = false;
        let error = bind(store.as_ref(), &mut second).await.unwrap_err();
        assert!(error.to_string().contains("wrong disk"), "{error}");
        second.is_new = true;
        bind(store.as_ref(), &mut second).await.unwrap();
        assert_eq!(second.marker.instance, first.marker.instance);
    }
}
