//! The settings, clients and state that the agent's tasks share.

use std::sync::{Arc, Mutex};

use api_client::Client;
use bytes::Bytes;
use container_runtime::Runtime;
use pod_lifecycle::environment::downward::NodeFacts;
use pod_lifecycle::environment::resolv_conf::Resolver;
use reconcile::Recorder;
use tokio::sync::{Notify, RwLock};
use tokio_util::sync::CancellationToken;

use crate::answer_cache::CachedAnswer;
use crate::api::objects::ApiObjects;
use crate::clock::Clock;
use crate::config::Config;
use crate::images::Puller;
use crate::images::pull_limiter::PullLimiter;
use crate::machine::machine_info::MachineInfo;
use crate::machine::pressure::Monitor;
use crate::machine::stats::UsageHistory;
use crate::pods::pod_manager::PodManager;
use crate::probes::counts::ProbeCounts;

/// The settings, clients and state that all tasks of a node share.
pub struct Shared {
    /// The agent's settings.
    pub config: Config,
    /// The API.
    pub client: Client,
    /// The container runtime.
    pub runtime: Runtime,
    /// Events.
    pub recorder: Recorder,
    /// The API objects that pods refer to.
    pub api_objects: ApiObjects,
    /// The current view of all pods.
    pub pods: PodManager,
    /// The resource usage of the node, its pods and containers.
    pub usage: UsageHistory,
    /// The machine.
    pub machine: MachineInfo,
    /// The monitor of its memory and disk.
    pub monitor: Arc<Monitor>,
    /// The node's own resolver.
    pub resolver: Resolver,
    /// Held during an allocation: one pod at a time gets new resources.
    pub allocation: Mutex<()>,
    /// The limit of parallel image pulls.
    pub pull_limiter: PullLimiter,
    /// Notified when a pull finds too little disk space.
    pub disk_space_wanted: Notify,
    /// Held during lookups and mounts of images: no image is removed meanwhile.
    pub image_looks: RwLock<()>,
    /// Ends all workers at once, without touching the pods.
    pub abandon: CancellationToken,
    /// The node's clocks.
    pub clock: Clock,
    /// Counts of probe results.
    pub probes: ProbeCounts,
    /// The last answer to `/stats/summary`.
    pub summary: CachedAnswer<Bytes>,
}

impl Shared {
    /// The puller of images for pods.
    pub fn puller(&self) -> Puller<'_> {
        Puller {
            store: &self.config.images,
            registries: &self.config.registries,
            api_objects: &self.api_objects,
            monitor: &self.monitor,
            limiter: &self.pull_limiter,
            disk_space_wanted: &self.disk_space_wanted,
            looks: &self.image_looks,
        }
    }

    /// The facts about the node in the downward API.
    pub fn facts(&self, pod_ips: &[String]) -> NodeFacts {
        let allocatable = self.machine.allocatable(self.config.pods_max);
        let parsed = |(name, amount): (
            String,
            k8s_openapi::apimachinery::pkg::api::resource::Quantity,
        )| { amount.0.parse().ok().map(|amount| (name, amount)) };
        NodeFacts {
            host_ips: vec![self.config.node_ip().to_string()],
            pod_ips: pod_ips.to_vec(),
            allocatable: allocatable.into_iter().filter_map(parsed).collect(),
        }
    }
}
