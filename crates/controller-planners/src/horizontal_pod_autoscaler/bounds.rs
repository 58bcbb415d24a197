//! The limits of one scaling step.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2 as api;

use super::memory::Memory;

/// The stabilization window for scaling down without `behavior` (kube-controller-manager's
/// default).
const DOWN_WINDOW: SignedDuration = SignedDuration::from_mins(5);
/// Without `behavior`, one step at most doubles the target, or scales it to this number.
const UP_LEAST: i32 = 4;

/// The demanded number of replicas, and its bounds.
pub(super) struct DesiredReplicas {
    pub current: i32,
    /// The number of replicas that the metrics demand.
    pub demand: i32,
    pub least: i32,
    pub most: i32,
}

/// The bounded number of replicas.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bounded {
    pub replicas: i32,
    /// Reason and message of the condition `AbleToScale`.
    pub able: (&'static str, &'static str),
    /// Whether bounds or rates, and not the metrics, decide; reason and message of `ScalingLimited`.
    pub limited: bool,
    pub limit: (&'static str, &'static str),
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const IN_RANGE: (&str, &str) = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const TOO_MANY: (&str, &str) = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: (&str, &str) = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);
const UP_TOO_FAST: (&str, &str) = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const DOWN_TOO_FAST: (&str, &str) = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

/// Applies the stabilization window, the bounds and the rates to the demand, and records the demand
/// in the memory.
pub(super) fn bound(
    wish: &DesiredReplicas,
    behavior: Option<&api::HorizontalPodAutoscalerBehavior>,
    memory: &mut Memory,
    now: Timestamp,
) -> Bounded {
    let rules = behavior.map(Rules::of);
    let (steady, stabilized) = steady(wish, rules.as_ref(), memory, now);
    let (replicas, limit) = match &rules {
        None => without_behavior(wish, steady),
        Some(rules) => at_rate(wish, steady, rules, memory, now),
    };
    Bounded {
        replicas,
        able: match steady == wish.demand {
            true => READY,
            false => stabilized,
        },
        limited: replicas != steady,
        limit,
    }
}

/// The longest period of the policies for one direction.
pub(super) fn longest_period(behavior: &api::HorizontalPodAutoscalerBehavior) -> SignedDuration {
    let rules = Rules::of(behavior);
    let policies = rules.up.policies.iter().chain(&rules.down.policies);
    let longest = policies.map(|policy| policy.period).max();
    longest.unwrap_or(SignedDuration::ZERO)
}

/// The scaling policies for both directions.
struct Rules {
    up: Direction,
    down: Direction,
}

struct Direction {
    window: SignedDuration,
    select: Select,
    policies: Vec<Policy>,
}

/// The policy that applies, of several.
enum Select {
    /// The policy that allows the largest change.
    Most,
    /// The policy that allows the smallest change.
    Least,
    /// No change in this direction.
    Disabled,
}

struct Policy {
    change: Change,
    period: SignedDuration,
}

enum Change {
    Pods(i64),
    Percent(i64),
}

impl Rules {
    fn of(behavior: &api::HorizontalPodAutoscalerBehavior) -> Self {
        Self {
            up: Direction::of(behavior.scale_up.as_ref(), SignedDuration::ZERO),
            down: Direction::of(behavior.scale_down.as_ref(), DOWN_WINDOW),
        }
    }
}

impl Direction {
    fn of(rules: Option<&api::HPAScalingRules>, window: SignedDuration) -> Self {
        let configured = rules.and_then(|rules| rules.stabilization_window_seconds);
        let select = rules.and_then(|rules| rules.select_policy.as_deref());
        let policies = rules.and_then(|rules| rules.policies.as_deref());
        let policies = policies.unwrap_or_default().iter().map(|policy| Policy {
            change: match policy.type_.as_str() {
                "Percent" => Change::Percent(i64::from(policy.value)),
                _ => Change::Pods(i64::from(policy.value)),
            },
            period: SignedDuration::from_secs(i64::from(policy.period_seconds)),
        });
        Self {
            window: configured.map_or(window, |seconds| {
                SignedDuration::from_secs(i64::from(seconds))
            }),
            select: match select {
                Some("Disabled") => Select::Disabled,
                Some("Min") => Select::Least,
                _ => Select::Most,
            },
            policies: policies.collect(),
        }
    }
}

