//! The node's Lease on this machine: the deadline page, which shims read, and the file of the epoch.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use container_runtime::{Runtime, Sandbox};
use host_kernel::deadline::{self, DeadlineFile};
use host_kernel::durable_file::{self, Durability};
use host_kernel::{block_in_place, tree};
use jiff::Timestamp;
use kube_api_client::Client;
use node_lease::{LeaseKeeper, LeaseLength, LeasedMachine};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use crate::paths::{DEADLINE_PAGE, deadline_page, lease_dir};

/// The reason why the Lease was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API server rejected the renewal, or cannot be reached.
    #[error(transparent)]
    Api(#[from] kube_api_client::Error),
    /// The API server did not respond within this time.
    #[error("no answer within {:.0}s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The pods of an earlier epoch could not be stopped.
    #[error("end the pods of an earlier epoch")]
    Pods(#[source] container_runtime::RuntimeError),
    /// The deadline could not be written. Pods that stop with the Lease stop at the previous deadline.
    #[error("write the deadline of the pods")]
    Deadline(#[source] io::Error),
    /// The epoch could not be stored.
    #[error("store the lease's epoch")]
    Epoch(#[source] io::Error),
}

/// The files of a node's Lease.
pub struct LeaseFiles {
    dir: PathBuf,
    page: PathBuf,
}

impl LeaseFiles {
    /// The Lease files of a data directory, for one boot of the machine.
    pub fn new(data_dir: &Path, boot_id: &str) -> Self {
        Self {
            dir: lease_dir(data_dir),
            page: deadline_page(data_dir, boot_id),
        }
    }
}

/// Renews the Lease of this agent's node.
pub struct NodeLease {
    keeper: LeaseKeeper<Machine>,
    renewal_timeout: Duration,
}

impl NodeLease {
    /// Opens the deadline page of this boot. The agent holds a read lock of `gate` while it creates a
    /// sandbox that stops with the Lease, so that no pod of an earlier epoch gets a sandbox in a new epoch.
    ///
    /// # Errors
    /// Fails if the files in the data directory cannot be used.
    pub fn open(
        client: Client,
        node: String,
        length: LeaseLength,
        runtime: Runtime,
        files: LeaseFiles,
        gate: Arc<RwLock<()>>,
    ) -> io::Result<Self> {
        tree::make_private(&files.dir)?;
        remove_other_pages(&files.dir, &files.page)?;
        let epoch_file = files.dir.join("epoch");
        let machine = Machine {
            runtime,
            page: DeadlineFile::open(&files.page)?,
            epoch: read_epoch(&epoch_file)?,
            epoch_file,
            gate,
        };
        Ok(Self {
            keeper: LeaseKeeper::new(client, node, length, machine),
            renewal_timeout: length.renewal_timeout(),
        })
    }

    /// Renews the Lease, or creates it. `uid` is the UID of the Node object.
    pub async fn renew(&mut self, uid: Option<&str>, now: Timestamp) -> Result<(), LeaseError> {
        let (limit, renewal) = (self.renewal_timeout, self.keeper.renew(uid, now));
        let renewed = tokio::time::timeout(limit, renewal).await;
        renewed.unwrap_or(Err(LeaseError::Timeout(limit)))
    }
}

/// This machine, whose shims read the deadline page.
struct Machine {
    runtime: Runtime,
    page: DeadlineFile,
    epoch: i32,
    epoch_file: PathBuf,
    gate: Arc<RwLock<()>>,
}

impl LeasedMachine for Machine {
    type Instant = Duration;
    type Closed = OwnedRwLockWriteGuard<()>;
    type Error = LeaseError;

    fn now(&self) -> Duration {
        deadline::now()
    }

    fn epoch(&self) -> i32 {
        self.epoch
    }

    async fn close(&self) -> Self::Closed {
        self.gate.clone().write_owned().await
    }

    async fn end_pods(&mut self) -> Result<(), LeaseError> {
        self.set_deadline(Duration::ZERO)?;
        for sandbox in self.runtime.sandboxes().await.map_err(LeaseError::Pods)? {
            if sandbox.spec().lease.is_some() {
                sandbox.destroy().await.map_err(LeaseError::Pods)?;
            }
        }
        Ok(())
    }

    fn store_epoch(&mut self, epoch: i32) -> Result<(), LeaseError> {
        let (file, text) = (&self.epoch_file, epoch.to_string());
        let stored = block_in_place(|| {
            durable_file::replace(file, text.as_bytes(), 0o644, Durability::Name)
        });
        stored.map_err(LeaseError::Epoch)?;
        self.epoch = epoch;
        Ok(())
    }

    fn set_deadline(&mut self, deadline: Duration) -> Result<(), LeaseError> {
        block_in_place(|| self.page.set(deadline)).map_err(LeaseError::Deadline)
    }
}

/// The duration of the Lease for a node with these sandboxes: the configured duration, or a longer one
/// while pods run that were started with the longer duration, because their shims still use it.
pub fn length_with(configured: LeaseLength, sandboxes: &[Sandbox]) -> LeaseLength {
    let leases = sandboxes
        .iter()
        .filter_map(|sandbox| sandbox.spec().lease.as_ref());
    configured.covering(leases.map(|lease| Duration::from_millis(lease.warning_ms)))
}

/// The stored epoch; the first epoch if there is no file. A malformed file is treated as no known epoch, so
/// that the agent begins a new epoch.
fn read_epoch(file: &Path) -> io::Result<i32> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().parse().unwrap_or(-1)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Removes the pages of earlier boots, because their clock readings are invalid.
fn remove_other_pages(dir: &Path, page: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if path != page && name.is_some_and(|name| name.starts_with(DEADLINE_PAGE)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_and_the_page_of_this_boot_are_kept() {
        let temp = tempfile::tempdir().unwrap();
        let dir = lease_dir(temp.path());
        tree::make_private(&dir).unwrap();
        let file = dir.join("epoch");
        assert_eq!(read_epoch(&file).unwrap(), 0);
        for (text, expected) in [("3", 3), ("", -1), ("x", -1)] {
            fs::write(&file, text).unwrap();
            assert_eq!(read_epoch(&file).unwrap(), expected);
        }
        let (old, new) = (
            deadline_page(temp.path(), "a"),
            deadline_page(temp.path(), "b"),
        );
        fs::write(&old, "").unwrap();
        fs::write(&new, "").unwrap();
        remove_other_pages(&dir, &new).unwrap();
        assert!(!old.exists() && new.exists() && file.exists());
    }
}
