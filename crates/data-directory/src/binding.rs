//! The record of the instance in the store.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use command_output::output::warn;
use mvcc_store::{Store, StoreError};

use super::{Claim, Engine};
use crate::store_record;

/// The key of the record. It is outside of `/registry/`, which contains the objects.
pub const KEY: &[u8] = b"/mainstay/instance";

/// Checks that the store belongs to the instance of the marker; records the instance if the store contains no record.
/// A lost marker is restored from the record, and a new server of an etcd gets the instance of the record.
///
/// # Errors
/// The store belongs to another instance, an etcd has lost the record, or the store cannot be read or written. On a
/// full disk the record is written at a later start.
pub async fn bind(store: &dyn Store, claim: &mut Claim) -> Result<()> {
    let instance = claim.marker.instance.clone();
    let is_in_etcd = claim.marker.engine == Engine::Etcd;
    if is_in_etcd && claim.marker.cluster {
        let record = store_record::read(store, KEY).await;
        if record.context("read the store's instance")?.is_none() {
            bail!(
                "etcd has no objects of the cluster {instance} of this data directory: is it another etcd, \
                 or another --etcd-prefix? Restore the etcd, or begin a new cluster with an empty \
                 --data-dir"
            );
        }
    }
    let noted = match store_record::read_or_write(store, KEY, &Bytes::from(instance.clone())).await
    {
        Ok(noted) => String::from_utf8_lossy(&noted).into_owned(),
        Err(StoreError::Full(reason)) => {
            warn(&format!("mainstay: the store is not marked yet: {reason}"));
            return Ok(());
        }
        Err(error) => return Err(error).context("record the store's instance"),
    };
    if noted == instance {
        return Ok(());
    }
    if claim.is_new {
        claim.marker.instance = noted;
        return Ok(());
    }
    match is_in_etcd {
        true => bail!(
            "etcd has the cluster {noted}, the data directory belongs to {instance}: choose another \
             --data-dir, or name the etcd (or the --etcd-prefix) of {instance}"
        ),
        false => bail!(
            "the store belongs to instance {noted}, the directory to instance {instance}: is the wrong \
             disk mounted?"
        ),
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
            (Role::Up, Engine::Embedded),
            Path::new("/nonexistent"),
        );
        (directory, claim.unwrap())
    }

    /// Findings R5: a directory with the store of another instance is refused.
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
    /// An etcd that has lost the cluster, or contains another cluster, causes an error.
    #[tokio::test]
    async fn an_etcd_has_the_cluster_of_its_servers() {
        let store = EmbeddedStore::in_memory();
        let (_one, mut first) = claimed();
        first.marker.engine = Engine::Etcd;
        bind(store.as_ref(), &mut first).await.unwrap();
        let (_two, mut second) = claimed();
        second.marker.engine = Engine::Etcd;
        bind(store.as_ref(), &mut second).await.unwrap();
        assert_eq!(second.marker.instance, first.marker.instance);
        for claim in [&mut first, &mut second] {
            (claim.is_new, claim.marker.cluster) = (false, true);
            bind(store.as_ref(), claim).await.unwrap();
        }
        let empty = EmbeddedStore::in_memory();
        let lost = bind(empty.as_ref(), &mut first).await.unwrap_err();
        assert!(lost.to_string().contains("has no objects"), "{lost}");
        let (_other, mut foreign) = claimed();
        bind(empty.as_ref(), &mut foreign).await.unwrap();
        let foreign = bind(empty.as_ref(), &mut second).await.unwrap_err();
        assert!(foreign.to_string().contains("--etcd-prefix"), "{foreign}");
    }
}
