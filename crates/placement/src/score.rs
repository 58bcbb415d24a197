//! The score of feasible nodes: a list of rules, each of which only breaks ties of the earlier
//! ones; the last is the name, so that the result is deterministic.

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use crate::affinity::{Term, node_of};
use crate::labels::node_term_matches;
use crate::node;
use crate::resources::{Resources, Room};
use crate::snapshot::SchedulingSnapshot;
use crate::spread::Preference;

/// The score of a node; the greatest wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    /// Weights of the pod's preferences for nodes and neighbours that hold there.
    preferred: i64,
    /// Fewer taints that only discourage.
    untainted: i64,
    /// Fewer like pods in its domains, where the pod's topology spread constraints wish for that.
    spread: i64,
    /// More room left, in thousandths of the scarcer of CPU and memory.
    room: i64,
    /// Fewer pods of the same labels already there, so that replicas spread.
    apart: i64,
}

/// Scores a node that fits.
pub(crate) fn score(
    pod: &PodView,
    node: &Node,
    room: &Room,
    wanted: &Resources,
    snapshot: &SchedulingSnapshot<'_>,
    spread: &Preference<'_>,
) -> Score {
    Score {
        preferred: node_preference(pod, node) + pod_preference(pod, node, snapshot),
        untainted: -soft_taints(pod, node),
        spread: spread.score(node),
        room: room_left(room, wanted),
        apart: -like_pods(pod, node, snapshot),
    }
}

fn node_preference(pod: &PodView, node: &Node) -> i64 {
    let affinity = pod.spec.affinity.as_ref();
    let preferences = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let held = preferences
        .into_iter()
        .flatten()
        .filter(|preference| node_term_matches(&preference.preference, node));
    held.map(|preference| i64::from(preference.weight)).sum()
}

fn pod_preference(pod: &PodView, node: &Node, snapshot: &SchedulingSnapshot<'_>) -> i64 {
    let affinity = pod.spec.affinity.as_ref();
    let wanted = affinity
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let unwanted = affinity
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let terms = wanted
        .into_iter()
        .flatten()
        .map(|term| (1, term))
        .chain(unwanted.into_iter().flatten().map(|term| (-1, term)));
    terms
        .map(|(sign, weighted)| {
            let term = Term::of(&weighted.pod_affinity_term, pod);
            let Some(domain) = term.domain(node) else {
                return 0;
            };
            let neighbours = snapshot.pods().filter(|other| {
                node_of(other, snapshot).and_then(|node| term.domain(node)) == Some(domain)
                    && term.selects(other, snapshot)
            });
            let count = i64::try_from(neighbours.count()).unwrap_or(i64::MAX);
            sign * i64::from(weighted.weight) * count.min(1000)
        })
        .sum()
}

fn soft_taints(pod: &PodView, node: &Node) -> i64 {
    let spec = &pod.spec;
    let soft = node::taints(node)
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule" && !node::tolerates(spec, taint));
    i64::try_from(soft.count()).unwrap_or(i64::MAX)
}

fn room_left(room: &Room, wanted: &Resources) -> i64 {
    let left = |name: &str| {
        let amount = |all: &Resources| {
            let amount = all.get(name).copied().unwrap_or_default();
            if name == "cpu" {
                amount.milli_value()
            } else {
                amount.value()
            }
        };
        let has = amount(&room.allocatable);
        let free = has
            .saturating_sub(amount(&room.used))
            .saturating_sub(amount(wanted));
        if has <= 0 {
            0
        } else {
            i64::try_from(i128::from(free) * 1000 / i128::from(has)).unwrap_or(0)
        }
    };
    left("cpu").min(left("memory"))
}

fn like_pods(pod: &PodView, node: &Node, snapshot: &SchedulingSnapshot<'_>) -> i64 {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let Some(controller) = &pod.controller else {
        return 0;
    };
    let pods = &snapshot.view.pods;
    let like = pods.of_controller(name, &pod.namespace, &controller.uid);
    i64::try_from(like).unwrap_or(i64::MAX)
}
