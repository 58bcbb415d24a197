//! The API server with its certificates and its kubeconfig.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::SystemTime;

use anyhow::{Context, Result};
use certificates::{Authority, Identity, SubjectAltName};
use controller_planners::certificate_signing::Names;
use controller_planners::node_lifecycle::reach::KubeletPath;
use controllers::{NodeReach, ServerNames, SilenceStorage};
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::{block_in_place, blocking, blocking_value};
use json_tree::Value;
use kube_api_client::Client;
use kube_api_server::encryption::{self, EncryptionConfig};
use kube_api_server::{
    ApiServer, Component, FrontProxyMaterial, NodeConnection, NodeConnector, NodeService,
    TlsMaterial, UserInfo,
};
use mvcc_store::Store;
use pod_network::Cidr;
use process_telemetry::prometheus::Page;
use process_telemetry::{Health, SlowPolls};
use resource_kinds::{ClusterConfig, Kind, KindInfo, PodRanges};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::default_class::{self, BuiltinClass};
use super::live_servers::ServerIdentity;
use super::protection::Protection;
use super::relocation::{DataLocation, Relocation};
use super::shared_keys::{self, TokenFile};
use super::store::OpenStore;
use super::vanished_keys;

/// The node of this process; available after its agent has started.
#[derive(Default)]
pub struct LocalNode {
    name: String,
    service: OnceLock<NodeService>,
}

impl LocalNode {
    /// A node without an agent.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            service: OnceLock::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the node available to the API server.
    pub fn set(&self, service: NodeService) {
        // Set once per process, because the agent is started once.
        drop(self.service.set(service));
    }
}

impl NodeConnector for LocalNode {
    fn connect(&self, node_name: &str) -> Option<NodeService> {
        if node_name == self.name {
            self.service.get().cloned()
        } else {
            None
        }
    }
}

/// A running API server with its store and its listeners.
pub struct Server {
    api: Arc<ApiServer>,
    store: OpenStore,
    /// The facts of all kinds.
    pub kinds: Vec<Arc<dyn Kind>>,
    /// Certificates of the authority, PEM.
    pub ca_pem: String,
    /// The certificate authority of the cluster.
    pub authority: Arc<Authority>,
    /// The location where the observed silence of nodes is stored for the next start.
    pub(crate) silence: SilenceStorage,
    credentials: Arc<Credentials>,
    /// The address of the server for the administrator.
    pub address: SocketAddr,
    /// The server's identity among the servers of the store; `None` if the store is not shared.
    pub identity: Option<ServerIdentity>,
    listeners: JoinSet<()>,
    stop_serving: CancellationToken,
}

/// The inputs of a server.
pub struct ServerConfig<'a> {
    /// The data directory of the instance.
    pub data_dir: &'a Path,
    /// The open store of all objects.
    pub store: OpenStore,
    /// The bound listener; bound first, so that a port in use is detected before any change.
    pub listener: TcpListener,
    /// The range of Services (`clusterIP`).
    pub service_range: Cidr,
    /// The ranges of pods, if the cluster assigns a range to each node.
    pub pod_ranges: Option<PodRanges>,
    /// The address and port at which pods reach the server.
    pub advertise: SocketAddr,
    /// The server's host in the administrator's kubeconfig, if the server listens on all addresses.
    pub kubeconfig_host: IpAddr,
    /// The in-process connection to the node of this process.
    pub nodes: Arc<LocalNode>,
    /// The host's name, for the server's certificate.
    pub host_name: &'a str,
    /// The host's addresses, for the server's certificate.
    pub host_addresses: &'a [IpAddr],
    /// Further names and addresses for the server's certificate.
    pub further_names: &'a [SubjectAltName],
    /// The default storage class, if the user named one.
    pub default_class: Option<BuiltinClass>,
    pub protection: Protection,
    /// The former and the present location of the data.
    pub relocation: Relocation,
    /// The server token, if other servers use the same store.
    pub shared: Option<TokenFile>,
}

