//! `mainstay up`: everything in one process.

mod further_nodes;
mod hints;
pub mod settings;
mod several;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use command_output::output::{leave_foot, print_line, warn};
use command_output::terminal;
use control_plane::host::{self, Host, NodeAddress};
use control_plane::{
    ControlPlane, DataLocation, LocalNode, Protection, Relocation, Server, ServerConfig,
};
use data_directory::process::NOT_APPLIED;
use data_directory::{Claim, Engine, Role};
use host_kernel::{block_in_place, blocking};
use image_store::{ImageStore, RegistriesConfig};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, ListParams, PartialObjectMeta};
use manifest_apply::Manifest;
use node_agent::OnShutdown;
use pod_network::{PodNetwork, Ranges, RequestedRanges};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::node_parts::member::RunningMember;
use crate::node_parts::network::{dns_address, tear_down};
use crate::node_parts::{self, Clients, NodeParts};
use crate::own_node;
use crate::settings::program;
use crate::stop::Shutdown;
use cluster_inspection::pod_row::PodRows;
use data_directory::left_pods;
use further_nodes::FurtherNodes;
use settings::Settings;
pub use settings::{ConfigurationFile, UpArguments};
use stateful_set_progress::WatchedSet;

/// The port of the API server on the node address that pods use.
const POD_FACING_PORT: u16 = 6443;

/// Runs until SIGINT or SIGTERM; then stops the pods, or leaves them, and keeps all data.
pub async fn run(arguments: UpArguments) -> Result<()> {
    let started = Instant::now();
    let settings = arguments.settings()?;
    host::require_root("up")?;
    settings.machine.pods.require_encryption()?;
    let manifests = block_in_place(|| manifest_apply::read_all(&settings.files))?;
    let registries = block_in_place(|| settings.machine.read_registries())?;
    let protection = block_in_place(|| settings.store.protection.read())?;
    if settings.background.detach {
        let input = manifest_apply::from_standard_input(&manifests);
        return data_directory::process::detach(&settings.data_dir, &input, manifests.len());
    }
    let shutdown = Shutdown::listen(
        Some(settings.machine.on_stop),
        settings.background.in_background,
    )?;
    let data_dir = settings.data_dir.as_path();
    let listener = control_plane::bind(settings.listen, data_dir).await?;
    data_directory::make(data_dir)?;
    let host = Host::inspect()?;
    let role = (Role::Up, Engine::Embedded);
    let instances = Path::new(pod_network::INSTANCES);
    let claim = data_directory::claim(data_dir, &host.name, role, instances)?;
    let start = Start {
        settings: &settings,
        manifests: &manifests,
        registries,
        protection,
        listener,
        host,
        claim,
    };
    let cluster = match settings.nodes {
        1 => Cluster::start(start).await?,
        _ => several::start(start).await?,
    };
    let result = cluster
        .serve(&settings, &manifests, shutdown.raised(), started)
        .await;
    cluster.stop(shutdown.pods()).await?;
    result
}

struct Start<'a> {
    settings: &'a Settings,
    manifests: &'a [Manifest],
    registries: RegistriesConfig,
    protection: Protection,
    listener: TcpListener,
    host: Host,
    claim: Claim,
}

/// The parts of the server that the node of this machine uses.
struct Base<'a> {
    settings: &'a Settings,
    registries: RegistriesConfig,
    host: Host,
    /// The id of the instance; names in the kernel contain it.
    instance_id: String,
    images: ImageStore,
    network: Arc<PodNetwork>,
    ranges: Ranges,
    /// The in-process connection of the API server to the node.
    node: Arc<LocalNode>,
}

/// The running parts of a cluster.
struct Cluster {
    control_plane: ControlPlane,
    node: RunningMember,
    /// The nodes in separate processes.
    further: FurtherNodes,
    /// Whether pods existed before the start: an error in a manifest then does not stop them.
    ran_before: bool,
    /// Cancelled when a part ends unexpectedly.
    failed: CancellationToken,
}

