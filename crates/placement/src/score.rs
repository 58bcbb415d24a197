//! The scores of feasible nodes, by the rules and weights of kube-scheduler's default profile.
//!
//! Each rule gives a node 0 to 100 points, most of them in comparison with the other feasible nodes; the
//! weighted sum decides. Of equal sums the node with fewer pods of the same controller wins, then the first
//! name, so that the result is deterministic.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use crate::affinity::{Term, node_of};
use crate::labels::node_term_matches;
use crate::node;
use crate::resources::{Resources, Room};
use crate::snapshot::SchedulingSnapshot;
use crate::spread::Preference;

/// The most points of a rule.
const POINTS: i64 = 100;

/// Weights of the rules (`TaintToleration`, `NodeAffinity`, `InterPodAffinity`, `PodTopologySpread`,
/// `NodeResourcesFit`, `NodeResourcesBalancedAllocation`, `ImageLocality`).
const TAINTS: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const POD_AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const ROOM: i64 = 1;
const BALANCE: i64 = 1;
const IMAGES: i64 = 1;

const MIB: i64 = 1 << 20;
/// Images of less are not worth a preference; more than the second for each container is worth no more.
const IMAGE_BYTES: (i64, i64) = (23 * MIB, 1000 * MIB);

/// The score of a node among the feasible ones; the greatest wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    points: i64,
    /// Fewer pods of the same controller already there.
    apart: i64,
}

/// The properties of a feasible node that its score is made of.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    /// Weights of the pod's preferences for nodes that hold there.
    node_affinity: i64,
    /// Weights of the pod's preferences for neighbours, less those against them.
    pod_affinity: i64,
    /// Taints that only discourage.
    soft_taints: i64,
    /// Like pods in the node's domains, where the pod's topology spread constraints wish for few; `None`
    /// without one of the labels.
    crowd: Option<i64>,
    /// Points for room and for images.
    room: i64,
    balance: i64,
    images: i64,
    /// Pods of the same controller.
    like: i64,
}

/// The images of a pod: for each, the share of the nodes that have it, in thousandths.
pub(crate) struct Images<'p> {
    shares: BTreeMap<&'p str, i64>,
    containers: i64,
}

impl<'p> Images<'p> {
    /// Counts the nodes that have the pod's images.
    pub fn of(pod: &'p PodView, snapshot: &SchedulingSnapshot<'_>) -> Self {
        let spec = &pod.spec;
        let all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let named: Vec<&str> = all.filter_map(|one| one.image.as_deref()).collect();
        let nodes = &snapshot.view.nodes;
        let total = i64::try_from(nodes.len()).unwrap_or(i64::MAX).max(1);
        let share = |image: &str| {
            let with = nodes
                .values()
                .filter(|node| image_bytes(node, image).is_some());
            i64::try_from(with.count())
                .unwrap_or(i64::MAX)
                .saturating_mul(1000)
                / total
        };
        Self {
            shares: named.iter().map(|image| (*image, share(image))).collect(),
            containers: i64::try_from(named.len()).unwrap_or(1).max(1),
        }
    }

    /// Points for the images that a node has: their sizes, each times its share, so that the first node with an
    /// image does not get all pods.
    fn points(&self, node: &Node) -> i64 {
        let worth = self.shares.iter().map(|(image, share)| {
            let bytes = image_bytes(node, image)
                .unwrap_or(0)
                .clamp(0, i64::MAX / 1000);
            bytes * share / 1000
        });
        let (least, most) = (IMAGE_BYTES.0, IMAGE_BYTES.1.saturating_mul(self.containers));
        let worth = worth.fold(0, i64::saturating_add).clamp(least, most);
        part(worth - least, most - least)
    }
}