impl Server {
    /// Starts the API server and writes the administrator's kubeconfig.
    pub fn start(config: ServerConfig<'_>) -> BoxFuture<'_, Result<Self>> {
        Self::start_in_order(config).boxed()
    }

    async fn start_in_order(config: ServerConfig<'_>) -> Result<Self> {
        let certificates = config.data_dir.join("certificates");
        check_keys(&config, &certificates).await?;
        // Concurrent with reading the certificates.
        let keys = certificates.clone();
        let token_key =
            blocking(move || Authority::prepare_token_key(&keys).context("make the token key"));
        let default_objects = blocking_value(default_objects);
        let authority =
            Authority::open_or_create(&certificates).context("prepare the certificates")?;
        let authority = Arc::new(authority);
        let front_proxy = Authority::open_or_create(&certificates.join(FRONT_PROXY))
            .context("prepare the certificates for extension API servers")?;
        let front_proxy = Arc::new(front_proxy);
        let service_ip = nth(config.service_range, 1)?;
        let started = StartedApi::default();
        let credentials = Arc::new(credentials(
            &config,
            (&authority, &front_proxy),
            service_ip,
            &started,
        )?);
        let identity = credentials.server(SystemTime::now())?;
        let proxy = credentials.front_proxy_client(SystemTime::now())?;
        let cluster = ClusterConfig {
            service_range: service_range(config.service_range)?,
            pod_ranges: config.pod_ranges,
        };
        let kinds = resource_kinds::all(&cluster);
        let mut default_objects = default_objects.await.context("make the default objects")?;
        let range = resource_kinds::networking::default_range(cluster.service_range);
        default_objects.push(range);
        let silence = SilenceStorage::in_directory(config.data_dir);
        let (store, encryption) = (config.store.shared(), config.protection.encryption);
        let store = open_objects(store, encryption, &config.relocation, &silence).await?;
        token_key.await?;
        let signer = authority.token_signer().context("prepare the token key")?;
        let api = ApiServer::new(kube_api_server::Config {
            store,
            kinds: kinds.clone(),
            admission: resource_kinds::admission::plugins(),
            admission_configuration: config.protection.admission,
            default_objects,
            tls: Some(TlsMaterial {
                certificate_pem: chain(&identity, &authority),
                key_pem: identity.key_pem().to_owned(),
                client_ca_pem: authority.ca_pem().to_owned(),
            }),
            front_proxy: Some(FrontProxyMaterial {
                certificate_pem: proxy.certificate_pem().to_owned(),
                key_pem: proxy.key_pem().to_owned(),
                ca_pem: front_proxy.ca_pem().to_owned(),
            }),
            tokens: Some(Arc::new(signer)),
            token_audiences: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            service_ip: service_ip.into(),
            // In a shared store, all servers maintain the endpoints together.
            advertise: match config.shared {
                Some(_) => Vec::new(),
                None => vec![config.advertise],
            },
            nodes: config.nodes,
            limits: kube_api_server::Limits {
                slow_polls: SlowPolls::logged(),
                ..kube_api_server::Limits::default()
            },
        })
        .await
        .context("start the API server")?;
        // Set once, because these credentials belong to this server only.
        drop(started.set(Arc::downgrade(&api)));
        block_in_place(|| credentials.renew_node_client(SystemTime::now())).map(drop)?;
        if let Some(audit) = config.protection.audit {
            api.audit(audit);
        }
        let server = Self {
            api,
            store: config.store,
            kinds,
            ca_pem: authority.ca_pem().to_owned(),
            authority,
            silence,
            address: credentials.address,
            credentials,
            identity: config.shared.map(|_| ServerIdentity {
                host_name: config.host_name.to_owned(),
                address: config.advertise,
            }),
            listeners: JoinSet::new(),
            stop_serving: CancellationToken::new(),
        };
        server.open(config.listener, config.default_class).await
    }

    /// Starts to serve requests, and writes the administrator's kubeconfig.
    async fn open(
        mut self,
        listener: TcpListener,
        default_class: Option<BuiltinClass>,
    ) -> Result<Self> {
        self.show(self.store.metrics(&self.kinds));
        self.serve(listener);
        block_in_place(|| self.credentials.write_kubeconfig(SystemTime::now()))?;
        if let Some(class) = default_class {
            // An error is only logged: a webhook for storage classes may be served by a pod that starts
            // later.
            if let Err(error) = default_class::choose(&self, class).await {
                command_output::output::warn(&format!("mainstay: --default-class: {error:#}"));
            }
        }
        Ok(self)
    }

    /// Listens on the node's address in the network of the pods.
    pub async fn serve_pods(&mut self, address: SocketAddr) -> Result<()> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen for pods on {address}"))?;
        self.serve(listener);
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let (api, shutdown) = (self.api.clone(), self.stop_serving.clone());
        self.listeners.spawn(async move {
            if let Err(error) = api.serve(listener, shutdown).await {
                tracing::error!(%error, "the API server stopped serving");
            }
        });
    }

