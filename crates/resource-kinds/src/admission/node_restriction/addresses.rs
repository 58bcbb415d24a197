//! Addresses that a node writes into its status. API servers connect to them, other nodes send packets of pods to
//! them, and load balancers report them, so each address must belong to one machine.
//!
//! The source address of a node's connection proves little: behind a NAT or a load balancer, the source is another
//! machine's address. Therefore a node gets an address only if nobody else in the cluster has it. If somebody has it,
//! the source decides: a node on the machine of an API server may have the server's address, and a machine that has
//! taken over the address of another Node may have that address.

use std::net::IpAddr;

use json_tree::Value;
use object_model::cidr::Cidr;
use object_model::dialling::{SpecialAddress, special};

use super::{RestrictionResult, Write, refuse, require};
use crate::well_known::labels::SERVICE_NAME;

const INTERNAL_IP: &str = "InternalIP";
const HOSTNAME: &str = "Hostname";

/// Checks the addresses that the write adds.
pub(super) fn check(write: &Write<'_>) -> RestrictionResult {
    let had = list(write.old());
    let new = list(write.object);
    if new == had {
        return Ok(());
    }
    // A node has few addresses that other nodes must not have, so the list is short.
    for is_v6 in [false, true] {
        let internal = new.iter().filter(|one| {
            let text = one["address"].as_str().unwrap_or_default();
            one["type"] == INTERNAL_IP && text.contains(':') == is_v6
        });
        require(internal.count() <= 1, || {
            format!(
                "is not allowed to set several addresses of the type {INTERNAL_IP} and of one family"
            )
        })?;
    }
    for added in new.iter().filter(|one| !had.contains(one)) {
        let text = added["address"].as_str().unwrap_or_default();
        match added["type"].as_str().unwrap_or_default() {
            HOSTNAME => require(text == write.node, || {
                format!(
                    "is not allowed to set the address {text:?} of the type {HOSTNAME}: it is not the node's name"
                )
            })?,
            INTERNAL_IP => internal(write, text)?,
            other => refuse(format!(
                "is not allowed to set addresses of the type {other}"
            ))?,
        }
    }
    Ok(())
}

fn list(node: &Value) -> &[Value] {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    addresses.map_or(&[], Vec::as_slice)
}

fn internal(write: &Write<'_>, text: &str) -> RestrictionResult {
    let Ok(address) = text.parse::<IpAddr>() else {
        return refuse(format!(
            "is not allowed to set the address {text:?}: it is no IP address"
        ));
    };
    let address = address.to_canonical();
    match owner(write, address) {
        Some(owner) => {
            cov_mark::hit!(findings_2_s34);
            refuse(format!(
                "is not allowed to set the address {address}: it is {owner}"
            ))
        }
        None => Ok(()),
    }
}

/// The owner of an address, if the node must not have the address.
fn owner(write: &Write<'_>, address: IpAddr) -> Option<String> {
    let source = write.cluster.source().map(|source| source.to_canonical());
    // Components in the server's process have no source address; other programs on its machine may have a loopback
    // address.
    let is_on_server = source.is_none_or(|source| source.is_loopback());
    match special(address) {
        // The only node of a machine without a network reports a loopback address.
        Some(SpecialAddress::Loopback) if is_on_server => return None,
        Some(special) => return Some(format!("no host's ({special})")),
        None => {}
    }
    let has = |range: &Value| is_in(range, address);
    let nodes = write.cluster.list("", "nodes", "");
    let pods = nodes.iter().find(|node| {
        let ranges = node["spec"]["podCIDRs"].as_array();
        ranges.is_some_and(|ranges| ranges.iter().any(has)) || has(&node["spec"]["podCIDR"])
    });
    // The only node of a machine without a network reports its own address towards its pods.
    let is_own = |node: &Value| node["metadata"]["name"] == write.node;
    if pods.is_some_and(|node| !(is_on_server && is_own(node))) {
        return Some("in a range of pods".to_owned());
    }
    let services = write.cluster.list("networking.k8s.io", "servicecidrs", "");
    let mut services = services
        .iter()
        .flat_map(|one| one["spec"]["cidrs"].as_array());
    if services.any(|ranges| ranges.iter().any(has)) {
        return Some("in the range of Services".to_owned());
    }
    let is_source = source == Some(address);
    let other = nodes.iter().find(|node| {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let keeps = !is_source || is_ready(node);
        name != write.node && keeps && list(node).iter().any(|one| is(&one["address"], address))
    });
    if let Some(other) = other {
        let name = other["metadata"]["name"].as_str().unwrap_or_default();
        return Some(format!("the address of node {name:?}"));
    }
    (is_server(write, address) && !is_source && !is_on_server)
        .then(|| "the address of a server".to_owned())
}

