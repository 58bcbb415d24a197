//! The configuration of a node agent.

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

/// The treatment of the pods at the end of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShutdown {
    /// They are stopped, each within its grace period; their objects stay, and the next agent on
    /// the same data directory starts them again.
    StopPods,
    /// They keep running; the next agent adopts them.
    LeavePods,
}

/// The limits of a container's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// A log file is rotated before it exceeds this size.
    pub file_bytes_max: u64,
    /// Number of files of one instance, the current one included.
    pub files_max: u32,
}

impl Default for LogLimits {
    /// kubelet's `containerLogMaxSize` and `containerLogMaxFiles`.
    fn default() -> Self {
        Self {
            file_bytes_max: 10 << 20,
            files_max: 5,
        }
    }
}

/// The settings of node-pressure eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The thresholds; pods are evicted below them.
    pub thresholds: Thresholds,
    /// How long after a shortage the node keeps the pressure condition.
    pub transition_period: SignedDuration,
}

impl Default for Eviction {
    /// kubelet's `evictionHard` and `evictionPressureTransitionPeriod`.
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
    /// They are malformed, or do not belong together.
    pub fn of_pem(certificates: &str, key: &str) -> Result<Self, KubeletApiError> {
        let chain = CertificateDer::pem_slice_iter(certificates.as_bytes());
        let chain = chain.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
        Ok(Self(Arc::new(pair)))
    }

    /// The chain and the key.
    pub(crate) fn pair(&self) -> Arc<CertifiedKey> {
        self.0.clone()
    }
}

/// The kubelet API on the network, for API servers on other machines and for monitoring.
#[derive(Clone, Debug)]
pub struct KubeletApi {
    /// The address to listen on. The system chooses a port in place of 0. The Node object has the port.
    pub listen: SocketAddr,
    /// The certificate authorities of clients, PEM.
    pub client_ca_pem: String,
    /// The current server certificate. Without one, no handshake succeeds.
    pub certificate: watch::Receiver<Option<ServingCertificate>>,
    /// Whether API servers reach the node in no other way. Otherwise the node also runs without the port, if another
    /// program has it.
    pub is_needed: bool,
}

/// A step of a volume's move to another node.
#[derive(Clone, Debug)]
pub struct MoveStep {
    /// Name of the PersistentVolume.
    pub volume: String,
    /// The id of the move.
    pub id: String,
    /// The query parameters of the request, by name.
    pub step: String,
    pub parameters: Vec<(String, String)>,
    /// The body of the request.
    pub body: Bytes,
}

impl MoveStep {
    /// The first value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self.parameters.iter();
        let found = pairs.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The part of a node that moves volumes.
pub trait VolumeMoves: std::fmt::Debug + Send + Sync {
    /// Carries out a step; the answer is JSON, or a part of a copy.
    fn carry_out(&self, step: MoveStep) -> BoxFuture<'static, Result<Bytes, Box<Status>>>;
}

/// Settings of a node agent.
#[derive(Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Directory of this instance; pods are stored in `pods` below it.
    pub data_dir: PathBuf,
    /// The options of the container runtime.
    pub runtime: RuntimeOptions,
    /// The image store of the node.
    pub images: ImageStore,
    /// Mirrors and credentials for pulls.
    pub registries: RegistriesConfig,
    /// The network of the node's pods.
    pub network: Arc<PodNetwork>,
    /// The node's own address, which may change.
    pub node_ip: watch::Receiver<IpAddr>,
    /// Pod ranges to write into the Node object (`spec.podCIDR`).
    pub pod_cidr: Option<String>,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The file with the name servers of the machine, for pods that use these.
    pub resolv_conf: PathBuf,
    /// The cluster domain, `cluster.local` by convention.
    pub cluster_domain: String,
    /// Kubernetes version to report, for instance `v1.36.0+mainstay.0`.
    pub kubelet_version: String,
    /// Labels of the Node besides the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Node that the node manages: their values, and `None` for those that must be absent.
    pub annotations: BTreeMap<String, Option<String>>,
    /// Taints of a new Node object. Those of an object that is there belong to its users.
    pub taints: Vec<Taint>,
    /// The length of the node's lease. An agent that finds pods with a longer lease continues with the longer
    /// one.
    pub lease_length: LeaseLength,
    /// Maximum number of pods on the node.
    pub pods_max: u32,
    /// Maximum number of processes and threads of one pod.
    pub pod_pids_max: i64,
    /// The rules by which the node rejects pods.
    pub admission: Policy,
    /// The thresholds of eviction.
    pub eviction: Eviction,
    /// The policy of image garbage collection.
    pub image_gc: image_gc::Policy,
    /// The limits of containers' logs.
    pub logs: LogLimits,
    /// The kubelet API on the network; `None` if it is reached in another way.
    pub kubelet_api: Option<KubeletApi>,
    /// The treatment of the pods at the end of the agent; may change until then.
    pub on_shutdown: watch::Receiver<OnShutdown>,
    /// The order in which pods are stopped with the node.
    pub shutdown_order: ShutdownOrder,
    /// The usage of the volumes of the node's own classes.
    pub volume_usages: watch::Receiver<VolumeUsages>,
    /// The moves of volumes to and from this node; `None` where there are none.
    pub volume_moves: Option<Arc<dyn VolumeMoves>>,
}

impl Config {
    /// The node's own address, now.
    pub fn node_ip(&self) -> IpAddr {
        *self.node_ip.borrow()
    }
}
