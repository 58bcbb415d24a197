//! The scores of feasible nodes, by the rules and weights of kube-scheduler's default profile.
//!
//! Each rule gives a node 0 to 100 points, most rules in comparison with the other feasible nodes; the weighted sum
//! decides. Of equal sums the node with fewer pods is chosen, then the first name, so that the result is deterministic;
//! kube-scheduler chooses at random.

mod images;
mod neighbours;
mod node_resources;

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use self::images::Images;
use self::neighbours::AffinityWeights;
use crate::labels::node_term_matches;
use crate::node;
use crate::resources::{CountedUse, FreeResources, Resources};
use crate::snapshot::SchedulingSnapshot;
use crate::spread::SpreadPreferences;

/// Maximum number of points of a rule.
const POINTS: i64 = 100;

/// Weights of the rules (`TaintToleration`, `NodeAffinity`, `InterPodAffinity`, `PodTopologySpread`,
/// `NodeResourcesFit`, `NodeResourcesBalancedAllocation`, `ImageLocality`).
const TAINTS: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const POD_AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const FREE_RESOURCES: i64 = 1;
const BALANCE: i64 = 1;
const IMAGES: i64 = 1;

/// A feasible node for the pod.
pub(crate) struct Feasible<'v> {
    pub name: &'v str,
    pub node: &'v Node,
    pub free: FreeResources<'v>,
}

/// The best of the feasible nodes for the pod.
pub(crate) fn best<'f, 'v>(
    pod: &'v PodView,
    requested: &Resources,
    nodes: &'f [Feasible<'v>],
    snapshot: &SchedulingSnapshot<'v>,
) -> Option<&'f Feasible<'v>> {
    if nodes.len() < 2 {
        return nodes.first();
    }
    let scores = scores(pod, requested, nodes, snapshot);
    let ranked = nodes.iter().zip(scores);
    let rank =
        |(one, score): &(&Feasible<'v>, i64)| (*score, Reverse(one.free.pods()), Reverse(one.name));
    ranked.max_by_key(rank).map(|(best, _)| best)
}

/// The scores of all feasible nodes, in their order.
fn scores<'v>(
    pod: &'v PodView,
    requested: &Resources,
    nodes: &[Feasible<'v>],
    snapshot: &SchedulingSnapshot<'v>,
) -> Vec<i64> {
    let each = |points: &dyn Fn(&Feasible<'v>) -> i64| nodes.iter().map(points).collect();
    let feasible: Vec<&Node> = nodes.iter().map(|one| one.node).collect();
    let spread = SpreadPreferences::of(pod, &feasible, snapshot);
    let attraction = AffinityWeights::of(pod, snapshot);
    let images = Images::of(pod, snapshot);
    let (placed_copy, load) = (snapshot.placed_copy(pod), CountedUse::of(pod));
    let request = CountedUse::by(|name| requested.get(name).copied());
    let rules: [(i64, Vec<i64>); 7] = [
        (TAINTS, few(each(&|one| soft_taints(pod, one.node)))),
        (
            NODE_AFFINITY,
            many(each(&|one| node_preference(pod, one.node))),
        ),
        (
            POD_AFFINITY,
            between(each(&|one| attraction.of_node(one.node))),
        ),
        (SPREAD, spread_points(&spread, nodes.len())),
        (
            FREE_RESOURCES,
            each(&|one| node_resources::free(one, snapshot.load(one.name, placed_copy).plus(load))),
        ),
        (
            BALANCE,
            each(&|one| node_resources::balance(&one.free, request)),
        ),
        (IMAGES, each(&|one| images.points(one.node))),
    ];
    let mut sums = vec![0; nodes.len()];
    for (weight, points) in rules {
        for (sum, points) in sums.iter_mut().zip(points) {
            *sum += weight * points;
        }
    }
    sums
}

/// Points in proportion to the amounts.
fn many(amounts: Vec<i64>) -> Vec<i64> {
    let most = amounts.iter().max().copied().unwrap_or(0);
    amounts.into_iter().map(|one| part(one, most)).collect()
}

/// Inverted proportion: the smallest amount gets all points.
fn few(amounts: Vec<i64>) -> Vec<i64> {
    let points = many(amounts);
    points.into_iter().map(|points| POINTS - points).collect()
}

/// Points by the position between the smallest and the largest amount.
fn between(amounts: Vec<i64>) -> Vec<i64> {
    let least = amounts.iter().min().copied().unwrap_or(0);
    let above = amounts.into_iter().map(|one| one.saturating_sub(least));
    many(above.collect())
}

fn spread_points(spread: &SpreadPreferences, nodes: usize) -> Vec<i64> {
    if spread.is_empty() {
        return vec![0; nodes];
    }
    let costs: Vec<Option<i64>> = (0..nodes).map(|node| spread.cost(node)).collect();
    let finite = || costs.iter().flatten().copied();
    let (least, most) = (finite().min().unwrap_or(0), finite().max().unwrap_or(0));
    let points = |cost: Option<i64>| match cost {
        None => 0,
        Some(_) if most == 0 => POINTS,
        Some(cost) => part(most.saturating_add(least).saturating_sub(cost), most),
    };
    costs.into_iter().map(points).collect()
}

/// The ratio of a part to the whole in points; 0 if the whole is 0.
fn part(amount: impl Into<i128>, whole: impl Into<i128>) -> i64 {
    let (amount, whole) = (amount.into(), whole.into());
    match whole <= 0 {
        true => 0,
        false => {
            let points = amount.saturating_mul(POINTS.into()) / whole;
            i64::try_from(points).unwrap_or(0).clamp(0, POINTS)
        }
    }
}

/// The sum of the weights of the pod's preferred node affinity that matches the node.
fn node_preference(pod: &PodView, node: &Node) -> i64 {
    let affinity = pod.spec.affinity.as_ref();
    let preferences = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let matching = preferences
        .into_iter()
        .flatten()
        .filter(|preference| node_term_matches(&preference.preference, node));
    matching
        .map(|preference| i64::from(preference.weight))
        .sum()
}

/// The number of untolerated `PreferNoSchedule` taints.
fn soft_taints(pod: &PodView, node: &Node) -> i64 {
    let spec = &pod.spec;
    let soft = node::taints(node)
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule" && !node::tolerates(spec, taint));
    i64::try_from(soft.count()).unwrap_or(i64::MAX)
}
