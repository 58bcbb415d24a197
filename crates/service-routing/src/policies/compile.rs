//! Policies → table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use object_model::LabelSelector;
use object_model::cidr::Cidr;

use super::read::{Peer, Policy, PolicyPod, PolicyRule, Port};
use crate::model::{
    Chain, Direction, Hook, HookKind, Key, Match, Member, Protocol, Rule, RuleAction, Set, SetKind,
    Table,
};
use crate::ranges;

/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;

/// After the rejection of connections to Services without endpoints.
const PRIORITY_FIRST: i32 = -8;

/// The labels of namespaces, by name.
pub type NamespaceLabels = BTreeMap<String, BTreeMap<String, String>>;

/// The objects that the filters are computed from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyObjects {
    /// The NetworkPolicies of all namespaces, by UID.
    pub policies: BTreeMap<String, Policy>,
    /// The labels of all namespaces.
    pub namespaces: NamespaceLabels,
    /// The pods of the cluster, by UID.
    pub pods: BTreeMap<String, PolicyPod>,
    /// The UIDs of the policies that the kernel refuses: these policies allow no connection.
    pub left_out: BTreeSet<String>,
}

impl PolicyObjects {
    /// The rules of a policy for a direction; `None` if the policy does not restrict the direction.
    pub(super) fn rules<'p>(
        &self,
        policy: &'p Policy,
        direction: Direction,
    ) -> Option<&'p [PolicyRule]> {
        let rules = policy.rules(direction)?;
        Some(match self.left_out.contains(&policy.uid) {
            true => &[],
            false => rules,
        })
    }
}

/// Returns the part of a table that filters the connections of this node's pods; empty if no policy selects a pod of
/// this node.
pub fn filters(state: &PolicyObjects) -> Table {
    let mut table = Table::default();
    let mut used: BTreeMap<&str, &Policy> = BTreeMap::new();
    for pod in state.pods.values().filter(|pod| pod.is_local) {
        let policies = state.policies.values();
        let selecting: Vec<&Policy> = policies.filter(|policy| policy.selects(pod)).collect();
        if selecting.is_empty() {
            continue;
        }
        for direction in Direction::BOTH {
            let chain = format!("policy/{direction}/{}", pod.address);
            let filter = (direction, pod.address);
            table.filtered.insert(filter, chain.clone());
            let rules = of_pod(pod, direction, &selecting, state);
            add_chain(&mut table, chain, None, rules);
        }
        used.extend(
            selecting
                .iter()
                .map(|policy| (policy.uid.as_str(), *policy)),
        );
    }
    if used.is_empty() {
        return table;
    }
    for (priority, direction) in (PRIORITY_FIRST..).zip(Direction::BOTH) {
        let hook = Hook {
            kind: HookKind::Filter,
            number: FORWARD,
            priority,
        };
        let rules = vec![
            Rule::when([Match::Established], RuleAction::Accept),
            Rule::always(RuleAction::Filter(direction)),
        ];
        add_chain(&mut table, format!("policy-{direction}"), Some(hook), rules);
    }
    for policy in used.values() {
        for direction in Direction::BOTH {
            add_policy(&mut table, policy, direction, state);
        }
    }
    table
}

fn add_chain(table: &mut Table, name: String, hook: Option<Hook>, rules: Vec<Rule>) {
    table.chains.insert(name, Chain { hook, rules });
}

/// The rules of a selected pod. If no policy restricts a direction, new connections in this direction pass.
fn of_pod(
    pod: &PolicyPod,
    direction: Direction,
    selecting: &[&Policy],
    state: &PolicyObjects,
) -> Vec<Rule> {
    let mut rules = vec![Rule::when([Match::StrayTcp], RuleAction::Drop)];
    let about = selecting
        .iter()
        .filter_map(|policy| Some((*policy, state.rules(policy, direction)?)));
    let about: Vec<_> = about.collect();
    if about.is_empty() {
        return rules;
    }
    // A pod may always reach itself, for instance through a Service.
    let itself = peer_in(Cidr::new(pod.address, 32), direction, true);
    rules.push(Rule::when([itself], RuleAction::Accept));
    for (policy, _) in about.iter().filter(|(_, rules)| !rules.is_empty()) {
        rules.push(Rule::always(RuleAction::Jump(chain_of(policy, direction))));
    }
    rules.push(Rule::always(RuleAction::Drop));
    rules
}

pub(super) fn chain_of(policy: &Policy, direction: Direction) -> String {
    format!("policy/{}/{direction}", policy.uid)
}

fn peer_in(range: Cidr, direction: Direction, inside: bool) -> Match {
    match direction {
        Direction::Ingress => Match::Source(range, inside),
        Direction::Egress => Match::Destination(range, inside),
    }
}

