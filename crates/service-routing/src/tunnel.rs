//! The tunnel to other nodes accepts packets only from these nodes. VXLAN itself accepts packets from every sender, and
//! the inner packets reach pods with any address as their source.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::model::{
    Chain, Hook, HookKind, Match, Member, Protocol, Rule, RuleAction, Set, SetKind, Table,
};

/// The name of the set of the tunnel's other ends.
const ENDS: &str = "tunnel-ends";

/// The tunnel of a node, and its other ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelGuard {
    /// The UDP port.
    pub port: u16,
    /// The network identifier, by which other tunnels with that port are distinguished.
    pub number: u32,
    /// The addresses of the nodes at the other ends.
    pub ends: BTreeSet<Ipv4Addr>,
}

/// Adds the rules of a tunnel.
pub fn guard(table: &mut Table, tunnel: Option<&TunnelGuard>) {
    let Some(TunnelGuard { port, number, ends }) = tunnel else {
        return;
    };
    let ends = Set {
        kind: SetKind::Addresses,
        members: ends.iter().copied().map(Member::Address).collect(),
    };
    table.sets.insert(ENDS.to_owned(), ends);
    let of_tunnel = || {
        [
            Match::Ports(Protocol::Udp, *port, *port),
            Match::TunnelNumber(*number),
        ]
    };
    let is_known_end = of_tunnel()
        .into_iter()
        .chain([Match::SourceIn(ENDS.to_owned())]);
    let hook = Hook {
        kind: HookKind::Filter,
        number: 1,
        priority: -10,
    };
    let chain = Chain {
        hook: Some(hook),
        rules: vec![
            Rule::when(is_known_end, RuleAction::Accept),
            Rule::when(of_tunnel(), RuleAction::Drop),
        ],
    };
    table.chains.insert("filter-tunnel".to_owned(), chain);
}
