//! Service ports → table.
//!
//! The path of a connection: the hooks look up `service-ips` (address, protocol, port) and `service-nodeports`. Most
//! Services are in sets by their number of endpoints, and one endpoint is chosen from data (see `balance.rs`). A
//! Service that keeps clients at their endpoints, keeps connections from outside on their node, admits only some
//! sources, or has very many endpoints, has its own chains: `svc/…` for the cluster IP, `ext/…` for external addresses
//! (which marks for masquerading or keeps to this node). These chains choose the chain `ep/…` of an endpoint, which
//! rewrites the destination. A Service without endpoints is in `refused-…` instead, which the hooks that can reject
//! look up. Other connections may be for a pod's host port: `host-ips` and `host-ports` are looked up last.
//!
//! A pod that connects to itself through a Service must not get its own address as the client's address, because its
//! response would bypass this node. Its packets leave by the link by which they came in, and are marked where they are
//! forwarded.
//!
//! Ports of the node's listening sockets cannot be redirected: `held-ips` and `held-ports` are looked up first.
//!
//! **Each address has one owner.** The ranges of pods and of Services, special addresses, and the addresses of other
//! machines of the cluster are never external addresses of a Service (see `addresses.rs`). Any other address and port
//! belongs to the Service with this `clusterIP`, else to the oldest Service that claims it, whatever the names are.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use object_model::cidr::Cidr;
use object_model::listening::Listening;

use crate::addresses::MachineAddresses;
use crate::balance::{Balance, Masquerade, chains, entrances};
use crate::endpoints::Endpoint;
use crate::model::{
    Chain, Hook, HookKind, Key, MapName, MapVerdict, Match, Protocol, Rule, RuleAction, Set,
    SetKind, Table,
};
use crate::ranges;
use crate::services::{Affinity, ServicePort};

/// Bit of the packet mark that requests masquerading; the bit of kube-proxy.
pub const MARK_MASQUERADE: u32 = 0x4000;

/// The priority before connection tracking.
const PRIORITY_RAW: i32 = -300;

const SERVICES: &str = "services";
const REFUSED: &str = "refused";
const REJECT: &str = "reject";

/// The node's settings for the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Addresses of the pods of this node.
    pub pod_range: Cidr,
    /// Addresses of the pods of all nodes.
    pub cluster_range: Cidr,
    /// Addresses of Services (`clusterIP`).
    pub service_range: Cidr,
    /// Further addresses of Services, from ServiceCIDRs.
    pub further_ranges: Vec<Cidr>,
    /// Addresses of Services that a program on this node serves itself (DNS).
    pub unmanaged: BTreeSet<Ipv4Addr>,
    /// The common prefix of the host-side link names of pods.
    pub pod_links: String,
    /// The link by which encrypted packets of other nodes' pods come in; `None` if this node does not encrypt.
    pub encrypted_link: Option<String>,
    /// Addresses of nodes in namespaces of this machine, which reach other networks through it.
    pub switch_range: Option<Cidr>,
    /// The addresses of the machines of the cluster.
    pub machines: MachineAddresses,
}

impl Settings {
    /// The address of the node on the network of its pods.
    fn gateway(&self) -> Option<Ipv4Addr> {
        self.pod_range.nth(1)
    }

    /// Addresses of this machine that only its pods may use.
    pub(crate) fn for_pods(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.gateway()
            .into_iter()
            .chain(self.unmanaged.iter().copied())
    }
}

/// Builds the nftables table for the ports of all Services.
pub fn table<'a>(ports: impl IntoIterator<Item = &'a ServicePort>, settings: &Settings) -> Table {
    let mut table = base(settings);
    let mut ports: Vec<&ServicePort> = ports.into_iter().collect();
    // The sort is stable: ports of equal age stay in their order.
    ports.sort_by(|a, b| a.age.cmp(&b.age));
    for port in &ports {
        add_inside(&mut table, port, settings);
    }
    for port in ports {
        add_outside(&mut table, port, settings);
    }
    table
}

/// The part of a table for one Service.
pub(crate) fn part(ports: &[ServicePort], settings: &Settings) -> Table {
    let mut part = Table::default();
    for port in ports {
        add_inside(&mut part, port, settings);
    }
    for port in ports {
        add_outside(&mut part, port, settings);
    }
    part
}