/// The size of an image on a node, if it is there.
fn image_bytes(node: &Node, image: &str) -> Option<i64> {
    let status = node.status.as_ref()?;
    let is_it = |name: &String| {
        name == image
            || name
                .strip_suffix(":latest")
                .is_some_and(|short| short == image)
    };
    let mut images = status.images.iter().flatten();
    let found = images.find(|one| one.names.iter().flatten().any(is_it))?;
    Some(found.size_bytes.unwrap_or(0))
}

/// Judges a node that fits.
pub(crate) fn marks(
    pod: &PodView,
    node: &Node,
    room: &Room,
    wanted: &Resources,
    snapshot: &SchedulingSnapshot<'_>,
    (spread, images): (&Preference<'_>, &Images<'_>),
) -> Marks {
    let like = like_pods(pod, node, snapshot);
    let (cpu, memory) = (used("cpu", room, wanted), used("memory", room, wanted));
    Marks {
        node_affinity: node_preference(pod, node),
        pod_affinity: pod_preference(pod, node, snapshot),
        soft_taints: soft_taints(pod, node),
        // Pods without constraints of their own are spread over nodes, as by the scheduler's own constraint.
        crowd: match pod.spec.topology_spread_constraints.iter().flatten().next() {
            Some(_) => spread.cost(node),
            None => Some(like),
        },
        room: POINTS - (cpu + memory) / 20,
        balance: POINTS - (cpu - memory).abs() / 20,
        images: images.points(node),
        like,
    }
}

/// The scores of all feasible nodes, in their order.
pub(crate) fn scores(all: &[Marks]) -> Vec<Score> {
    let most = |of: fn(&Marks) -> i64| all.iter().map(of).max().unwrap_or(0);
    let least = |of: fn(&Marks) -> i64| all.iter().map(of).min().unwrap_or(0);
    let most_affine = most(|marks| marks.node_affinity);
    let most_tainted = most(|marks| marks.soft_taints);
    let neighbours = (
        least(|marks| marks.pod_affinity),
        most(|marks| marks.pod_affinity),
    );
    let crowds = || all.iter().filter_map(|marks| marks.crowd);
    let crowds = (crowds().min().unwrap_or(0), crowds().max().unwrap_or(0));
    let points = |marks: &Marks| {
        let spread = match marks.crowd {
            None => 0,
            Some(_) if crowds.1 == 0 => POINTS,
            Some(crowd) => part(
                crowds.1.saturating_add(crowds.0).saturating_sub(crowd),
                crowds.1,
            ),
        };
        let above = marks.pod_affinity.saturating_sub(neighbours.0);
        let taints = POINTS - part(marks.soft_taints, most_tainted);
        NODE_AFFINITY * part(marks.node_affinity, most_affine)
            + POD_AFFINITY * part(above, neighbours.1.saturating_sub(neighbours.0))
            + TAINTS * taints
            + SPREAD * spread
            + ROOM * marks.room
            + BALANCE * marks.balance
            + IMAGES * marks.images
    };
    let score = |marks: &Marks| Score {
        points: points(marks),
        apart: marks.like.saturating_neg(),
    };
    all.iter().map(score).collect()
}

/// A part of a whole in points; none of nothing.
fn part(amount: i64, whole: i64) -> i64 {
    match whole <= 0 {
        true => 0,
        false => {
            let points = i128::from(amount) * i128::from(POINTS) / i128::from(whole);
            i64::try_from(points).unwrap_or(0).clamp(0, POINTS)
        }
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

/// The use of a resource with the pod, in thousandths of the node's.
fn used(name: &str, room: &Room, wanted: &Resources) -> i64 {
    let amount = |all: &Resources| {
        let amount = all.get(name).copied().unwrap_or_default();
        match name {
            "cpu" => amount.milli_value(),
            _ => amount.value(),
        }
    };
    let has = amount(&room.allocatable);
    if has <= 0 {
        return 1000;
    }
    let used = amount(&room.used).saturating_add(amount(wanted));
    let thousandths = i128::from(used) * 1000 / i128::from(has);
    i64::try_from(thousandths).unwrap_or(1000).clamp(0, 1000)
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
