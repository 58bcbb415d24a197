//! `mainstay node`: a node of the cluster of a server on another machine.

pub mod leaving;
mod settings;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use command_output::output::{print_line, warn};
use control_plane::host::{self, Host, NodeAddress};
use control_plane::tasks::TaskGroup;
use data_directory::{Claim, Engine, Role};
use host_kernel::block_in_place;
use kube_api_client::Client;
use node_agent::{KubeletApi, MachineInfo, NewNode, OnShutdown, ServingCertificate, Watchdog};
use node_identity::{Servers, account_client, renewed_client};
use node_membership::{
    ClusterEntry, Membership, MembershipStore, NodeClient, Registered, former_machine, joining,
    servers, store_ranges, tunnels, version,
};
use process_telemetry::Health;
use resource_kinds::NodeAccount;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::node_parts::Clients;
use crate::node_parts::member::{Member, RunningMember};
use crate::stop::Shutdown;
pub use settings::NodeArguments;
use settings::Settings;

/// Runs until SIGINT or SIGTERM; then stops the pods, or leaves them.
pub async fn run(arguments: NodeArguments) -> Result<()> {
    let started = Instant::now();
    if arguments.leaving.leave {
        host::require_root("node")?;
        return leaving::run(&arguments.leaving, &arguments.data_dir()?).await;
    }
    let settings = arguments.settings()?;
    host::require_root("node")?;
    settings.machine.pods.require_encryption()?;
    let data_dir = settings.data_dir.as_path();
    if settings.background.detach {
        return data_directory::process::detach(data_dir, "", 0);
    }
    let shutdown = Shutdown::listen(
        Some(settings.machine.on_stop),
        settings.background.in_background,
    )?;
    data_directory::make(data_dir)?;
    let host = Host::inspect()?;
    let instances = Path::new(pod_network::INSTANCES);
    let role = (Role::Node, Engine::Embedded);
    let claim = data_directory::claim(data_dir, &host.name, role, instances)?;
    let membership_store = Arc::new(MembershipStore::open(data_dir)?);
    data_directory::process::note(data_dir)?;
    // Started before the node enters the cluster, because an agent that was killed has left the device armed.
    let _watchdog = block_in_place(|| watchdog(&settings))?;
    let entering = Entry::find(&settings, &host, membership_store);
    // Entering the cluster waits for the server; a signal ends the wait.
    let Some(entry) = shutdown.raised().run_until_cancelled(entering).await else {
        return Ok(());
    };
    let mut node = start(&settings, host, claim, entry?).await?;
    tokio::select! {
        () = joining::serving(&mut node.serving) => {}
        () = node.failed.cancelled() => {}
        () = shutdown.raised().cancelled() => return node.stop(shutdown.pods()).await,
    }
    print_line(&format!(
        "mainstay: ready in {:.0?} as the node {} of {} (pods {})",
        started.elapsed(),
        node.name,
        node.servers.current().to_string().trim_end_matches('/'),
        node.registered.pods,
    ));
    let result = tokio::select! {
        () = shutdown.raised().cancelled() => Ok(()),
        () = node.failed.cancelled() => Err(anyhow::anyhow!("a component of the program has failed")),
    };
    node.stop(shutdown.pods()).await?;
    result
}

/// Starts to feed the watchdog of the machine, if one is named.
fn watchdog(settings: &Settings) -> Result<Option<Watchdog>> {
    let Some(device) = &settings.watchdog else {
        return Ok(None);
    };
    let lease = settings.machine.pods.lease_length()?;
    let started = Watchdog::start(device, &settings.data_dir, lease);
    Ok(Some(started.context("--watchdog")?))
}

/// The running parts of a node.
struct Node {
    name: String,
    servers: Servers,
    registered: Registered,
    member: RunningMember,
    /// `None` until the first certificate is issued.
    serving: watch::Receiver<Option<ServingCertificate>>,
    upkeep: TaskGroup,
    failed: CancellationToken,
}

/// The result of entering the cluster: a registered node.
struct Entry {
    node_client: NodeClient,
    client: Client,
    node: NewNode,
    entered: ClusterEntry,
    membership_store: Arc<MembershipStore>,
    membership: Membership,
}

impl Entry {
    async fn find(
        settings: &Settings,
        host: &Host,
        membership_store: Arc<MembershipStore>,
    ) -> Result<Self> {
        let joined = joining::membership(&membership_store, &settings.joining, &host.name).await?;
        let (membership, identity) = joined;
        let servers = Servers::new(membership.urls()?).context("no server is known")?;
        let node_client = NodeClient {
            servers,
            ca_pem: membership.ca_pem.clone(),
            node_name: membership.node_name.clone(),
            identity: watch::Sender::new(identity),
        };
        let client = renewed_client(
            &node_client.servers,
            &node_client.ca_pem,
            node_client.identity.subscribe(),
        );
        let node = NewNode {
            name: membership.node_name.clone(),
            labels: settings.labels.clone(),
            // The annotation with the public key of WireGuard follows when the network exists.
            annotations: Default::default(),
            taints: settings.taints.clone(),
            pod_cidr: membership.pod_cidr.map(|range| range.to_string()),
        };
        let entered = joining::enter(&client, &node, membership.registered()).await?;
        if let ClusterEntry::Answered(_) = entered {
            let machine = block_in_place(|| MachineInfo::read(&settings.data_dir));
            former_machine::wait_until_ended(&client, &node.name, &machine).await?;
        }
        // Does not apply to a node that enters without the server, because its pods run already: an upgrade
        // in the wrong order stops no pod.
        if let ClusterEntry::Answered(_) = entered
            && let Ok(Some(reason)) = version::too_new(&client).await
        {
            warn(&format!("mainstay: {reason}"));
        }
        Ok(Self {
            node_client,
            client,
            node,
            entered,
            membership_store,
            membership,
        })
    }
}

