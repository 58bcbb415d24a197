//! The settings of a server.

use std::net::SocketAddr;
use std::sync::Arc;

use json_tree::Value;
use mvcc_store::Store;
use resource_kinds::admission::Admission;
use resource_kinds::{ClusterConfig, Kind};

use crate::access::tls::TlsMaterial;
use crate::admission::configuration::AdmissionConfiguration;
use crate::handlers::nodes::{NoNodes, NodeConnector};
use crate::http::limits::Limits;

/// The settings of an [`ApiServer`](crate::ApiServer).
pub struct Config {
    /// The store of the objects.
    pub store: Arc<dyn Store>,
    /// The kinds that are served; mostly `resource_kinds::all()`.
    pub kinds: Vec<Arc<dyn Kind>>,
    /// Admission plug-ins, in order; mostly `resource_kinds::admission::plugins()`.
    pub admission: Vec<Box<dyn Admission>>,
    /// The settings of admission plug-ins.
    pub admission_configuration: AdmissionConfiguration,
    /// Objects that are created at start when they are missing; mostly
    /// `resource_kinds::bootstrap::default_objects()`.
    pub default_objects: Vec<Value>,
    /// The server's certificate, and the authorities of clients' certificates. Without it the
    /// server only accepts [`local`](crate::ApiServer::local) callers.
    pub tls: Option<TlsMaterial>,
    /// Signs and checks ServiceAccount tokens; without it there are none.
    pub tokens: Option<Arc<certificates::TokenSigner>>,
    /// Audiences of tokens that do not name one; also the issuer's name for this server.
    pub token_audiences: Vec<String>,
    /// The address of the `kubernetes` Service, the first of the service range.
    pub service_ip: std::net::IpAddr,
    /// The server's addresses for pods: the endpoints of the `kubernetes` Service, set at each
    /// start. Loopback addresses are left out.
    pub advertise: Vec<SocketAddr>,
    /// The way to the nodes, for `log`, `exec`, `attach` and `portforward`.
    pub nodes: Arc<dyn NodeConnector>,
    /// Limits of the size and duration of requests.
    pub limits: Limits,
}

impl Config {
    /// All kinds, plug-ins and default objects over a store, for callers in this process: without
    /// TLS, tokens and connections to nodes.
    pub fn in_process(store: Arc<dyn Store>) -> Self {
        let cluster = ClusterConfig::default();
        Self {
            store,
            kinds: resource_kinds::all(&cluster),
            admission: resource_kinds::admission::plugins(),
            admission_configuration: AdmissionConfiguration::default(),
            default_objects: resource_kinds::bootstrap::default_objects(),
            tls: None,
            tokens: None,
            token_audiences: Vec::new(),
            service_ip: cluster.service_range.api().into(),
            advertise: Vec::new(),
            nodes: Arc::new(NoNodes),
            limits: Limits::default(),
        }
    }
}
