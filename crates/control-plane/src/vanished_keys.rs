//! The check that a cluster still has its certificate authority and its token key, which are created once,
//! with the cluster.

use std::path::Path;

use anyhow::{Context, Result, bail};
use certificates::SharedKeys;
use command_output::output::warn;
use data_directory::store_record;
use host_kernel::block_in_place;
use mvcc_store::{Range, Store};

use crate::shared_keys;

/// The file with which an administrator allows new keys for a cluster whose keys are lost.
const ACCEPTED: &str = "accept-new-keys";

/// Refuses a start that would create new keys for an existing cluster.
///
/// # Errors
/// The store has objects, but keys are missing in the directory and, if the store is shared, in the store;
/// errors of store and disk.
pub async fn refuse(store: &dyn Store, shared: bool, certificates: &Path) -> Result<()> {
    let missing = block_in_place(|| SharedKeys::missing(certificates));
    let missing = missing.context("read the keys of the cluster")?;
    if missing.is_empty() {
        return Ok(());
    }
    if shared {
        // Servers of a shared store read the keys from the store.
        let stored = store_record::read(store, shared_keys::KEY).await;
        if stored.context("read the cluster's keys")?.is_some() {
            return Ok(());
        }
    }
    let objects = Range {
        start: b"/registry/".to_vec(),
        end: Some(b"/registry0".to_vec()),
        limit: Some(1),
        ..Range::default()
    };
    let first = store.range(objects).await;
    if first
        .context("look for objects in the store")?
        .items
        .is_empty()
    {
        return Ok(());
    }
    let (directory, missing) = (certificates.display(), missing.join(", "));
    if accepted(certificates)? {
        warn(&format!(
            "mainstay: new keys are made in {directory}: every kubeconfig, node and token of the cluster needs \
             to be replaced"
        ));
        return Ok(());
    }
    cov_mark::hit!(findings_2_r31);
    bail!(
        "the store has a cluster, and its keys are missing: {directory} has no {missing}. Is a disk not mounted? \
         Put the directory back, or take certificates/ out of a backup (`mainstay restore` into another \
         directory). If the keys are lost, `mkdir -p {directory} && touch {directory}/{ACCEPTED}` lets the next start \
         make new ones; every kubeconfig, every node's membership and every token is then invalid. Nothing \
         was changed"
    )
}

/// Whether an administrator allows new keys; removes the file, so that it applies once.
fn accepted(certificates: &Path) -> Result<bool> {
    let path = certificates.join(ACCEPTED);
    match block_in_place(|| std::fs::remove_file(&path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use certificates::Authority;
    use mvcc_store::embedded::EmbeddedStore;

    use super::*;

    async fn put(store: &dyn Store, key: &[u8]) {
        let value = Bytes::from_static(b"x");
        store_record::read_or_write(store, key, &value)
            .await
            .unwrap();
    }

    // findings-2 R31
    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_gets_no_new_keys_in_silence() {
        cov_mark::check!(findings_2_r31);
        let directory = tempfile::tempdir().unwrap();
        let certificates = directory.path().join("certificates");
        let store = EmbeddedStore::in_memory();
        let checked = || refuse(store.as_ref(), true, &certificates);
        // The first start, and a start after an interrupted start that created no objects.
        checked().await.unwrap();
        put(store.as_ref(), b"/mainstay/instance").await;
        checked().await.unwrap();
        Authority::open_or_create(&certificates)
            .unwrap()
            .token_signer()
            .unwrap();
        put(store.as_ref(), b"/registry/namespaces/default").await;
        checked().await.unwrap();
        for lost in ["ca.key", "ca.crt", "service-accounts.key"] {
            let (path, aside) = (certificates.join(lost), directory.path().join(lost));
            std::fs::rename(&path, &aside).unwrap();
            let error = checked().await.unwrap_err().to_string();
            assert!(error.contains(&format!("has no {lost}. ")), "{error}");
            std::fs::rename(&aside, &path).unwrap();
        }
        std::fs::remove_dir_all(&certificates).unwrap();
        let error = checked().await.unwrap_err().to_string();
        assert!(
            error.contains("ca.crt, ca.key, service-accounts.key"),
            "{error}"
        );
        assert!(!certificates.exists());
        // An administrator confirms the loss for one start.
        std::fs::create_dir(&certificates).unwrap();
        std::fs::write(certificates.join(ACCEPTED), "").unwrap();
        checked().await.unwrap();
        assert!(checked().await.is_err());
        // The keys of servers with a shared store are in the store.
        put(store.as_ref(), shared_keys::KEY).await;
        checked().await.unwrap();
        assert!(refuse(store.as_ref(), false, &certificates).await.is_err());
    }
}