    /// Renews the certificates of the server and of the administrator.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.clone()
    }

    /// The names of the server; a node's certificate must not have any of them.
    pub fn names(&self) -> ServerNames {
        let credentials = self.credentials.clone();
        ServerNames::of(move || {
            let names = credentials.names();
            Names {
                dns: names.dns,
                addresses: names.addresses,
            }
        })
    }

    /// The server's connections to nodes on other machines.
    pub fn node_reach(&self) -> NodeReach {
        let api = Arc::downgrade(&self.api);
        NodeReach::of(move |node| {
            let api = api.upgrade();
            async move {
                let kube_api_server::NodeReach {
                    address,
                    connection,
                } = api?.reach_node(&node).await?;
                Some(match connection {
                    Ok(NodeConnection::Direct) => KubeletPath::AtAddress(address),
                    Ok(NodeConnection::Tunnel) => KubeletPath::ThroughTunnel(address),
                    Err(cause) => KubeletPath::Not(cause),
                })
            }
            .boxed()
        })
    }

    /// A client for a part of the program, with the permissions of these groups.
    pub fn client(&self, user: &str, groups: &[&str]) -> Client {
        let user = UserInfo::new(user, groups.iter().copied());
        Client::new(self.api.local(user), "default")
    }

    /// Adds the metrics of a part to `/metrics`.
    pub fn show(&self, metrics: impl Fn(&mut Page) + Send + Sync + 'static) {
        self.api.add_metrics(metrics);
    }

    pub fn health(&self) -> Health {
        self.api.health().clone()
    }

    /// As [`client`](Self::client), as a function without a reference to the server.
    pub fn clients(&self) -> impl Fn(&str) -> Client + Send + Sync + 'static {
        let api = self.api.clone();
        move |user| {
            let user = UserInfo::new::<&str>(user, []);
            Client::new(api.local(user), "default")
        }
    }

    /// Adds a part to `componentstatuses`.
    pub fn watch(&self, component: Component, runs: impl Fn() -> bool + Send + Sync + 'static) {
        self.api.watch_component(component, runs);
    }

    /// The facts of all kinds.
    pub fn kind_infos(&self) -> Vec<KindInfo<'_>> {
        self.kinds.iter().map(|kind| kind.info()).collect()
    }

    /// The store as on disk, without decryption.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.shared()
    }

    /// Closes the connections and the store.
    pub async fn stop(mut self) {
        self.stop_serving.cancel();
        while self.listeners.join_next().await.is_some() {}
        drop(self.api);
        self.store.close().await;
    }
}

/// The directory, below that of the certificates, of the authority for extension API servers. Each server has its own.
const FRONT_PROXY: &str = "front-proxy";

/// The API server of these credentials, after its start.
type StartedApi = Arc<OnceLock<Weak<ApiServer>>>;

/// Compares the keys on disk with those in the store, and fetches the keys that the servers of a shared store
/// have in common.
async fn check_keys(config: &ServerConfig<'_>, certificates: &Path) -> Result<()> {
    let store = config.store.shared();
    vanished_keys::refuse(store.as_ref(), config.shared.is_some(), certificates).await?;
    match &config.shared {
        Some(token) => shared_keys::prepare(&store, token, certificates).await,
        None => Ok(()),
    }
}

