//! Ports of Services on which a process of the machine listens already. The service proxy does not serve such ports;
//! this module selects the Services that get a warning.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use object_model::listening::{Listening, Transport};

use super::Observed;

/// Whether the Service needs an address or a port of the machine itself.
pub(super) fn asks_for_the_machine(service: &Service) -> bool {
    let Some(spec) = &service.spec else {
        return false;
    };
    let node_port = |port: &ServicePort| port.node_port.is_some_and(|number| number != 0);
    spec.ports.iter().flatten().any(node_port) || spec.external_ips.iter().flatten().count() > 0
}

/// Whether a process of the machine listens on the port of that address.
pub(super) fn is_occupied(
    listening: &Listening,
    address: IpAddr,
    protocol: &str,
    port: i32,
) -> bool {
    let (Some(transport), Ok(port), IpAddr::V4(address)) = (
        Transport::of(protocol),
        u16::try_from(port),
        address.to_canonical(),
    ) else {
        return false;
    };
    listening.holds(transport, address, port)
}

/// The node ports and external addresses of the Service that cannot be served, with the reason.
pub(super) fn problems(service: &Service, observed: &Observed) -> Vec<String> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let externals = spec.external_ips.iter().flatten();
    let externals: Vec<IpAddr> = externals.filter_map(|text| text.parse().ok()).collect();
    let mut problems = Vec::new();
    for port in spec.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let (Some(transport), Ok(number)) = (Transport::of(protocol), u16::try_from(port.port))
        else {
            continue;
        };
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok());
        if let Some(node_port) = node_port
            && observed.listening.holds_everywhere(transport, node_port)
        {
            problems.push(format!(
                "node port {node_port}/{protocol} is not served: a program of the node listens there"
            ));
        }
        for address in &externals {
            let IpAddr::V4(v4) = address else { continue };
            let listening = &observed.listening;
            // A listener on all addresses covers only the addresses of the local node.
            if listening.holds(transport, *v4, number)
                && (!listening.holds_everywhere(transport, number) || observed.is_of_node(*address))
            {
                problems.push(format!(
                    "port {number}/{protocol} of {address} is not served: a program of the node \
                     listens there"
                ));
            }
        }
    }
    problems
}
