//! The context that all tasks of the agent share: settings, properties of the machine, clocks.

use controller_framework::Recorder;
use pod_lifecycle::environment::downward::NodeFacts;
use pod_lifecycle::environment::resolv_conf::Resolver;

use crate::clock::Clock;
use crate::config::Config;
use crate::machine::machine_info::MachineInfo;

/// The settings of the agent, and the machine on which the agent runs.
pub struct NodeContext {
    pub config: Config,
    /// The properties of the machine, read when the agent starts.
    pub machine: MachineInfo,
    /// The resolver configuration of the node, for pods with the DNS policy `Default`.
    pub resolver: Resolver,
    pub clock: Clock,
    pub recorder: Recorder,
}

impl NodeContext {
    /// The properties of the node in the downward API.
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
