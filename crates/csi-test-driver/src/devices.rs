//! Plugins for devices: a device plugin, and a driver of dynamic resource allocation. They are correct, unless a test
//! orders a fault.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use prost::Message as _;
use rpc_channel::{ChannelOptions, RpcError, unix};
use service_protocols::deviceplugin_v1beta1::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse,
    ContainerPreferredAllocationResponse, Device, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreStartContainerRequest, PreferredAllocationRequest, PreferredAllocationResponse,
    RegisterRequest, device_plugin, registration,
};
use service_protocols::dra_v1::{
    self, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
    dra_plugin,
};
use tokio::sync::watch;

use crate::server::{CallOutcome, TestDriver, listen};

const UNIMPLEMENTED: u32 = 12;

/// A fault of a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceFault {
    #[default]
    None,
    /// Calls for a container get no response.
    Silent,
    /// Calls for a container break the connection.
    Dies,
    /// Calls for a container fail with a text.
    Refuses,
    /// The response of an allocation has no container; that of a claim does not have the claim.
    Empty,
}

/// A device plugin.
pub struct TestDevicePlugin {
    pub options: DevicePluginOptions,
    /// The response of an allocation.
    response: Mutex<ContainerAllocateResponse>,
    devices: watch::Sender<Vec<Device>>,
    fault: Mutex<DeviceFault>,
    calls: Mutex<Vec<String>>,
}

impl TestDevicePlugin {
    /// A plugin that needs a call before each start of a container, and prefers its last devices.
    pub fn new(devices: &[(&str, bool)], response: ContainerAllocateResponse) -> Arc<Self> {
        let plugin = Self {
            options: DevicePluginOptions {
                pre_start_required: true,
                get_preferred_allocation_available: true,
            },
            response: Mutex::new(response),
            devices: watch::Sender::default(),
            fault: Mutex::default(),
            calls: Mutex::default(),
        };
        plugin.list(devices);
        Arc::new(plugin)
    }

    /// Lists other devices; `true` for healthy devices.
    pub fn list(&self, devices: &[(&str, bool)]) {
        let device = |(id, is_healthy): &(&str, bool)| Device {
            id: (*id).to_owned(),
            health: if *is_healthy { "Healthy" } else { "Unhealthy" }.to_owned(),
            topology: None,
        };
        self.devices
            .send_replace(devices.iter().map(device).collect());
    }

    pub fn order(&self, fault: DeviceFault) {
        *lock(&self.fault) = fault;
    }

    /// The calls for containers: the method and the devices.
    pub fn calls(&self) -> Vec<String> {
        lock(&self.calls).clone()
    }

    /// Serves the plugin on a socket.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn serve(self: &Arc<Self>, socket: &Path) -> io::Result<TestDriver> {
        let plugin = self.clone();
        listen(socket, move |path, message| plugin.respond(path, message))
    }

    fn respond(&self, path: &str, message: &[u8]) -> CallOutcome {
        const OPTIONS: &str = device_plugin::GET_DEVICE_PLUGIN_OPTIONS.path();
        const LIST: &str = device_plugin::LIST_AND_WATCH.path();
        const PREFER: &str = device_plugin::GET_PREFERRED_ALLOCATION.path();
        const ALLOCATE: &str = device_plugin::ALLOCATE.path();
        const PRE_START: &str = device_plugin::PRE_START_CONTAINER.path();
        match path {
            OPTIONS => done(&self.options),
            LIST => self.lists(),
            PREFER => match PreferredAllocationRequest::decode(message) {
                Ok(request) => done(&preferred(&request)),
                Err(_) => CallOutcome::Dies,
            },
            ALLOCATE => match AllocateRequest::decode(message) {
                Ok(request) => {
                    let containers = request.container_requests.into_iter();
                    let ids = containers.flat_map(|container| container.devices_ids);
                    self.record("Allocate", ids);
                    self.outcome(|| self.allocated())
                }
                Err(_) => CallOutcome::Dies,
            },
            PRE_START => match PreStartContainerRequest::decode(message) {
                Ok(request) => {
                    self.record("PreStartContainer", request.devices_ids);
                    self.outcome(|| done(&Empty {}))
                }
                Err(_) => CallOutcome::Dies,
            },
            _ => CallOutcome::Done(Err((UNIMPLEMENTED, path.to_owned()))),
        }
    }

    fn lists(&self) -> CallOutcome {
        let mut changes = self.devices.subscribe();
        changes.mark_changed();
        let lists = stream::unfold(changes, |mut changes| async move {
            changes.changed().await.ok()?;
            let devices = changes.borrow_and_update().clone();
            let list = ListAndWatchResponse { devices };
            Some((list.encode_to_vec(), changes))
        });
        CallOutcome::Stream(lists.boxed())
    }

    fn allocated(&self) -> CallOutcome {
        let container_responses = match *lock(&self.fault) {
            DeviceFault::Empty => Vec::new(),
            _ => vec![lock(&self.response).clone()],
        };
        done(&AllocateResponse {
            container_responses,
        })
    }

    fn record(&self, method: &str, ids: impl IntoIterator<Item = String>) {
        let ids: Vec<String> = ids.into_iter().collect();
        lock(&self.calls).push(format!("{method} {}", ids.join(" ")));
    }

    fn outcome(&self, respond: impl FnOnce() -> CallOutcome) -> CallOutcome {
        let fault = *lock(&self.fault);
        faulty(fault, respond)
    }
}

