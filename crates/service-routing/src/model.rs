//! The table as data: chains of rules, maps, sets of clients. The module does not depend on Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use object_model::cidr::Cidr;
use object_model::listening::Transport;

use crate::balance::{Balance, ServiceSet};

/// A transport protocol that Services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Parses the protocol of a Service or slice port; absent means TCP.
    pub fn of(text: Option<&str>) -> Option<Protocol> {
        match text {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// Returns the protocol's number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// The contents of a table.
///
/// *Invariant* (established by [`crate::table`], checked by [`crate::apply`]): every chain and set that a rule or a map
/// refers to exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The chains, by name.
    pub chains: BTreeMap<String, Chain>,
    /// The sets of addresses and ports, by name.
    pub sets: BTreeMap<String, Set>,
    /// Elements of the maps; every map of [`MapName`] always exists.
    pub elements: BTreeMap<(MapName, Key), MapVerdict>,
    /// The filter chain of each address and direction.
    pub filtered: BTreeMap<(Direction, Ipv4Addr), String>,
}

impl Table {
    /// Adds another part of a table, whose names do not occur in this table.
    pub fn include(&mut self, part: Table) {
        self.chains.extend(part.chains);
        self.sets.extend(part.sets);
        self.elements.extend(part.elements);
        self.filtered.extend(part.filtered);
    }
}

/// A set that rules look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The kind of its members.
    pub kind: SetKind,
    /// The members of the set; empty for a set that the kernel fills.
    pub members: BTreeSet<Member>,
}

/// The kind of the members of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Addresses of clients, which rules add; each address is removed after this many seconds.
    Clients(u32),
    Addresses,
    /// Ports of addresses.
    Ports,
    /// Ranges of addresses, which do not overlap.
    Ranges,
}

/// A member of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// In a set of addresses.
    Address(Ipv4Addr),
    /// A port in a set of ports; the key has an address.
    Port(Key),
    /// In a set of ranges: the first and the last address.
    Range(Ipv4Addr, Ipv4Addr),
}

impl Member {
    /// Whether a set of that kind may contain the member.
    pub fn fits(self, kind: SetKind) -> bool {
        match self {
            Member::Address(_) => kind == SetKind::Addresses,
            Member::Port(key) => kind == SetKind::Ports && key.address.is_some(),
            Member::Range(first, last) => kind == SetKind::Ranges && first <= last,
        }
    }
}

/// A direction of connections, relative to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Ingress and egress.
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// Returns the name of the map from addresses to chains in the kernel.
    pub fn map(self) -> &'static str {
        match self {
            Direction::Ingress => "filtered-ingress",
            Direction::Egress => "filtered-egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

/// A chain: rules that are tried in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The hook of a base chain; `None` for other chains.
    pub hook: Option<Hook>,
    /// The rules in the order in which they are tried.
    pub rules: Vec<Rule>,
}

/// A position on the path of a packet through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The kind of the base chain.
    pub kind: HookKind,
    /// Number of the hook (`NF_INET_*`): prerouting 0, input 1, forward 2, output 3,
    /// postrouting 4.
    pub number: u32,
    /// Order among the chains of a hook, smaller first.
    pub priority: i32,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// Gets the first packet of a connection and decides on address translation.
    Nat,
    /// Gets every packet.
    Filter,
}

/// The maps of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapName {
    /// Address, protocol and port of a Service → its endpoints, or its chain.
    ServiceIps,
    /// Protocol and node port of a Service → its endpoints, or its chain.
    ServiceNodePorts,
    /// Addresses of Services that have no endpoints → refusal.
    RefusedIps,
    /// Node ports of Services that have no endpoints → refusal.
    RefusedNodePorts,
    /// Address of the node, protocol and host port of a pod → its chain.
    HostIps,
    /// Protocol and host port of a pod on all addresses of the node → its chain.
    HostPorts,
    /// Address, protocol and port of a listening socket of the node → return: the socket receives the packets, not the pod
    /// with the same host port.
    HeldIps,
    /// Protocol and port of a listening socket on all addresses of the node → return.
    HeldPorts,
}

impl MapName {
    /// All maps of the table.
    pub const ALL: [MapName; 8] = [
        MapName::ServiceIps,
        MapName::ServiceNodePorts,
        MapName::RefusedIps,
        MapName::RefusedNodePorts,
        MapName::HostIps,
        MapName::HostPorts,
        MapName::HeldIps,
        MapName::HeldPorts,
    ];