/// The credentials of a server; they pass renewed certificates to the server in `started`.
fn credentials(
    config: &ServerConfig<'_>,
    (authority, front_proxy): (&Arc<Authority>, &Arc<Authority>),
    service_ip: Ipv4Addr,
    started: &StartedApi,
) -> Result<Credentials> {
    let listen = config
        .listener
        .local_addr()
        .context("read the listening address")?;
    let server_addresses = vec![service_ip.into(), config.advertise.ip(), listen.ip()];
    let kubeconfig_host = match listen.ip() {
        everywhere if everywhere.is_unspecified() => config.kubeconfig_host,
        one => one,
    };
    let (serving, dialling, proxying) = (started.clone(), started.clone(), started.clone());
    let served_with = authority.clone();
    Ok(Credentials {
        authority: authority.clone(),
        front_proxy: front_proxy.clone(),
        host_name: config.host_name.to_owned(),
        server_addresses,
        further_names: config.further_names.to_vec(),
        host_addresses: Mutex::new(config.host_addresses.to_vec()),
        serving: Mutex::default(),
        address: SocketAddr::new(kubeconfig_host, listen.port()),
        other_servers: Mutex::default(),
        kubeconfig: config.data_dir.join("kubeconfig"),
        show: Box::new(move |identity| {
            let Some(api) = serving.get().and_then(Weak::upgrade) else {
                return Ok(());
            };
            api.show_certificate(&chain(identity, &served_with), identity.key_pem())
                .context("load the server's certificate")
        }),
        dial_nodes: Box::new(move |identity, ca_pem| {
            let Some(api) = dialling.get().and_then(Weak::upgrade) else {
                return Ok(());
            };
            api.dial_nodes_with(identity.certificate_pem(), identity.key_pem(), ca_pem)
                .context("use the certificate for nodes")
        }),
        show_front_proxy: Box::new(move |identity| {
            if let Some(api) = proxying.get().and_then(Weak::upgrade) {
                api.show_front_proxy(identity.certificate_pem(), identity.key_pem());
            }
            Ok(())
        }),
    })
}

/// Opens the store with its encryption, and updates objects that contain a former data directory or host.
async fn open_objects(
    store: Arc<dyn Store>,
    encryption: Option<EncryptionConfig>,
    relocation: &Relocation,
    silence: &SilenceStorage,
) -> Result<Arc<dyn Store>> {
    let store = encryption::over(store, encryption)
        .await
        .context("open the encrypted objects (--encryption-provider-config)")?;
    if relocation.from != relocation.to {
        // The nodes may have renewed their leases with a server in the former directory.
        silence.clear().await?;
    }
    let rewritten = relocation.apply(store.as_ref()).await?;
    if rewritten > 0 {
        let DataLocation { path, host } = &relocation.from;
        command_output::output::warn(&format!(
            "mainstay: the data directory was {} on {host}: {rewritten} objects that name these are \
             rewritten",
            path.display()
        ));
    }
    Ok(store)
}

/// The objects that each new cluster gets.
fn default_objects() -> Vec<Value> {
    let mut objects = resource_kinds::bootstrap::default_objects();
    objects.extend(resource_kinds::snapshot::definitions());
    objects.extend(resource_kinds::stateful_set_policy::definitions());
    objects
}

/// The certificate chain (PEM) of the server: its certificate and the authority's. A new node identifies the
/// authority by the hash of its key, so it needs no file of the server.
fn chain(identity: &Identity, authority: &Authority) -> String {
    format!("{}{}", identity.certificate_pem(), authority.ca_pem())
}

fn nth(range: Cidr, index: u32) -> Result<Ipv4Addr> {
    range
        .nth(index)
        .with_context(|| format!("range {range} is too small"))
}

/// The Service range as the type that validation uses.
fn service_range(range: Cidr) -> Result<resource_kinds::ServiceRange> {
    range
        .to_string()
        .parse()
        .with_context(|| format!("Service range {range}"))
}