/// The part of a table that depends on the settings alone.
pub(crate) fn base(settings: &Settings) -> Table {
    let mut table = Table::default();
    let hook = |kind, number, priority| {
        Some(Hook {
            kind,
            number,
            priority,
        })
    };
    let to_services = || vec![Rule::always(RuleAction::Jump(SERVICES.into()))];
    let mut add = |name: &str, hook, rules| {
        table.chains.insert(name.to_owned(), Chain { hook, rules });
    };
    add(
        "filter-prerouting",
        hook(HookKind::Filter, 0, PRIORITY_RAW),
        no_false_sources(settings)
            .into_iter()
            .chain(no_plain_packets(settings))
            .collect(),
    );
    add(
        "nat-prerouting",
        hook(HookKind::Nat, 0, -100),
        to_services(),
    );
    add("nat-output", hook(HookKind::Nat, 3, -100), to_services());
    add(
        "nat-postrouting",
        hook(HookKind::Nat, 4, 100),
        masquerading(settings),
    );
    let held_rules = [
        Rule::always(RuleAction::Ask(MapName::HeldIps)),
        to_node(MapName::HeldPorts),
    ];
    let services = held_rules
        .into_iter()
        .chain(entrances(MapName::ServiceIps))
        .chain([Rule::always(RuleAction::Ask(MapName::ServiceIps))])
        .chain(entrances(MapName::ServiceNodePorts))
        .chain([
            to_node(MapName::ServiceNodePorts),
            to_node(MapName::HostIps),
            to_node(MapName::HostPorts),
        ]);
    add(SERVICES, None, services.collect());
    for (name, chain) in refusing(settings) {
        add(name, chain.hook, chain.rules);
    }
    for map in [MapName::ServiceIps, MapName::ServiceNodePorts] {
        table.chains.extend(chains(map, settings.cluster_range));
    }
    table
}

/// Drops packets of a pod whose source address is not the pod's address, and packets with the address of a pod of this
/// node that come from elsewhere. The kernel's own check (`rp_filter`) is disabled on some machines.
fn no_false_sources(settings: &Settings) -> [Rule; 2] {
    let from_pod = |holds| Match::InputLink(settings.pod_links.clone(), holds);
    let of_pod = Match::Source(settings.pod_range, true);
    [
        Rule::when([from_pod(true), Match::SourceIsElsewhere], RuleAction::Drop),
        Rule::when(
            [Match::InputIsNotLoopback, from_pod(false), of_pod],
            RuleAction::Drop,
        ),
    ]
}

/// Drops packets to pods of this node, and packets with the address of any pod as their source, if they came in by a
/// link that is neither a pod's link nor the encrypted link. The check is before the translation of Services: a client
/// outside still reaches pods by a node port.
fn no_plain_packets(settings: &Settings) -> Vec<Rule> {
    let Some(encrypted) = &settings.encrypted_link else {
        return Vec::new();
    };
    let of_pods = [
        Match::Destination(settings.pod_range, true),
        Match::Source(settings.cluster_range, true),
    ];
    let rule = |of_pods| {
        let matches = [
            Match::InputIsNotLoopback,
            Match::InputLink(settings.pod_links.clone(), false),
            Match::InputLink(encrypted.clone(), false),
            of_pods,
        ];
        Rule::when(matches, RuleAction::Drop)
    };
    of_pods.map(rule).into()
}

/// Adds the ports where programs of the node listen.
pub fn hold(table: &mut Table, listening: &Listening) {
    for socket in listening.places() {
        cov_mark::hit!(findings_s12);
        let map = match socket.address {
            Some(_) => MapName::HeldIps,
            None => MapName::HeldPorts,
        };
        let key = Key {
            address: socket.address,
            protocol: socket.transport.into(),
            port: socket.port,
        };
        table.elements.insert((map, key), MapVerdict::Return);
    }
}

/// A rule that looks up packets for an address of this machine.
fn to_node(map: MapName) -> Rule {
    Rule::when([Match::DestinationIsLocal(true)], RuleAction::Ask(map))
}

