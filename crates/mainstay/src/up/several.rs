//! The start of `up --nodes`: the API server and the first node are in this process, further nodes in
//! separate processes, all on one virtual switch.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use command_output::output::warn;
use control_plane::cluster_ranges::ClusterRanges;
use control_plane::host::NodeAddress;
use control_plane::store::OpenStore;
use control_plane::{
    ClusterNetwork, ControlPlane, LocalNode, RequestedNetwork, Server, ServerConfig,
};
use data_directory::NAMESPACES;
use host_kernel::block_in_place;
use pod_network::{Cidr, NodeSwitch, RequestedRanges, SwitchOptions};
use service_proxy::SwitchLink;
use tokio_util::sync::CancellationToken;

use super::further_nodes::{self, FurtherNodes, NodeInputs};
use super::settings::Settings;
use super::{Cluster, POD_FACING_PORT, Start, check, has_pods, relocation, unless_full};
use crate::node_parts::network::dns_address;
use crate::own_node::LocalMember;
use data_directory::left_pods;

/// The preferred range for the addresses of the machine and of its nodes on the switch.
const SWITCH: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 245, 0, 0), 24);

/// The file with the cluster's ranges, relative to the data directory.
const RANGES: &str = "network/cluster-ranges.json";

/// Starts a cluster with several nodes on this machine.
pub async fn start(mut start: Start<'_>) -> Result<Cluster> {
    let settings = start.settings;
    let data_dir = settings.data_dir.as_path();
    let store = control_plane::store::open(data_dir, settings.store.quota).await?;
    data_directory::process::note(data_dir).or_else(unless_full)?;
    data_directory::bind(store.shared().as_ref(), &mut start.claim).await?;
    let instance_id = start.claim.marker.kernel_name.clone();
    let network = reserve(settings, &instance_id).await?;
    let numbers = 2..=usize::from(settings.nodes);
    let names = numbers.map(|number| further_nodes::name(&start.host.name, number));
    let switch = NodeSwitch::open(SwitchOptions {
        instance_id: instance_id.clone(),
        state_dir: data_dir.join(NAMESPACES),
        range: Cidr::new(SWITCH.0, SWITCH.1),
        own_ranges: vec![network.pod_cidr, network.service_cidr],
        ranges: data_dir.join(RANGES),
        instances: PathBuf::from(pod_network::INSTANCES),
        nodes: names.collect(),
    });
    let switch = switch.await.context("connect the nodes")?;
    let started = Several {
        start,
        instance_id: &instance_id,
        network,
        switch: &switch,
    };
    let started = started.run(store).await;
    if started.is_err() {
        tear_down(&instance_id, data_dir).await;
    }
    started
}

/// Removes the switch after a failed start, unless pods of a killed server still use it.
async fn tear_down(instance_id: &str, data_dir: &Path) {
    let further = data_directory::further_nodes(data_dir);
    if further.iter().any(|node| !left_pods::pods(node).is_empty()) {
        return;
    }
    if let Err(error) = NodeSwitch::remove(instance_id, &data_dir.join(NAMESPACES)).await {
        warn(&format!(
            "mainstay: the switch of the nodes is not removed: {error:#}"
        ));
    }
}