/// Updates the node's address when the machine's addresses change; connections from the former address are replaced.
fn follow_addresses(upkeep: &mut TaskGroup, host: Host, address: NodeAddress, servers: Servers) {
    upkeep.keep("machine's addresses", |stop| {
        host::follow(host, stop, move |host| {
            if address.follow(host) {
                servers.reconnect();
            }
        })
    });
}

fn maintain_tunnels(upkeep: &mut TaskGroup, node_client: &NodeClient, kubelet_port: u16) {
    // With port 0 the system may choose another port at each start.
    if kubelet_port != 0 {
        let node_client = node_client.clone();
        upkeep.keep("tunnels to the servers", |stop| {
            tunnels::maintain(node_client, kubelet_port, stop)
        });
    }
}

async fn start(settings: &Settings, host: Host, mut claim: Claim, entry: Entry) -> Result<Node> {
    let data_dir = settings.data_dir.as_path();
    let Entry {
        node_client,
        client,
        node,
        entered,
        membership_store,
        mut membership,
    } = entry;
    let registered = entered.registered();
    block_in_place(|| claim.settle(data_dir, &host.name))?;
    if matches!(entered, ClusterEntry::Answered(_)) {
        block_in_place(|| store_ranges(&membership_store, &mut membership, registered, data_dir))?;
    } else {
        print_line(
            "mainstay: no server answers: the containers that run here continue and are started again when they \
             end; pods without a sandbox wait for a server",
        );
    }
    let (servers, name) = (node_client.servers.clone(), node_client.node_name.clone());
    let (health, failed) = (Health::default(), CancellationToken::new());
    let mut upkeep = TaskGroup::new(&health, &failed);
    let address = node_address(settings, &host)?;
    let node_ip = address.subscribe();
    let published = watch::Sender::new(None);
    let (confirming, named) = (client.clone(), node.clone());
    let member = Member {
        data_dir,
        instance_id: &claim.marker.kernel_name,
        machine: &settings.machine,
        node,
        cluster: registered.cluster,
        node_ip: node_ip.clone(),
        kubelet_api: Some(KubeletApi {
            listen: settings.machine.kubelet_address(),
            client_ca_pem: node_client.ca_pem.clone(),
            certificate: published.subscribe(),
            is_needed: true,
        }),
        images: crate::image::open(data_dir)?,
        switch: None,
        resolv_conf: settings.resolv_conf.clone(),
    };
    let clients = clients(&node_client);
    let reading = clients.proxy.clone();
    let member = member
        .start(registered.pods, clients, &health, &failed)
        .await?;
    if settings.node_ip.is_none() {
        follow_addresses(&mut upkeep, host, address, servers.clone());
    }
    let (serving, certificate) = (node_client.clone(), published.subscribe());
    upkeep.keep("serving certificate", |stop| {
        serving.renew_serving(client, node_ip, published, stop)
    });
    upkeep.run("servers", |component| {
        servers::follow_health(
            servers.clone(),
            node_client.ca_pem.clone(),
            component.shutdown,
        )
    });
    let keeper = Arc::clone(&membership_store);
    let component = upkeep.component("list of servers");
    let list = servers::follow_list(reading, servers.clone(), keeper, membership, component);
    upkeep.follow("list of servers", list);
    if let ClusterEntry::Remembered(remembered) = entered {
        upkeep.keep("way into the cluster", |stop| {
            confirm(confirming, named, remembered, failed.clone(), stop)
        });
    }
    maintain_tunnels(&mut upkeep, &node_client, settings.machine.kubelet_port);
    upkeep.keep("client certificate", |stop| {
        node_client.renew_client(membership_store, stop)
    });
    Ok(Node {
        name,
        servers,
        registered,
        member,
        serving: certificate,
        upkeep,
        failed,
    })
}

impl Node {
    async fn stop(self, pods: OnShutdown) -> Result<()> {
        let stopped = self.member.stop(pods).await;
        self.upkeep.end().await;
        stopped
    }
}

fn node_address(settings: &Settings, host: &Host) -> Result<NodeAddress> {
    match (settings.node_ip, host.reachable_v4()) {
        (Some(address), _) => Ok(NodeAddress::fixed(address)),
        (None, Some(address)) => Ok(NodeAddress::of(host, address)),
        (None, None) => bail!(
            "this machine has no IPv4 address that other machines can reach; connect it to a network, \
             or name an address with --node-ip"
        ),
    }
}

/// The clients of the node's parts.
fn clients(node_client: &NodeClient) -> Clients {
    let (servers, ca_pem) = (&node_client.servers, node_client.ca_pem.as_str());
    let identity = || node_client.identity.subscribe();
    let account =
        |account| account_client(servers, ca_pem, identity(), &node_client.node_name, account);
    Clients {
        agent: renewed_client(servers, ca_pem, identity()),
        proxy: account(NodeAccount::Proxy),
        dns: account(NodeAccount::Dns),
        provisioner: account(NodeAccount::Provisioner),
    }
}

/// Waits for the server after a start without it and compares the answer with that start, until `stop` is
/// cancelled. The node ends if it cannot continue.
async fn confirm(
    client: Client,
    node: NewNode,
    remembered: Registered,
    failed: CancellationToken,
    stop: CancellationToken,
) {
    let confirmed = joining::confirm(&client, &node, remembered);
    match stop.run_until_cancelled(confirmed).await {
        Some(Ok(())) => print_line("mainstay: a server answers"),
        Some(Err(error)) => {
            warn(&format!("mainstay: {error:#}"));
            failed.cancel();
        }
        None => {}
    }
    stop.cancelled().await;
}
