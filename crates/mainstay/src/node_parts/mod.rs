//! The parts of a node: node agent, service proxy, DNS server, provisioner. The caller passes their API
//! clients, so the parts run in the process of the API server or on another machine.

pub mod member;
pub mod network;
mod pods;
mod settings;
mod shutdown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use container_runtime::RuntimeOptions;
use controllers::volume_provisioning::{self, ProvisionerConfig};
use host_kernel::disk_usage::VolumeUsages;
use image_store::{ImageStore, RegistriesConfig};
use k8s_openapi::api::core::v1::Taint;
use kube_api_client::Client;
use kube_api_server::NodeService;
use node_agent::{KubeletApi, NodeAgent, OnShutdown, ShutdownOrder};
use pod_network::{Cidr, PodNetwork, Ranges};
use process_telemetry::Health;
use resource_kinds::NodeAccount;
use resource_kinds::annotations::LOCAL_VOLUME_SIZE;
use resource_kinds::storage::volume_size;
use service_proxy::SwitchLink;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use volume_storage::Storage;
use volume_transfer::NodeMoves;

use command_output::output::warn;
use control_plane::tasks::TaskGroup;
use network::dns_address;
pub use pods::PodSettings;
pub use settings::{MachineArguments, MachineFile, MachineSettings, passed_flags};
pub use shutdown::ShutdownSettings;

/// The cluster's domain.
const DOMAIN: &str = "cluster.local";
/// The groups of the accounts of the service proxy and of the DNS server.
const ACCOUNT_GROUPS: [&str; 2] = [
    "system:serviceaccounts",
    "system:serviceaccounts:kube-system",
];
/// The machine's file with name servers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// Maximum number of pods on a node: the default of kubelet.
const PODS_MAX: u32 = 110;

/// A client for each part of the node, each authenticated as the user of its part.
pub struct Clients {
    /// User `system:node:NAME`.
    pub agent: Client,
    /// Service account of the proxy.
    pub proxy: Client,
    /// Service account of the DNS server.
    pub dns: Client,
    /// Service account of the provisioner.
    pub provisioner: Client,
}

impl Clients {
    /// The clients of a node in the process of the API server: `client` makes a client for a user and its
    /// groups.
    pub fn in_process(node_name: &str, client: impl Fn(&str, &[&str]) -> Client) -> Self {
        Self {
            agent: client(&format!("system:node:{node_name}"), &["system:nodes"]),
            proxy: client("system:kube-proxy", &["system:node-proxier"]),
            dns: client(NodeAccount::Dns.user(), &ACCOUNT_GROUPS),
            provisioner: client(NodeAccount::Provisioner.user(), &ACCOUNT_GROUPS),
        }
    }
}

/// The inputs of the parts.
pub struct Settings<'a> {
    pub data_dir: &'a Path,
    /// The id of the instance; names in the kernel contain it.
    pub instance_id: &'a str,
    pub node_name: String,
    /// The ranges of this node's pods and of Services.
    pub ranges: Ranges,
    /// The range of the pods of all nodes.
    pub cluster_range: Cidr,
    pub network: Arc<PodNetwork>,
    /// The address of the node; the agent publishes its changes.
    pub node_ip: watch::Receiver<IpAddr>,
    pub images: ImageStore,
    pub registries: RegistriesConfig,
    pub pods: PodSettings,
    pub shutdown_order: ShutdownOrder,
    /// Labels of the Node object in addition to the standard labels.
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// The kubelet API on the network; `None` if this node serves none.
    pub kubelet_api: Option<KubeletApi>,
    /// The switch that connects the further nodes on this machine.
    pub switch: Option<SwitchLink>,
    /// The file with name servers for names outside of the cluster.
    pub resolv_conf: PathBuf,
}