    /// Returns the map's name in the kernel.
    pub fn as_str(self) -> &'static str {
        match self {
            MapName::ServiceIps => "service-ips",
            MapName::ServiceNodePorts => "service-nodeports",
            MapName::RefusedIps => "refused-ips",
            MapName::RefusedNodePorts => "refused-nodeports",
            MapName::HostIps => "host-ips",
            MapName::HostPorts => "host-ports",
            MapName::HeldIps => "held-ips",
            MapName::HeldPorts => "held-ports",
        }
    }

    /// Whether keys have an address (else only protocol and port).
    pub fn by_address(self) -> bool {
        matches!(
            self,
            MapName::ServiceIps | MapName::RefusedIps | MapName::HostIps | MapName::HeldIps
        )
    }

    /// Whether an element of the map may have this result.
    pub fn may_have(self, verdict: &MapVerdict) -> bool {
        match verdict {
            MapVerdict::Goto(_) | MapVerdict::Drop | MapVerdict::Return => !self.refuses(),
            MapVerdict::Balance(_) => self.balances(),
            MapVerdict::Reject => self.refuses(),
        }
    }

    /// Whether elements of the map may have endpoints.
    pub fn balances(self) -> bool {
        matches!(self, MapName::ServiceIps | MapName::ServiceNodePorts)
    }

    /// Whether the map is a set: packets for its elements are rejected.
    pub fn refuses(self) -> bool {
        matches!(self, MapName::RefusedIps | MapName::RefusedNodePorts)
    }
}

/// The key of a lookup: the destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The address; `None` in the maps of node ports.
    pub address: Option<Ipv4Addr>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
}

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapVerdict {
    /// Continue in that chain.
    Goto(String),
    /// Discard the packet silently.
    Drop,
    /// Leave the chain without a change.
    Return,
    /// Send the connection to an endpoint.
    Balance(Balance),
    /// Respond that the port is closed.
    Reject,
}

/// A rule: its action is executed if all matches are true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The conditions, all of which must be true.
    pub matches: Vec<Match>,
    /// The action on packets that match.
    pub action: RuleAction,
}

impl Rule {
    /// A rule that applies to all packets.
    pub fn always(action: RuleAction) -> Rule {
        Rule {
            matches: Vec::new(),
            action,
        }
    }

    /// A rule that applies to packets for which all matches are true.
    pub fn when(matches: impl IntoIterator<Item = Match>, action: RuleAction) -> Rule {
        Rule {
            matches: matches.into_iter().collect(),
            action,
        }
    }
}

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The source address is inside (or outside) the range.
    Source(Cidr, bool),
    /// The destination address is inside (or outside) the range.
    Destination(Cidr, bool),
    /// The source address is (not) an address of this machine.
    SourceIsLocal(bool),
    /// The destination address is (not) an address of this machine.
    DestinationIsLocal(bool),
    /// The packet starts a connection.
    NewConnection,
    /// The packet is of that protocol.
    Protocol(Protocol),
    /// The packet is of that protocol, and its destination port is in the range, including both ends.
    Ports(Protocol, u16, u16),
    /// The packet belongs to a connection that was accepted before.
    Established,
    /// The packet is a TCP packet that does not start a connection.
    StrayTcp,
    /// The packet was marked for masquerading.
    Marked,
    /// The packet does not leave by `lo`.
    OutputIsNotLoopback,
    /// The packet did not come in by `lo`.
    InputIsNotLoopback,
    /// The packet came in by a link whose name has (or does not have) this prefix.
    InputLink(String, bool),
    /// The packet leaves by a link whose name has this prefix.
    OutputLink(String),
    /// The kernel would not send a response by the link by which the packet came in.
    SourceIsElsewhere,
    /// The source address is in the set of that name.
    SourceIn(String),
    /// The destination address is in the set of that name.
    DestinationIn(String),
    /// The destination address, protocol and port are in the set of that name.
    PortIn(String),
    /// The packet's destination is in the map, or in one of its sets.
    Listed(MapName, Option<ServiceSet>),
    /// The route to the destination leads back to the link by which the packet came in.
    DestinationIsBehindInput,
    /// The UDP packet is a VXLAN packet with this network identifier.
    TunnelNumber(u32),
}

/// The action of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Continue in the chain, then return.
    Jump(String),
    /// Continue in the chain.
    Goto(String),
    /// Accept the packet in this base chain; other base chains may still drop it.
    Accept,
    /// Discard the packet silently.
    Drop,
    /// Respond by ICMP that the port is closed.
    Reject,
    /// Respond by a TCP reset that the port is closed.
    Reset,
    /// Mark the packet for masquerading.
    Mark,
    /// Remove the mark and give the packet an address of this machine as its source.
    Masquerade,
    /// Remove the mark and give the packet this source address.
    SourceAddress(Ipv4Addr),
    /// Send the connection to this endpoint.
    Endpoint(Ipv4Addr, u16),
    /// Add the client to the set, or renew its entry.
    Remember(String),
    /// Continue in one of the chains, chosen at random.
    Random(Vec<String>),
    /// Apply the verdict of the map for the packet's destination.
    Ask(MapName),
    /// Send the connection to one of the first `n` endpoints of the packet's destination in the map; the number is `n`.
    Balance(MapName, usize),
    /// Continue in the chain of the packet's destination (ingress) or source (egress), if it has one.
    Filter(Direction),
}

