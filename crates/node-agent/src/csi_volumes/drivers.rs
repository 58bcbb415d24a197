//! The registered drivers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use csi::{Driver, NodeCapabilities};

/// A registered driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The driver.
    pub driver: Driver,
    /// Its optional calls.
    pub can: NodeCapabilities,
    /// The socket by which it registered.
    pub by: PathBuf,
}

/// The registered drivers, by name.
#[derive(Debug, Default)]
pub struct Drivers(Mutex<BTreeMap<String, Registered>>);

impl Drivers {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Registered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A driver.
    ///
    /// # Errors
    /// It is not registered; in the words that users know.
    pub fn get(&self, name: &str) -> Result<Registered, String> {
        let found = self.all().get(name).cloned();
        found.ok_or_else(|| {
            format!("driver name {name} not found in the list of registered CSI drivers")
        })
    }

    /// Adds a driver, in the place of one of its name.
    pub fn add(&self, registered: Registered) {
        let name = registered.driver.name.clone();
        self.all().insert(name, registered);
    }

    /// Removes the driver that registered by the socket, and returns its name.
    pub fn remove(&self, by: &PathBuf) -> Option<String> {
        let mut all = self.all();
        let found = all.iter().find(|(_, registered)| registered.by == *by);
        let name = found.map(|(name, _)| name.clone())?;
        all.remove(&name);
        Some(name)
    }
}
