//! Ports of the node that belong to a pod (`hostPort`); as the portmap plugin of CNI.
//!
//! Host ports work on the node's own addresses, or on one of them (`hostIP`), for clients outside, on the node and in
//! pods; the client's address does not change. A Service with an equal port of an equal address as a node port or an
//! external address has priority.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec};

use crate::endpoints::Endpoint;
use crate::flows::UdpFlow;
use crate::model::{Chain, Key, MapName, MapVerdict, Protocol, Rule, RuleAction, Table};

/// A port of the node that a pod requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The node's address (`hostIP`); `None` for all addresses.
    pub address: Option<Ipv4Addr>,
    /// The port of the node (`hostPort`).
    pub port: u16,
    /// The port of the pod (`containerPort`).
    pub target: u16,
}

/// A port of the node that is forwarded to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPort {
    /// The pod's IPv4 address.
    pub pod: Ipv4Addr,
    /// The port of the node that is forwarded.
    pub port: HostPort,
}

impl PublishedPort {
    fn endpoint(&self) -> Endpoint {
        Endpoint {
            ip: self.pod,
            port: self.port.target,
        }
    }

    fn serves(&self, flow: &UdpFlow) -> bool {
        let port = &self.port;
        let on_address = port.address.is_none_or(|address| address == flow.address);
        port.protocol == Protocol::Udp && port.port == flow.port && on_address
    }
}

/// Returns the ports of a pod's containers and sidecars.
pub(crate) fn container_ports(spec: &PodSpec) -> impl Iterator<Item = &ContainerPort> {
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let containers = spec.containers.iter().chain(sidecars);
    containers.flat_map(|container| container.ports.iter().flatten())
}

/// Returns the ports of the node that the pod's containers and sidecars request. A pod in the node's network namespace
/// listens on its ports directly, so it has none here; ports on IPv6 addresses are left out.
pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let mut ports: Vec<HostPort> = container_ports(spec)
        .filter_map(|port| {
            let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
            Some(HostPort {
                protocol: Protocol::of(port.protocol.as_deref())?,
                address: address(port.host_ip.as_deref()).ok()?,
                port: number(port.host_port?)?,
                target: number(port.container_port)?,
            })
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Parses `hostIP`.
///
/// # Errors
///
/// The text, if it is not an IPv4 address.
pub fn address(host_ip: Option<&str>) -> Result<Option<Ipv4Addr>, &str> {
    let Some(text) = host_ip.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(IpAddr::V4(address)) => Ok(Some(address).filter(|address| !address.is_unspecified())),
        _ => Err(text),
    }
}

/// Adds the host ports to a table of Services. If two pods request one port of an address, the first pod gets the port.
pub fn publish(table: &mut Table, ports: &[PublishedPort]) {
    for published in ports {
        let PublishedPort { pod, port } = *published;
        let chain = format!("host/{pod}/{}/{}", port.protocol, port.target);
        let map = match port.address {
            Some(_) => MapName::HostIps,
            None => MapName::HostPorts,
        };
        let key = Key {
            address: port.address,
            protocol: port.protocol,
            port: port.port,
        };
        let goto = || MapVerdict::Goto(chain.clone());
        table.elements.entry((map, key)).or_insert_with(goto);
        let rules = vec![Rule::always(RuleAction::Endpoint(pod, port.target))];
        table.chains.insert(chain, Chain { hook: None, rules });
    }
}

/// Returns the indices of the UDP flows that have a wrong destination after a change of ports: flows to a pod that has
/// lost the port, and flows that bypass a pod that has got the port. `local` are the node's addresses.
pub fn misled_flows(
    flows: &[UdpFlow],
    before: &[PublishedPort],
    now: &[PublishedPort],
    local: &BTreeSet<Ipv4Addr>,
) -> Vec<usize> {
    let lost: Vec<_> = before.iter().filter(|port| !now.contains(port)).collect();
    let new: Vec<_> = now.iter().filter(|port| !before.contains(port)).collect();
    let is_misled = |flow: &UdpFlow| {
        let to = |port: &PublishedPort| flow.endpoint == port.endpoint();
        lost.iter().any(|port| port.serves(flow) && to(port))
            || new.iter().any(|port| port.serves(flow) && !to(port))
    };
    (0..)
        .zip(flows)
        .filter(|(_, flow)| local.contains(&flow.address) && is_misled(flow))
        .map(|(index, _)| index)
        .collect()
}

/// Whether a UDP port was added or removed. All flows of the machine need to be read only then.
pub fn udp_differs(before: &[PublishedPort], now: &[PublishedPort]) -> bool {
    let of = |ports: &[PublishedPort]| -> BTreeSet<PublishedPort> {
        let udp = |port: &&PublishedPort| port.port.protocol == Protocol::Udp;
        ports.iter().filter(udp).copied().collect()
    };
    of(before) != of(now)
}

/// `tcp 192.0.2.1:8080 80`, or `tcp *:8080 80` for all addresses.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.protocol)?;
        match self.address {
            Some(address) => write!(f, "{address}")?,
            None => write!(f, "*")?,
        }
        write!(f, ":{} {}", self.port, self.target)
    }
}

