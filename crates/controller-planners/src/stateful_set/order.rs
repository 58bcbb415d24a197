//! The order of a policy in which outdated pods are replaced (rollouts.md R1 to R4).
//!
//! The order is computed for each plan, because roles move. A pod that is down comes first. Of healthy pods, a role decides
//! before all other keys: a zone that waits for its leader, while the leader waits for the other zones, would never end.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use resource_kinds::labels;
use resource_kinds::stateful_set_policy::OrderKey;

use super::guard::PlanGuard;
use super::identity;
use super::member::Member;
use super::observed::ParsedSet;
use super::revisions::ChosenRevisions;
use super::rollout::outdated;
use super::waiting::Cause;

/// An outdated pod in the order of the policy.
pub(super) struct Queued<'p, 'a> {
    pub member: &'p Member<'a>,
    /// The reason why the pod does not go now, whatever is available.
    pub hold: Option<Cause>,
}

/// The place of a pod in the order; the lowest comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// A pod that is down comes before healthy pods.
    is_up: bool,
    role: RoleRank,
    /// The rank by each other key, in the order of the keys.
    ranks: Vec<usize>,
    /// The highest ordinal first.
    ordinal: Reverse<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RoleRank {
    /// The order is not by roles, or the role may go before others.
    Any,
    Unknown,
    /// The index of the role among those that go last.
    Last(usize),
}

/// The keys of the order; empty without a policy that has an order.
fn keys<'p>(parsed: &'p ParsedSet<'_>) -> &'p [OrderKey] {
    let rules = parsed.observed.rollout();
    rules.map_or(&[], |rules| &rules.order)
}

/// Whether the pods are replaced in another order than that of their ordinals.
pub(super) fn is_custom(parsed: &ParsedSet<'_>) -> bool {
    !keys(parsed).is_empty()
}

/// Whether the role of a pod decides when it goes.
pub(super) fn is_by_role(parsed: &ParsedSet<'_>) -> bool {
    let is_role = |key: &OrderKey| matches!(key, OrderKey::Role { .. });
    keys(parsed).iter().any(is_role)
}

/// Whether the pod is not available, or fails the health check of the guard.
pub(super) fn is_down(guard: Option<&PlanGuard>, member: &Member<'_>) -> bool {
    member.unavailable() || guard.is_some_and(|guard| guard.fails_check(member))
}