/// Rejects connections at once that would get no response: connections to Services without endpoints, to Service
/// addresses without a Service, and forbidden connections.
fn refusing(settings: &Settings) -> Vec<(&'static str, Chain)> {
    let mut chains = Vec::new();
    let filter = |number| {
        let kind = HookKind::Filter;
        Some(Hook {
            kind,
            number,
            priority: -10,
        })
    };
    // Most packets are of accepted connections: such packets pass only one rule.
    let mut hooked = |name, number, begins: Vec<Rule>| {
        let established = Rule::when([Match::Established], RuleAction::Accept);
        let rules = std::iter::once(established).chain(begins).collect();
        let hook = filter(number);
        chains.push((name, Chain { hook, rules }));
    };
    let loopback = Cidr::new(Ipv4Addr::LOCALHOST, 8);
    let refuse = || Rule::when([Match::NewConnection], RuleAction::Jump(REFUSED.into()));
    let unknown = |also: &[Match]| {
        let in_range = |range| {
            let matches = [Match::NewConnection, Match::Destination(range, true)];
            let matches = matches.iter().chain(also).cloned();
            Rule::when(matches, RuleAction::Goto(REJECT.into()))
        };
        settings.service_ranges().map(in_range).collect::<Vec<_>>()
    };
    // Addresses of `lo` may be routed on pods' links (see node ports on localhost); a pod must not reach the host's
    // loopback listeners.
    let foreign_loopback = [
        Match::InputIsNotLoopback,
        Match::Destination(loopback, true),
    ];
    // The machine accepts packets for all its addresses on every link, so neighbours on its networks could reach
    // listeners that are for pods only.
    let from_neighbours = settings.for_pods().map(|address| {
        let matches = [
            Match::InputIsNotLoopback,
            Match::InputLink(settings.pod_links.clone(), false),
            Match::Destination(Cidr::new(address, 32), true),
        ];
        Rule::when(matches, RuleAction::Drop)
    });
    let mut input = vec![Rule::when(foreign_loopback, RuleAction::Drop)];
    input.extend(from_neighbours);
    input.push(refuse());
    hooked("filter-input", 1, input);
    let to_itself = [
        Match::InputLink(settings.pod_links.clone(), true),
        Match::DestinationIsBehindInput,
    ];
    let to_itself = Rule::when(to_itself, RuleAction::Mark);
    let mut forward = vec![to_itself, refuse()];
    forward.extend(unknown(&[]));
    hooked("filter-forward", 2, forward);
    let mut output = vec![refuse()];
    output.extend(unknown(&[Match::DestinationIsLocal(false)]));
    hooked("filter-output", 3, output);
    let mut add = |name, rules| chains.push((name, Chain { hook: None, rules }));
    add(
        REFUSED,
        vec![
            Rule::always(RuleAction::Ask(MapName::HeldIps)),
            to_node(MapName::HeldPorts),
            Rule::when(
                [Match::Listed(MapName::RefusedIps, None)],
                RuleAction::Goto(REJECT.into()),
            ),
            Rule::when(
                [
                    Match::DestinationIsLocal(true),
                    Match::Listed(MapName::RefusedNodePorts, None),
                ],
                RuleAction::Goto(REJECT.into()),
            ),
        ],
    );
    // The kernel sends no ICMP response to the node's own packets here, but resets work for all packets.
    let reset = Rule::when([Match::Protocol(Protocol::Tcp)], RuleAction::Reset);
    add(REJECT, vec![reset, Rule::always(RuleAction::Reject)]);
    chains
}

/// Masquerades connections to whose source address the server cannot respond: marked connections, connections of pods
/// and of nodes on this machine to the outside, and connections of the node from its loopback address. Towards pods the
/// node has one address; the kernel would choose the first address of `lo`, which may belong to another instance.
fn masquerading(settings: &Settings) -> Vec<Rule> {
    let multicast = Cidr::new(Ipv4Addr::new(224, 0, 0, 0), 4);
    let loopback = Cidr::new(Ipv4Addr::LOCALHOST, 8);
    let leaving = |range| {
        [
            Match::Source(range, true),
            Match::Destination(settings.cluster_range, false),
            Match::Destination(multicast, false),
            Match::OutputIsNotLoopback,
        ]
    };
    let from_loopback = [Match::Source(loopback, true), Match::OutputIsNotLoopback];
    let to_pod = || Match::OutputLink(settings.pod_links.clone());
    let as_node = settings.gateway().map(RuleAction::SourceAddress);
    let to_pods = as_node.into_iter().flat_map(|as_node| {
        [Match::Marked, Match::Source(loopback, true)]
            .map(|whose| Rule::when([whose, to_pod()], as_node.clone()))
    });
    let mut rules: Vec<Rule> = to_pods.collect();
    rules.extend([
        Rule::when([Match::Marked], RuleAction::Masquerade),
        Rule::when(leaving(settings.pod_range), RuleAction::Masquerade),
        Rule::when(from_loopback, RuleAction::Masquerade),
    ]);
    if let Some(range) = settings.switch_range {
        let among_nodes = Match::Destination(range, false);
        let leaving = leaving(range).into_iter().chain([among_nodes]);
        rules.push(Rule::when(leaving, RuleAction::Masquerade));
    }
    rules
}