/// The stabilized demand: at most the lowest demand in the window for scaling up, at least the
/// highest one in the window for scaling down.
fn steady(
    wish: &DesiredReplicas,
    rules: Option<&Rules>,
    memory: &mut Memory,
    now: Timestamp,
) -> (i32, (&'static str, &'static str)) {
    let DesiredReplicas {
        current, demand, ..
    } = *wish;
    let Some(Rules { up, down }) = rules else {
        let highest = memory.recommended(DOWN_WINDOW, now).fold(demand, i32::max);
        memory.recommend(demand, DOWN_WINDOW, now);
        return (highest, DOWN_STABILIZED);
    };
    let lowest = memory.recommended(up.window, now).fold(demand, i32::min);
    let highest = memory.recommended(down.window, now).fold(demand, i32::max);
    memory.recommend(demand, up.window.max(down.window), now);
    let steady = current.max(lowest).min(highest);
    let why = if demand >= current {
        UP_STABILIZED
    } else {
        DOWN_STABILIZED
    };
    (steady, why)
}

fn without_behavior(wish: &DesiredReplicas, steady: i32) -> (i32, (&'static str, &'static str)) {
    let fastest = wish.current.saturating_mul(2).max(UP_LEAST);
    let (most, why) = if wish.most > fastest {
        (fastest, UP_TOO_FAST)
    } else {
        (wish.most, TOO_MANY)
    };
    match steady {
        _ if steady < wish.least => (wish.least, TOO_FEW),
        _ if steady > most => (most, why),
        _ => (steady, IN_RANGE),
    }
}

fn at_rate(
    wish: &DesiredReplicas,
    steady: i32,
    rules: &Rules,
    memory: &Memory,
    now: Timestamp,
) -> (i32, (&'static str, &'static str)) {
    let current = wish.current;
    if steady > current {
        let fastest = limit(current, &rules.up, memory, now, Way::Up).max(current);
        let (most, why) = if wish.most > fastest {
            (fastest, UP_TOO_FAST)
        } else {
            (wish.most, TOO_MANY)
        };
        if steady > most {
            return (most, why);
        }
    } else if steady < current {
        let fastest = limit(current, &rules.down, memory, now, Way::Down).min(current);
        let (least, why) = if wish.least < fastest {
            (fastest, DOWN_TOO_FAST)
        } else {
            (wish.least, TOO_FEW)
        };
        if steady < least {
            return (least, why);
        }
    }
    (steady, IN_RANGE)
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// The limit of the policies, computed from the number of replicas at the start of their periods.
fn limit(current: i32, rules: &Direction, memory: &Memory, now: Timestamp, direction: Way) -> i32 {
    let proposals = rules.policies.iter().map(|policy| {
        let start = i64::from(current) - memory.changed(policy.period, now);
        let proposed = match (direction, &policy.change) {
            (Way::Up, Change::Pods(pods)) => start + pods,
            (Way::Down, Change::Pods(pods)) => start - pods,
            // A percentage is rounded up for growth, so that a small target can grow, and to zero for shrinking.
            (Way::Up, Change::Percent(share)) => {
                let grown = start.saturating_mul(100 + share);
                grown.div_euclid(100) + i64::from(grown.rem_euclid(100) != 0)
            }
            (Way::Down, Change::Percent(share)) => start.saturating_mul(100 - share) / 100,
        };
        i32::try_from(proposed).unwrap_or(if proposed < 0 { i32::MIN } else { i32::MAX })
    });
    let chosen = match (&rules.select, direction) {
        (Select::Disabled, _) => None,
        (Select::Most, Way::Up) | (Select::Least, Way::Down) => proposals.max(),
        (Select::Least, Way::Up) | (Select::Most, Way::Down) => proposals.min(),
    };
    chosen.unwrap_or(current)
}
