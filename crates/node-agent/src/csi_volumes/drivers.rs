//! The registered drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_client::{Driver, NodeCapabilities, NodeInfo};
use host_kernel::keyed_locks::KeyedLocks;
use tokio::sync::{Mutex, watch};

use super::error::CsiVolumeError;

/// A CSI driver that has registered with the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredDriver {
    /// The name and the socket of the driver.
    pub driver: Driver,
    /// The optional calls that the driver supports (`NodeGetCapabilities`).
    pub capabilities: NodeCapabilities,
    /// The response to `NodeGetInfo`.
    pub info: NodeInfo,
    /// The registration socket in `plugins_registry`.
    pub registration_socket: PathBuf,
}

/// The state of the registration.
#[derive(Debug, Default)]
struct RegistrationState {
    by_name: BTreeMap<String, RegisteredDriver>,
    /// The sockets that have not responded yet; `None` until the registration directory was read.
    unanswered: Option<BTreeSet<PathBuf>>,
}

/// The registered drivers, by name.
#[derive(Default)]
pub struct Drivers {
    state: watch::Sender<RegistrationState>,
    /// One lock for each driver name: only one registration of a name runs at a time.
    locks: KeyedLocks<Mutex<()>>,
}

pub struct Changes(watch::Receiver<RegistrationState>);

impl Changes {
    /// Waits for the next change.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drivers {
    /// # Errors
    /// The driver is not registered.
    pub fn get(&self, name: &str) -> Result<RegisteredDriver, CsiVolumeError> {
        let driver = self.state.borrow().by_name.get(name).cloned();
        driver.ok_or_else(|| CsiVolumeError::NotRegistered(name.to_owned()))
    }

    /// All drivers; `None` while a new socket has not responded.
    pub fn complete(&self) -> Option<Vec<RegisteredDriver>> {
        let state = self.state.borrow();
        let is_complete = state.unanswered.as_ref().is_some_and(BTreeSet::is_empty);
        is_complete.then(|| state.by_name.values().cloned().collect())
    }

    /// A subscription to all later changes.
    pub fn changes(&self) -> Changes {
        Changes(self.state.subscribe())
    }

    pub fn lock(&self, name: &str) -> Arc<Mutex<()>> {
        self.locks.get(name)
    }

    /// Adds a driver. A driver with another name that registered by this socket is removed.
    pub fn add(&self, registered: RegisteredDriver) {
        self.state.send_modify(|state| {
            state.by_name.retain(|_, existing| {
                existing.registration_socket != registered.registration_socket
            });
            let name = registered.driver.name.clone();
            state.by_name.insert(name, registered);
        });
    }

    /// Removes the driver that registered by the socket, and returns its name.
    pub fn remove(&self, registration_socket: &Path) -> Option<String> {
        let mut removed = None;
        self.state.send_if_modified(|state| {
            let mut drivers = state.by_name.iter();
            removed = drivers
                .find(|(_, registered)| registered.registration_socket == registration_socket)
                .map(|(name, _)| name.clone());
            removed
                .as_ref()
                .is_some_and(|name| state.by_name.remove(name).is_some())
        });
        removed
    }

    /// Records new sockets, and removes deleted sockets.
    pub fn record_sockets<'p>(
        &self,
        new_sockets: impl IntoIterator<Item = &'p PathBuf>,
        deleted_sockets: impl IntoIterator<Item = &'p PathBuf>,
    ) {
        self.state.send_if_modified(|state| {
            let mut is_changed = state.unanswered.is_none();
            let unanswered = state.unanswered.get_or_insert_default();
            unanswered.extend(new_sockets.into_iter().cloned());
            for path in deleted_sockets {
                is_changed |= unanswered.remove(path);
            }
            is_changed
        });
    }

    /// Records the first response, or the first failure, of a socket.
    pub fn record_response(&self, socket: &Path) {
        self.state.send_if_modified(|state| {
            let unanswered = state.unanswered.as_mut();
            unanswered.is_some_and(|unanswered| unanswered.remove(socket))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(name: &str, registration_socket: &str) -> RegisteredDriver {
        RegisteredDriver {
            driver: Driver {
                name: name.to_owned(),
                socket: PathBuf::new(),
            },
            capabilities: NodeCapabilities::default(),
            info: NodeInfo::default(),
            registration_socket: registration_socket.into(),
        }
    }

    fn names(drivers: &Drivers) -> Option<Vec<String>> {
        let registrations = drivers.complete()?;
        Some(
            registrations
                .into_iter()
                .map(|registration| registration.driver.name)
                .collect(),
        )
    }

    #[test]
    fn all_drivers_are_known_when_each_socket_was_heard() {
        let drivers = Drivers::default();
        assert_eq!(names(&drivers), None);
        let sockets = ["a.sock", "b.sock"].map(PathBuf::from);
        drivers.record_sockets(&sockets, []);
        drivers.add(registered("a", "a.sock"));
        drivers.record_response(&sockets[0]);
        assert_eq!(names(&drivers), None);
        drivers.record_sockets([], &sockets[1..]);
        assert_eq!(names(&drivers), Some(vec!["a".to_owned()]));
    }

    #[test]
    fn a_socket_is_of_one_driver() {
        let drivers = Drivers::default();
        drivers.record_sockets([], []);
        drivers.add(registered("a", "a.sock"));
        drivers.add(registered("b", "a.sock"));
        assert_eq!(names(&drivers), Some(vec!["b".to_owned()]));
        assert_eq!(drivers.remove(Path::new("other.sock")), None);
        assert_eq!(drivers.remove(Path::new("a.sock")).as_deref(), Some("b"));
        assert_eq!(names(&drivers), Some(vec![]));
    }
}
