//! The actions on each node.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::{IncompleteMetadata, IntOrPercent};

use super::history::RevisionHash;
use super::plan::{ParsedDaemonSet, pod_for};
use crate::pod_set::{BURST_MAX, Names, PodAction, PodState};

/// Wait before an ended pod is replaced, so that a pod that cannot run on its node is not recreated
/// in a tight loop.
const ENDED_FOR: SignedDuration = SignedDuration::from_secs(5);

/// The limits of an update.
struct Update {
    unavailable: usize,
    surge: usize,
}

/// The pods on a node.
struct NodePods<'w, 'a> {
    name: &'w str,
    /// The pod of the current revision.
    new: Option<&'w PodState<'a>>,
    old: Option<&'w PodState<'a>>,
}

pub(super) fn decide(
    parsed: &ParsedDaemonSet<'_>,
    hash: &RevisionHash,
) -> Result<(Vec<PodAction>, Option<Timestamp>), IncompleteMetadata> {
    let (mut delete, mut wake): (Vec<&PodState<'_>>, Option<Timestamp>) = (Vec::new(), None);
    let mut create: Vec<&str> = Vec::new();
    let mut node_pods = Vec::new();
    for (name, fit) in &parsed.observed.nodes {
        let pods = parsed.by_node.get(name).map_or(&[][..], Vec::as_slice);
        if !fit.stays {
            delete.extend(pods.iter().filter(|pod| !pod.terminating));
            continue;
        }
        for pod in pods.iter().filter(|pod| pod.ended()) {
            let at = pod.created().and_then(|at| at.checked_add(ENDED_FOR).ok());
            match at.filter(|at| *at > parsed.now) {
                Some(at) => wake = Some(wake.map_or(at, |other| other.min(at))),
                None => delete.push(pod),
            }
        }
        if pods.is_empty() {
            // A node that is not eligible does not count as a node without its pod.
            if fit.starts {
                create.push(name);
                node_pods.push(NodePods {
                    name,
                    new: None,
                    old: None,
                });
            }
            continue;
        }
        let mut active = pods.iter().filter(|pod| pod.active());
        let is_new = |pod: &&PodState<'_>| hash.is_of(pod);
        let (new, old): (Vec<_>, Vec<_>) = active.by_ref().partition(is_new);
        // The oldest pod of each revision stays. If a node has a current and an outdated pod, the update decides.
        delete.extend(new.iter().skip(1).chain(old.iter().skip(1)));
        node_pods.push(NodePods {
            name,
            new: new.first().copied(),
            old: old.first().copied(),
        });
    }
    update(parsed, &node_pods, &mut create, &mut delete);
    let mut names = Names::new(
        parsed.owner.name,
        &parsed.owner.uid,
        parsed.now,
        parsed.names.iter().cloned(),
    );
    let deletions = delete.into_iter().map(PodAction::delete);
    let mut actions: Vec<PodAction> = deletions.collect();
    for node in create.into_iter().take(BURST_MAX) {
        let mut pod = pod_for(&parsed.observed.set, node, hash)?;
        pod.metadata.name = Some(names.draw());
        actions.push(PodAction::Create(Box::new(pod)));
    }
    Ok((actions, wake))
}

/// Replaces old pods, with `maxUnavailable` or with `maxSurge`.
fn update<'w, 'a>(
    parsed: &ParsedDaemonSet<'_>,
    node_pods: &[NodePods<'w, 'a>],
    create: &mut Vec<&'w str>,
    delete: &mut Vec<&'w PodState<'a>>,
) {
    let nodes = parsed.observed.nodes.values();
    let eligible = nodes.filter(|fit| fit.starts).count();
    let Some(update) = strategy(parsed, eligible) else {
        // With `OnDelete` only duplicates are deleted.
        let both = node_pods
            .iter()
            .filter(|pods_of_node| pods_of_node.new.is_some());
        delete.extend(both.filter_map(|pods_of_node| pods_of_node.old));
        return;
    };
    if update.surge > 0 {
        surge(parsed, node_pods, &update, create, delete);
    } else {
        in_place(node_pods, &update, delete);
    }
}

fn in_place<'w, 'a>(
    node_pods: &[NodePods<'w, 'a>],
    update: &Update,
    delete: &mut Vec<&'w PodState<'a>>,
) {
    let mut unavailable = 0;
    let mut candidates = Vec::new();
    for pods_of_node in node_pods {
        match (pods_of_node.new, pods_of_node.old) {
            (Some(new), old) => {
                unavailable += usize::from(!new.available);
                delete.extend(old);
            }
            (None, Some(old)) if old.available => candidates.push(old),
            (None, Some(old)) => {
                // The pod of this node is missing already.
                unavailable += 1;
                delete.push(old);
            }
            (None, None) => unavailable += 1,
        }
    }
    let remaining = update.unavailable.saturating_sub(unavailable);
    delete.extend(candidates.into_iter().take(remaining));
}

fn surge<'w, 'a>(
    parsed: &ParsedDaemonSet<'_>,
    node_pods: &[NodePods<'w, 'a>],
    update: &Update,
    create: &mut Vec<&'w str>,
    delete: &mut Vec<&'w PodState<'a>>,
) {
    let mut surging = 0;
    let mut candidates = Vec::new();
    for pods_of_node in node_pods {
        match (pods_of_node.new, pods_of_node.old) {
            (Some(new), Some(old)) if new.available || !old.available => delete.push(old),
            (Some(_), Some(_)) => surging += 1,
            (None, Some(old)) => {
                let fit = parsed.observed.nodes.get(pods_of_node.name);
                if !old.available {
                    delete.push(old);
                } else if fit.is_some_and(|fit| fit.starts) {
                    candidates.push(pods_of_node.name);
                }
            }
            _ => {}
        }
    }
    let remaining = update.surge.saturating_sub(surging);
    create.extend(candidates.into_iter().take(remaining));
}

/// The update strategy for that number of eligible nodes; `None` for `OnDelete`.
fn strategy(parsed: &ParsedDaemonSet<'_>, eligible: usize) -> Option<Update> {
    let strategy = parsed.spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let total = i32::try_from(eligible).unwrap_or(i32::MAX);
    let number = |value: Option<&IntOrString>| {
        let value = value.and_then(|value| json_tree::to_value(value).ok())?;
        let number = IntOrPercent::from_json(&value)?.of(total, true);
        usize::try_from(number).ok()
    };
    let surge = number(rolling.and_then(|r| r.max_surge.as_ref())).unwrap_or(0);
    let unavailable = number(rolling.and_then(|r| r.max_unavailable.as_ref())).unwrap_or(1);
    Some(Update {
        unavailable: if surge == 0 {
            unavailable.max(1)
        } else {
            unavailable
        },
        surge,
    })
}
