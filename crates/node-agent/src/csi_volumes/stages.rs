//! The volumes that are staged or may be staged.
//!
//! The record of a stage is written before the call. If the driver rejects the call with a final error,
//! nothing is staged, as for kubelet, and the record is deleted. The record stays if the volume was staged
//! before.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use csi_client::{CsiError, Finality};

/// Unique names of volumes with a successful stage call. Volumes of a former agent are in the set, because
/// the results of its calls are unknown.
pub(super) struct RecordedStages(Mutex<BTreeSet<String>>);

impl RecordedStages {
    /// Starts with the volumes of a former agent.
    pub fn new(staged: impl IntoIterator<Item = String>) -> Self {
        Self(Mutex::new(staged.into_iter().collect()))
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the result of a call. Returns whether the record must be deleted, because the volume is
    /// certainly not staged.
    pub fn record_result(&self, volume: &str, result: &Result<(), CsiError>) -> bool {
        match result {
            Ok(()) => {
                self.names().insert(volume.to_owned());
                false
            }
            Err(error) => error.finality() == Finality::Final && !self.names().contains(volume),
        }
    }

    /// Removes a volume that is unstaged.
    pub fn forget(&self, volume: &str) {
        self.names().remove(volume);
    }
}