/// The outdated pods from the partition on, in the order of the policy.
pub(super) fn queue<'p, 'a>(
    parsed: &'p ParsedSet<'a>,
    chosen: &ChosenRevisions,
    guard: Option<&PlanGuard>,
) -> Vec<Queued<'p, 'a>> {
    let zones = zones(parsed, chosen, guard);
    let members = parsed.members.from(parsed.spec.first_updatable()).iter();
    let mut places: Vec<(Place, &Member<'a>)> = members
        .filter(|member| outdated(member, chosen))
        .map(|member| (place(parsed, &zones, guard, member), member))
        .collect();
    places.sort_by(|(a, _), (b, _)| a.cmp(b));
    let first = places.first().map(|(_, member)| *member);
    let queue = places.iter().map(|(place, member)| Queued {
        member,
        hold: hold(parsed, &zones, place, member, first),
    });
    queue.collect()
}

fn hold(
    parsed: &ParsedSet<'_>,
    zones: &[Zone<'_>],
    place: &Place,
    member: &Member<'_>,
    first: Option<&Member<'_>>,
) -> Option<Cause> {
    if !place.is_up {
        return None;
    }
    let after = |pod: &str| Cause::After { pod: pod.into() };
    match place.role {
        RoleRank::Unknown => Some(Cause::RoleUnknown {
            pod: member.name().to_owned(),
        }),
        // The other pods are complete: none of them is outdated, and all are available.
        RoleRank::Last(_) => {
            let other = first.filter(|first| first.ordinal != member.ordinal);
            let other = other.map(|first| after(first.name()));
            other.or_else(|| unavailable(parsed, member.ordinal).map(|pod| after(&pod)))
        }
        // The zone before is complete.
        RoleRank::Any => {
            let open = zones.iter().find_map(|zone| Some((zone, zone.blocker?)));
            let (open, blocker) = open?;
            (open.name != zone(member)).then(|| after(blocker))
        }
    }
}

/// A pod from the partition on, other than that ordinal, that is missing or not available.
fn unavailable(parsed: &ParsedSet<'_>, except: i64) -> Option<String> {
    let ordinals = parsed.spec.updatable();
    let mut ordinals = ordinals.filter(|ordinal| *ordinal != except);
    let is_down = |ordinal: &i64| {
        let member = parsed.members.get(*ordinal);
        member.is_none_or(Member::unavailable)
    };
    let down = ordinals.find(is_down)?;
    Some(identity::pod_name(parsed.spec.name, down))
}

fn place(
    parsed: &ParsedSet<'_>,
    zones: &[Zone<'_>],
    guard: Option<&PlanGuard>,
    member: &Member<'_>,
) -> Place {
    let ranks = keys(parsed).iter().filter_map(|key| match key {
        OrderKey::Role { .. } => None,
        OrderKey::Zone {} => {
            let name = zone(member);
            zones.iter().position(|zone| zone.name == name)
        }
        OrderKey::Ordinals(ordinals) => {
            let listed = ordinals.iter().position(|one| *one == member.ordinal);
            Some(listed.unwrap_or(ordinals.len()))
        }
    });
    Place {
        is_up: !is_down(guard, member),
        role: role(parsed, member),
        ranks: ranks.collect(),
        ordinal: Reverse(member.ordinal),
    }
}

fn role(parsed: &ParsedSet<'_>, member: &Member<'_>) -> RoleRank {
    let last = keys(parsed).iter().find_map(|key| match key {
        OrderKey::Role { last } => Some(last),
        OrderKey::Zone {} | OrderKey::Ordinals(_) => None,
    });
    let Some(last) = last else {
        return RoleRank::Any;
    };
    match parsed.role(member) {
        None => RoleRank::Unknown,
        Some(role) => {
            let index = last.iter().position(|one| one == role);
            index.map_or(RoleRank::Any, RoleRank::Last)
        }
    }
}

/// A zone with pods of the set.
struct Zone<'p> {
    name: &'p str,
    /// Whether a pod is down.
    is_unfinished: bool,
    /// Whether some of the pods are outdated, and others are not.
    is_begun: bool,
    /// A pod that the pods of other zones wait for.
    blocker: Option<&'p str>,
}

/// The zones in the order of the rollout: first those with a pod that is down, then those that have begun, then by
/// name. Empty if the order is not by zones.
fn zones<'p>(
    parsed: &'p ParsedSet<'_>,
    chosen: &ChosenRevisions,
    guard: Option<&PlanGuard>,
) -> Vec<Zone<'p>> {
    if !keys(parsed).contains(&OrderKey::Zone {}) {
        return Vec::new();
    }
    let mut members: BTreeMap<&str, Vec<&Member<'_>>> = BTreeMap::new();
    for member in parsed.members.from(parsed.spec.first_updatable()) {
        members.entry(zone(member)).or_default().push(member);
    }
    let zones = members.into_iter().map(|(name, members)| {
        let down = members.iter().rfind(|member| is_down(guard, member));
        let is_left = |member: &&&Member<'_>| outdated(member, chosen);
        let is_first = |member: &&&Member<'_>| {
            outdated(member, chosen) && !matches!(role(parsed, member), RoleRank::Last(_))
        };
        // A pod whose role goes last waits for the other zones.
        let left = members.iter().rfind(is_first);
        let outdated = members.iter().filter(is_left).count();
        Zone {
            name,
            is_unfinished: down.is_some(),
            is_begun: outdated > 0 && outdated < members.len(),
            blocker: down.or(left).map(|member| member.name()),
        }
    });
    let mut zones: Vec<Zone<'p>> = zones.collect();
    zones.sort_by_key(|zone| (!zone.is_unfinished, !zone.is_begun, zone.name));
    zones
}

/// The zone of a pod; empty if it has none.
fn zone<'p>(member: &'p Member<'_>) -> &'p str {
    member.pod.label(labels::ZONE).unwrap_or_default()
}