/// The running parts of a node.
pub struct NodeParts {
    agent: TaskGroup,
    /// The parts that pods need while they run; they stop after the pods.
    network: TaskGroup,
    storage: Storage,
    /// Sends the treatment of the pods at the shutdown.
    on_shutdown: watch::Sender<OnShutdown>,
    /// Sends whether the proxy removes the rules of Services at the shutdown.
    remove_services: watch::Sender<bool>,
    pub service: NodeService,
}

impl NodeParts {
    /// Starts every part. `failed` is cancelled when a part ends unexpectedly.
    pub async fn start(
        settings: Settings<'_>,
        clients: Clients,
        health: &Health,
        failed: &CancellationToken,
    ) -> Result<Self> {
        let remove_services = watch::Sender::new(true);
        let on_shutdown = watch::Sender::new(OnShutdown::StopPods);
        let mut network = TaskGroup::new(health, failed);
        let Clients {
            agent,
            proxy,
            dns,
            provisioner,
        } = clients;
        if settings.cluster_range != settings.ranges.pod {
            start_routes(&mut network, &settings, proxy.clone())?;
        }
        start_proxy(&mut network, &settings, proxy, &remove_services)?;
        start_dns(&mut network, &settings, dns)?;
        let storage = Storage::open(settings.data_dir)
            .await
            .context("open the volumes")?;
        let name = settings.node_name.clone();
        let config = ProvisionerConfig::new(name, storage.clone());
        let volume_usages = config.usages();
        network.run("provisioner", |stop| {
            volume_provisioning::run(provisioner, config, stop)
        });
        let mut agents = TaskGroup::new(health, failed);
        let moves = Arc::new(NodeMoves::new(storage.clone()));
        let mut config = agent_config(settings, &on_shutdown, volume_usages, moves)?;
        let limits = storage.limits_local_volumes().await;
        let limits = match limits.context("read the quotas of volumes")? {
            true => volume_size::ENFORCED,
            false => volume_size::NOT_ENFORCED,
        };
        let fact = (LOCAL_VOLUME_SIZE.to_owned(), Some(limits.to_owned()));
        config.annotations.extend([fact]);
        let agent = NodeAgent::start(config, agent, agents.component("node agent"))
            .await
            .context("start the node agent")?;
        let service = agent.kubelet_api();
        agents.follow("node agent", agent.finished());
        Ok(Self {
            agent: agents,
            network,
            storage,
            on_shutdown,
            remove_services,
            service,
        })
    }

    pub fn storage(&self) -> Storage {
        self.storage.clone()
    }

    /// Stops the pods, each within its grace period, or leaves them running; then stops the parts.
    pub async fn stop(self, pods: OnShutdown) {
        let stops = pods == OnShutdown::StopPods;
        self.on_shutdown.send_replace(pods);
        self.remove_services.send_replace(stops);
        self.agent.end().await;
        self.network.end().await;
        if stops && let Err(error) = self.storage.close().await {
            warn(&format!("mainstay: {:#}", anyhow::Error::new(error)));
        }
    }
}

fn start_proxy(
    group: &mut TaskGroup,
    settings: &Settings<'_>,
    client: Client,
    remove_services: &watch::Sender<bool>,
) -> Result<()> {
    let network = Arc::clone(&settings.network);
    group.keep("listening programs", |stop| async move {
        stop.run_until_cancelled(network.follow_listening()).await;
    });
    let network = Arc::clone(&settings.network);
    let first = settings.ranges.service;
    let further_ranges =
        service_proxy::further_ranges(&client, first, &group.component("service ranges"));
    let mut ranges = further_ranges.clone();
    group.keep("service routes", |stop| async move {
        let route = network::route_services(&network, &mut ranges);
        stop.run_until_cancelled(route).await;
    });
    let network = &settings.network;
    let config = service_proxy::Config {
        instance_id: settings.instance_id.to_owned(),
        node_name: settings.node_name.clone(),
        pod_cidr: settings.ranges.pod,
        cluster_cidr: settings.cluster_range,
        service_cidr: first,
        further_ranges,
        unmanaged: BTreeSet::from([dns_address(settings.ranges.service)?]),
        pod_link_prefix: pod_network::link_prefix(settings.instance_id),
        encrypted_link: network.encrypted_link(),
        switch: settings.switch.clone(),
        tunnel: network.tunnel(),
        host_ports: network.published(),
        listening: network.listening(),
        pods: Some(service_proxy::LocalPods {
            connected: network.connected(),
            guarded: network.guard(),
        }),
        remove_on_shutdown: remove_services.subscribe(),
    };
    group.run("service proxy", |stop| {
        service_proxy::run(client, config, stop)
    });
    Ok(())
}

