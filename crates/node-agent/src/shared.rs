//! The parts of the agent that its tasks share.

use crate::agent::api_objects::Sources;
use crate::agent::pod_manager::Registry;
use crate::answer_cache::CachedAnswer;
use crate::clock::Clock;
use crate::config::Config;
use crate::images::Puller;
use crate::images::pull_limiter::PullTurns;
use crate::node::machine_info::Machine;
use crate::node::pressure::Monitor;
use crate::node::stats::History;
use crate::probes::counts::ProbeCounts;
use bytes::Bytes;
use container_runtime::Runtime;
use kube::Client;
use pod_lifecycle::environment::downward::NodeFacts;
use pod_lifecycle::environment::resolv_conf::Resolver;
use reconcile::Recorder;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, RwLock};
use tokio_util::sync::CancellationToken;

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
    /// Objects that pods are made of.
    pub sources: Sources,
    /// What all pods look like, for the kubelet API.
    pub registry: Registry,
    /// What everything uses.
    pub usage: History,
    /// The machine.
    pub machine: Machine,
    /// What is left of its memory and disks.
    pub monitor: Arc<Monitor>,
    /// The node's own resolver.
    pub resolver: Resolver,
    /// One pod at a time is given new resources.
    pub allocation: Mutex<()>,
    /// Who may pull now.
    pub pulls: PullTurns,
    /// Tells that a pull found too little room on the disk.
    pub room_wanted: Notify,
    /// Held by those who look for an image or mount one: none is removed meanwhile.
    pub image_looks: RwLock<()>,
    /// Ends all workers at once, without touching the pods.
    pub abandon: CancellationToken,
    /// The node's clocks.
    pub clock: Clock,
    /// How probes were answered.
    pub probes: ProbeCounts,
    /// What the node and its pods use, as it was last told.
    pub summary: CachedAnswer<Bytes>,
}

impl Shared {
    /// What pulls images for pods.
    pub fn puller(&self) -> Puller<'_> {
        Puller {
            store: &self.config.images,
            registries: &self.config.registries,
            sources: &self.sources,
            monitor: &self.monitor,
            turns: &self.pulls,
            room_wanted: &self.room_wanted,
            looks: &self.image_looks,
        }
    }

    /// What pods may know of the node.
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