impl Cluster {
    async fn start(start: Start<'_>) -> Result<Self> {
        let Start {
            settings,
            manifests,
            registries,
            protection,
            listener,
            host,
            mut claim,
        } = start;
        let data_dir = settings.data_dir.as_path();
        let store = control_plane::store::open(data_dir, settings.store.quota).await?;
        data_directory::process::note(data_dir).or_else(unless_full)?;
        data_directory::bind(store.shared().as_ref(), &mut claim).await?;
        // Slow on the first start only, while the API server starts.
        let images = crate::image::open(data_dir)?;
        let for_builtin = images.clone();
        let builtin = blocking(move || builtin_images::put(&for_builtin));
        // Restored Services have addresses in the network of the backup.
        let restored = block_in_place(|| control_plane::stored_network(data_dir))?;
        let service = restored.map(|network| network.service_cidr);
        let service = service.or(settings.service_cidr);
        let default = RequestedRanges::default();
        let requested = RequestedRanges {
            pod: settings.pod_cidr.unwrap_or(default.pod),
            service: service.unwrap_or(default.service),
            pod_fixed: settings.pod_cidr.is_some(),
            service_fixed: service.is_some(),
        };
        let instance_id = claim.marker.kernel_name.clone();
        let ranges = node_parts::network::reserve(data_dir, &instance_id, &requested).await?;
        let pod_facing = SocketAddr::from((ranges.node_address()?, POD_FACING_PORT));
        let node = Arc::new(LocalNode::new(&host.name));
        let config = ServerConfig {
            data_dir,
            store,
            listener,
            service_range: ranges.service,
            pod_ranges: None,
            advertise: pod_facing,
            kubeconfig_host: Ipv4Addr::LOCALHOST.into(),
            nodes: Arc::clone(&node),
            default_class: settings.default_class,
            host_name: &host.name,
            host_addresses: &host.addresses,
            further_names: &settings.tls_sans,
            protection,
            relocation: relocation(&claim, data_dir, &host),
            shared: None,
        };
        // Concurrent: the API server computes while the network waits for the kernel. There is no other node
        // to which pods could send.
        let opening = node_parts::network::open(data_dir, &instance_id, &ranges, None);
        let opening = tokio::spawn(opening);
        let server = async {
            check_ranges(settings, &ranges)?;
            Self::start_server(config, &mut claim, manifests).await
        };
        let server = server.await;
        // The network is opened even if the server fails: the cleanup of a failed start removes the open
        // network and the reserved ranges.
        let network = opening.await.context("set up the pods' network")??;
        let base = Base {
            settings,
            registries,
            host,
            instance_id,
            images,
            network: Arc::clone(&network),
            ranges,
            node,
        };
        let started = async {
            let (mut server, ran_before) = server?;
            server.serve_pods(pod_facing).await?;
            builtin
                .await
                .context("make the built-in images")
                .or_else(unless_full)?;
            Self::start_on(base, server, ran_before).await
        };
        let started = started.await;
        if started.is_err() {
            tear_down(&network, data_dir).await;
        }
        started
    }

    /// Starts the API server; also returns whether there were pods before.
    async fn start_server(
        config: ServerConfig<'_>,
        claim: &mut Claim,
        manifests: &[Manifest],
    ) -> Result<(Server, bool)> {
        let (data_dir, host_name) = (config.data_dir, config.host_name);
        let dns = dns_address(config.service_range)?;
        let server = Server::start(config).await?;
        block_in_place(|| claim.settle(data_dir, host_name)).or_else(unless_full)?;
        let ran_before = !left_pods::pods(data_dir).is_empty() || has_pods(&server).await?;
        if !ran_before {
            check(&server, manifests).await?;
        }
        control_plane::announce_dns(&server, dns, None).await?;
        Ok((server, ran_before))
    }

