//! The endpoints of a Service port that may get connections.
//!
//! As kube-proxy: the ready endpoints; if there are none, the endpoints that are terminating but still serving, so that
//! a rollout of a single replica does not refuse connections. Computed for the whole cluster and for this node. Of the
//! ready endpoints of the cluster, endpoints with a hint for this node are preferred if all endpoints have hints for
//! nodes; otherwise endpoints with a hint for its zone, if all have hints for zones (KEP-4444, KEP-3015).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort, EndpointSlice};

use object_model::dialling::special;

use crate::model::Protocol;

/// The location of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyNode<'a> {
    /// The name of the node.
    pub node: &'a str,
    /// The zone of the node, if it has one.
    pub zone: Option<&'a str>,
}

impl<'a> From<&'a str> for ProxyNode<'a> {
    /// A node without a zone.
    fn from(node: &'a str) -> Self {
        Self { node, zone: None }
    }
}

/// The destination of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's IPv4 address.
    pub ip: Ipv4Addr,
    /// The port at the pod's address.
    pub port: u16,
}

/// The endpoints of a Service port that may get connections.
///
/// *Invariant*: `local` is empty when `cluster` is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The endpoints for connections that may go to any node.
    pub cluster: Vec<Endpoint>,
    /// The endpoints for connections that must stay on this node.
    pub local: Vec<Endpoint>,
}

#[derive(Clone, Copy, Default)]
struct State {
    ready: bool,
    serving_terminating: bool,
    local: bool,
    for_nodes: Hint,
    for_zones: Hint,
}

/// The nodes or zones that an endpoint is meant for.
#[derive(Clone, Copy, Default)]
struct Hint {
    /// Whether the endpoint has hints.
    is_given: bool,
    /// Whether the hints name this node or its zone.
    is_here: bool,
}

impl Hint {
    fn from_names<'h>(names: impl IntoIterator<Item = &'h String>, here: Option<&str>) -> Self {
        let mut hint = Self::default();
        for name in names {
            hint.is_given = true;
            hint.is_here |= here == Some(name.as_str());
        }
        hint
    }

    fn also(&mut self, other: Self) {
        self.is_given |= other.is_given;
        self.is_here |= other.is_here;
    }
}

/// The ready endpoints with a hint for this node or zone; all ready endpoints if an endpoint has no hint or no hint is
/// for this node or zone.
fn preferred(ready: Vec<(Endpoint, State)>) -> Vec<Endpoint> {
    let hints: [fn(&State) -> Hint; 2] = [|state| state.for_nodes, |state| state.for_zones];
    for hint in hints {
        let are_given = ready.iter().all(|(_, state)| hint(state).is_given);
        let here = ready.iter().filter(|(_, state)| hint(state).is_here);
        let here: Vec<Endpoint> = here.map(|(endpoint, _)| *endpoint).collect();
        if are_given && !here.is_empty() {
            return here;
        }
    }
    ready.into_iter().map(|(endpoint, _)| endpoint).collect()
}

