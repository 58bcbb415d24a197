//! The peers of a node, from Node objects.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Node;
use pod_network::{Peer, PeerEncryption, TunnelEnd};

/// The type of the address that other nodes use.
const INTERNAL_IP: &str = "InternalIP";

/// The annotation with the public key of a node that encrypts the traffic of pods. Only the node itself and
/// administrators may write it (node restriction).
pub const PUBLIC_KEY: &str = "node.mainstay.dev/wireguard-public-key";
/// The annotation with the UDP port of the node's tunnel.
pub const PORT: &str = "node.mainstay.dev/wireguard-port";

/// The annotations of a node: the value, or `None` if the annotation must be absent.
pub fn annotations(end: Option<TunnelEnd>) -> BTreeMap<String, Option<String>> {
    let key = end.map(|end| end.key.to_string());
    let port = end.map(|end| end.port.to_string());
    [(PUBLIC_KEY.to_owned(), key), (PORT.to_owned(), port)].into()
}

/// The encryption of a node, from its annotations.
fn encryption(node: &Node) -> PeerEncryption {
    let annotation = |name: &str| {
        let annotations = node.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    };
    let (Some(key), port) = (annotation(PUBLIC_KEY), annotation(PORT)) else {
        return PeerEncryption::Off;
    };
    let key = match key.parse() {
        Ok(key) => key,
        Err(error) => {
            return PeerEncryption::Unreadable(format!("its annotation {PUBLIC_KEY}: {error}"));
        }
    };
    let port = port.unwrap_or_default();
    match port.parse() {
        Ok(port) if port > 0 => PeerEncryption::On(TunnelEnd { key, port }),
        _ => PeerEncryption::Unreadable(format!("its annotation {PORT}: {port:?} is no UDP port")),
    }
}

/// The nodes except `local_node` that have an IPv4 address and a pod range, sorted by name.
pub fn peers<'a>(nodes: impl IntoIterator<Item = &'a Node>, local_node: &str) -> Vec<Peer> {
    let all_peers = nodes.into_iter().filter_map(peer);
    let mut peers: Vec<Peer> = all_peers.filter(|peer| peer.name != local_node).collect();
    peers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
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
        encryption: encryption(node),
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
            encryption: PeerEncryption::Off,
        };
        assert_eq!(
            peers(&nodes, "own"),
            [
                peer("b", [192, 0, 2, 2], "10.244.1.0/24"),
                peer("c", [192, 0, 2, 3], "10.244.2.0/24"),
            ]
        );
    }

    /// docs/many-machines.md: peers read the key and port of a node's tunnel from its annotations; an
    /// invalid value is rejected with the name of the annotation.
    #[test]
    fn a_key_is_read_from_the_annotations_of_its_node() {
        let of = |annotations: Value| {
            let mut node = node("b", json!("10.244.1.0/24"), internal("192.0.2.2"));
            node.metadata.annotations = serde_json::from_value(annotations).unwrap();
            peers([&node], "own").remove(0).encryption
        };
        let key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
        let end = TunnelEnd {
            key: key.parse().unwrap(),
            port: 51820,
        };
        let written = annotations(Some(end));
        assert_eq!(of(json!(written)), PeerEncryption::On(end));
        assert_eq!(of(Value::Null), PeerEncryption::Off);
        assert_eq!(of(json!({ PORT: "51820" })), PeerEncryption::Off);
        assert!(annotations(None).values().all(Option::is_none));
        for (key, port, name) in [
            ("x", Some("51820"), PUBLIC_KEY),
            ("", Some("51820"), PUBLIC_KEY),
            (key, None, PORT),
            (key, Some("0"), PORT),
            (key, Some("65536"), PORT),
            (key, Some("+x"), PORT),
        ] {
            let mut values = json!({ PUBLIC_KEY: key });
            if let Some(port) = port {
                values[PORT] = json!(port);
            }
            match of(values) {
                PeerEncryption::Unreadable(cause) => assert!(cause.contains(name), "{cause}"),
                other => panic!("{key} {port:?}: {other:?}"),
            }
        }
    }
}
