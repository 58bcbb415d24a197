//! Device plugins (the kubelet's API v1beta1): plugins register, list the devices of an extended resource, and say how
//! a container gets the devices that the node allocates
//! (<https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/>).
//!
//! **Guarantees**: a device is allocated to one pod at a time, even after a restart of the agent, because the devices
//! of a pod are written to its directory before its containers start. A resource has a lock, so calls of a slow plugin
//! delay only pods that use its resource.

mod allocation;
mod calls;
mod inventory;
mod registration;
mod resource_names;
mod selection;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use host_kernel::keyed_locks::KeyedLocks;
use object_model::Uid;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::allocation_record::PodDevices;
use crate::csi_volumes::KubeletDir;
use crate::paths::PodDir;
pub use allocation::AllocationError;
use calls::PluginConnection;
use inventory::Inventory;
pub use inventory::ReportedDevices;
use resource_names::ResourceNames;
use session::Session;

/// The device plugins of a node, and the devices of its pods.
pub struct DevicePlugins {
    directory: KubeletDir,
    names: ResourceNames,
    state: Mutex<PluginState>,
    reported: watch::Sender<ReportedDevices>,
    /// One lock for each resource: only one container at a time gets devices of a resource.
    locks: KeyedLocks<tokio::sync::Mutex<()>>,
    /// Locked while the names of resources are written.
    names_lock: tokio::sync::Mutex<()>,
    /// Ends the registration service and all connections.
    closing: CancellationToken,
    /// Locked while the registration service runs.
    serving: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct PluginState {
    resources: BTreeMap<String, Resource>,
    pods: BTreeMap<Uid, PodEntry>,
    /// The number of sessions so far, which identifies a session.
    sessions: u64,
}

/// The devices of a pod.
#[derive(Default)]
struct PodEntry {
    devices: PodDevices,
    /// Whether the devices are on disk.
    is_stored: bool,
}

/// A resource that a plugin has registered.
struct Resource {
    inventory: Inventory,
    /// The connected plugin; `None` after its end.
    session: Option<Session>,
}

impl DevicePlugins {
    /// The devices and resources of a former agent. `pods` are the pods that it has left.
    ///
    /// # Errors
    /// The records on disk cannot be read.
    pub fn open(
        directory: KubeletDir,
        names_file: PathBuf,
        pods: impl IntoIterator<Item = (Uid, PodDir)>,
    ) -> io::Result<Self> {
        let names = ResourceNames::new(names_file);
        let mut state = PluginState::default();
        for name in names.read()? {
            state.resources.insert(name, Resource::former());
        }
        for (uid, dir) in pods {
            if let Some(devices) = PodDevices::read(&dir)? {
                let is_stored = true;
                state.pods.insert(uid, PodEntry { devices, is_stored });
            }
        }
        let plugins = Self {
            directory,
            names,
            state: Mutex::new(state),
            reported: watch::Sender::default(),
            locks: KeyedLocks::default(),
            names_lock: tokio::sync::Mutex::default(),
            closing: CancellationToken::new(),
            serving: tokio::sync::Mutex::default(),
        };
        plugins.report();
        Ok(plugins)
    }

    /// The amounts for the node's status, and their changes.
    pub fn reported(&self) -> watch::Receiver<ReportedDevices> {
        self.reported.subscribe()
    }

    /// Ends the registration service and the connections, so that no socket keeps the directory busy.
    pub async fn close(&self) {
        self.closing.cancel();
        for resource in self.state().resources.values_mut() {
            resource.session = None;
        }
        drop(self.serving.lock().await);
    }

    fn state(&self) -> MutexGuard<'_, PluginState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the present amounts.
    fn report(&self) {
        let now = Instant::now();
        let resources = &self.state().resources;
        let amounts = resources
            .iter()
            .map(|(name, resource)| (name.clone(), resource.inventory.amounts(now)));
        let amounts: ReportedDevices = amounts.collect();
        self.reported.send_if_modified(|reported| {
            let is_changed = *reported != amounts;
            *reported = amounts;
            is_changed
        });
    }

    /// The connection to the plugin of a resource; `None` if it is not connected.
    fn connection(&self, resource: &str) -> Option<PluginConnection> {
        let state = self.state();
        let session = state.resources.get(resource)?.session.as_ref()?;
        Some(session.connection.clone())
    }
}

impl PluginState {
    /// The devices of a resource that pods have.
    fn allocated(&self, resource: &str, has_ended: &dyn Fn(&Uid) -> bool) -> BTreeSet<String> {
        let pods = self.pods.iter().filter(|(uid, _)| !has_ended(uid));
        let ids = pods.flat_map(|(_, pod)| pod.devices.ids(resource));
        ids.cloned().collect()
    }
}
