//! The volumes that drivers have staged, or may have.
//!
//! The record of a stage is written before the call. If the driver refuses the call for good, there is nothing to unstage, as
//! for kubelet, and the record goes; not if the volume was staged before.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use csi::{CsiError, Finality};

/// Unique names of volumes with a call that has succeeded. Those of a former agent count: its calls are not known.
pub(super) struct KnownStages(Mutex<BTreeSet<String>>);

impl KnownStages {
    /// With the volumes of a former agent.
    pub fn new(found: impl IntoIterator<Item = String>) -> Self {
        Self(Mutex::new(found.into_iter().collect()))
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the end of a call; whether its record must go, because the volume is certainly not staged.
    pub fn ended(&self, volume: &str, result: &Result<(), CsiError>) -> bool {
        match result {
            Ok(()) => {
                self.names().insert(volume.to_owned());
                false
            }
            Err(error) => error.finality() == Finality::Final && !self.names().contains(volume),
        }
    }

    /// The volume is unstaged.
    pub fn forget(&self, volume: &str) {
        self.names().remove(volume);
    }
}