impl RuleAction {
    /// Returns the chains that the action may go to.
    pub fn chains(&self) -> &[String] {
        match self {
            RuleAction::Jump(chain) | RuleAction::Goto(chain) => std::slice::from_ref(chain),
            RuleAction::Random(chains) => chains,
            _ => &[],
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |holds: &bool| if *holds { "" } else { "!= " };
        match self {
            Match::Source(range, inside) => write!(f, "saddr {}{range}", not(inside)),
            Match::Destination(range, inside) => write!(f, "daddr {}{range}", not(inside)),
            Match::SourceIsLocal(local) => write!(f, "fib saddr {}local", not(local)),
            Match::DestinationIsLocal(local) => write!(f, "fib daddr {}local", not(local)),
            Match::NewConnection => write!(f, "ct new"),
            Match::Protocol(protocol) => write!(f, "{protocol}"),
            Match::Ports(protocol, first, last) if first == last => {
                write!(f, "{protocol} dport {first}")
            }
            Match::Ports(protocol, first, last) => write!(f, "{protocol} dport {first}-{last}"),
            Match::Established => write!(f, "ct established"),
            Match::StrayTcp => write!(f, "tcp != syn"),
            Match::Marked => write!(f, "marked"),
            Match::OutputIsNotLoopback => write!(f, "oif != lo"),
            Match::InputIsNotLoopback => write!(f, "iif != lo"),
            Match::InputLink(prefix, holds) => write!(f, "iif {}{prefix}*", not(holds)),
            Match::OutputLink(prefix) => write!(f, "oif {prefix}*"),
            Match::SourceIsElsewhere => write!(f, "fib saddr elsewhere"),
            Match::SourceIn(set) => write!(f, "saddr @{set}"),
            Match::DestinationIn(set) => write!(f, "daddr @{set}"),
            Match::PortIn(set) => write!(f, "daddr . proto . dport @{set}"),
            Match::Listed(map, None) => write!(f, "in @{}", map.as_str()),
            Match::Listed(map, Some(set)) => write!(f, "in @{}", set.name(*map)),
            Match::TunnelNumber(number) => write!(f, "vxlan vni {number}"),
            Match::DestinationIsBehindInput => write!(f, "fib daddr behind iif"),
        }
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleAction::Jump(chain) => write!(f, "jump {chain}"),
            RuleAction::Goto(chain) => write!(f, "goto {chain}"),
            RuleAction::Accept => write!(f, "accept"),
            RuleAction::Drop => write!(f, "drop"),
            RuleAction::Reject => write!(f, "reject"),
            RuleAction::Reset => write!(f, "reset"),
            RuleAction::Mark => write!(f, "mark"),
            RuleAction::Masquerade => write!(f, "masquerade"),
            RuleAction::SourceAddress(ip) => write!(f, "snat {ip}"),
            RuleAction::Endpoint(ip, port) => write!(f, "dnat {ip}:{port}"),
            RuleAction::Remember(set) => write!(f, "update @{set}"),
            RuleAction::Random(chains) => write!(f, "random {}", chains.join(" ")),
            RuleAction::Ask(map) => write!(f, "vmap @{}", map.as_str()),
            RuleAction::Balance(map, count) => write!(f, "random {count} of @{}", map.as_str()),
            RuleAction::Filter(direction) => write!(f, "vmap @{}", direction.map()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        write!(f, "{}", self.action)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(f, "{address} ")?;
        }
        write!(f, "{} {}", self.protocol, self.port)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Address(address) => address.fmt(f),
            Member::Port(key) => key.fmt(f),
            Member::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for MapVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapVerdict::Goto(chain) => write!(f, "goto {chain}"),
            MapVerdict::Drop => write!(f, "drop"),
            MapVerdict::Return => write!(f, "return"),
            MapVerdict::Balance(balance) => balance.fmt(f),
            MapVerdict::Reject => write!(f, "reject"),
        }
    }
}

/// One line per element, set and rule, for tests and for users.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((map, key), verdict) in &self.elements {
            writeln!(f, "{}: {key} -> {verdict}", map.as_str())?;
        }
        for ((direction, address), chain) in &self.filtered {
            writeln!(f, "{}: {address} -> goto {chain}", direction.map())?;
        }
        for (name, set) in &self.sets {
            write!(f, "set {name}")?;
            if let SetKind::Clients(seconds) = set.kind {
                write!(f, " timeout {seconds}s")?;
            }
            for member in &set.members {
                write!(f, ", {member}")?;
            }
            writeln!(f)?;
        }
        for (name, chain) in &self.chains {
            for rule in &chain.rules {
                writeln!(f, "{name}: {rule}")?;
            }
        }
        Ok(())
    }
}
