//! The smallest change from one table to another, in an order that the kernel accepts.
//!
//! Order: new sets and chains first, so that rules can refer to them; then the rules of changed chains; then the
//! members of sets and the elements of maps; then the removal of unused parts. All steps are one transaction, so
//! packets never match an intermediate state.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::model::{
    Chain, Direction, Hook, Key, MapName, MapVerdict, Match, Member, Rule, RuleAction, Set,
    SetKind, Table,
};

/// One change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// Creates a set without members.
    AddSet(String, SetKind),
    /// Creates a chain without rules.
    AddChain(String, Option<Hook>),
    /// Removes all rules of a chain.
    FlushChain(String),
    /// Appends a rule to a chain.
    AddRule(String, Rule),
    /// Removes an element of a map.
    RemoveElement(MapName, Key, MapVerdict),
    /// Adds an element to a map.
    AddElement(MapName, Key, MapVerdict),
    /// Removes members of a set.
    RemoveMembers(String, Vec<Member>),
    /// Adds members to a set.
    AddMembers(String, Vec<Member>),
    /// Stops filtering the connections of an address.
    RemoveFilter(Direction, Ipv4Addr, String),
    /// Filters the connections of an address by a chain.
    AddFilter(Direction, Ipv4Addr, String),
    /// Removes a chain without rules and references.
    RemoveChain(String),
    /// Removes a set that no rule names.
    RemoveSet(String),
}

/// Returns the steps from `old` to `new`; empty if both are equal.
pub fn changes(old: &Table, new: &Table) -> Vec<TableChange> {
    let mut steps = Vec::new();
    let remade: BTreeSet<&String> = new
        .chains
        .iter()
        .filter(|(name, chain)| {
            old.chains
                .get(*name)
                .is_some_and(|old| old.hook != chain.hook)
        })
        .map(|(name, _)| name)
        .collect();
    let added_sets = new
        .sets
        .iter()
        .filter(|(name, _)| !old.sets.contains_key(*name));
    steps.extend(added_sets.map(|(name, set)| TableChange::AddSet(name.clone(), set.kind)));
    // A chain with another hook is recreated; other chains do not refer to base chains.
    steps.extend(remade.iter().flat_map(|name| {
        [
            TableChange::FlushChain((*name).clone()),
            TableChange::RemoveChain((*name).clone()),
        ]
    }));
    let is_new = |name: &String| !old.chains.contains_key(name) || remade.contains(name);
    let added = new.chains.iter().filter(|(name, _)| is_new(name));
    steps.extend(added.map(|(name, chain)| TableChange::AddChain(name.clone(), chain.hook)));
    let removed: Vec<&String> = old
        .chains
        .keys()
        .filter(|name| !new.chains.contains_key(*name))
        .collect();
    steps.extend(
        removed
            .iter()
            .map(|name| TableChange::FlushChain((*name).clone())),
    );
    for (name, chain) in &new.chains {
        let before = if is_new(name) {
            None
        } else {
            old.chains.get(name)
        };
        steps.extend(rules(name, before, chain));
    }
    steps.extend(members(old, new));
    steps.extend(elements(old, new));
    steps.extend(filters(old, new));
    steps.extend(
        removed
            .iter()
            .map(|name| TableChange::RemoveChain((*name).clone())),
    );
    let removed_sets = old.sets.keys().filter(|name| !new.sets.contains_key(*name));
    steps.extend(removed_sets.map(|name| TableChange::RemoveSet(name.clone())));
    steps
}

fn rules(name: &str, before: Option<&Chain>, chain: &Chain) -> Vec<TableChange> {
    if before.is_some_and(|before| before.rules == chain.rules) {
        return Vec::new();
    }
    let flush = before.filter(|before| !before.rules.is_empty());
    let flush = flush.map(|_| TableChange::FlushChain(name.to_owned()));
    let add = chain
        .rules
        .iter()
        .map(|rule| TableChange::AddRule(name.to_owned(), rule.clone()));
    flush.into_iter().chain(add).collect()
}

fn elements(old: &Table, new: &Table) -> Vec<TableChange> {
    let removed = old
        .elements
        .iter()
        .filter(|(key, verdict)| new.elements.get(key) != Some(verdict));
    let removed = removed
        .map(|((map, key), verdict)| TableChange::RemoveElement(*map, *key, verdict.clone()));
    let added = new
        .elements
        .iter()
        .filter(|(key, verdict)| old.elements.get(key) != Some(verdict));
    let added =
        added.map(|((map, key), verdict)| TableChange::AddElement(*map, *key, verdict.clone()));
    removed.chain(added).collect()
}

/// The members that are removed from sets and added to sets. A set that is removed keeps its members until its removal.
fn members(old: &Table, new: &Table) -> Vec<TableChange> {
    let none = BTreeSet::new();
    let mut steps = Vec::new();
    for (name, set) in &new.sets {
        let before = old.sets.get(name).map_or(&none, |set| &set.members);
        let lost: Vec<Member> = before.difference(&set.members).copied().collect();
        if !lost.is_empty() {
            steps.push(TableChange::RemoveMembers(name.clone(), lost));
        }
        let got: Vec<Member> = set.members.difference(before).copied().collect();
        if !got.is_empty() {
            steps.push(TableChange::AddMembers(name.clone(), got));
        }
    }
    steps
}