/// Starts to manage the routes to the pods of other nodes, if the range of the cluster is larger than that of
/// this node.
fn start_routes(group: &mut TaskGroup, settings: &Settings<'_>, client: Client) -> Result<()> {
    let config = node_routes::Config {
        node_name: settings.node_name.clone(),
        network: Arc::clone(&settings.network),
        cluster_cidr: settings.cluster_range,
        node_ip: settings.node_ip.clone(),
        transport: settings.pods.transport()?,
    };
    let component = group.component("node routes");
    group.follow("node routes", node_routes::run(client, config, component));
    Ok(())
}

fn start_dns(group: &mut TaskGroup, settings: &Settings<'_>, client: Client) -> Result<()> {
    let ranges = &settings.ranges;
    let address = dns_address(ranges.service)?;
    let config = cluster_dns::Config {
        domain: DOMAIN.to_owned(),
        listen: vec![SocketAddr::from((address, DNS_PORT))],
        addresses: vec![address.into()],
        ranges: vec![ranges.service, settings.cluster_range],
        clients: vec![ranges.pod],
        upstreams: None,
        resolv_conf: settings.resolv_conf.clone(),
        // In the process of the API server, the server and its node start and stop together.
        zone_file: settings
            .kubelet_api
            .as_ref()
            .is_some_and(|api| api.is_needed)
            .then(|| settings.data_dir.join("node/names.json")),
    };
    group.run("DNS server", |stop| cluster_dns::run(client, config, stop));
    Ok(())
}

fn agent_config(
    settings: Settings<'_>,
    on_shutdown: &watch::Sender<OnShutdown>,
    volume_usages: watch::Receiver<VolumeUsages>,
    volume_moves: Arc<NodeMoves>,
) -> Result<node_agent::Config> {
    let annotations = node_routes::annotations(settings.network.tunnel_end());
    Ok(node_agent::Config {
        node_name: settings.node_name,
        data_dir: settings.data_dir.to_owned(),
        runtime: RuntimeOptions {
            state_dir: settings.data_dir.to_owned(),
            instance_id: settings.instance_id.to_owned(),
            // The running program, even if its file has been replaced.
            shim_command: vec!["/proc/self/exe".to_owned(), "shim".to_owned()],
            cgroup_parent: String::new(),
        },
        images: settings.images,
        registries: settings.registries,
        network: settings.network,
        node_ip: settings.node_ip,
        pod_cidr: Some(settings.ranges.pod.to_string()),
        cluster_dns: vec![dns_address(settings.ranges.service)?.to_string()],
        resolv_conf: settings.resolv_conf,
        cluster_domain: DOMAIN.to_owned(),
        kubelet_version: kube_api_server::git_version(),
        labels: settings.labels,
        annotations,
        taints: settings.taints,
        lease_length: settings.pods.lease_length()?,
        pods_max: PODS_MAX,
        pod_pids_max: settings.pods.pids_max(),
        admission: node_agent::AdmissionPolicy {
            unsafe_sysctls: settings.pods.unsafe_sysctls(),
        },
        eviction: settings.pods.eviction(),
        image_gc: settings.pods.image_gc()?,
        logs: settings.pods.logs(),
        kubelet_api: settings.kubelet_api,
        on_shutdown: on_shutdown.subscribe(),
        shutdown_order: settings.shutdown_order,
        volume_usages,
        volume_moves: Some(volume_moves),
    })
}