    /// Starts the parts of the node, then the controllers and the scheduler.
    async fn start_on(base: Base<'_>, server: Server, ran_before: bool) -> Result<Self> {
        let Base {
            settings,
            registries,
            host,
            instance_id,
            images,
            network,
            ranges,
            node,
        } = base;
        let data_dir = settings.data_dir.as_path();
        let failed = CancellationToken::new();
        let address = NodeAddress::of(&host, network.node_address());
        let listen = settings.machine.kubelet_address();
        let kubelet_api = own_node::kubelet_api(&server, &host.name, listen, address.subscribe())?;
        let parts = node_parts::Settings {
            data_dir,
            instance_id: &instance_id,
            node_name: host.name.clone(),
            ranges,
            cluster_range: ranges.pod,
            network: Arc::clone(&network),
            node_ip: address.subscribe(),
            images,
            registries,
            pods: settings.machine.pods.clone(),
            shutdown_order: settings.machine.shutdown_order.clone(),
            labels: Default::default(),
            taints: Vec::new(),
            kubelet_api: Some(kubelet_api),
            switch: None,
            resolv_conf: node_parts::RESOLV_CONF.into(),
        };
        let clients = Clients::in_process(&host.name, |user, groups| server.client(user, groups));
        let parts = NodeParts::start(parts, clients, &server.health(), &failed).await?;
        node.set(parts.service.clone());
        // After the node, because the start waits for the node and the controllers would compete with it for
        // the processors.
        let mut control_plane = ControlPlane::of(server, Some(network.listening()), &failed);
        control_plane.follow_addresses(&host, Some(address));
        let configured_by = settings.configured_by.clone();
        block_in_place(|| {
            control_plane.serve_admin(data_dir, Some(parts.storage()), configured_by)
        });
        Ok(Self {
            control_plane,
            node: RunningMember::of(parts, network),
            further: FurtherNodes::default(),
            ran_before,
            failed,
        })
    }

    /// Reports that the cluster is ready, applies the manifests, prints their progress, and waits for the
    /// signal to end.
    async fn serve(
        &self,
        settings: &Settings,
        manifests: &[Manifest],
        interrupted: &CancellationToken,
        started: Instant,
    ) -> Result<()> {
        let kubeconfig = settings.data_dir.join("kubeconfig");
        print_line(&format!(
            "mainstay: ready in {:.0?} at https://{} (kubeconfig {})",
            started.elapsed(),
            self.control_plane.server.address,
            kubeconfig.display()
        ));
        let applied = self.apply(manifests).await?;
        let all_sets = manifests.is_empty();
        if all_sets {
            self.report_existing(&kubeconfig).await;
        }
        // Sets that the user did not apply are printed on a terminal only: output to a pipe must end.
        if all_sets && terminal::size().is_some() {
            self.show_progress(None, &kubeconfig, interrupted).await?;
        } else if !applied.is_empty() {
            let applied = Some(applied.as_slice());
            self.show_progress(applied, &kubeconfig, interrupted)
                .await?;
        }
        tokio::select! {
            () = interrupted.cancelled() => Ok(()),
            () = self.failed.cancelled() => bail!("a component of the program has failed"),
        }
    }

    async fn apply(&self, manifests: &[Manifest]) -> Result<Vec<WatchedSet>> {
        let client = self
            .control_plane
            .server
            .client("mainstay-admin", &["system:masters"]);
        let kinds = self.control_plane.server.kind_infos();
        let mut sets = Vec::new();
        let mut refused = 0;
        for manifest in manifests {
            let applied = match manifest_apply::apply(&client, &kinds, manifest).await {
                Ok(applied) => applied,
                Err(error) => {
                    refused += 1;
                    let object = manifest_apply::display(&kinds, manifest);
                    warn(&format!("{object}{NOT_APPLIED}{error:#}"));
                    continue;
                }
            };
            for warning in &applied.warnings {
                warn(&format!("Warning: {warning}"));
            }
            print_line(&format!("{} {}", applied.object, applied.outcome));
            if let Some(name) = applied.object.strip_prefix("statefulset.apps/") {
                let namespace = manifest.object.pointer("/metadata/namespace");
                let namespace = namespace
                    .and_then(|value| value.as_str())
                    .unwrap_or("default");
                sets.push(WatchedSet {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                });
            }
        }
        match refused {
            0 => {}
            _ if self.ran_before => warn(&format!(
                "mainstay: {refused} of {} objects were not applied; existing objects continue to run",
                manifests.len()
            )),
            _ => bail!("{refused} of {} objects were not applied", manifests.len()),
        }
        Ok(sets)
    }