/// Chooses the endpoints of the slices for the port of that name and protocol.
pub(crate) fn choose<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port_name: &str,
    protocol: Protocol,
    here: ProxyNode<'_>,
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
                let state_here = state_of(endpoint, here);
                state.ready |= state_here.ready;
                state.serving_terminating |= state_here.serving_terminating;
                state.local |= state_here.local;
                state.for_nodes.also(state_here.for_nodes);
                state.for_zones.also(state_here.for_zones);
            }
        }
    }
    let usable = |only_local: bool| {
        let scope = || {
            states
                .iter()
                .filter(move |(_, state)| state.local || !only_local)
        };
        let ready = scope().filter(|(_, state)| state.ready);
        let ready: Vec<(Endpoint, State)> = ready.map(|(e, state)| (*e, *state)).collect();
        if !ready.is_empty() {
            return match only_local {
                true => ready.into_iter().map(|(endpoint, _)| endpoint).collect(),
                false => preferred(ready),
            };
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
        let state = state_of(endpoint, node_name.into());
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

/// The state of an endpoint. An absent `ready` counts as true, an absent `serving` as `ready`, an absent `terminating`
/// as false (statefulset.md §10.5, §10.7).
fn state_of(endpoint: &SliceEndpoint, here: ProxyNode<'_>) -> State {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let hints = endpoint.hints.iter();
    let for_nodes = hints
        .clone()
        .flat_map(|hints| hints.for_nodes.iter().flatten());
    let for_zones = hints.flat_map(|hints| hints.for_zones.iter().flatten());
    State {
        ready,
        serving_terminating: serving && terminating,
        local: endpoint.node_name.as_deref() == Some(here.node),
        for_nodes: Hint::from_names(for_nodes.map(|node| &node.name), Some(here.node)),
        for_zones: Hint::from_names(for_zones.map(|zone| &zone.name), here.zone),
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
        let chosen = choose([&slice], "http", Protocol::Tcp, "here".into());
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

    /// As kube-proxy: hints count only if all ready endpoints have hints, and a hint is for this node or zone.
    #[test]
    fn endpoints_that_are_meant_for_the_node_or_its_zone_are_preferred() {
        let names = |names: &[&str]| -> Vec<serde_json::Value> {
            names.iter().map(|name| json!({ "name": name })).collect()
        };
        let hinted = |last: u8, node: &str, nodes: &[&str], zones: &[&str]| {
            let mut endpoint = endpoint(last, node, Some(true), None, None);
            endpoint["hints"] = json!({ "forNodes": names(nodes), "forZones": names(zones) });
            endpoint
        };
        let plain = endpoint(9, "there", Some(true), None, None);
        let not_ready = endpoint(8, "there", Some(false), None, None);
        let east = hinted(2, "other", &["other"], &["east"]);
        let west = hinted(3, "third", &["third"], &["west"]);
        let here = hinted(4, "here", &["here"], &["west"]);
        let chosen = |endpoints: &[&serde_json::Value], zone: Option<&str>| -> Vec<u8> {
            let slice = slice(json!(endpoints));
            let here = super::ProxyNode { node: "here", zone };
            let chosen = choose([&slice], "http", Protocol::Tcp, here).cluster;
            chosen
                .iter()
                .map(|endpoint| endpoint.ip.octets()[3])
                .collect()
        };
        assert_eq!(chosen(&[&east, &west, &here], Some("west")), [4]);
        assert_eq!(chosen(&[&east, &west], Some("west")), [3]);
        assert_eq!(chosen(&[&east, &west, &not_ready], Some("east")), [2]);
        assert_eq!(chosen(&[&east, &west], Some("north")), [2, 3]);
        assert_eq!(chosen(&[&east, &west], None), [2, 3]);
        assert_eq!(chosen(&[&east, &here, &plain], Some("west")), [2, 4, 9]);
        let only_zones = [
            &hinted(5, "x", &[], &["east"]),
            &hinted(6, "here", &[], &["west"]),
        ];
        assert_eq!(chosen(&only_zones, Some("east")), [5]);
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
            let chosen = choose([&slice], "http", Protocol::Tcp, "here".into());
            assert_eq!(chosen, Endpoints::default(), "{address}");
        }
    }

    #[test]
    fn ports_are_matched_by_name_and_protocol() {
        let slice = slice(json!([endpoint(2, "here", None, None, None)]));
        let none = Endpoints::default();
        assert_eq!(
            choose([&slice], "https", Protocol::Tcp, "here".into()),
            none
        );
        assert_eq!(choose([&slice], "http", Protocol::Udp, "here".into()), none);
        assert_eq!(
            choose([&slice, &slice], "http", Protocol::Tcp, "here".into())
                .cluster
                .len(),
            1
        );
    }
}
