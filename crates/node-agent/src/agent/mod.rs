//! The agent as a whole: registers the node, starts its tasks, and waits for their end.

mod admission;
mod dispatcher;
pub(crate) mod left_pods;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use container_runtime::{Runtime, Sandbox};
use controller_framework::{Recorder, Source};
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::block_in_place;
use kube_api_client::Client;
use node_lease::LeaseLength;
use object_model::Uid;
use pod_lifecycle::environment::resolv_conf::Resolver;
use pod_lifecycle::record::Volumes;
use process_telemetry::Component;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::events::PodEvents;
use crate::api::objects::ApiObjects;
use crate::clock::Clock;
use crate::config::Config;
use crate::csi_volumes::{CsiVolumes, LivePod, clean_up, keep_csi_node, keep_up, watch_plugins};
use crate::devices::{DeviceClaims, DevicePlugins, NodeDevices, PluginRegistry};
use crate::error::Error;
use crate::images::Puller;
use crate::kubelet_api::{
    self, HttpsServer, KubeletAuthorizer, KubeletContext, NodeService, PodSessions,
};
use crate::machine::machine_info::MachineInfo;
use crate::machine::pressure::Monitor;
use crate::node::lease::{self, LeaseFiles, NodeLease};
use crate::node::registration::{NodeKeeper, NodeReports};
use crate::node_context::NodeContext;
use crate::paths::{PodDir, device_claims, device_resources, pods_dir};
use crate::pods::recovery::{self, RecordedPod};
use crate::response_cache::CachedResponse;
use crate::volumes::{fs_group, keep_images_growing};
use crate::worker::WorkerContext;
use dispatcher::{Dispatcher, DispatcherStart};

/// A running node agent, the counterpart of kubelet.
pub struct NodeAgent {
    kubelet: Arc<KubeletContext>,
    task: JoinHandle<()>,
}

/// Runs a node agent until its component is shut down, and until its pods are stopped if requested.
///
/// # Errors
/// It cannot start.
pub async fn run(config: Config, client: Client, component: Component) -> Result<(), Error> {
    NodeAgent::start(config, client, component)
        .await?
        .finished()
        .await;
    Ok(())
}

impl NodeAgent {
    /// Registers the node, adopts the pods of a former agent, and starts to run pods.
    ///
    /// # Errors
    /// The runtime does not open, directories cannot be created, the kubelet API cannot be served, or
    /// the API refuses the node.
    pub fn start(
        config: Config,
        client: Client,
        component: Component,
    ) -> BoxFuture<'static, Result<Self, Error>> {
        Self::start_in_order(config, client, component).boxed()
    }

    async fn start_in_order(
        mut config: Config,
        client: Client,
        component: Component,
    ) -> Result<Self, Error> {
        let server = bind_kubelet_api(&mut config, &client).await?;
        let recorded = recorded_pods(&config)?;
        let runtime =
            block_in_place(|| Runtime::open(config.runtime.clone())).map_err(Error::Runtime)?;
        let sandboxes = runtime.sandboxes().await.map_err(Error::Runtime)?;
        config.lease_length = lease_length(config.lease_length, &sandboxes);
        let machine = block_in_place(|| MachineInfo::read(&config.data_dir));
        let clock = block_in_place(|| Clock::open(&config.data_dir, &machine.boot_id));
        let clock = clock.map_err(of_directory(&config.data_dir))?;
        let monitor = Arc::new(block_in_place(|| monitor(&config, clock, runtime.clone())));
        let gate = LeaseGate::default();
        let lease = open_lease(&config, &client, &machine, &runtime, &gate)?;
        let csi = block_in_place(|| {
            let node = config.node_name.clone();
            CsiVolumes::open(client.clone(), node, &config.data_dir)
        });
        let csi = Arc::new(csi.map_err(of_directory(&config.data_dir))?);
        let devices = open_devices(&config, &csi, &recorded)?;
        let keeper = NodeKeeper::register(
            client.clone(),
            config.clone(),
            machine.clone(),
            monitor.clone(),
            clock,
            lease,
            NodeReports {
                volumes_in_use: csi.in_use().changes(),
                devices: devices.plugins.reported(),
            },
        )
        .await?;
        // Watches, events and heartbeats continue while pods are being stopped.
        let background = component.with_shutdown(CancellationToken::new());
        let parts = AgentParts {
            client,
            runtime,
            machine,
            clock,
            monitor: monitor.clone(),
            csi: csi.clone(),
            devices: devices.clone(),
            gate,
        };
        let (kubelet, context) = parts.contexts(config, &background);
        if let Some(server) = server {
            let service = kubelet_api::service(kubelet.clone());
            let serve = server.serve(service, background.shutdown.clone());
            tokio::spawn(background.watched("kubelet API", serve));
        }
        spawn_volume_tasks(&context, csi.clone(), keeper.uid_changes(), &background);
        spawn_device_tasks(csi, devices, &background);
        let dispatcher = Dispatcher::new(context, monitor, kubelet.usage.clone(), &background);
        let run = dispatcher.run(DispatcherStart {
            recorded,
            sandboxes,
            keeper,
            background: background.shutdown.clone(),
            shutdown: component.shutdown,
        });
        let task = tokio::spawn(async move { background.watched("dispatcher", run).await });
        Ok(Self { kubelet, task })
    }

    /// The kubelet's API: logs, exec, attach, pods, health.
    pub fn kubelet_api(&self) -> NodeService {
        kubelet_api::service(self.kubelet.clone())
    }

    /// Waits for the agent's end.
    pub async fn finished(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "node agent ended unexpectedly");
        }
    }
}

