//! The settings for pods on this node.

use anyhow::{Context, Result, ensure};
use jiff::SignedDuration;
use node_agent::{Eviction, ImageGcPolicy, LeaseLength, LogLimits, Thresholds};
use object_model::quantity::Quantity;
use pod_network::PeerTransport;
use serde::Deserialize;

/// Default maximum of processes and threads of a pod: enough for databases with a thread for each
/// of thousands of clients, and a limit for fork bombs.
const PIDS_MAX: i64 = 4096;

/// The settings of pods as flags, with kubelet's names, and in the configuration file.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodSettings {
    /// Maximum number of processes and threads of a pod; -1 for no limit [default: 4096]
    #[arg(
        long,
        value_name = "NUMBER",
        env = "MAINSTAY_POD_MAX_PIDS",
        allow_negative_numbers = true
    )]
    pod_max_pids: Option<i64>,
    /// Length of the node's lease, from 12s to 40s: after it, pods that may fail over have ended, and a
    /// quarter later they are replaced elsewhere [default: 38s]
    #[arg(long, value_name = "DURATION")]
    node_lease_duration: Option<SignedDuration>,
    /// Size at which a container's log is rotated [default: 10Mi]
    #[arg(long, value_name = "QUANTITY")]
    container_log_max_size: Option<Quantity>,
    /// Number of log files of a container [default: 5]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..))]
    container_log_max_files: Option<u32>,
    /// Unsafe sysctls that pods may set, separated by commas; a name may end with *
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    allowed_unsafe_sysctls: Vec<String>,
    /// Eviction thresholds, such as memory.available<100Mi,nodefs.available<10%; an empty value
    /// disables eviction [default: those of kubelet, for disks at most 2Gi]
    #[arg(long, value_name = "THRESHOLDS")]
    eviction_hard: Option<Thresholds>,
    /// Time for which the pressure condition stays after a shortage [default: 5m]
    #[arg(long, value_name = "DURATION")]
    eviction_pressure_transition_period: Option<SignedDuration>,
    /// Disk usage in percent that starts the removal of unused images; 100 disables it [default: 85]
    #[arg(long, value_name = "PERCENT")]
    image_gc_high_threshold: Option<u8>,
    /// Disk usage in percent that ends the removal of unused images [default: 80]
    #[arg(long, value_name = "PERCENT")]
    image_gc_low_threshold: Option<u8>,
    /// Time after which an unused image is removed; 0 for no limit [default: 0s]
    #[arg(long, value_name = "DURATION")]
    image_maximum_gc_age: Option<SignedDuration>,
    /// Minimum age of an image before its removal [default: 2m]
    #[arg(long, value_name = "DURATION")]
    minimum_image_ttl_duration: Option<SignedDuration>,
    /// Encrypts the traffic of pods to other nodes with the kernel's WireGuard; to be given on all nodes of a
    /// cluster, since a node with this flag and one without exchange no traffic of pods
    #[arg(
        long,
        value_name = "BOOL",
        env = "MAINSTAY_ENCRYPT_POD_TRAFFIC",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    encrypt_pod_traffic: Option<bool>,
    /// Transport of packets between pods of different nodes; the same on all nodes of a cluster
    /// [default: auto]
    #[arg(
        long,
        value_name = "TRANSPORT",
        env = "MAINSTAY_POD_NETWORK_TRANSPORT",
        value_enum
    )]
    pod_network_transport: Option<PodNetworkTransport>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum PodNetworkTransport {
    /// Routes to nodes on a link of this one, VXLAN to the others
    Auto,
    /// Routes to nodes on a link of this one; routers of the network know the pod ranges of the others
    Route,
    /// VXLAN to all nodes
    Vxlan,
}

impl PodSettings {
    /// Uses the values of the configuration file for settings without flag or variable.
    pub fn or(self, file: Self) -> Self {
        Self {
            pod_max_pids: self.pod_max_pids.or(file.pod_max_pids),
            node_lease_duration: self.node_lease_duration.or(file.node_lease_duration),
            container_log_max_size: self.container_log_max_size.or(file.container_log_max_size),
            container_log_max_files: self
                .container_log_max_files
                .or(file.container_log_max_files),
            allowed_unsafe_sysctls: match self.allowed_unsafe_sysctls.is_empty() {
                true => file.allowed_unsafe_sysctls,
                false => self.allowed_unsafe_sysctls,
            },
            eviction_hard: self.eviction_hard.or(file.eviction_hard),
            eviction_pressure_transition_period: self
                .eviction_pressure_transition_period
                .or(file.eviction_pressure_transition_period),
            image_gc_high_threshold: self
                .image_gc_high_threshold
                .or(file.image_gc_high_threshold),
            image_gc_low_threshold: self.image_gc_low_threshold.or(file.image_gc_low_threshold),
            image_maximum_gc_age: self.image_maximum_gc_age.or(file.image_maximum_gc_age),
            minimum_image_ttl_duration: self
                .minimum_image_ttl_duration
                .or(file.minimum_image_ttl_duration),
            encrypt_pod_traffic: self.encrypt_pod_traffic.or(file.encrypt_pod_traffic),
            pod_network_transport: self.pod_network_transport.or(file.pod_network_transport),
        }
    }