    /// Prints the objects that existed before the start, except sets that the table will show.
    async fn report_existing(&self, kubeconfig: &Path) {
        let client = self
            .control_plane
            .server
            .client("mainstay-admin", &["system:masters"]);
        let all_sets: Api<StatefulSet> = Api::all(client.clone());
        let all_pods: Api<Pod> = Api::all(client);
        let every = ListParams::default();
        let read = tokio::try_join!(all_sets.list(&every), all_pods.list_metadata(&every));
        // Objects that cannot be read are not printed.
        let Ok((sets, pods)) = read else {
            return;
        };
        if terminal::size().is_some() && !sets.items.is_empty() {
            return;
        }
        let is_of_set = |pod: &&PartialObjectMeta<Pod>| {
            let owners = pod.metadata.owner_references.iter().flatten();
            owners.into_iter().any(|owner| owner.kind == "StatefulSet")
        };
        let others = pods.items.iter().filter(|pod| !is_of_set(pod)).count();
        let named = sets.items.iter().map(|set| {
            let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
            (WatchedSet::of(set).title(), replicas.unwrap_or(1))
        });
        let named: Vec<(String, i32)> = named.collect();
        print_line(&hints::earlier(&program(), kubeconfig, &named, others));
    }

    async fn show_progress(
        &self,
        sets: Option<&[WatchedSet]>,
        kubeconfig: &Path,
        interrupted: &CancellationToken,
    ) -> Result<()> {
        let mut kinds = self.control_plane.server.kinds.iter();
        let pods = kinds.find(|kind| kind.info().kind == "Pod");
        let rows = pods.and_then(|kind| PodRows::new(kind.as_ref()));
        let rows = rows.context("the Pod kind lacks a column")?;
        let rows = rows.with_nodes(!self.further.is_empty());
        let client = self
            .control_plane
            .server
            .client("mainstay-admin", &["system:masters"]);
        let hints = |urls: &[String]| hints::text(&program(), kubeconfig, urls);
        let progress_result = tokio::select! {
            () = stateful_set_progress::show(client, sets, &rows, interrupted, hints) => Ok(()),
            () = self.failed.cancelled() => Err(anyhow!("a component of the program has failed")),
        };
        leave_foot();
        progress_result
    }

    async fn stop(self, pods: OnShutdown) -> Result<()> {
        let mut stopped = Ok(());
        let nodes = async {
            let (further, local) = tokio::join!(self.further.stop(pods), self.node.stop(pods));
            stopped = local.and(further);
        };
        self.control_plane.stop(nodes).await;
        stopped
    }
}

/// The former and the present path of the data, and the former and the present name of the host.
fn relocation(claim: &Claim, data_dir: &Path, host: &Host) -> Relocation {
    let (path, name) = claim.before.clone();
    Relocation {
        from: DataLocation { path, host: name },
        to: DataLocation {
            path: data_dir.to_owned(),
            host: host.name.clone(),
        },
    }
}

/// Refuses ranges that differ from those of the first start, because pods and Services have addresses in
/// them.
fn check_ranges(settings: &Settings, ranges: &Ranges) -> Result<()> {
    let requested_and_used = [
        (settings.pod_cidr, ranges.pod),
        (settings.service_cidr, ranges.service),
    ];
    for (requested, used) in requested_and_used {
        if let Some(requested) = requested.filter(|requested| *requested != used) {
            bail!(
                "this data directory uses {used} since its first start; it cannot become {requested}"
            );
        }
    }
    Ok(())
}

/// Whether the store has pods.
async fn has_pods(server: &Server) -> Result<bool> {
    let client = server.client("mainstay-admin", &["system:masters"]);
    let pods: Api<Pod> = Api::all(client);
    let one = ListParams::default().limit(1);
    let listed = pods
        .list_metadata(&one)
        .await
        .context("list the running pods")?;
    Ok(!listed.items.is_empty())
}

/// Refuses manifests with mistakes before anything runs.
async fn check(server: &Server, manifests: &[Manifest]) -> Result<()> {
    let client = server.client("mainstay-admin", &["system:masters"]);
    let kinds = server.kind_infos();
    let mut mistakes = Vec::new();
    for manifest in manifests {
        mistakes.extend(manifest_apply::check(&client, &kinds, manifest).await?);
    }
    if !mistakes.is_empty() {
        bail!("nothing was started:\n{}", mistakes.join("\n"));
    }
    Ok(())
}

/// Ignores, with a log message, that an optional file cannot be written because the disk is full: without a
/// start nothing could be deleted.
fn unless_full(error: anyhow::Error) -> Result<()> {
    if data_directory::is_full(&error) {
        warn(&format!("mainstay: {error:#}"));
        return Ok(());
    }
    Err(error)
}