/// Whether the address belongs to an API server.
fn is_server(write: &Write<'_>, address: IpAddr) -> bool {
    let slices = write
        .cluster
        .list("discovery.k8s.io", "endpointslices", "default");
    let of_server = slices
        .iter()
        .filter(|slice| slice["metadata"]["labels"][SERVICE_NAME] == "kubernetes");
    let endpoints = of_server.flat_map(|slice| slice["endpoints"].as_array());
    let mut addresses = endpoints
        .flatten()
        .flat_map(|one| one["addresses"].as_array());
    addresses.any(|all| all.iter().any(|one| is(one, address)))
}

fn is_ready(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn is(text: &Value, address: IpAddr) -> bool {
    let parsed = text.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    parsed.is_some_and(|parsed| parsed.to_canonical() == address)
}

fn is_in(range: &Value, address: IpAddr) -> bool {
    let range = range.as_str().and_then(|text| text.parse::<Cidr>().ok());
    match (range, address) {
        (Some(range), IpAddr::V4(address)) => range.contains(address),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use json_tree::json;

    use super::*;
    use crate::ObjectReader;
    use crate::admission::node_restriction::NodeRestriction;
    use crate::admission::testing::{Objects, request};
    use crate::admission::{Admission, AdmissionRequest, Operation};

    /// A cluster, and the source address of the request.
    struct From(Objects, Option<IpAddr>);

    impl ObjectReader for From {
        fn get(
            &self,
            group: &str,
            plural: &str,
            namespace: &str,
            name: &str,
        ) -> Option<Arc<Value>> {
            self.0.get(group, plural, namespace, name)
        }

        fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
            self.0.list(group, plural, namespace)
        }

        fn source(&self) -> Option<IpAddr> {
            self.1
        }
    }

    fn node(name: &str, ready: bool, addresses: &[(&str, &str)]) -> Value {
        let listed = addresses.iter();
        let listed: Vec<Value> = listed
            .map(|(kind, address)| json!({"type": kind, "address": address}))
            .collect();
        let ready = if ready { "True" } else { "Unknown" };
        json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": format!("10.244.{}.0/24", name.len())},
            "status": {"addresses": listed, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    /// The reason why node `n1` may not write the address with this source; empty if the write is allowed.
    fn why(kind: &str, address: &str, source: Option<&str>) -> String {
        let old = node(
            "n1",
            true,
            &[("InternalIP", "192.0.2.1"), ("ExternalIP", "203.0.113.1")],
        );
        let slice = json!({
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {SERVICE_NAME: "kubernetes"}},
            "endpoints": [{"addresses": ["192.0.2.100"]}],
        });
        let objects = Objects::default()
            .with("nodes", old.clone())
            .with("nodes", node("other", true, &[("InternalIP", "192.0.2.2")]))
            .with(
                "nodes",
                node("silent", false, &[("InternalIP", "192.0.2.3")]),
            )
            .with(
                "servicecidrs",
                json!({"metadata": {"name": "k"}, "spec": {"cidrs": ["10.96.0.0/16"]}}),
            )
            .with("endpointslices", slice);
        let cluster = From(objects, source.map(|text| text.parse().unwrap()));
        let mut new = node(
            "n1",
            true,
            &[("ExternalIP", "203.0.113.1"), (kind, address)],
        );
        let write = AdmissionRequest {
            user: "system:node:n1",
            name: "n1",
            namespace: "",
            subresource: "status",
            old: Some(&old),
            ..request(Operation::Update, "nodes")
        };
        let updated = NodeRestriction.admit(&write, &mut new, &cluster);
        let message = updated.map_or_else(|status| status.message, |()| String::new());
        message.rsplit(": ").next().unwrap_or_default().to_owned()
    }

    // findings-2 S34
    #[test]
    fn a_node_gets_an_address_that_nobody_else_has() {
        cov_mark::check!(findings_2_s34);
        let far = Some("198.51.100.77");
        for (address, expected) in [
            ("192.0.2.1", ""),
            ("192.0.2.50", ""),
            ("2001:db8::1", ""),
            ("10.244.5.9", "it is in a range of pods"),
            ("10.244.2.1", "it is in a range of pods"),
            ("10.96.0.1", "it is in the range of Services"),
            ("192.0.2.2", "it is the address of node \"other\""),
            ("::ffff:192.0.2.2", "it is the address of node \"other\""),
            ("192.0.2.3", "it is the address of node \"silent\""),
            ("192.0.2.100", "it is the address of a server"),
            ("127.0.0.1", "it is no host's (loopback)"),
            ("169.254.169.254", "it is no host's (link-local)"),
            ("224.0.0.1", "it is no host's (multicast)"),
            ("0.0.0.0", "it is no host's (unspecified)"),
            ("255.255.255.255", "it is no host's (broadcast)"),
            ("x", "it is no IP address"),
        ] {
            assert_eq!(why("InternalIP", address, far), expected, "{address}");
        }
        assert_eq!(why("Hostname", "n1", far), "");
        assert_eq!(why("Hostname", "other", far), "it is not the node's name");
        for kind in ["ExternalIP", "InternalDNS", "ExternalDNS"] {
            assert!(why(kind, "8.8.8.8", far).ends_with(kind), "{kind}");
        }
    }

    // findings-2 S34
    #[test]
    fn the_source_of_a_connection_decides_where_two_have_an_address() {
        // The machine may take over the address of a node without heartbeats, but not the address of a live node.
        assert_eq!(why("InternalIP", "192.0.2.3", Some("192.0.2.3")), "");
        assert!(!why("InternalIP", "192.0.2.2", Some("192.0.2.2")).is_empty());
        // A node on the machine of an API server.
        for source in [Some("192.0.2.100"), Some("127.0.0.1"), None] {
            assert_eq!(why("InternalIP", "192.0.2.100", source), "");
        }
        assert_eq!(why("InternalIP", "127.0.0.1", None), "");
        // The only node of a machine without a network reports its own address towards its pods.
        assert_eq!(why("InternalIP", "10.244.2.1", None), "");
        assert!(!why("InternalIP", "10.244.5.9", None).is_empty());
    }

    // findings-2 S34
    #[test]
    fn a_new_node_has_its_addresses_checked_too() {
        let objects =
            Objects::default().with("nodes", node("other", true, &[("InternalIP", "192.0.2.2")]));
        let write = AdmissionRequest {
            user: "system:node:n1",
            namespace: "",
            ..request(Operation::Create, "nodes")
        };
        let admitted = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|one| ("InternalIP", *one)).collect();
            let mut new = node("n1", true, &addresses);
            NodeRestriction.admit(&write, &mut new, &objects).is_ok()
        };
        assert!(admitted(&["192.0.2.1", "2001:db8::1"]));
        assert!(!admitted(&["192.0.2.2"]));
        assert!(
            !admitted(&["192.0.2.1", "192.0.2.9"]),
            "others could not join"
        );
    }
}
