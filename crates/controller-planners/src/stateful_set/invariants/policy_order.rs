//! The order of a policy in which pods are replaced (rollouts.md R1 to R4).

use resource_kinds::labels;
use resource_kinds::stateful_set_policy::OrderKey;

use super::super::member::Member;
use super::super::observed::ParsedSet;
use super::guard::fails_check;

/// Healthy pods go for an update in the order of the policy. `gone` are the pods that the plan deletes for an update.
pub(super) fn is_kept(
    parsed: &ParsedSet<'_>,
    keys: &[OrderKey],
    gone: &[&Member<'_>],
    is_outdated: &dyn Fn(&Member<'_>) -> bool,
    violations: &mut Vec<String>,
) {
    if keys.is_empty() {
        return;
    }
    let is_down = |member: &Member<'_>| member.unavailable() || fails_check(parsed, member);
    let healthy: Vec<&Member<'_>> = gone.iter().copied().filter(|one| !is_down(one)).collect();
    for member in &healthy {
        check(parsed, member, keys, &healthy, is_outdated, violations);
    }
}

/// A healthy pod goes for an update when the order of the policy permits it (rollouts.md R1 to R4): a role that is last
/// after all other pods, no pod of an unknown role, and one zone after the other.
fn check(
    parsed: &ParsedSet<'_>,
    member: &Member<'_>,
    keys: &[OrderKey],
    gone: &[&Member<'_>],
    is_outdated: &dyn Fn(&Member<'_>) -> bool,
    violations: &mut Vec<String>,
) {
    let name = member.name();
    let role = |member: &Member<'_>| {
        let source = parsed.observed.roles()?;
        let role = source.role(member.pod.label(&source.from_label));
        role.map(str::to_owned)
    };
    let zone = |member: &Member<'_>| member.pod.label(labels::ZONE).map(str::to_owned);
    let others = || {
        let updatable = parsed.members.from(parsed.spec.first_updatable());
        let others = updatable.iter();
        others.filter(|other| other.ordinal != member.ordinal)
    };
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
        if let Some(other) = gone.iter().copied().find(is_elsewhere) {
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