/// Adds the verdict for an address of a Service.
fn put_ip(table: &mut Table, key: Key, verdict: Option<MapVerdict>) {
    let (served, refused) = (MapName::ServiceIps, MapName::RefusedIps);
    put(table, served, refused, key, verdict);
}

/// Adds the `clusterIP` of a port.
fn add_inside(table: &mut Table, port: &ServicePort, settings: &Settings) {
    if !settings.unmanaged.contains(&port.cluster_ip) {
        let key = Key::on(port.cluster_ip, port.protocol, port.port);
        let verdict = internal(table, port, settings);
        put_ip(table, key, verdict);
    }
}

/// Adds the external addresses of a port, and its node port.
fn add_outside(table: &mut Table, port: &ServicePort, settings: &Settings) {
    let is_free = |ip: &&Ipv4Addr| settings.is_outside(**ip);
    for ip in port.external_ips.iter().filter(is_free) {
        let verdict = external(table, port, settings);
        put_ip(table, Key::on(*ip, port.protocol, port.port), verdict);
    }
    for ip in port.load_balancer_ips.iter().filter(is_free) {
        let verdict = balanced(table, port, settings);
        put_ip(table, Key::on(*ip, port.protocol, port.port), verdict);
    }
    if let Some(node_port) = port.node_port {
        let verdict = external(table, port, settings);
        let key = Key {
            address: None,
            protocol: port.protocol,
            port: node_port,
        };
        put(
            table,
            MapName::ServiceNodePorts,
            MapName::RefusedNodePorts,
            key,
            verdict,
        );
    }
}

/// Adds the key to the map of its verdict; `None` means that connections are refused. An address and port that is in a
/// map already stays.
fn put(
    table: &mut Table,
    served: MapName,
    refused: MapName,
    key: Key,
    verdict: Option<MapVerdict>,
) {
    if table.elements.contains_key(&(served, key)) || table.elements.contains_key(&(refused, key)) {
        return;
    }
    match verdict {
        Some(verdict) => table.elements.insert((served, key), verdict),
        None => table.elements.insert((refused, key), MapVerdict::Reject),
    };
}

fn internal(table: &mut Table, port: &ServicePort, settings: &Settings) -> Option<MapVerdict> {
    if port.endpoints.cluster.is_empty() {
        return None;
    }
    if port.internal_local && port.endpoints.local.is_empty() {
        return Some(MapVerdict::Drop);
    }
    let balance = balance(port, port.internal_local, Masquerade::FromOutside);
    Some(balance.unwrap_or_else(|| {
        let chain = choice(table, port, port.internal_local, settings);
        MapVerdict::Goto(chain)
    }))
}

/// The choice among the endpoints as data; `None` if the Service needs chains.
fn balance(port: &ServicePort, local: bool, masquerade: Masquerade) -> Option<MapVerdict> {
    let balance = Balance::among(port.endpoints_at(local), masquerade);
    let balance = balance.filter(|_| port.affinity.is_none());
    balance.map(MapVerdict::Balance)
}

fn balanced(table: &mut Table, port: &ServicePort, settings: &Settings) -> Option<MapVerdict> {
    if port.source_ranges.is_empty() {
        return external(table, port, settings);
    }
    let chain = format!("fw/{}", port.id);
    let external = external_chain(table, port, settings)?;
    let allowed = port.source_ranges.iter().map(|range| (*range, &[][..]));
    let allowed = ranges::add_set(table, &chain, ranges::members(allowed));
    let rules = vec![
        Rule::when([Match::SourceIn(allowed)], RuleAction::Goto(external)),
        Rule::always(RuleAction::Drop),
    ];
    table
        .chains
        .insert(chain.clone(), Chain { hook: None, rules });
    Some(MapVerdict::Goto(chain))
}

