//! The address ranges of a node's pods, stored in the data directory.

use std::path::Path;

use command_output::failed_step::StepContext;
use data_directory::left_pods;

use crate::error::{MembershipError, Result};
use crate::joining::Registered;
use crate::membership::{Membership, MembershipStore};

/// Stores the ranges of the node and of the cluster. A changed range is accepted while the node has no pods.
///
/// # Errors
/// Pods with addresses of another range run, or the error of the disk.
pub fn store_ranges(
    store: &MembershipStore,
    membership: &mut Membership,
    registered: Registered,
    data_dir: &Path,
) -> Result<()> {
    if membership.registered() == Some(registered) {
        return Ok(());
    }
    if let Some(before) = membership
        .pod_cidr
        .filter(|before| *before != registered.pods)
    {
        if !left_pods::pods(data_dir).is_empty() {
            return Err(MembershipError::PodsOfOtherRange {
                assigned: registered.pods,
                used: before,
                data: data_dir.to_owned(),
            });
        }
        forget_network(data_dir)?;
    }
    membership.set_registered(registered);
    store.write(membership)
}

/// Removes the record of pods' addresses.
///
/// # Errors
/// The error of the disk.
pub fn forget_network(data_dir: &Path) -> Result<()> {
    let network = data_dir.join("network");
    match std::fs::remove_dir_all(&network) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        result => result.with_context(|| format!("remove {}", network.display()))?,
    }
    Ok(())
}