fn filters(old: &Table, new: &Table) -> Vec<TableChange> {
    let removed = old.filtered.iter();
    let removed = removed.filter(|(of, chain)| new.filtered.get(of) != Some(chain));
    let removed = removed.map(|((direction, address), chain)| {
        TableChange::RemoveFilter(*direction, *address, chain.clone())
    });
    let got = new.filtered.iter();
    let got = got.filter(|(of, chain)| old.filtered.get(of) != Some(chain));
    let got = got.map(|((direction, address), chain)| {
        TableChange::AddFilter(*direction, *address, chain.clone())
    });
    removed.chain(got).collect()
}

/// The kernel would refuse a step: the step names an object that does not exist, or removes an object that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyError(pub TableChange);

/// Applies the steps to a table as the kernel would: the model against which [`changes`] is checked.
///
/// # Errors
///
/// The first step that the kernel would refuse.
pub fn apply(mut table: Table, steps: &[TableChange]) -> Result<Table, ApplyError> {
    for step in steps {
        step_on(&mut table, step).ok_or_else(|| ApplyError(step.clone()))?;
    }
    Ok(table)
}

fn step_on(table: &mut Table, step: &TableChange) -> Option<()> {
    match step {
        TableChange::AddSet(name, kind) => {
            let set = Set {
                kind: *kind,
                members: BTreeSet::new(),
            };
            let free = table.sets.insert(name.clone(), set).is_none();
            free.then_some(())
        }
        TableChange::AddChain(name, hook) => {
            let chain = Chain {
                hook: *hook,
                rules: Vec::new(),
            };
            table
                .chains
                .insert(name.clone(), chain)
                .is_none()
                .then_some(())
        }
        TableChange::FlushChain(name) => {
            table.chains.get_mut(name)?.rules.clear();
            Some(())
        }
        TableChange::AddRule(name, rule) => {
            let named = rule
                .action
                .chains()
                .iter()
                .all(|chain| table.chains.contains_key(chain));
            let sets = sets_of(rule).all(|set| table.sets.contains_key(set));
            table
                .chains
                .get_mut(name)
                .filter(|_| named && sets)?
                .rules
                .push(rule.clone());
            Some(())
        }
        TableChange::RemoveElement(map, key, _) => table.elements.remove(&(*map, *key)).map(|_| ()),
        TableChange::AddElement(map, key, verdict) => {
            let named = match verdict {
                MapVerdict::Goto(chain) => table.chains.contains_key(chain),
                MapVerdict::Drop
                | MapVerdict::Return
                | MapVerdict::Balance(_)
                | MapVerdict::Reject => true,
            };
            let fits = key.address.is_some() == map.by_address() && map.may_have(verdict);
            let free = table
                .elements
                .insert((*map, *key), verdict.clone())
                .is_none();
            (named && fits && free).then_some(())
        }
        TableChange::RemoveMembers(name, members) => {
            let set = table.sets.get_mut(name)?;
            let all_there = members.iter().all(|member| set.members.remove(member));
            all_there.then_some(())
        }
        TableChange::AddMembers(name, members) => {
            let set = table.sets.get_mut(name)?;
            let fit = members.iter().all(|member| member.fits(set.kind));
            let new = members.iter().all(|member| set.members.insert(*member));
            (fit && new).then_some(())
        }
        TableChange::RemoveFilter(direction, address, _) => {
            table.filtered.remove(&(*direction, *address)).map(|_| ())
        }
        TableChange::AddFilter(direction, address, chain) => {
            let named = table.chains.contains_key(chain);
            let filtered = table.filtered.insert((*direction, *address), chain.clone());
            (named && filtered.is_none()).then_some(())
        }
        TableChange::RemoveChain(name) => {
            let chain = table.chains.remove(name)?;
            (chain.rules.is_empty() && !is_chain_used(table, name)).then_some(())
        }
        TableChange::RemoveSet(name) => {
            let used = all_rules(table).any(|rule| sets_of(rule).any(|set| set == name));
            table.sets.remove(name).filter(|_| !used).map(|_| ())
        }
    }
}

fn all_rules(table: &Table) -> impl Iterator<Item = &Rule> {
    table.chains.values().flat_map(|chain| &chain.rules)
}

fn is_chain_used(table: &Table, name: &String) -> bool {
    let in_rules = all_rules(table).any(|rule| rule.action.chains().contains(name));
    let goto = MapVerdict::Goto(name.clone());
    let in_maps = table.elements.values().any(|verdict| *verdict == goto)
        || table.filtered.values().any(|chain| chain == name);
    in_rules || in_maps
}

fn sets_of(rule: &Rule) -> impl Iterator<Item = &str> {
    let action = match &rule.action {
        RuleAction::Remember(set) => Some(set.as_str()),
        _ => None,
    };
    let matches = rule.matches.iter().filter_map(|condition| match condition {
        Match::SourceIn(set) | Match::DestinationIn(set) | Match::PortIn(set) => Some(set.as_str()),
        _ => None,
    });
    matches.chain(action)
}
