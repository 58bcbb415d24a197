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

/// The client certificate for requests to extension API servers, each as PEM text.
#[derive(Clone)]
pub struct FrontProxyMaterial {
    /// The certificate, with the common name `front-proxy-client`.
    pub certificate_pem: String,
    pub key_pem: String,
    /// The authority that signed the certificate. It must sign no other client certificates: whoever has a certificate
    /// of this authority may name any user to an extension API server.
    pub ca_pem: String,
}

impl std::fmt::Debug for FrontProxyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontProxyMaterial").finish_non_exhaustive()
    }
}

pub struct Config {
    pub store: Arc<dyn Store>,
    /// The kinds that are served; usually `resource_kinds::all()`.
    pub kinds: Vec<Arc<dyn Kind>>,
    /// Admission plug-ins, in order; usually `resource_kinds::admission::plugins()`.
    pub admission: Vec<Box<dyn Admission>>,
    pub admission_configuration: AdmissionConfiguration,
    /// Objects that are created at the start if they do not exist; usually
    /// `resource_kinds::bootstrap::default_objects()`.
    pub default_objects: Vec<Value>,
    /// The server's certificate, and the authorities of client certificates. Without this material the server only
    /// accepts [`local`](crate::ApiServer::local) callers.
    pub tls: Option<TlsMaterial>,
    /// The certificate by which extension API servers recognise this server; `None` if it presents no certificate.
    pub front_proxy: Option<FrontProxyMaterial>,
    /// Signs and verifies ServiceAccount tokens; `None` disables such tokens.
    pub tokens: Option<Arc<certificates::TokenSigner>>,
    /// The audiences of tokens whose request names no audience; also the names by which tokens address this server.
    pub token_audiences: Vec<String>,
    /// The address of the Service `kubernetes`: the first address of the service range.
    pub service_ip: std::net::IpAddr,
    /// The server's addresses for pods: the endpoints of the Service `kubernetes`, set at each start. Loopback
    /// addresses are skipped.
    pub advertise: Vec<SocketAddr>,
    /// The connections to nodes, for `log`, `exec`, `attach` and `portforward`.
    pub nodes: Arc<dyn NodeConnector>,
    /// Limits on the size and the duration of requests.
    pub limits: Limits,
}

impl Config {
    /// A configuration with all kinds, plug-ins and default objects for callers in this process: without TLS, tokens
    /// and connections to nodes.
    pub fn in_process(store: Arc<dyn Store>) -> Self {
        let cluster = ClusterConfig::default();
        Self {
            store,
            kinds: resource_kinds::all(&cluster),
            admission: resource_kinds::admission::plugins(),
            admission_configuration: AdmissionConfiguration::default(),
            default_objects: resource_kinds::bootstrap::default_objects(),
            tls: None,
            front_proxy: None,
            tokens: None,
            token_audiences: Vec::new(),
            service_ip: cluster.service_range.api().into(),
            advertise: Vec::new(),
            nodes: Arc::new(NoNodes),
            limits: Limits::default(),
        }
    }
}
