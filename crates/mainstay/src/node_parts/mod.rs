//! The parts of a node: node agent, service proxy, DNS server, provisioner. They get their clients of
//! the API from outside, so that they run beside the API server or on another machine.

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
pub use settings::{MachineArguments, MachineFile, MachineSettings, given};
pub use shutdown::ShutdownSettings;

/// The cluster's domain.
const DOMAIN: &str = "cluster.local";
/// The groups of both accounts.
const ACCOUNT_GROUPS: [&str; 2] = [
    "system:serviceaccounts",
    "system:serviceaccounts:kube-system",
];
/// The machine's file with name servers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// Most pods on the node, as Kubernetes has it.
const PODS_MAX: u32 = 110;

/// A client for each part of the node, with the user that the part is.
pub struct Clients {
    /// The node agent, as the node.
    pub agent: Client,
    /// The service proxy, as its own account.
    pub proxy: Client,
    /// The DNS server, as its own account.
    pub dns: Client,
    /// The provisioner of local volumes, as its own account.
    pub provisioner: Client,
}

impl Clients {
    /// The clients of a node in the process of the API server, which knows a client for each user.
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
    /// The data directory of the instance.
    pub data_dir: &'a Path,
    /// The id of the instance, which its names in the kernel contain.
    pub instance_id: &'a str,
    /// The name of the Node object.
    pub node_name: String,
    /// The addresses of this node's pods, and of Services.
    pub ranges: Ranges,
    /// The addresses of the pods of all nodes.
    pub cluster_range: Cidr,
    /// The network of the pods.
    pub network: Arc<PodNetwork>,
    /// The node's address, with its later changes.
    pub node_ip: watch::Receiver<IpAddr>,
    /// The image store of the node.
    pub images: ImageStore,
    /// Mirrors of registries and the credentials for them.
    pub registries: RegistriesConfig,
    /// The settings of the node agent for pods.
    pub pods: PodSettings,
    /// In which order they are stopped.
    pub shutdown_order: ShutdownOrder,
    /// Labels of the Node object besides the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Taints of a new Node object.
    pub taints: Vec<Taint>,
    /// The kubelet API on the network.
    pub kubelet_api: Option<KubeletApi>,
    /// The switch of further nodes on this machine.
    pub switch: Option<SwitchLink>,
    /// The file with name servers for names outside of the cluster.
    pub resolv_conf: PathBuf,
}

/// The running parts of a node.
pub struct NodeParts {
    agent: TaskGroup,
    /// The parts that pods need while they run.
    network: TaskGroup,
    storage: Storage,
    /// The treatment of the pods at the end.
    on_shutdown: watch::Sender<OnShutdown>,
    /// Whether the rules of Services go then.
    remove_services: watch::Sender<bool>,
    /// The API of the node agent.
    pub service: NodeService,
}

impl NodeParts {
    /// Starts every part. `failed` is cancelled when one ends unexpectedly.
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

    /// The storage of the node's volumes.
    pub fn storage(&self) -> Storage {
        self.storage.clone()
    }

    /// Stops the pods, each within its grace period, or leaves them running; then the parts.
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
    let network = &settings.network;
    let config = service_proxy::Config {
        instance_id: settings.instance_id.to_owned(),
        node_name: settings.node_name.clone(),
        pod_cidr: settings.ranges.pod,
        cluster_cidr: settings.cluster_range,
        service_cidr: settings.ranges.service,
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

/// Makes routes to the pods of other nodes, if the cluster has room for some.
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
        // In the process of the API server, both are there or away.
        kept: settings
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
            // This very program, even if its file has been replaced since.
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
