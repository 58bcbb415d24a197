//! The store of a data directory.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use mvcc_store::StoreError;
use mvcc_store::embedded::{EmbeddedOptions, EmbeddedStore};

use crate::process;

/// Opens the store, which keeps at most `quota` bytes; the error says when another process has it, or
/// when it is damaged.
pub async fn open(data: &Path, quota: Option<u64>) -> Result<Arc<EmbeddedStore>> {
    let mut options = EmbeddedOptions::new(data.join("store"));
    if let Some(quota) = quota {
        options.limits.live_bytes_max = quota;
    }
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(options))
        .await
        .context("open the store")?;
    opened.map_err(|error| {
        if let (StoreError::InUse(_), Some(server)) = (&error, process::serving(data)) {
            return anyhow!(process::runs_already(data, server));
        }
        let next = match &error {
            StoreError::InUse(_) => "; stop that one, or choose another --data-dir",
            StoreError::NewerFormat { .. } => "; start a newer mainstay on it",
            StoreError::Damaged(_) => "; put a backup in its place, or choose another --data-dir",
            _ => "",
        };
        anyhow!("open the store in {}: {error}{next}", data.display())
    })
}
