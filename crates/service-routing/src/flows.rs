//! UDP flows to removed endpoints.
//!
//! The kernel chooses the endpoint for the first packet and stores the choice for the flow. A UDP client that never
//! stops sending keeps that entry alive, and would send to a removed endpoint without end. TCP needs no such action:
//! its connections break and are opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::endpoints::Endpoint;
use crate::model::Protocol;
use crate::services::ServicePort;

/// A UDP flow as the kernel stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpFlow {
    /// Address that the client sends to.
    pub address: Ipv4Addr,
    /// Port that the client sends to.
    pub port: u16,
    /// The pod that the kernel forwards the flow to.
    pub endpoint: Endpoint,
}

/// Whether a UDP port has lost an endpoint. All flows of the machine need to be read only then.
pub fn has_lost_endpoints(before: &[ServicePort], now: &[ServicePort]) -> bool {
    let now = endpoints(now);
    endpoints(before).difference(&now).next().is_some()
}

fn endpoints(ports: &[ServicePort]) -> BTreeSet<(&str, Endpoint)> {
    let udp = ports.iter().filter(|port| port.protocol == Protocol::Udp);
    udp.flat_map(|port| {
        port.endpoints
            .cluster
            .iter()
            .map(|e| (port.id.as_str(), *e))
    })
    .collect()
}

/// Returns the indices of the flows to an endpoint that their Service no longer has. Flows whose address belongs to no
/// Service are ignored.
pub fn stale_flows(flows: &[UdpFlow], ports: &[ServicePort]) -> Vec<usize> {
    let mut by_address: BTreeMap<(Ipv4Addr, u16), &ServicePort> = BTreeMap::new();
    let mut by_node_port: BTreeMap<u16, &ServicePort> = BTreeMap::new();
    for port in ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        let outside = port.external_ips.iter().chain(&port.load_balancer_ips);
        for address in outside.chain([&port.cluster_ip]) {
            by_address.insert((*address, port.port), port);
        }
        by_node_port.extend(port.node_port.map(|node_port| (node_port, port)));
    }
    let is_stale = |flow: &UdpFlow| {
        let by_address = by_address.get(&(flow.address, flow.port));
        let port = by_address.or_else(|| by_node_port.get(&flow.port));
        port.is_some_and(|port| !port.endpoints.cluster.contains(&flow.endpoint))
    };
    (0..)
        .zip(flows)
        .filter(|(_, flow)| is_stale(flow))
        .map(|(index, _)| index)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{UdpFlow, has_lost_endpoints, stale_flows};
    use crate::endpoints::{Endpoint, Endpoints};
    use crate::model::Protocol;
    use crate::services::{ServiceAge, ServicePort};

    fn endpoint(last: u8) -> Endpoint {
        Endpoint {
            ip: Ipv4Addr::new(10, 244, 0, last),
            port: 53,
        }
    }

    fn port(protocol: Protocol, last: &[u8]) -> ServicePort {
        ServicePort {
            id: "default/names/udp/53".to_owned(),
            age: ServiceAge::default(),
            protocol,
            port: 53,
            cluster_ip: Ipv4Addr::new(10, 96, 0, 5),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            node_port: Some(30_053),
            affinity: None,
            internal_local: false,
            external_local: false,
            endpoints: Endpoints {
                cluster: last.iter().copied().map(endpoint).collect(),
                local: Vec::new(),
            },
        }
    }

    #[test]
    fn only_a_lost_udp_endpoint_counts() {
        let udp = |last: &[u8]| [port(Protocol::Udp, last)];
        assert!(has_lost_endpoints(&udp(&[2, 3]), &udp(&[3, 4])));
        assert!(has_lost_endpoints(&udp(&[2]), &[]));
        assert!(!has_lost_endpoints(&udp(&[2]), &udp(&[2, 3])));
        let tcp = |last: &[u8]| [port(Protocol::Tcp, last)];
        assert!(!has_lost_endpoints(&tcp(&[2, 3]), &tcp(&[3])));
    }

    #[test]
    fn flows_to_a_service_must_go_to_one_of_its_endpoints() {
        let flow = |address: [u8; 4], port, last| UdpFlow {
            address: address.into(),
            port,
            endpoint: endpoint(last),
        };
        let flows = [
            flow([10, 96, 0, 5], 53, 2),
            flow([10, 96, 0, 5], 53, 3),
            flow([192, 0, 2, 1], 30_053, 2),
            flow([10, 96, 0, 5], 54, 2),
            flow([192, 0, 2, 1], 53, 2),
        ];
        assert_eq!(stale_flows(&flows, &[port(Protocol::Udp, &[3])]), [0, 2]);
        assert_eq!(stale_flows(&flows, &[]), Vec::<usize>::new());
    }
}