/// The address ranges of the cluster: those of the first start, or free ranges.
async fn reserve(settings: &Settings, instance_id: &str) -> Result<ClusterNetwork> {
    let data_dir = settings.data_dir.as_path();
    let alone = data_dir.join("network/ranges.json");
    let alone = block_in_place(|| pod_network::ranges::read(&alone))?;
    let restored = block_in_place(|| control_plane::stored_network(data_dir))?;
    let default = RequestedRanges::default();
    // A cluster that had one node before, or was restored, retains the addresses of its pods and Services.
    let service = alone.map(|alone| alone.service);
    let service = service.or(restored.map(|network| network.service_cidr));
    let service = service.or(settings.service_cidr);
    let pods = restored.map(|network| network.pod_cidr);
    let pods = pods.or(settings.pod_cidr);
    let of_node = alone.map_or(default.pod, |alone| alone.pod);
    let requested = RequestedRanges {
        pod: pods.unwrap_or(control_plane::all_pods(of_node)),
        service: service.unwrap_or(default.service),
        pod_fixed: pods.is_some(),
        service_fixed: service.is_some(),
    };
    let file = data_dir.join(RANGES);
    let instances = Path::new(pod_network::INSTANCES);
    let ranges = pod_network::reserve_cluster_ranges(instance_id, &file, &requested, instances);
    let ranges = ranges
        .await
        .context("choose addresses for pods and Services")?;
    let requested_network = RequestedNetwork {
        pod_cidr: settings.pod_cidr.or(Some(ranges.pod)),
        service_cidr: settings.service_cidr.or(Some(ranges.service)),
        node_cidr_mask_size: None,
    };
    block_in_place(|| {
        let network = control_plane::choose_network(data_dir, &requested_network)?;
        network.store(data_dir)?;
        Ok(network)
    })
}

/// A cluster whose store is open, with its address ranges and its switch.
struct Several<'a> {
    start: Start<'a>,
    instance_id: &'a str,
    network: ClusterNetwork,
    switch: &'a NodeSwitch,
}

impl Several<'_> {
    async fn run(self, store: OpenStore) -> Result<Cluster> {
        let Start {
            settings,
            manifests,
            protection,
            listener,
            host,
            mut claim,
            ..
        } = self.start;
        let data_dir = settings.data_dir.as_path();
        let ranges = ClusterRanges {
            pods: self.network.pod_cidr,
            services: self.network.service_cidr,
        };
        let node = Arc::new(LocalNode::new(&host.name));
        let on_switch = SocketAddr::from((self.switch.address(), POD_FACING_PORT));
        let config = ServerConfig {
            data_dir,
            store,
            listener,
            service_range: ranges.services,
            pod_ranges: Some(self.network.pod_ranges()?),
            further_names: &settings.tls_sans,
            relocation: relocation(&claim, data_dir, &host),
            shared: None,
            advertise: on_switch,
            kubeconfig_host: Ipv4Addr::LOCALHOST.into(),
            nodes: Arc::clone(&node),
            default_class: settings.default_class,
            host_name: &host.name,
            host_addresses: &host.addresses,
            protection,
        };
        let mut server = Server::start(config).await?;
        block_in_place(|| claim.settle(data_dir, &host.name)).or_else(unless_full)?;
        let ran_before = !left_pods::on_all_nodes(data_dir).is_empty() || has_pods(&server).await?;
        if !ran_before {
            check(&server, manifests).await?;
        }
        let dns = dns_address(ranges.services)?;
        control_plane::announce_dns(&server, dns, Some(ranges)).await?;
        server.serve_pods(on_switch).await?;
        let failed = CancellationToken::new();
        let mut control_plane = ControlPlane::of(server, None, &failed);
        control_plane.follow_addresses(&host, None);
        let server = &control_plane.server;
        let address = NodeAddress::fixed(IpAddr::V4(self.switch.address()));
        let member = LocalMember {
            data_dir,
            instance_id: self.instance_id,
            machine: &settings.machine,
            cluster: ranges,
            node_ip: address.subscribe(),
            images: crate::image::open(data_dir)?,
            switch: Some(SwitchLink {
                name: pod_network::switch_link(self.instance_id),
                range: self.switch.range(),
            }),
            local: &node,
        };
        let member = member.start(server, &failed).await?;
        let inputs = NodeInputs {
            settings,
            instance_id: self.instance_id,
            switch: self.switch,
            server: format!("https://{on_switch}"),
            ca_pem: &server.ca_pem,
        };
        let admin = server.client("mainstay-admin", &["system:masters"]);
        let further = FurtherNodes::start(inputs, &admin).await?;
        let configured_by = settings.configured_by.clone();
        let storage = member.parts.storage();
        block_in_place(|| control_plane.serve_admin(data_dir, Some(storage), configured_by));
        Ok(Cluster {
            control_plane,
            node: member,
            further,
            ran_before,
            failed,
        })
    }
}
