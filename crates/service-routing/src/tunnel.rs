//! The tunnel to other nodes takes packets from them alone. VXLAN itself takes packets of everybody, and what is in
//! them reaches pods with any address as its source.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::model::{
    Chain, Hook, HookKind, Match, Member, Protocol, Rule, RuleAction, Set, SetKind, Table,
};

/// The set of the tunnel's other ends.
const ENDS: &str = "tunnel-ends";

/// The tunnel of a node, and its other ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelGuard {
    /// The UDP port.
    pub port: u16,
    /// The number of the virtual network, by which other tunnels of that port are left alone.
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
    let known = of_tunnel()
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
            Rule::when(known, RuleAction::Accept),
            Rule::when(of_tunnel(), RuleAction::Drop),
        ],
    };
    table.chains.insert("filter-tunnel".to_owned(), chain);
}
