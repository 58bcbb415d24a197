use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use container_runtime::RuntimeOptions;
use futures::future::BoxFuture;
use host_kernel::disk_usage::VolumeUsages;
use image_store::{ImageStore, RegistriesConfig};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Taint;
use node_lease::LeaseLength;
use object_model::Status;
use pod_lifecycle::node::image_gc;
use pod_lifecycle::node::shutdown::ShutdownOrder;
use pod_lifecycle::resources::admission::Policy;
use pod_lifecycle::resources::eviction::Thresholds;
use pod_network::PodNetwork;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::error::KubeletApiError;

/// The treatment of the pods when the agent shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShutdown {
    /// The pods are stopped, each within its grace period. Their objects stay, and the next agent on this
    /// data directory starts the pods again.
    StopPods,
    /// The pods keep running; the next agent adopts them.
    LeavePods,
}

/// The limits of a container's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// A log file is rotated before it exceeds this size.
    pub file_bytes_max: u64,
    /// Number of files per instance of a container, with the current file.
    pub files_max: u32,
}

impl Default for LogLimits {
    /// The defaults of kubelet's `containerLogMaxSize` and `containerLogMaxFiles`.
    fn default() -> Self {
        Self {
            file_bytes_max: 10 << 20,
            files_max: 5,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Pods are evicted when an available amount is below its threshold.
    pub thresholds: Thresholds,
    /// Duration of the pressure condition after the shortage has ended.
    pub transition_period: SignedDuration,
}

impl Default for Eviction {
    /// The defaults of kubelet's `evictionHard` and `evictionPressureTransitionPeriod`.
    fn default() -> Self {
        Self {
            thresholds: Thresholds::default(),
            transition_period: SignedDuration::from_mins(5),
        }
    }
}

/// A server certificate with its chain and its key.
#[derive(Clone, Debug)]
pub struct ServingCertificate(Arc<CertifiedKey>);

impl ServingCertificate {
    /// Reads the certificates and the key from PEM texts.
    ///
    /// # Errors
    /// Fails if a text is malformed, or if the key does not match the certificate.
    pub fn of_pem(certificates: &str, key: &str) -> Result<Self, KubeletApiError> {
        let chain = CertificateDer::pem_slice_iter(certificates.as_bytes());
        let chain = chain.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
        Ok(Self(Arc::new(pair)))
    }

    pub(crate) fn pair(&self) -> Arc<CertifiedKey> {
        self.0.clone()
    }
}

/// The kubelet API on the network, for API servers on other machines and for monitoring.
#[derive(Clone, Debug)]
pub struct KubeletApi {
    /// The address to listen on. The system replaces port 0 with a free port. The Node object has the
    /// chosen port.
    pub listen: SocketAddr,
    /// The certificate authorities of clients, in PEM.
    pub client_ca_pem: String,
    /// The current server certificate. TLS handshakes fail while it is absent.
    pub certificate: watch::Receiver<Option<ServingCertificate>>,
    /// `true` if API servers cannot reach the node without the port. If `false`, the node starts even if
    /// another program uses the port.
    pub is_needed: bool,
}

/// One step of moving a volume to another node.
#[derive(Clone, Debug)]
pub struct MoveStep {
    pub volume: String,
    /// The id of the move.
    pub id: String,
    /// The query string of the request.
    pub step: String,
    pub parameters: Vec<(String, String)>,
    /// The body of the request.
    pub body: Bytes,
}

impl MoveStep {
    /// The first value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self.parameters.iter();
        let pair = pairs.find(|(key, _)| key == name);
        pair.map(|(_, value)| value.as_str())
    }
}

/// Moves volumes between nodes.
pub trait VolumeMoves: std::fmt::Debug + Send + Sync {
    /// Executes a step. The response is JSON, or a part of a copy.
    fn carry_out(&self, step: MoveStep) -> BoxFuture<'static, Result<Bytes, Box<Status>>>;
}

#[derive(Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// The data directory of the agent; pods are stored in `pods` below it.
    pub data_dir: PathBuf,
    pub runtime: RuntimeOptions,
    pub images: ImageStore,
    pub registries: RegistriesConfig,
    pub network: Arc<PodNetwork>,
    /// The present address of the node, which may change.
    pub node_ip: watch::Receiver<IpAddr>,
    /// Pod ranges that the agent writes into the Node object (`spec.podCIDR`).
    pub pod_cidr: Option<String>,
    /// Addresses of the cluster's DNS server.
    pub cluster_dns: Vec<String>,
    /// The file with the name servers of the machine, for pods with the DNS policy `Default`.
    pub resolv_conf: PathBuf,
    /// The cluster domain, `cluster.local` by convention.
    pub cluster_domain: String,
    /// Kubernetes version to report, for instance `v1.36.0+mainstay.0`.
    pub kubelet_version: String,
    /// Labels of the Node in addition to the standard labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Node that the node manages: the value, or `None` if the annotation must be
    /// absent.
    pub annotations: BTreeMap<String, Option<String>>,
    /// Taints of a new Node object. Taints of an existing Node object belong to the users, and the agent
    /// does not change them.
    pub taints: Vec<Taint>,
    /// The duration of the node's Lease. An agent that adopts pods with a longer Lease continues with the
    /// longer duration.
    pub lease_length: LeaseLength,
    /// Maximum number of pods on the node.
    pub pods_max: u32,
    /// Maximum number of processes and threads of one pod.
    pub pod_pids_max: i64,
    pub admission: Policy,
    pub eviction: Eviction,
    pub image_gc: image_gc::Policy,
    pub logs: LogLimits,
    /// The kubelet API on the network; `None` if API servers reach the node without a port.
    pub kubelet_api: Option<KubeletApi>,
    /// The treatment of the pods when the agent shuts down; may change until the shutdown.
    pub on_shutdown: watch::Receiver<OnShutdown>,
    /// The order in which pods are stopped with the node.
    pub shutdown_order: ShutdownOrder,
    /// The usage of volumes of the node's built-in storage classes.
    pub volume_usages: watch::Receiver<VolumeUsages>,
    /// Moves volumes to and from this node; `None` if the node has no such volumes.
    pub volume_moves: Option<Arc<dyn VolumeMoves>>,
}

impl Config {
    /// The present address of the node.
    pub fn node_ip(&self) -> IpAddr {
        *self.node_ip.borrow()
    }
}