/// Returns the verdict for connections to external addresses.
///
/// Policy Cluster: any endpoint, masqueraded, so that responses return through this node. Policy Local: endpoints of
/// this node get the client's real address; connections from this node or its pods are internal and may use any
/// endpoint.
fn external(table: &mut Table, port: &ServicePort, settings: &Settings) -> Option<MapVerdict> {
    let anywhere = balance(port, false, Masquerade::Always);
    anywhere
        .filter(|_| !port.external_local)
        .or_else(|| external_chain(table, port, settings).map(MapVerdict::Goto))
}

/// Builds the chain for connections to external addresses, and returns its name; `None` without endpoints.
fn external_chain(table: &mut Table, port: &ServicePort, settings: &Settings) -> Option<String> {
    if port.endpoints.cluster.is_empty() {
        return None;
    }
    let chain = format!("ext/{}", port.id);
    if table.chains.contains_key(&chain) {
        return Some(chain);
    }
    let anywhere = choice(table, port, false, settings);
    let mut rules = Vec::new();
    if port.external_local {
        let from_pod = Match::Source(settings.pod_range, true);
        let from_here = || Match::SourceIsLocal(true);
        rules.push(Rule::when([from_pod], RuleAction::Goto(anywhere.clone())));
        rules.push(Rule::when([from_here()], RuleAction::Mark));
        rules.push(Rule::when([from_here()], RuleAction::Goto(anywhere)));
        rules.push(Rule::always(if port.endpoints.local.is_empty() {
            RuleAction::Drop
        } else {
            RuleAction::Goto(choice(table, port, true, settings))
        }));
    } else {
        rules.push(Rule::always(RuleAction::Mark));
        rules.push(Rule::always(RuleAction::Goto(anywhere)));
    }
    table
        .chains
        .insert(chain.clone(), Chain { hook: None, rules });
    Some(chain)
}

/// Builds the chain that chooses an endpoint, of this node or of all nodes, and returns its name.
fn choice(table: &mut Table, port: &ServicePort, local: bool, settings: &Settings) -> String {
    let chain = format!("{}/{}", if local { "local" } else { "svc" }, port.id);
    if table.chains.contains_key(&chain) {
        return chain;
    }
    let from_outside = [
        Match::Destination(Cidr::new(port.cluster_ip, 32), true),
        Match::Source(settings.cluster_range, false),
    ];
    let mut rules = vec![Rule::when(from_outside, RuleAction::Mark)];
    let mut targets = Vec::new();
    for endpoint in port.endpoints_at(local) {
        let target = add_endpoint(table, port, endpoint);
        if let Some(affinity) = port.affinity {
            let is_client = Match::SourceIn(clients(port, endpoint, affinity));
            rules.push(Rule::when([is_client], RuleAction::Goto(target.clone())));
        }
        targets.push(target);
    }
    rules.push(Rule::always(RuleAction::Random(targets)));
    table
        .chains
        .insert(chain.clone(), Chain { hook: None, rules });
    chain
}

fn clients(port: &ServicePort, endpoint: &Endpoint, affinity: Affinity) -> String {
    format!(
        "aff/{}/{}/{}/{}",
        port.id, endpoint.ip, endpoint.port, affinity.timeout_seconds
    )
}

/// Builds the chain that redirects a connection to the endpoint, and returns its name.
fn add_endpoint(table: &mut Table, port: &ServicePort, endpoint: &Endpoint) -> String {
    let chain = format!("ep/{}/{}/{}", port.id, endpoint.ip, endpoint.port);
    let mut rules = Vec::new();
    if let Some(affinity) = port.affinity {
        let set = clients(port, endpoint, affinity);
        rules.push(Rule::always(RuleAction::Remember(set.clone())));
        let clients = Set {
            kind: SetKind::Clients(affinity.timeout_seconds),
            members: BTreeSet::new(),
        };
        table.sets.insert(set, clients);
    }
    rules.push(Rule::always(RuleAction::Endpoint(
        endpoint.ip,
        endpoint.port,
    )));
    table
        .chains
        .insert(chain.clone(), Chain { hook: None, rules });
    chain
}

impl Key {
    /// The key of a port on an address.
    pub fn on(address: Ipv4Addr, protocol: Protocol, port: u16) -> Key {
        Key {
            address: Some(address),
            protocol,
            port,
        }
    }
}
