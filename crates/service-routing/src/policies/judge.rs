//! The decision about a connection at one of its ends, with the policies that decide.

use super::compile::{PolicyObjects, chain_of};
use super::connections::{Connection, verdict};
use super::read::Policy;
use crate::model::{Direction, Table};

/// The decision at one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyJudgement<'f> {
    /// No policy selects the pod at this end for this direction.
    Open,
    /// Both ends are the same pod.
    Itself,
    /// These policies allow the connection.
    Allowed(Vec<&'f Policy>),
    /// These policies select the pod at this end, and none of them allows the connection.
    Dropped(Vec<&'f Policy>),
}

impl PolicyJudgement<'_> {
    /// Whether the connection passes at this end.
    pub fn passes(&self) -> bool {
        !matches!(self, Self::Dropped(_))
    }
}

/// Decides about a connection at the end that the direction names: its client for egress, its server for ingress.
/// `table` is the table of `state`, which enforces the policies; an end that is not local in the table is open.
pub fn judge<'f>(
    state: &'f PolicyObjects,
    table: &Table,
    connection: &Connection,
    direction: Direction,
) -> PolicyJudgement<'f> {
    let end = match direction {
        Direction::Ingress => connection.destination,
        Direction::Egress => connection.source,
    };
    let mut pods = state.pods.values();
    let Some(pod) = pods.find(|pod| pod.is_local && pod.address == end) else {
        return PolicyJudgement::Open;
    };
    let about = |policy: &&Policy| policy.selects(pod) && policy.rules(direction).is_some();
    let selecting: Vec<&Policy> = state.policies.values().filter(about).collect();
    if selecting.is_empty() {
        return PolicyJudgement::Open;
    }
    if connection.source == connection.destination {
        return PolicyJudgement::Itself;
    }
    let allows =
        |policy: &&&Policy| verdict(table, &chain_of(policy, direction), connection) == Some(true);
    let allowing: Vec<&Policy> = selecting.iter().filter(allows).copied().collect();
    match allowing.is_empty() {
        true => PolicyJudgement::Dropped(selecting),
        false => PolicyJudgement::Allowed(allowing),
    }
}
