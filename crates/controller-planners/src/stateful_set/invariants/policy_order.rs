//! The order of a policy in which pods are replaced (rollouts.md R1 to R4).

use resource_kinds::labels;
use resource_kinds::stateful_set_policy::OrderKey;

use super::super::member::Member;
use super::super::observed::ParsedSet;
use super::guard::fails_check;
use super::{Facts, is_up_to_date, is_updatable};

/// The keys of the order of the policy; empty without an order.
pub(super) fn keys<'p>(parsed: &'p ParsedSet<'_>) -> &'p [OrderKey] {
    let rules = parsed.observed.rollout();
    rules.map_or(&[], |rules| &rules.order)
}

/// A healthy pod goes for an update when the order of the policy permits it (rollouts.md R1 to R4): a role that is last
/// after all other pods, no pod of an unknown role, and one zone after the other.
pub(super) fn check(
    facts: &Facts<'_, '_>,
    member: &Member<'_>,
    keys: &[OrderKey],
    violations: &mut Vec<String>,
) {
    let (parsed, name) = (facts.parsed, member.name());
    let role = |member: &Member<'_>| {
        let source = parsed.observed.roles()?;
        let label = member.pod.label(&source.from_label);
        label.or(source.default.as_deref()).map(str::to_owned)
    };
    let zone = |member: &Member<'_>| member.pod.label(labels::ZONE).map(str::to_owned);
    let others = || {
        let members = parsed.members.iter();
        members
            .filter(|other| is_updatable(parsed, other.ordinal) && other.ordinal != member.ordinal)
    };
    let is_outdated = |other: &Member<'_>| !is_up_to_date(parsed, facts.update.as_ref(), other);
    let lasts = keys.iter().find_map(|key| match key {
        OrderKey::Role { last } => Some(last),
        OrderKey::Zone {} | OrderKey::Ordinals(_) => None,
    });
    let is_last = |member: &Member<'_>| {
        let role = role(member);
        lasts.is_some_and(|last| role.is_some_and(|role| last.contains(&role)))
    };
    if lasts.is_some() && role(member).is_none() {
        violations.push(format!("{name} is updated, and its role is unknown"));
    }
    if is_last(member) {
        let is_left =
            |other: &Member<'_>| other.unavailable() || (is_outdated(other) && !is_last(other));
        if let Some(other) = others().find(|other| is_left(other)) {
            violations.push(format!("{name} goes last, and {} is left", other.name()));
        }
        return;
    }
    if keys.contains(&OrderKey::Zone {}) {
        let is_elsewhere = |other: &&Member<'_>| zone(other) != zone(member);
        let mut gone = facts.deleted.iter().copied().filter(is_elsewhere);
        let is_healthy = |other: &Member<'_>| {
            !other.unavailable()
                && !fails_check(parsed, other)
                && is_updatable(parsed, other.ordinal)
        };
        if let Some(other) = gone.find(|other| is_healthy(other)) {
            violations.push(format!("{name} and {} of another zone go", other.name()));
        }
        let own_is_down = others().any(|other| !is_elsewhere(&other) && other.unavailable());
        let mut elsewhere = others().filter(is_elsewhere);
        if let Some(other) = elsewhere.find(|other| other.unavailable() && !own_is_down) {
            violations.push(format!(
                "{name} goes before the zone of {} is complete",
                other.name()
            ));
        }
    }
}
