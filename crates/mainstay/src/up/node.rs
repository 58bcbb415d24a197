//! The lower half and the deciding parts: everything that is a client of the API.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use api_server::Component;
use container_runtime::RuntimeOptions;
use image_store::{ImageConfig, ImageStore, RegistriesConfig};
use node_agent::{NodeAgent, OnShutdown, ShutdownOrder};
use pod_network::{PodNetwork, Ranges};
use reconcile::{Health, SharedCaches};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use volume_provisioner::Storage;

use super::admin::{self, Admin};
use super::host::{self, Host};
use super::memory;
use super::pods::PodSettings;
use super::server::{LocalNode, Server};
use super::settings::Settings;
use crate::builtin;
use crate::output::warn;

/// The cluster's domain.
const DOMAIN: &str = "cluster.local";
/// The account of the DNS server.
const DNS_USER: &str = "system:serviceaccount:kube-system:mainstay-dns";
/// The account of the provisioner of local volumes, whose writes no node may make.
const PROVISIONER_USER: &str = "system:serviceaccount:kube-system:mainstay-provisioner";
/// The groups of both accounts.
const ACCOUNT_GROUPS: [&str; 2] = [
    "system:serviceaccounts",
    "system:serviceaccounts:kube-system",
];
/// The port of DNS.
const DNS_PORT: u16 = 53;
/// Most pods on the node, as Kubernetes has it.
const PODS_MAX: u32 = 110;

/// The inputs of the parts.
pub struct Parts<'a> {
    /// The instance's data directory.
    pub data_dir: &'a Path,
    /// The instance's id.
    pub instance_id: &'a str,
    /// The machine; its name is the node's.
    pub host: Host,
    /// Pod and Service addresses.
    pub ranges: Ranges,
    /// The pods' network.
    pub network: Arc<PodNetwork>,
    /// Images.
    pub images: ImageStore,
    /// Mirrors and credentials.
    pub registries: RegistriesConfig,
    /// The settings of pods.
    pub pods: PodSettings,
    /// In which order they are stopped.
    pub shutdown_order: ShutdownOrder,
}

/// Parts that end together.
#[derive(Default)]
struct Group {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Group {
    async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The running parts.
pub struct Running {
    /// Controllers and scheduler.
    deciders: Group,
    agent: Group,
    /// The parts that pods need while they run.
    network: Group,
    /// The pods' volumes.
    storage: Option<Storage>,
    /// The treatment of the pods at the end.
    on_shutdown: watch::Sender<OnShutdown>,
    /// Whether the rules of Services go then.
    remove_services: watch::Sender<bool>,
    /// Whether watches and controllers get on.
    health: Health,
    /// Cancelled when a part ends unexpectedly.
    pub failed: CancellationToken,
}

impl Running {
    /// Starts every part.
    pub async fn start(parts: Parts<'_>, server: &Server, node: &LocalNode) -> Result<Self> {
        let mut running = Self {
            deciders: Group::default(),
            agent: Group::default(),
            network: Group::default(),
            storage: None,
            on_shutdown: watch::Sender::new(OnShutdown::StopPods),
            remove_services: watch::Sender::new(true),
            health: server.health(),
            failed: CancellationToken::new(),
        };
        running.start_deciders(&parts, server);
        running.start_network(&parts, server)?;
        running.start_agent(parts, server, node).await?;
        Ok(running)
    }

    /// Stops the pods, each within its grace period, or leaves them running; then everything else.
    /// The controllers and the scheduler end first, so that they do not react to the stopping pods.
    pub async fn stop(self, pods: OnShutdown) {
        let stops = pods == OnShutdown::StopPods;
        self.on_shutdown.send_replace(pods);
        self.remove_services.send_replace(stops);
        self.deciders.end().await;
        self.agent.end().await;
        self.network.end().await;
        if let Some(storage) = self.storage.filter(|_| stops)
            && let Err(error) = storage.close().await
        {
            warn(&format!("mainstay: {:#}", anyhow::Error::new(error)));
        }
    }

    fn start_deciders(&mut self, parts: &Parts<'_>, server: &Server) {
        let masters: [&str; 0] = [];
        let controllers = server.client("system:kube-controller-manager", &masters);
        // The controllers may read every kind that the scheduler reads.
        let part = self.health.part("caches", self.deciders.stop.clone());
        let caches = SharedCaches::new(controllers.clone(), part);
        let config = controllers::Config {
            caches: Some(caches.clone()),
            root_ca_pem: server.ca_pem.clone(),
            authority: Some(server.authority.clone()),
            server_names: server.names(),
            listening: Some(parts.network.listening()),
            ..controllers::Config::default()
        };
        let metrics = config.metrics.clone();
        server.show(move |page| metrics.write(page));
        let part = self.run(Part::Decider, "controllers", |stop| {
            controllers::run_all(controllers, config, stop)
        });
        server.watch(Component::ControllerManager, part);
        let scheduler = server.client("system:kube-scheduler", &masters);
        let config = scheduler::Config {
            caches: Some(caches),
            ..scheduler::Config::default()
        };
        let metrics = config.metrics.clone();
        server.show(move |page| metrics.write(page));
        let part = self.run(Part::Decider, "scheduler", |stop| {
            scheduler::run(scheduler, config, stop)
        });
        server.watch(Component::Scheduler, part);
    }

