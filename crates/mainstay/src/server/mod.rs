//! `mainstay server`: the API server with its controllers and its scheduler, for nodes on other
//! machines.

mod settings;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use command_output::output::print_line;
use control_plane::cluster_ranges::ClusterRanges;
use control_plane::host::{self, Host, NodeAddress};
use control_plane::store::OpenStore;
use control_plane::{
    ClusterNetwork, ControlPlane, DataLocation, LocalNode, Relocation, Server, ServerConfig,
    TokenFile,
};
use data_directory::{Claim, Engine, Role};
use host_kernel::block_in_place;
use node_agent::OnShutdown;
use tokio_util::sync::CancellationToken;

use crate::node_parts::member::RunningMember;
use crate::node_parts::network::dns_address;
use crate::own_node::LocalMember;
use crate::settings::program;
use crate::stop::Shutdown;
pub use settings::ServerRoleArguments;
use settings::Settings;

/// Runs until SIGINT or SIGTERM, and keeps all data.
pub async fn run(arguments: ServerRoleArguments) -> Result<()> {
    let started = Instant::now();
    let settings = arguments.settings()?;
    if let Some(machine) = &settings.node {
        host::require_root("server --with-node")?;
        machine.pods.require_encryption()?;
    }
    let data_dir = settings.data_dir.as_path();
    if settings.background.detach {
        return data_directory::process::detach(data_dir, "", 0);
    }
    let on_stop = settings.node.as_ref().map(|machine| machine.on_stop);
    let shutdown = Shutdown::listen(on_stop, settings.background.in_background)?;
    let listener = control_plane::bind(settings.listen, data_dir).await?;
    data_directory::make(data_dir)?;
    let host = Host::inspect()?;
    let instances = Path::new(pod_network::INSTANCES);
    let engine = match &settings.etcd {
        Some(_) => Engine::Etcd,
        None => Engine::Embedded,
    };
    let role = (Role::Server, engine);
    let mut claim = data_directory::claim(data_dir, &host.name, role, instances)?;
    let mut network =
        block_in_place(|| control_plane::choose_network(data_dir, &settings.network))?;
    let address = advertised(&settings, &host)?;
    let store = open_store(&settings).await?;
    data_directory::process::note(data_dir)?;
    data_directory::bind(store.shared().as_ref(), &mut claim).await?;
    if store.is_shared() {
        let (shared, requested) = (store.shared(), &settings.network);
        network = control_plane::agree_on_network(shared.as_ref(), requested, network).await?;
    }
    block_in_place(|| network.store(data_dir))?;
    let shared = server_token(&settings, &store)?;
    let port = listener
        .local_addr()
        .context("read the listening address")?;
    let node = Arc::new(LocalNode::new(&host.name));
    // Paths in the objects are of other machines, so they are not rewritten.
    let location = DataLocation {
        path: data_dir.to_owned(),
        host: host.name.clone(),
    };
    let config = ServerConfig {
        data_dir,
        store,
        listener,
        service_range: network.service_cidr,
        pod_ranges: Some(network.pod_ranges()?),
        advertise: SocketAddr::from((address, port.port())),
        kubeconfig_host: address.into(),
        nodes: Arc::clone(&node),
        default_class: settings.default_class,
        host_name: &host.name,
        host_addresses: &host.addresses,
        further_names: &settings.tls_sans,
        protection: settings.store.protection.read()?,
        relocation: Relocation {
            from: location.clone(),
            to: location,
        },
        shared,
    };
    let server = Server::start(config).await?;
    claim.settle(data_dir, &host.name)?;
    let dns = dns_address(network.service_cidr)?;
    control_plane::announce_dns(&server, dns, Some(ranges(&network))).await?;
    let failed = CancellationToken::new();
    let control_plane = ControlPlane::of(server, None, &failed);
    let base = Base {
        settings: &settings,
        host,
        claim,
        network,
        node,
        failed,
    };
    let cluster = base.start_node(control_plane).await?;
    cluster.report_ready(&settings, address, started).await;
    let result = tokio::select! {
        () = shutdown.raised().cancelled() => Ok(()),
        () = base.failed.cancelled() => Err(anyhow::anyhow!("a component of the program has failed")),
    };
    cluster.stop(shutdown.pods()).await?;
    result
}

async fn open_store(settings: &Settings) -> Result<OpenStore> {
    let quota = settings.store.quota;
    match &settings.etcd {
        Some(address) => control_plane::store::connect(address, quota).await,
        None => control_plane::store::open(&settings.data_dir, quota).await,
    }
}

