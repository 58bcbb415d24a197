//! The endpoints of a Service port that may get connections.
//!
//! As kube-proxy: the ready endpoints; if there are none, those that are terminating but still
//! serving, so that a rollout of a single replica does not refuse connections. Computed for the
//! whole cluster and for this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort, EndpointSlice};

use object_model::dialling::special;

use crate::model::Protocol;

/// The destination of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// The port there.
    pub port: u16,
}

/// The endpoints of a Service port that may get connections.
///
/// *Invariant*: `local` is empty when `cluster` is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Those for connections that may go to any node.
    pub cluster: Vec<Endpoint>,
    /// Those for connections that must stay on this node.
    pub local: Vec<Endpoint>,
}

#[derive(Clone, Copy, Default)]
struct State {
    ready: bool,
    serving_terminating: bool,
    local: bool,
}

/// Chooses among the endpoints of the slices those for the port of that name and protocol.
pub(crate) fn choose<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port_name: &str,
    protocol: Protocol,
    node_name: &str,
) -> Endpoints {
    let mut states: BTreeMap<Endpoint, State> = BTreeMap::new();
    for slice in slices
        .into_iter()
        .filter(|slice| slice.address_type == "IPv4")
    {
        let ports: BTreeSet<u16> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| number_of(port, port_name, protocol))
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let address = endpoint.addresses.first();
            let Some(ip) = address.and_then(|text| host_address(text)) else {
                continue;
            };
            for port in &ports {
                let state = states.entry(Endpoint { ip, port: *port }).or_default();
                // An endpoint may be in two slices for a moment; its better state counts.
                let seen = state_of(endpoint, node_name);
                state.ready |= seen.ready;
                state.serving_terminating |= seen.serving_terminating;
                state.local |= seen.local;
            }
        }
    }
    let usable = |only_local: bool| {
        let scope = || {
            states
                .iter()
                .filter(move |(_, state)| state.local || !only_local)
        };
        let ready: Vec<Endpoint> = scope().filter(|(_, s)| s.ready).map(|(e, _)| *e).collect();
        if !ready.is_empty() {
            return ready;
        }
        scope()
            .filter(|(_, s)| s.serving_terminating)
            .map(|(e, _)| *e)
            .collect()
    };
    Endpoints {
        cluster: usable(false),
        local: usable(true),
    }
}

/// The number of ready pods of this node in the slices.
pub(crate) fn ready_here<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node_name: &str,
) -> usize {
    let all = slices
        .into_iter()
        .filter(|slice| slice.address_type == "IPv4")
        .flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = all.filter(|endpoint| {
        let state = state_of(endpoint, node_name);
        state.ready && state.local
    });
    let addresses: BTreeSet<&String> = ready.filter_map(|e| e.addresses.first()).collect();
    addresses.len()
}

/// Parses an address of a host; an address of the machine itself is not an endpoint.
pub(crate) fn host_address(text: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = text.parse().ok()?;
    special(address.into()).is_none().then_some(address)
}

fn number_of(port: &EndpointPort, name: &str, protocol: Protocol) -> Option<u16> {
    let same_name = port.name.as_deref().unwrap_or_default() == name;
    let same_protocol = Protocol::of(port.protocol.as_deref()) == Some(protocol);
    let number = port.port.and_then(|number| u16::try_from(number).ok());
    number.filter(|number| same_name && same_protocol && *number != 0)
}

/// An unknown readiness counts as ready, an unknown serving as readiness, an unknown termination
/// as none (statefulset.md §10.5, §10.7).
fn state_of(endpoint: &SliceEndpoint, node_name: &str) -> State {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    State {
        ready,
        serving_terminating: serving && terminating,
        local: endpoint.node_name.as_deref() == Some(node_name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Endpoints, choose};
    use crate::model::Protocol;

    fn slice(endpoints: serde_json::Value) -> k8s_openapi::api::discovery::v1::EndpointSlice {
        serde_json::from_value(json!({
            "metadata": { "name": "web-abc", "namespace": "default" },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn endpoint(
        last: u8,
        node: &str,
        ready: Option<bool>,
        serving: Option<bool>,
        terminating: Option<bool>,
    ) -> serde_json::Value {
        json!({
            "addresses": [format!("10.244.0.{last}")],
            "nodeName": node,
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        })
    }

    #[track_caller]
    fn check(endpoints: &[serde_json::Value], cluster: &[u8], local: &[u8]) {
        let slice = slice(json!(endpoints));
        let chosen = choose([&slice], "http", Protocol::Tcp, "here");
        let last = |list: &[super::Endpoint]| -> Vec<u8> {
            list.iter()
                .map(|endpoint| endpoint.ip.octets()[3])
                .collect()
        };
        assert_eq!(last(&chosen.cluster), cluster, "cluster");
        assert_eq!(last(&chosen.local), local, "local");
    }

    #[test]
    fn ready_endpoints_are_used_and_unknown_counts_as_ready() {
        check(
            &[
                endpoint(2, "here", Some(true), Some(true), Some(false)),
                endpoint(3, "there", None, None, None),
                endpoint(4, "here", Some(false), Some(false), Some(false)),
            ],
            &[2, 3],
            &[2],
        );
    }

    #[test]
    fn terminating_endpoints_that_serve_are_used_only_when_none_is_ready() {
        let leaving = endpoint(2, "here", Some(false), Some(true), Some(true));
        let ready = endpoint(3, "there", Some(true), None, None);
        let dead = endpoint(4, "here", Some(false), Some(false), Some(true));
        check(&[leaving.clone(), dead.clone()], &[2], &[2]);
        check(&[leaving, dead, ready], &[3], &[2]);
    }

    // findings S15
    #[test]
    fn the_machine_itself_is_no_endpoint() {
        for address in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "::ffff:127.0.0.1",
        ] {
            let slice = slice(json!([{ "addresses": [address] }]));
            let chosen = choose([&slice], "http", Protocol::Tcp, "here");
            assert_eq!(chosen, Endpoints::default(), "{address}");
        }
    }

    #[test]
    fn ports_are_matched_by_name_and_protocol() {
        let slice = slice(json!([endpoint(2, "here", None, None, None)]));
        let none = Endpoints::default();
        assert_eq!(choose([&slice], "https", Protocol::Tcp, "here"), none);
        assert_eq!(choose([&slice], "http", Protocol::Udp, "here"), none);
        assert_eq!(
            choose([&slice, &slice], "http", Protocol::Tcp, "here")
                .cluster
                .len(),
            1
        );
    }
}
