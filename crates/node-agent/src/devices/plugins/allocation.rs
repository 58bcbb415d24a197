//! Allocation of devices to the containers of a pod.

use std::io;
use std::sync::Arc;

use host_kernel::blocking;
use k8s_openapi::api::core::v1::PodSpec;
use object_model::Uid;
use rpc_channel::RpcError;

use super::super::allocation_record::{self, AllocatedDevices, DeviceEdits};
use super::DevicePlugins;
use super::selection::{DeviceRequest, NoDevices, Reusable, candidates, requests};
use crate::paths::PodDir;

/// The reason why a pod has no devices.
#[derive(Debug, thiserror::Error)]
pub enum AllocationError {
    #[error(transparent)]
    NoDevices(#[from] NoDevices),
    #[error("device plugin of {resource}: {source}")]
    Plugin { resource: String, source: RpcError },
    #[error("container {container:?} changed its request for {resource} from {before} to {after}")]
    Changed {
        container: String,
        resource: String,
        before: usize,
        after: usize,
    },
    /// The pod has devices of a plugin that is not connected, for instance after a restart of the machine.
    #[error("waiting for the device plugin of {0}, which is not registered")]
    NotRegistered(String),
    #[error("the devices of the pod are not stored: {0}")]
    Store(io::Error),
}

impl AllocationError {
    /// Whether the pod fails. As with kubelet, the scheduler has chosen a node without free devices; another pod may
    /// run elsewhere. Other pods wait.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NoDevices(_) | Self::Plugin { .. } | Self::Changed { .. } => true,
            Self::NotRegistered(_) | Self::Store(_) => false,
        }
    }
}

impl DevicePlugins {
    /// Allocates the devices of a pod, and records them. May be repeated: an allocated device stays with its pod.
    /// `has_ended` returns whether a pod does not need its devices any more.
    ///
    /// # Errors
    /// The pod cannot have its devices.
    pub async fn allocate(
        self: &Arc<Self>,
        uid: &Uid,
        spec: &PodSpec,
        dir: &PodDir,
        has_ended: &(dyn Fn(&Uid) -> bool + Send + Sync),
    ) -> Result<(), AllocationError> {
        let requests = requests(spec);
        let mut reusable = Reusable::default();
        for request in &requests {
            if !self.is_of_plugin(&request.resource) {
                continue;
            }
            let lock = self.locks.get(&request.resource);
            let _guard = lock.lock().await;
            let ids = match self.existing(uid, request)? {
                Some(ids) => ids,
                None => {
                    self.allocate_one(uid, request, &reusable, has_ended)
                        .await?
                }
            };
            reusable.record(request, &ids);
        }
        self.store(uid, dir).await.map_err(AllocationError::Store)
    }

    /// Releases the devices of a pod that has ended.
    ///
    /// # Errors
    /// The record of the pod is not removed.
    pub async fn release(&self, uid: &Uid, dir: &PodDir) -> io::Result<()> {
        let has_devices = self.state().pods.contains_key(uid);
        if has_devices {
            let dir = dir.clone();
            blocking(move || allocation_record::remove(&dir)).await?;
            self.state().pods.remove(uid);
        }
        Ok(())
    }

    /// Prepares the start of a container, and returns the changes that its plugins request.
    ///
    /// # Errors
    /// A plugin that must be called before the start is not connected, or has failed.
    pub async fn before_start(
        &self,
        uid: &Uid,
        container: &str,
    ) -> Result<Vec<DeviceEdits>, AllocationError> {
        let allocated = {
            let state = self.state();
            let pod = state.pods.get(uid);
            let devices = pod.and_then(|pod| pod.devices.containers.get(container));
            devices.cloned().unwrap_or_default()
        };
        let mut edits = Vec::new();
        for (resource, devices) in &allocated {
            if devices.pre_start_required {
                let connection = self.connection(resource);
                let connection =
                    connection.ok_or_else(|| AllocationError::NotRegistered(resource.clone()))?;
                let called = connection.pre_start(&devices.ids).await;
                called.map_err(|source| AllocationError::Plugin {
                    resource: resource.clone(),
                    source,
                })?;
            }
            edits.push(devices.edits.clone());
        }
        Ok(edits)
    }

    /// Whether a plugin has registered the resource. Other extended resources are only counted.
    fn is_of_plugin(&self, resource: &str) -> bool {
        self.state().resources.contains_key(resource)
    }

    /// The devices that the container has already.
    fn existing(
        &self,
        uid: &Uid,
        request: &DeviceRequest,
    ) -> Result<Option<Vec<String>>, AllocationError> {
        let ids = {
            let state = self.state();
            let pod = state.pods.get(uid);
            let devices = pod.map(|pod| &pod.devices);
            let devices = devices.and_then(|pod| pod.of(&request.container, &request.resource));
            devices.map(|devices| devices.ids.clone())
        };
        let Some(ids) = ids else { return Ok(None) };
        if ids.len() != request.count {
            return Err(AllocationError::Changed {
                container: request.container.clone(),
                resource: request.resource.clone(),
                before: ids.len(),
                after: request.count,
            });
        }
        match self.connection(&request.resource) {
            Some(_) => Ok(Some(ids)),
            None => Err(AllocationError::NotRegistered(request.resource.clone())),
        }
    }

    async fn allocate_one(
        &self,
        uid: &Uid,
        request: &DeviceRequest,
        reusable: &Reusable,
        has_ended: &(dyn Fn(&Uid) -> bool + Send + Sync),
    ) -> Result<Vec<String>, AllocationError> {
        let resource = &request.resource;
        let none_healthy = || NoDevices::NoneHealthy(resource.clone());
        let candidates = {
            let state = self.state();
            let allocated = state.allocated(resource, has_ended);
            let inventory = state.resources.get(resource);
            let inventory = inventory.ok_or_else(none_healthy)?;
            candidates(request, &inventory.inventory, &allocated, reusable)?
        };
        let connection = self.connection(resource).ok_or_else(none_healthy)?;
        let failed = |source| AllocationError::Plugin {
            resource: resource.clone(),
            source,
        };
        let preferred = connection.preferred(&candidates).await.map_err(failed)?;
        let ids = candidates.choose(&preferred);
        let edits = connection.allocate(&ids).await.map_err(failed)?;
        let devices = AllocatedDevices {
            ids: ids.clone(),
            pre_start_required: connection.options.pre_start_required,
            edits,
        };
        let mut state = self.state();
        let pod = state.pods.entry(uid.clone()).or_default();
        pod.is_stored = false;
        let containers = &mut pod.devices.containers;
        let container = containers.entry(request.container.clone()).or_default();
        container.insert(resource.clone(), devices);
        Ok(ids)
    }

    /// Writes the devices of a pod, if they have changed.
    async fn store(&self, uid: &Uid, dir: &PodDir) -> io::Result<()> {
        let devices = {
            let state = self.state();
            let pod = state.pods.get(uid).filter(|pod| !pod.is_stored);
            pod.map(|pod| pod.devices.clone())
        };
        let Some(devices) = devices else {
            return Ok(());
        };
        let dir = dir.clone();
        blocking(move || devices.write(&dir)).await?;
        if let Some(pod) = self.state().pods.get_mut(uid) {
            pod.is_stored = true;
        }
        Ok(())
    }
}