/// Writers of the lease hold the gate while pods with the lease start.
type LeaseGate = Arc<tokio::sync::RwLock<()>>;

fn of_directory(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Directory { path, source }
}

/// The listener of the kubelet API. Without one, the node does not announce the API.
async fn bind_kubelet_api(
    config: &mut Config,
    client: &Client,
) -> Result<Option<HttpsServer>, Error> {
    let server = match &mut config.kubelet_api {
        Some(api) => {
            let access = KubeletAuthorizer::new(&config.node_name, client.clone());
            HttpsServer::bind_if_possible(api, access).await?
        }
        None => None,
    };
    if server.is_none() {
        config.kubelet_api = None;
    }
    Ok(server)
}

/// The pods of a former agent, by their records.
fn recorded_pods(config: &Config) -> Result<BTreeMap<Uid, RecordedPod>, Error> {
    let pods = pods_dir(&config.data_dir);
    let created = block_in_place(|| host_kernel::tree::make_private(&pods));
    created.map_err(of_directory(&pods))?;
    block_in_place(|| recovery::recorded_pods(&config.data_dir)).map_err(of_directory(&pods))
}

/// The length of the node's lease: pods that run may have been started with a longer lease.
fn lease_length(configured: LeaseLength, sandboxes: &[Sandbox]) -> LeaseLength {
    let length = lease::length_with(configured, sandboxes);
    if length <= configured {
        return configured;
    }
    tracing::warn!(
        seconds = length.seconds(),
        "pods run that were started with a longer lease of this node: it keeps this length until the \
         next start"
    );
    length
}

fn monitor(config: &Config, clock: Clock, groups: Runtime) -> Monitor {
    let monitor = Monitor::new(
        config.eviction.clone(),
        clock,
        &pods_dir(&config.data_dir),
        config.images.directory(),
    );
    monitor.with_group_check(move || groups.check_groups().map_err(|e| e.to_string()))
}

fn open_lease(
    config: &Config,
    client: &Client,
    machine: &MachineInfo,
    runtime: &Runtime,
    gate: &LeaseGate,
) -> Result<NodeLease, Error> {
    let lease = block_in_place(|| {
        NodeLease::open(
            client.clone(),
            config.node_name.clone(),
            config.lease_length,
            runtime.clone(),
            LeaseFiles::new(&config.data_dir, &machine.boot_id),
            gate.clone(),
        )
    });
    lease.map_err(of_directory(&config.data_dir))
}

/// The parts that the workers of pods share.
struct AgentParts {
    client: Client,
    runtime: Runtime,
    machine: MachineInfo,
    clock: Clock,
    monitor: Arc<Monitor>,
    csi: Arc<CsiVolumes>,
    devices: NodeDevices,
    gate: LeaseGate,
}