/// A text that is no host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHostPort;

impl FromStr for HostPort {
    type Err = NoHostPort;

    /// Parses the output of `Display`.
    fn from_str(text: &str) -> Result<Self, NoHostPort> {
        let read = || {
            let mut words = text.split(' ');
            let protocol = Protocol::of(Some(&words.next()?.to_ascii_uppercase()))?;
            let (address, port) = words.next()?.split_once(':')?;
            let address = match address {
                "*" => None,
                address => Some(address.parse().ok()?),
            };
            let (port, target) = (port.parse().ok()?, words.next()?.parse().ok()?);
            words.next().is_none().then_some(HostPort {
                protocol,
                address,
                port,
                target,
            })
        };
        read().ok_or(NoHostPort)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port_texts(spec: serde_json::Value) -> Vec<String> {
        let spec = serde_json::from_value(spec).unwrap();
        host_ports(&spec).iter().map(HostPort::to_string).collect()
    }

    #[test]
    fn containers_and_sidecars_have_ports_of_the_node() {
        let spec = json!({
            "containers": [
                {"name": "a", "ports": [
                    {"containerPort": 80},
                    {"containerPort": 80, "hostPort": 8080},
                    {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"},
                    {"containerPort": 81, "hostPort": 81, "hostIP": "127.0.0.1"},
                    {"containerPort": 82, "hostPort": 82, "hostIP": "::1"}]}],
            "initContainers": [
                {"name": "i", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "s", "restartPolicy": "Always",
                    "ports": [{"containerPort": 2, "hostPort": 2}]}]});
        let expected = [
            "tcp *:2 2",
            "tcp *:8080 80",
            "tcp 127.0.0.1:81 81",
            "udp *:53 53",
        ];
        assert_eq!(port_texts(spec.clone()), expected);
        let mut on_host = spec;
        on_host["hostNetwork"] = json!(true);
        assert!(port_texts(on_host).is_empty());
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["tcp *:8080 80", "udp 192.0.2.1:53 5353", "sctp *:1 1"] {
            assert_eq!(
                text.parse().map(|port: HostPort| port.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in [
            "",
            "tcp",
            "tcp *:8080",
            "icmp *:1 1",
            "tcp *:1 1 1",
            "tcp *:70000 1",
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(NoHostPort), "{text}");
        }
    }

    fn published(pod: u8, port: &str) -> PublishedPort {
        PublishedPort {
            pod: Ipv4Addr::new(10, 244, 0, pod),
            port: port.parse().unwrap(),
        }
    }

    #[test]
    fn flows_follow_the_ports_that_pods_get_and_lose() {
        let node = Ipv4Addr::new(192, 0, 2, 1);
        let flow = |address, port, ip, target| UdpFlow {
            address,
            port,
            endpoint: Endpoint { ip, port: target },
        };
        let pod = Ipv4Addr::new(10, 244, 0, 2);
        let elsewhere = Ipv4Addr::new(198, 51, 100, 9);
        let flows = [
            flow(node, 5300, pod, 53),
            flow(node, 5300, node, 5300),
            flow(elsewhere, 5300, elsewhere, 5300),
            flow(node, 5301, node, 5301),
        ];
        let local = BTreeSet::from([node]);
        let ports = [published(2, "udp *:5300 53")];
        let misled = |before, now| misled_flows(&flows, before, now, &local);
        assert_eq!(misled(&ports, &[]), [0]);
        assert_eq!(misled(&[], &ports), [1]);
        assert_eq!(misled(&ports, &ports), [0; 0]);
        assert_eq!(misled(&ports, &[published(3, "udp *:5300 53")]), [0, 1]);
        assert!(udp_differs(&ports, &[]));
        assert!(!udp_differs(&ports, &[ports[0], published(3, "tcp *:1 1")]));
    }
}
