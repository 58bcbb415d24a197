//! The context that all tasks of the agent share: settings, machine, clocks.

use pod_lifecycle::environment::downward::NodeFacts;
use pod_lifecycle::environment::resolv_conf::Resolver;
use reconcile::Recorder;

use crate::clock::Clock;
use crate::config::Config;
use crate::machine::machine_info::MachineInfo;

/// The agent's settings, and the machine that it runs on.
pub struct NodeContext {
    /// The settings of the agent.
    pub config: Config,
    /// The properties of the machine, read at the start.
    pub machine: MachineInfo,
    /// The resolver configuration of the node, for pods that use it.
    pub resolver: Resolver,
    /// The wall clock and the monotonic clock of the node.
    pub clock: Clock,
    /// Records events about the node and its pods.
    pub recorder: Recorder,
}

impl NodeContext {
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