impl AgentParts {
    /// The context of the kubelet API, and that of workers.
    fn contexts(
        self,
        config: Config,
        background: &Component,
    ) -> (Arc<KubeletContext>, Arc<WorkerContext>) {
        let source = Source {
            component: "kubelet".to_owned(),
            host: Some(config.node_name.clone()),
        };
        let resolver = block_in_place(|| std::fs::read_to_string(&config.resolv_conf));
        let resolver = resolver.unwrap_or_default();
        let shutdown = &background.shutdown;
        let api_objects = ApiObjects::new(self.client.clone(), background.clone());
        let api_objects = Arc::new(api_objects);
        let images = Puller::new(&config, api_objects.clone(), self.monitor.clone());
        let node = Arc::new(NodeContext {
            recorder: Recorder::spawn(self.client.clone(), source, shutdown.clone()),
            resolver: Resolver::parse(&resolver),
            machine: self.machine,
            clock: self.clock,
            config,
        });
        let kubelet = Arc::new(KubeletContext {
            node: node.clone(),
            pods: Arc::default(),
            usage: Arc::default(),
            disk: Arc::default(),
            probes: Arc::default(),
            csi: self.csi.clone(),
            sessions: PodSessions::default(),
            summary: CachedResponse::default(),
            reads: Default::default(),
        });
        let context = Arc::new(WorkerContext {
            node,
            client: self.client,
            runtime: self.runtime,
            api_objects,
            images: Arc::new(images),
            csi: self.csi,
            devices: self.devices,
            pods: kubelet.pods.clone(),
            monitor: self.monitor,
            disk: kubelet.disk.clone(),
            probes: kubelet.probes.clone(),
            allocation: Mutex::default(),
            lease_gate: self.gate,
            abandon: CancellationToken::new(),
        });
        (kubelet, context)
    }
}

/// Starts the tasks that keep the volumes of pods, and those of CSI drivers.
fn spawn_volume_tasks(
    context: &Arc<WorkerContext>,
    csi: Arc<CsiVolumes>,
    node_uid: watch::Receiver<Option<String>>,
    background: &Component,
) {
    let shutdown = || background.shutdown.clone();
    let objects = || context.api_objects.clone();
    let live = || {
        let context = context.clone();
        move || live_pods(&context)
    };
    let care = keep_up(csi.clone(), objects(), live(), shutdown());
    tokio::spawn(background.watched("CSI volumes", care));
    let config = &context.node.config;
    let (name, data_dir) = (config.node_name.clone(), config.data_dir.clone());
    let images = keep_images_growing(objects(), name, data_dir, live(), shutdown());
    tokio::spawn(background.watched("images of Ceph", images));
    let csi_node = keep_csi_node(csi.clone(), node_uid, shutdown());
    tokio::spawn(background.watched("shown CSI drivers", csi_node));
    let left_over = clean_up(csi.clone(), shutdown());
    tokio::spawn(background.watched("left CSI volumes", left_over));
}

/// The devices of the pods that a former agent has left.
fn open_devices(
    config: &Config,
    csi: &CsiVolumes,
    recorded: &BTreeMap<Uid, RecordedPod>,
) -> Result<NodeDevices, Error> {
    let data_dir = &config.data_dir;
    let dirs = recorded.values().map(|pod| {
        let dir = PodDir::new(data_dir, &pod.identity);
        (pod.identity.uid.clone(), dir)
    });
    let (directory, names) = (csi.directory().clone(), device_resources(data_dir));
    let plugins = block_in_place(|| DevicePlugins::open(directory, names, dirs));
    let pods = recorded.keys().cloned().collect();
    let claims = block_in_place(|| DeviceClaims::open(device_claims(data_dir), &pods));
    Ok(NodeDevices {
        plugins: Arc::new(plugins.map_err(of_directory(data_dir))?),
        claims: Arc::new(claims.map_err(of_directory(data_dir))?),
    })
}

/// Starts the registration of all plugins, and the tasks of those for devices.
fn spawn_device_tasks(csi: Arc<CsiVolumes>, devices: NodeDevices, background: &Component) {
    let shutdown = || background.shutdown.clone();
    let NodeDevices { plugins, claims } = devices;
    let serve = plugins.clone().serve();
    tokio::spawn(background.watched("device plugins", serve));
    let left_over = claims.clone().clean_up(shutdown());
    tokio::spawn(background.watched("left device claims", left_over));
    let directory = csi.directory().clone();
    let registry = PluginRegistry {
        directory,
        plugins,
        claims,
    };
    let registered = watch_plugins(csi, Arc::new(registry), shutdown());
    tokio::spawn(background.watched("registration of plugins", registered));
}

/// The pods whose volumes are ready, and stay.
fn live_pods(context: &WorkerContext) -> Vec<LivePod> {
    let views = context.pods.list();
    let live = views.iter().filter(|view| {
        let ends = view.pod.metadata.deletion_timestamp.is_some() || view.has_ended();
        !ends && view.record.volumes == Volumes::Ready
    });
    live.map(|view| LivePod {
        pod: view.pod.clone(),
        group: fs_group(&view.pod),
        events: PodEvents::new(&context.node.recorder, &view.pod),
    })
    .collect()
}