    fn start_network(&mut self, parts: &Parts<'_>, server: &Server) -> Result<()> {
        let dns_ip = dns_address(&parts.ranges)?;
        let proxy = service_proxy::Config {
            instance_id: parts.instance_id.to_owned(),
            node_name: parts.host.name.clone(),
            pod_cidr: parts.ranges.pod,
            cluster_cidr: parts.ranges.pod,
            service_cidr: parts.ranges.service,
            unmanaged: BTreeSet::from([dns_ip]),
            pod_link_prefix: pod_network::link_prefix(parts.instance_id),
            host_ports: parts.network.published(),
            listening: parts.network.listening(),
            pods: Some(service_proxy::LocalPods {
                connected: parts.network.connected(),
                guarded: parts.network.guard(),
            }),
            remove_on_shutdown: self.remove_services.subscribe(),
        };
        let network = Arc::clone(&parts.network);
        self.run(Part::Network, "listening programs", |stop| async move {
            let stop = stop.shutdown;
            stop.run_until_cancelled(network.follow_listening()).await;
            Ok::<(), Infallible>(())
        });
        let proxy_client = server.client("system:kube-proxy", &["system:node-proxier"]);
        self.run(Part::Network, "service proxy", |stop| {
            service_proxy::run(proxy_client, proxy, stop)
        });
        let dns_client = server.client(DNS_USER, &ACCOUNT_GROUPS);
        let dns = dns_server::Config {
            domain: DOMAIN.to_owned(),
            listen: vec![SocketAddr::from((dns_ip, DNS_PORT))],
            addresses: vec![dns_ip.into()],
            ranges: vec![parts.ranges.service, parts.ranges.pod],
            clients: vec![parts.ranges.pod],
            upstreams: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        };
        self.run(Part::Network, "DNS server", |stop| {
            dns_server::run(dns_client, dns, stop)
        });
        Ok(())
    }

    async fn start_agent(
        &mut self,
        parts: Parts<'_>,
        server: &Server,
        node: &LocalNode,
    ) -> Result<()> {
        let user = format!("system:node:{}", parts.host.name);
        let client = server.client(&user, &["system:nodes"]);
        let storage = Storage::open(parts.data_dir)
            .await
            .context("open the volumes")?;
        let name = parts.host.name.clone();
        let provisioner = volume_provisioner::ProvisionerConfig::new(name, storage.clone());
        self.storage = Some(storage);
        let provisioner_client = server.client(PROVISIONER_USER, &ACCOUNT_GROUPS);
        self.run(Part::Network, "provisioner", |stop| {
            volume_provisioner::run(provisioner_client, provisioner, stop)
        });
        let node_ip = self.follow_address(&parts, server);
        let config = node_agent::Config {
            node_name: parts.host.name.clone(),
            data_dir: parts.data_dir.to_owned(),
            runtime: RuntimeOptions {
                state_dir: parts.data_dir.to_owned(),
                instance_id: parts.instance_id.to_owned(),
                // This very program, even if its file has been replaced since.
                shim_command: vec!["/proc/self/exe".to_owned(), "shim".to_owned()],
                cgroup_parent: String::new(),
            },
            images: parts.images,
            registries: parts.registries,
            network: parts.network,
            node_ip,
            pod_cidr: Some(parts.ranges.pod.to_string()),
            cluster_dns: vec![dns_address(&parts.ranges)?.to_string()],
            cluster_domain: DOMAIN.to_owned(),
            kubelet_version: api_server::git_version(),
            labels: Default::default(),
            pods_max: PODS_MAX,
            pod_pids_max: parts.pods.pids_max(),
            admission: node_agent::AdmissionPolicy {
                unsafe_sysctls: parts.pods.unsafe_sysctls(),
            },
            eviction: parts.pods.eviction(),
            image_gc: parts.pods.image_gc()?,
            logs: parts.pods.logs(),
            kubelet_api: None,
            on_shutdown: self.on_shutdown.subscribe(),
            shutdown_order: parts.shutdown_order,
        };
        let stop = self.agent.stop.clone();
        let part = self.health.part("node agent", stop.clone());
        let agent = NodeAgent::start(config, client, part)
            .await
            .context("start the node agent")?;
        node.set(agent.kubelet_api());
        let part = async move {
            agent.finished().await;
            Ok::<(), node_agent::Error>(())
        };
        self.agent
            .tasks
            .spawn(watched("node agent", part, stop, self.failed.clone()));
        Ok(())
    }