/// The last available devices.
fn preferred(request: &PreferredAllocationRequest) -> PreferredAllocationResponse {
    let containers = request.container_requests.iter().map(|container| {
        let size = usize::try_from(container.allocation_size).unwrap_or_default();
        let available: BTreeSet<&String> = container.available_device_i_ds.iter().collect();
        let last = available.into_iter().rev().take(size);
        ContainerPreferredAllocationResponse {
            device_i_ds: last.cloned().collect(),
        }
    });
    PreferredAllocationResponse {
        container_responses: containers.collect(),
    }
}

fn faulty(fault: DeviceFault, respond: impl FnOnce() -> CallOutcome) -> CallOutcome {
    match fault {
        DeviceFault::None | DeviceFault::Empty => respond(),
        DeviceFault::Silent => CallOutcome::Hangs,
        DeviceFault::Dies => CallOutcome::Dies,
        DeviceFault::Refuses => CallOutcome::Done(Err((13, "on purpose".to_owned()))),
    }
}

fn done(message: &impl prost::Message) -> CallOutcome {
    CallOutcome::Done(Ok(message.encode_to_vec()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers a device plugin at the socket of the node agent, as a plugin does.
///
/// # Errors
/// The agent does not respond, or refuses the plugin.
pub async fn register(kubelet_socket: &Path, request: &RegisterRequest) -> Result<(), RpcError> {
    let options = ChannelOptions {
        keep_alive: None,
        headers: &[],
        message_bytes_max: 1 << 20,
    };
    let limit = Duration::from_secs(30);
    let channel = unix::open_channel(kubelet_socket, options, limit).await?;
    let registered = channel.call(registration::REGISTER, request, limit);
    registered.await.map(drop)
}

/// The request of a correct plugin.
pub fn registration_request(resource: &str, endpoint: &str) -> RegisterRequest {
    RegisterRequest {
        version: "v1beta1".to_owned(),
        endpoint: endpoint.to_owned(),
        resource_name: resource.to_owned(),
        options: None,
    }
}

/// A driver of dynamic resource allocation: each claim has one device for all its requests.
#[derive(Default)]
pub struct TestDraDriver {
    /// The CDI names of the device.
    pub cdi_devices: Vec<String>,
    fault: Mutex<DeviceFault>,
    calls: Mutex<Vec<String>>,
    prepared: Mutex<BTreeSet<String>>,
}

impl TestDraDriver {
    pub fn new(cdi_device: &str) -> Arc<Self> {
        Arc::new(Self {
            cdi_devices: vec![cdi_device.to_owned()],
            ..Self::default()
        })
    }

    pub fn order(&self, fault: DeviceFault) {
        *lock(&self.fault) = fault;
    }

    /// The calls: the method and the name of the claim.
    pub fn calls(&self) -> Vec<String> {
        lock(&self.calls).clone()
    }

    /// The UIDs of the prepared claims.
    pub fn prepared(&self) -> BTreeSet<String> {
        lock(&self.prepared).clone()
    }

    /// Serves the driver on a socket.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn serve(self: &Arc<Self>, socket: &Path) -> io::Result<TestDriver> {
        let driver = self.clone();
        listen(socket, move |path, message| driver.respond(path, message))
    }

    fn respond(&self, path: &str, message: &[u8]) -> CallOutcome {
        const PREPARE: &str = dra_plugin::NODE_PREPARE_RESOURCES.path();
        const UNPREPARE: &str = dra_plugin::NODE_UNPREPARE_RESOURCES.path();
        let fault = *lock(&self.fault);
        match path {
            PREPARE => match NodePrepareResourcesRequest::decode(message) {
                Ok(request) => {
                    self.record("Prepare", &request.claims);
                    faulty(fault, || self.prepare(&request, fault))
                }
                Err(_) => CallOutcome::Dies,
            },
            UNPREPARE => match NodeUnprepareResourcesRequest::decode(message) {
                Ok(request) => {
                    self.record("Unprepare", &request.claims);
                    faulty(fault, || self.unprepare(&request))
                }
                Err(_) => CallOutcome::Dies,
            },
            _ => CallOutcome::Done(Err((UNIMPLEMENTED, path.to_owned()))),
        }
    }

    fn record(&self, method: &str, claims: &[dra_v1::Claim]) {
        let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
        lock(&self.calls).push(format!("{method} {}", names.join(" ")));
    }

    fn prepare(&self, request: &NodePrepareResourcesRequest, fault: DeviceFault) -> CallOutcome {
        let claims = request.claims.iter().map(|claim| {
            lock(&self.prepared).insert(claim.uid.clone());
            let device = dra_v1::Device {
                request_names: Vec::new(),
                pool_name: "pool".to_owned(),
                device_name: "device".to_owned(),
                cdi_device_ids: self.cdi_devices.clone(),
                ..dra_v1::Device::default()
            };
            let response = NodePrepareResourceResponse {
                devices: vec![device],
                error: String::new(),
            };
            (claim.uid.clone(), response)
        });
        let claims = match fault {
            DeviceFault::Empty => Default::default(),
            _ => claims.collect(),
        };
        done(&NodePrepareResourcesResponse { claims })
    }

    fn unprepare(&self, request: &NodeUnprepareResourcesRequest) -> CallOutcome {
        let claims = request.claims.iter().map(|claim| {
            lock(&self.prepared).remove(&claim.uid);
            (claim.uid.clone(), NodeUnprepareResourceResponse::default())
        });
        done(&NodeUnprepareResourcesResponse {
            claims: claims.collect(),
        })
    }
}