/// Adds the chain of a policy: it accepts the connections that the policy allows.
fn add_policy(table: &mut Table, policy: &Policy, direction: Direction, state: &PolicyObjects) {
    let rules = state.rules(policy, direction);
    let Some(rules) = rules.filter(|rules| !rules.is_empty()) else {
        return;
    };
    let chain = chain_of(policy, direction);
    let mut all = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let name = format!("{chain}/{number}");
        let accept = ports(table, &name, rule, state);
        match &rule.peers {
            None => all.push(Rule::always(accept)),
            Some(peers) => {
                let conditions = from_peers(table, &name, policy, peers, direction, state);
                all.extend(conditions.map(|condition| Rule::when([condition], accept.clone())));
            }
        }
    }
    add_chain(table, chain, None, all);
}

/// The conditions of a rule's peers, one of which must be true.
fn from_peers(
    table: &mut Table,
    name: &str,
    policy: &Policy,
    peers: &[Peer],
    direction: Direction,
    state: &PolicyObjects,
) -> impl Iterator<Item = Match> {
    let mut blocks = Vec::new();
    let mut selectors = Vec::new();
    for peer in peers {
        match peer {
            Peer::Pods { namespaces, pods } => selectors.push((namespaces.as_ref(), pods)),
            Peer::Block { range, except } => blocks.push((*range, &except[..])),
        }
    }
    let mut sets = Vec::new();
    if !blocks.is_empty() {
        let set_name = format!("{name}/blocks");
        sets.push(ranges::add_set(table, &set_name, ranges::members(blocks)));
    }
    if !selectors.is_empty() {
        let members = members(policy, &selectors, state);
        let kind = SetKind::Addresses;
        table.sets.insert(name.to_owned(), Set { kind, members });
        sets.push(name.to_owned());
    }
    let condition = move |set| match direction {
        Direction::Ingress => Match::SourceIn(set),
        Direction::Egress => Match::DestinationIn(set),
    };
    sets.into_iter().map(condition)
}

/// The addresses of the pods that one of the selectors of namespaces and pods matches.
fn members(
    policy: &Policy,
    selectors: &[(Option<&LabelSelector>, &LabelSelector)],
    state: &PolicyObjects,
) -> BTreeSet<Member> {
    let mut members = BTreeSet::new();
    for (namespaces, pods) in selectors {
        let in_reach: BTreeSet<&str> = match namespaces {
            None => BTreeSet::from([policy.namespace.as_str()]),
            Some(selector) => {
                let all = state.namespaces.iter();
                let selected = all.filter(|(_, labels)| {
                    selector.matches_by(|key| labels.get(key).map(String::as_str))
                });
                selected.map(|(name, _)| name.as_str()).collect()
            }
        };
        let all = state.pods.values();
        let matching = all.filter(|pod| in_reach.contains(&*pod.namespace) && pod.matches(pods));
        members.extend(matching.map(|pod| Member::Address(pod.address)));
    }
    members
}

/// The action that accepts the rule's ports: directly, or by a chain of conditions.
fn ports(table: &mut Table, name: &str, rule: &PolicyRule, state: &PolicyObjects) -> RuleAction {
    let Some(ports) = &rule.ports else {
        return RuleAction::Accept;
    };
    let mut whole = BTreeSet::new();
    let mut named = BTreeSet::new();
    let mut numbers: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
    for port in ports {
        match port {
            Port::All(protocol) => {
                whole.insert(*protocol);
            }
            Port::Range(protocol, first, last) => {
                numbers.entry(*protocol).or_default().push((*first, *last));
            }
            Port::Named(protocol, name) => {
                named.insert(add_named(table, *protocol, name, state));
            }
        }
    }
    numbers.retain(|protocol, _| !whole.contains(protocol));
    let numbers = numbers.into_iter().flat_map(|(protocol, ranges)| {
        let joined = joined(ranges).into_iter();
        joined.map(move |(first, last)| Match::Ports(protocol, first, last))
    });
    let whole = whole.into_iter().map(Match::Protocol);
    let conditions = whole
        .chain(numbers)
        .chain(named.into_iter().map(Match::PortIn));
    let rules = conditions.map(|condition| Rule::when([condition], RuleAction::Accept));
    let rules = rules.collect();
    let chain = format!("{name}/ports");
    add_chain(table, chain.clone(), None, rules);
    RuleAction::Jump(chain)
}

/// The ranges of ports in order; overlapping or adjacent ranges are merged, so that their number is bounded.
fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// Adds the set of all pods' ports of a name, and returns the set's name.
fn add_named(table: &mut Table, protocol: Protocol, name: &str, state: &PolicyObjects) -> String {
    let set = format!("policy/{protocol}/{name}");
    if table.sets.contains_key(&set) {
        return set;
    }
    let key = |address: Ipv4Addr, port| Member::Port(Key::on(address, protocol, port));
    let members = state.pods.values().flat_map(|pod| {
        let ports = pod.ports_named(protocol, name);
        ports.map(move |port| key(pod.address, port))
    });
    let named = Set {
        kind: SetKind::Ports,
        members: members.collect(),
    };
    table.sets.insert(set.clone(), named);
    set
}