    /// The transport of packets between pods of different nodes.
    ///
    /// # Errors
    /// A transport is set although the traffic is encrypted: WireGuard is then the only transport.
    pub fn transport(&self) -> Result<PeerTransport> {
        let transport = match self.pod_network_transport {
            None | Some(PodNetworkTransport::Auto) => PeerTransport::Auto,
            Some(PodNetworkTransport::Route) => PeerTransport::Route,
            Some(PodNetworkTransport::Vxlan) => PeerTransport::Vxlan,
        };
        ensure!(
            !self.encrypts() || transport == PeerTransport::Auto,
            "--encrypt-pod-traffic sends all packets between nodes through WireGuard: choose either it or \
             --pod-network-transport"
        );
        Ok(transport)
    }

    pub fn encrypts(&self) -> bool {
        self.encrypt_pod_traffic.unwrap_or_default()
    }

    /// Checks that the kernel supports WireGuard, if the traffic is encrypted. Must be called before anything
    /// is changed.
    ///
    /// # Errors
    /// The kernel has no WireGuard.
    pub fn require_encryption(&self) -> Result<()> {
        if self.encrypts() {
            pod_network::require_wireguard()?;
        }
        Ok(())
    }

    /// Maximum of processes and threads of one pod; -1 is unlimited.
    pub fn pids_max(&self) -> i64 {
        self.pod_max_pids.unwrap_or(PIDS_MAX).max(-1)
    }

    /// The length of the node's lease.
    ///
    /// # Errors
    /// The duration is not a number of whole seconds in the range.
    pub fn lease_length(&self) -> Result<LeaseLength> {
        let Some(duration) = self.node_lease_duration else {
            return Ok(LeaseLength::DEFAULT);
        };
        let seconds = u32::try_from(duration.as_secs()).ok();
        let seconds = seconds.filter(|_| duration.subsec_nanos() == 0);
        seconds
            .and_then(LeaseLength::from_seconds)
            .with_context(|| {
                let (min, max) = (LeaseLength::MIN.seconds(), LeaseLength::MAX.seconds());
                format!("--node-lease-duration {duration:#} is not a whole number of seconds from {min}s to {max}s")
            })
    }

    /// The limits of containers' logs.
    pub fn logs(&self) -> LogLimits {
        let default = LogLimits::default();
        let size = self.container_log_max_size.map(|size| size.value());
        let size = size.and_then(|bytes| u64::try_from(bytes).ok());
        LogLimits {
            file_bytes_max: size
                .filter(|bytes| *bytes > 0)
                .unwrap_or(default.file_bytes_max),
            files_max: self.container_log_max_files.unwrap_or(default.files_max),
        }
    }

    /// Sysctls that are allowed in addition to the safe sysctls.
    pub fn unsafe_sysctls(&self) -> Vec<String> {
        self.allowed_unsafe_sysctls.clone()
    }

    /// The thresholds and the transition period of eviction, with defaults for settings that are absent.
    pub fn eviction(&self) -> Eviction {
        let default = Eviction::default();
        Eviction {
            thresholds: self.eviction_hard.clone().unwrap_or(default.thresholds),
            transition_period: self
                .eviction_pressure_transition_period
                .unwrap_or(default.transition_period),
        }
    }

    /// The policy of image garbage collection.
    pub fn image_gc(&self) -> Result<ImageGcPolicy> {
        let default = ImageGcPolicy::default();
        let policy = ImageGcPolicy {
            high_percent: self.image_gc_high_threshold.unwrap_or(default.high_percent),
            low_percent: self.image_gc_low_threshold.unwrap_or(default.low_percent),
            minimum_age: self
                .minimum_image_ttl_duration
                .unwrap_or(default.minimum_age),
            maximum_age: self
                .image_maximum_gc_age
                .filter(|age| *age > SignedDuration::ZERO),
        };
        let (low, high) = (policy.low_percent, policy.high_percent);
        ensure!(
            high <= 100,
            "--image-gc-high-threshold {high}: a percentage is from 0 to 100"
        );
        ensure!(
            low < high,
            "--image-gc-low-threshold {low} has to be less than --image-gc-high-threshold {high}"
        );
        Ok(policy)
    }
}
