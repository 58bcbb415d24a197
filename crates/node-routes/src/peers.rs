//! The peers in Node objects.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Node;
use pod_network::Peer;

/// The type of the address by which nodes reach each other.
const INTERNAL_IP: &str = "InternalIP";

/// The nodes besides the own one that have an IPv4 address and a range of pods, in order of name.
pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Node>, own: &str) -> Vec<Peer> {
    let others = nodes.into_iter().filter_map(peer);
    let mut peers: Vec<Peer> = others.filter(|peer| peer.name != own).collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    peers
}

fn peer(node: &Node) -> Option<Peer> {
    let spec = node.spec.as_ref()?;
    let status = node.status.as_ref()?;
    let mut addresses = status.addresses.iter().flatten();
    let address = addresses.find_map(|address| {
        let is_internal = address.type_ == INTERNAL_IP;
        is_internal.then(|| address.address.parse::<Ipv4Addr>().ok())?
    });
    Some(Peer {
        name: node.metadata.name.clone()?,
        address: address?,
        range: spec.pod_cidr.as_deref()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, range: Value, addresses: Value) -> Node {
        let node = json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": range},
            "status": {"addresses": addresses},
        });
        serde_json::from_value(node).unwrap()
    }

    fn internal(address: &str) -> Value {
        json!([
            {"type": "Hostname", "address": "name"},
            {"type": "ExternalIP", "address": "198.51.100.1"},
            {"type": INTERNAL_IP, "address": "2001:db8::1"},
            {"type": INTERNAL_IP, "address": address},
        ])
    }

    #[test]
    fn a_node_with_an_address_and_a_range_is_a_peer() {
        let nodes = [
            node("c", json!("10.244.2.0/24"), internal("192.0.2.3")),
            node("own", json!("10.244.0.0/24"), internal("192.0.2.1")),
            node("b", json!("10.244.1.0/24"), internal("192.0.2.2")),
            node("new", Value::Null, internal("192.0.2.4")),
            node("silent", json!("10.244.4.0/24"), json!([])),
            node("odd", json!("x"), internal("192.0.2.6")),
        ];
        let peer = |name: &str, address: [u8; 4], range: &str| Peer {
            name: name.to_owned(),
            address: address.into(),
            range: range.parse().unwrap(),
        };
        assert_eq!(
            of(&nodes, "own"),
            [
                peer("b", [192, 0, 2, 2], "10.244.1.0/24"),
                peer("c", [192, 0, 2, 3], "10.244.2.0/24"),
            ]
        );
    }
}
