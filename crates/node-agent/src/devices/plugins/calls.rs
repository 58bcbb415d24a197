//! The calls of a device plugin.

use std::path::Path;
use std::time::Duration;

use rpc_channel::{Channel, ChannelOptions, Responses, RpcError, unix};
use service_protocols::deviceplugin_v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreStartContainerRequest, PreferredAllocationRequest, device_plugin,
};

use super::super::allocation_record::{DeviceEdits, DeviceMount, DeviceNode};
use super::selection::Candidates;

/// Maximum length of a message; the limit of the usual gRPC clients.
const OPTIONS: ChannelOptions = ChannelOptions {
    keep_alive: None,
    headers: &[],
    message_bytes_max: 4 * 1024 * 1024,
};
/// Time limit for a connection, and for calls that do no work.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of the call before the start of a container; kubelet's value.
const PRE_START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of an allocation. kubelet has none, so a silent plugin would hold its pods for ever.
const ALLOCATE_TIMEOUT: Duration = Duration::from_secs(120);

/// A connection to a plugin.
#[derive(Clone, Debug)]
pub struct PluginConnection {
    channel: Channel,
    pub options: DevicePluginOptions,
}

impl PluginConnection {
    /// Connects to the socket of a plugin, and reads its options.
    ///
    /// # Errors
    /// The plugin does not respond.
    pub async fn open(socket: &Path) -> Result<Self, RpcError> {
        let channel = unix::open_channel(socket, OPTIONS, CONNECT_TIMEOUT).await?;
        let method = device_plugin::GET_DEVICE_PLUGIN_OPTIONS;
        let options = channel.call(method, &Empty {}, CONNECT_TIMEOUT).await?;
        Ok(Self { channel, options })
    }

    /// The lists of devices. The first list may come late.
    ///
    /// # Errors
    /// The plugin refuses the call, or the connection breaks.
    pub async fn lists(&self) -> Result<Responses<ListAndWatchResponse>, RpcError> {
        let method = device_plugin::LIST_AND_WATCH;
        self.channel.subscribe(method, &Empty {}).await
    }

    /// The devices that the plugin prefers; none if it does not say.
    ///
    /// # Errors
    /// The call failed.
    pub async fn preferred(&self, candidates: &Candidates) -> Result<Vec<String>, RpcError> {
        if !self.options.get_preferred_allocation_available || candidates.missing == 0 {
            return Ok(Vec::new());
        }
        let included = candidates.included.iter();
        let size = candidates.included.len() + candidates.missing;
        let container = ContainerPreferredAllocationRequest {
            available_device_i_ds: included.chain(&candidates.available).cloned().collect(),
            must_include_device_i_ds: candidates.included.clone(),
            allocation_size: i32::try_from(size).unwrap_or(i32::MAX),
        };
        let request = PreferredAllocationRequest {
            container_requests: vec![container],
        };
        let method = device_plugin::GET_PREFERRED_ALLOCATION;
        let response = self
            .channel
            .call(method, &request, ALLOCATE_TIMEOUT)
            .await?;
        let first = response.container_responses.into_iter().next();
        Ok(first.map(|first| first.device_i_ds).unwrap_or_default())
    }

    /// Allocates devices for a container.
    ///
    /// # Errors
    /// The call failed, or the response has no container.
    pub async fn allocate(&self, devices: &[String]) -> Result<DeviceEdits, RpcError> {
        let container = ContainerAllocateRequest {
            devices_ids: devices.to_vec(),
        };
        let request = AllocateRequest {
            container_requests: vec![container],
        };
        let method = device_plugin::ALLOCATE;
        let response = self
            .channel
            .call(method, &request, ALLOCATE_TIMEOUT)
            .await?;
        let first = response.container_responses.into_iter().next();
        let first = first.ok_or_else(|| {
            RpcError::broken("no containers return in allocation response of the device plugin")
        });
        first.map(edits)
    }

    /// Tells the plugin that a container with the devices starts.
    ///
    /// # Errors
    /// The call failed.
    pub async fn pre_start(&self, devices: &[String]) -> Result<(), RpcError> {
        let request = PreStartContainerRequest {
            devices_ids: devices.to_vec(),
        };
        let method = device_plugin::PRE_START_CONTAINER;
        let response = self.channel.call(method, &request, PRE_START_TIMEOUT);
        response.await.map(drop)
    }
}

fn edits(response: ContainerAllocateResponse) -> DeviceEdits {
    let mounts = response.mounts.into_iter().map(|mount| DeviceMount {
        container_path: mount.container_path,
        host_path: mount.host_path,
        read_only: mount.read_only,
    });
    let device_nodes = response.devices.into_iter().map(|device| DeviceNode {
        container_path: device.container_path,
        host_path: device.host_path,
        permissions: device.permissions,
    });
    let cdi_devices = response.cdi_devices.into_iter().map(|device| device.name);
    DeviceEdits {
        env: response.envs,
        mounts: mounts.collect(),
        device_nodes: device_nodes.collect(),
        annotations: response.annotations,
        cdi_devices: cdi_devices.collect(),
    }
}