    /// Gives the memory of deleted objects back to the machine.
    pub fn keep_small(&mut self, server: &Server) {
        let store = server.store();
        self.run(Part::Network, "memory", |stop| async move {
            memory::keep_small(store, stop.shutdown).await;
            Ok::<(), Infallible>(())
        });
    }

    /// Serves the administrator's socket. A failure does not affect other parts.
    pub fn start_admin(&mut self, server: &Server, settings: &Settings) -> Result<()> {
        let storage = self.storage.clone().context("the volumes are not open")?;
        let listener = match admin::listen(&settings.data_dir) {
            Ok(listener) => listener,
            Err(error) => {
                warn(&format!(
                    "mainstay: backups of this server are not possible: {error}"
                ));
                return Ok(());
            }
        };
        let socket = settings.data_dir.join(crate::backup::contents::SOCKET);
        let served = Admin {
            store: server.store(),
            storage,
            configured_by: settings.configured_by.clone(),
        };
        self.run(Part::Network, "administrator's socket", |stop| async move {
            admin::serve(served, listener, stop.shutdown).await;
            std::fs::remove_file(socket).ok();
            Ok::<(), Infallible>(())
        });
        Ok(())
    }

    /// Keeps the node's address and the server's certificate in step with the machine, and the
    /// certificates of the program's own parts valid.
    fn follow_address(&mut self, parts: &Parts<'_>, server: &Server) -> watch::Receiver<IpAddr> {
        let otherwise = parts.network.node_address();
        let sender = watch::Sender::new(parts.host.node_address(otherwise));
        let receiver = sender.subscribe();
        let (known, credentials) = (parts.host.clone(), server.credentials());
        let tell = move |host: &Host| {
            if let Err(error) = credentials.host_has(&host.addresses) {
                tracing::error!("the API server is not known by new addresses: {error:#}");
            }
            let now = host.node_address(otherwise);
            sender.send_if_modified(|address| std::mem::replace(address, now) != now);
        };
        self.run(Part::Network, "machine's addresses", |stop| async move {
            host::follow(known, stop.shutdown, tell).await;
            Ok::<(), Infallible>(())
        });
        let credentials = server.credentials();
        self.run(
            Part::Network,
            "renewal of certificates",
            |stop| async move {
                credentials.keep(stop.shutdown).await;
                Ok::<(), Infallible>(())
            },
        );
        receiver
    }

    fn run<F, E>(
        &mut self,
        part: Part,
        name: &'static str,
        start: impl FnOnce(reconcile::Part) -> F,
    ) -> AbortHandle
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let failed = self.failed.clone();
        let group = match part {
            Part::Decider => &mut self.deciders,
            Part::Network => &mut self.network,
        };
        let task = start(self.health.part(name, group.stop.clone()));
        group
            .tasks
            .spawn(watched(name, task, group.stop.clone(), failed))
    }
}

/// The group of a part.
#[derive(Clone, Copy)]
enum Part {
    Decider,
    Network,
}

/// Waits for a part, and raises the alarm when it ends without having been told to.
async fn watched<E: std::error::Error + Send + Sync + 'static>(
    name: &'static str,
    part: impl Future<Output = Result<(), E>>,
    stop: CancellationToken,
    failed: CancellationToken,
) {
    let result = part.await.map_err(anyhow::Error::new);
    match result {
        Ok(()) if stop.is_cancelled() => tracing::debug!(part = name, "stopped"),
        Ok(()) => {
            warn(&format!("mainstay: the {name} ended unexpectedly"));
            failed.cancel();
        }
        Err(error) => {
            warn(&format!("mainstay: the {name} failed: {error:#}"));
            failed.cancel();
        }
    }
}

/// The address of the cluster's DNS: the tenth of the Service range, by convention.
pub fn dns_address(ranges: &Ranges) -> Result<Ipv4Addr> {
    let range = ranges.service;
    range
        .nth(10)
        .with_context(|| format!("Service range {range} is too small"))
}

/// Makes the built-in images of this program, unless they are there already.
pub fn put_builtin_images(images: &ImageStore) -> Result<()> {
    let fingerprint = builtin::fingerprint()?;
    let mut missing = Vec::new();
    for image in builtin::IMAGES {
        if !images.has_builtin(image.reference, &fingerprint)? {
            missing.push(image);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let layer = images.put_builtin_layer(&builtin::layer(&builtin::files()?)?)?;
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    for image in missing {
        let config = ImageConfig {
            entrypoint: owned(image.entrypoint),
            cmd: owned(image.cmd),
            env: vec!["PATH=/:/bin".to_owned()],
            ..ImageConfig::default()
        };
        images.put_builtin_of(image.reference, &layer, &config, &fingerprint)?;
    }
    Ok(())
}
