//! The decision of a table of policies about a connection.

use std::net::Ipv4Addr;

use crate::change::TableChange;
use crate::model::{Direction, Key, Match, Member, Protocol, RuleAction, SetKind, Table};
use crate::ranges;

/// A connection through the node, after the translation of its destination and before that of its
/// source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// The client's IPv4 address.
    pub source: Ipv4Addr,
    /// The server's IPv4 address.
    pub destination: Ipv4Addr,
    /// The protocol, with the server's port; `None` for other protocols, such as ICMP.
    pub port: Option<(Protocol, u16)>,
}

/// Whether the connection may begin.
pub fn passes(table: &Table, connection: &Connection) -> bool {
    Direction::BOTH.iter().all(|direction| {
        let pod = match direction {
            Direction::Ingress => connection.destination,
            Direction::Egress => connection.source,
        };
        let chain = table.filtered.get(&(*direction, pod));
        chain.is_none_or(|chain| verdict(table, chain, connection) != Some(false))
    })
}

/// Returns the indices of the connections that may not begin. Connections that end on this node itself did not pass
/// through it: `is_local` contains its addresses.
pub fn denied(
    table: &Table,
    connections: &[Connection],
    is_local: impl Fn(Ipv4Addr) -> bool,
) -> Vec<usize> {
    let is_denied = |connection: &Connection| {
        let through = !is_local(connection.source) && !is_local(connection.destination);
        through && !passes(table, connection)
    };
    (0..)
        .zip(connections)
        .filter(|(_, connection)| is_denied(connection))
        .map(|(index, _)| index)
        .collect()
}

/// Whether the steps can deny a connection that was allowed before. All connections of the machine need to be read only
/// then.
pub fn tightens(steps: &[TableChange]) -> bool {
    let loosens = |step: &TableChange| {
        matches!(
            step,
            TableChange::AddSet(..)
                | TableChange::AddMembers(..)
                | TableChange::RemoveFilter(..)
                | TableChange::RemoveChain(_)
                | TableChange::RemoveSet(_)
                | TableChange::AddChain(..)
        )
    };
    !steps.iter().all(loosens)
}

/// Whether a chain accepts or drops the connection; `None` if the chain decides neither.
pub(super) fn verdict(table: &Table, chain: &str, connection: &Connection) -> Option<bool> {
    let rules = table.chains.get(chain).map(|chain| chain.rules.iter());
    let holds = |matches: &[Match]| {
        matches
            .iter()
            .all(|condition| holds(table, condition, connection))
    };
    rules
        .into_iter()
        .flatten()
        .filter(|rule| holds(&rule.matches))
        .find_map(|rule| match &rule.action {
            RuleAction::Accept => Some(true),
            RuleAction::Drop => Some(false),
            RuleAction::Jump(chain) => verdict(table, chain, connection),
            _ => None,
        })
}

/// Whether a condition is true for the first packet of the connection. Policies have no other conditions.
fn holds(table: &Table, condition: &Match, connection: &Connection) -> bool {
    let in_set = |set: &str, member: Member| {
        let set = table.sets.get(set);
        set.is_some_and(|set| match (set.kind, member) {
            (SetKind::Ranges, Member::Address(address)) => ranges::contain(&set.members, address),
            _ => set.members.contains(&member),
        })
    };
    match condition {
        Match::Source(range, inside) => range.contains(connection.source) == *inside,
        Match::Destination(range, inside) => range.contains(connection.destination) == *inside,
        Match::SourceIn(set) => in_set(set, Member::Address(connection.source)),
        Match::DestinationIn(set) => in_set(set, Member::Address(connection.destination)),
        Match::PortIn(set) => connection.port.is_some_and(|(protocol, port)| {
            let key = Key::on(connection.destination, protocol, port);
            in_set(set, Member::Port(key))
        }),
        Match::Protocol(protocol) => connection.port.is_some_and(|(of, _)| of == *protocol),
        Match::Ports(protocol, first, last) => connection
            .port
            .is_some_and(|(of, port)| of == *protocol && (*first..=*last).contains(&port)),
        _ => false,
    }
}
