//! Host ports: two pods on a node cannot listen on one port.

use k8s_openapi::api::core::v1::ContainerPort;
use resource_kinds::pod_view::PodView;

use crate::objection::FilterFailure;

const TAKEN: &str = "node(s) didn't have free ports for the requested pod ports";

/// A port on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort<'p> {
    address: &'p str,
    protocol: &'p str,
    port: i32,
}

impl HostPort<'_> {
    fn collides(&self, other: &HostPort<'_>) -> bool {
        let any = |port: &HostPort<'_>| matches!(port.address, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || any(self) || any(other))
    }
}

/// The reason why a pod with these host ports cannot run on the node: another pod has one of its ports.
pub(crate) fn objection<'p, Others: IntoIterator<Item = &'p PodView>>(
    requested: &[HostPort<'_>],
    others: impl FnOnce() -> Others,
) -> Option<FilterFailure> {
    if requested.is_empty() {
        return None;
    }
    let mut used_ports = others().into_iter().flat_map(host_ports);
    used_ports
        .any(|used_ports| requested.iter().any(|port| port.collides(&used_ports)))
        .then(|| FilterFailure::of_pods(TAKEN))
}

/// The host ports of a pod.
pub(crate) fn host_ports(pod: &PodView) -> Vec<HostPort<'_>> {
    let spec = &pod.spec;
    let host_network = spec.host_network.unwrap_or_default();
    // The ports of init containers count only for sidecars.
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|one| one.ports.iter().flatten());
    ports
        .filter_map(|port| host_port(port, host_network))
        .collect()
}

fn host_port(port: &ContainerPort, host_network: bool) -> Option<HostPort<'_>> {
    let number = port.host_port.filter(|number| *number > 0);
    let number = number.or(host_network.then_some(port.container_port))?;
    Some(HostPort {
        address: port.host_ip.as_deref().unwrap_or_default(),
        protocol: port.protocol.as_deref().unwrap_or("TCP"),
        port: number,
    })
}