/// The server token; `None` if no other server uses the store.
fn server_token(settings: &Settings, store: &OpenStore) -> Result<Option<TokenFile>> {
    let named = settings.server_token_file.clone();
    if named.is_some() && !store.is_shared() {
        bail!("--server-token-file is for servers with a common store: add --store");
    }
    Ok(store
        .is_shared()
        .then(|| TokenFile::choose(named, &settings.data_dir)))
}

fn ranges(network: &ClusterNetwork) -> ClusterRanges {
    ClusterRanges {
        pods: network.pod_cidr,
        services: network.service_cidr,
    }
}

/// The address at which nodes and pods reach the server.
fn advertised(settings: &Settings, host: &Host) -> Result<Ipv4Addr> {
    let of_listener = match settings.listen {
        SocketAddr::V4(listen) if !listen.ip().is_unspecified() => Some(*listen.ip()),
        _ => None,
    };
    let address = settings.advertise_address.or(of_listener);
    match address.or_else(|| host.reachable_v4()) {
        Some(address) if address.is_unspecified() => {
            bail!("--advertise-address {address}: nodes need one address of this machine")
        }
        Some(address) => Ok(address),
        None => bail!(
            "this machine has no IPv4 address that other machines can reach; connect it to a network, \
             or name an address with --advertise-address"
        ),
    }
}

/// The parts of the server that the node of this machine uses.
struct Base<'a> {
    settings: &'a Settings,
    host: Host,
    claim: Claim,
    network: ClusterNetwork,
    node: Arc<LocalNode>,
    failed: CancellationToken,
}

/// The running parts of a cluster.
struct Cluster {
    control_plane: ControlPlane,
    node: Option<RunningMember>,
}

impl Base<'_> {
    /// Starts the node of this machine, with `--with-node`.
    async fn start_node(&self, mut control_plane: ControlPlane) -> Result<Cluster> {
        let data_dir = self.settings.data_dir.as_path();
        let configured_by = self.settings.configured_by.clone();
        let Some(machine) = &self.settings.node else {
            block_in_place(|| control_plane.serve_admin(data_dir, None, configured_by));
            control_plane.follow_addresses(&self.host, None);
            return Ok(Cluster {
                control_plane,
                node: None,
            });
        };
        let before = &self.claim.before;
        if !self.claim.is_new && *before != (data_dir.to_owned(), self.host.name.clone()) {
            bail!(
                "the data directory was {} on {}: the volumes of this node are known by that place. \
                 Move the directory back, or start the server without --with-node",
                before.0.display(),
                before.1
            );
        }
        let address = NodeAddress::of(&self.host, Ipv4Addr::LOCALHOST);
        let member = LocalMember {
            data_dir,
            instance_id: &self.claim.marker.kernel_name,
            machine,
            cluster: ranges(&self.network),
            node_ip: address.subscribe(),
            images: crate::image::open(data_dir)?,
            switch: None,
            local: &self.node,
        };
        let member = member.start(&control_plane.server, &self.failed).await?;
        let storage = Some(member.parts.storage());
        block_in_place(|| control_plane.serve_admin(data_dir, storage, configured_by));
        control_plane.follow_addresses(&self.host, Some(address));
        Ok(Cluster {
            control_plane,
            node: Some(member),
        })
    }
}

impl Cluster {
    async fn report_ready(&self, settings: &Settings, address: Ipv4Addr, started: Instant) {
        let server = &self.control_plane.server;
        print_line(&format!(
            "mainstay: ready in {:.0?} at https://{} (kubeconfig {})",
            started.elapsed(),
            server.address,
            settings.data_dir.join("kubeconfig").display()
        ));
        let address_of_this = SocketAddr::from((address, server.address.port()));
        let client = server.client("system:apiserver", &["system:masters"]);
        let mut servers = match &server.identity {
            // Any server is enough to join, so an error in this list does not matter.
            Some(_) => control_plane::live_addresses(&client)
                .await
                .unwrap_or_default(),
            None => Vec::new(),
        };
        servers.retain(|server| *server != address_of_this);
        servers.insert(0, address_of_this);
        let servers: Vec<String> = servers
            .iter()
            .map(|server| format!("https://{server}"))
            .collect();
        print_line(&format!(
            "To add a node: `{} token create --data-dir {}` prints a token for `mainstay node --server \
             {} --token TOKEN` on its machine",
            program(),
            settings.data_dir.display(),
            servers.join(","),
        ));
    }

    async fn stop(self, pods: OnShutdown) -> Result<()> {
        let mut stopped = Ok(());
        let node = async {
            if let Some(node) = self.node {
                stopped = node.stop(pods).await;
            }
        };
        self.control_plane.stop(node).await;
        stopped
    }
}
