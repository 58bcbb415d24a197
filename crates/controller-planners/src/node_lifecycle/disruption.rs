//! The number of silent nodes, and its effect on the eviction of their pods.
//!
//! If few nodes of a zone are silent, these nodes count as lost, and their pods are evicted one node after the other.
//! If most nodes are silent, the more likely cause is the network between the nodes and the control plane. The modes
//! and rates are those of kube-controller-manager's node lifecycle controller.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;

/// A zone is partially disrupted from this percentage of silent nodes.
const UNHEALTHY_ZONE_PERCENT: usize = 55;
/// The largest zone in which a partial disruption stops all evictions.
const LARGE_CLUSTER_SIZE: usize = 50;
/// Time between the evictions from two nodes of a zone (0.1 nodes per second).
const INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// Time between the evictions from two nodes of a large, partially disrupted zone (0.01 nodes per
/// second).
const SECONDARY_INTERVAL: SignedDuration = SignedDuration::from_secs(100);
/// Nodes with this label do not count.
const EXCLUDE: &str = "node.kubernetes.io/exclude-disruption";

/// The state of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

/// The counts of a zone's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    ready: usize,
    not_ready: usize,
}

impl Count {
    fn state(self) -> State {
        let all = self.ready + self.not_ready;
        if self.ready == 0 && self.not_ready > 0 {
            State::Full
        } else if self.not_ready > 2 && self.not_ready * 100 >= all * UNHEALTHY_ZONE_PERCENT {
            State::Partial
        } else {
            State::Normal
        }
    }
}

/// The permission to evict the pods of a silent node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permission {
    /// The eviction may start now.
    #[default]
    Now,
    /// The eviction may start at this time, because the eviction of another node of the zone has just started.
    At(Timestamp),
    /// No new eviction starts while too many nodes of the zone are silent. Evictions that have
    /// started continue.
    Withheld,
    /// No node is ready: no pod is evicted, and started evictions are cancelled.
    Revoked,
}

/// The zones of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disruption {
    zones: BTreeMap<String, Count>,
}

impl Disruption {
    /// Counts nodes, each with its readiness. Nodes that never reported a status do not count.
    pub fn of<'n>(nodes: impl IntoIterator<Item = (&'n Node, Option<bool>)>) -> Self {
        let mut zones: BTreeMap<String, Count> = BTreeMap::new();
        for (node, ready) in nodes {
            let Some(ready) = ready.filter(|_| label(node, EXCLUDE).is_none()) else {
                continue;
            };
            let count = zones.entry(zone(node)).or_default();
            if ready {
                count.ready += 1;
            } else {
                count.not_ready += 1;
            }
        }
        Self { zones }
    }

    /// Whether no node is ready, so that the control plane itself is probably disconnected.
    pub fn is_total(&self) -> bool {
        let mut zones = self.zones.values();
        !self.zones.is_empty() && zones.all(|count| count.state() == State::Full)
    }

    /// Whether all nodes are ready.
    pub fn is_none(&self) -> bool {
        self.zones.values().all(|count| count.not_ready == 0)
    }

    /// Whether both states give each node the same permission. Most changes of the counts, for instance by a node that
    /// joins, change no permission.
    pub fn permits_as(&self, other: &Self) -> bool {
        let mut zones = self.zones.keys().chain(other.zones.keys());
        self.is_total() == other.is_total()
            && zones.all(|zone| self.interval(zone) == other.interval(zone))
    }

    /// The time between the evictions from two nodes of a zone; `None` while evictions are stopped.
    fn interval(&self, zone: &str) -> Option<SignedDuration> {
        let count = self.zones.get(zone).copied().unwrap_or_default();
        match count.state() {
            State::Normal | State::Full => Some(INTERVAL),
            State::Partial if count.ready + count.not_ready > LARGE_CLUSTER_SIZE => {
                Some(SECONDARY_INTERVAL)
            }
            State::Partial => None,
        }
    }
}

/// The time of the last start of an eviction in each zone.
#[derive(Clone, Debug, Default)]
pub struct EvictionRateLimiter {
    last: BTreeMap<String, Timestamp>,
}

impl EvictionRateLimiter {
    /// The permission to evict the pods of that node now.
    pub fn permission(&self, node: &Node, disruption: &Disruption, now: Timestamp) -> Permission {
        if disruption.is_total() {
            cov_mark::hit!(findings_r2);
            return Permission::Revoked;
        }
        let zone = zone(node);
        let Some(interval) = disruption.interval(&zone) else {
            return Permission::Withheld;
        };
        // A clock that was set back must not delay evictions without a limit.
        let last = self.last.get(&zone).filter(|last| **last <= now);
        let next = last.and_then(|last| last.checked_add(interval).ok());
        match next {
            Some(next) if next > now => Permission::At(next),
            _ => Permission::Now,
        }
    }

    /// Records the start of an eviction from that node.
    pub fn begun(&mut self, node: &Node, now: Timestamp) {
        self.last.insert(zone(node), now);
    }
}

fn label<'n>(node: &'n Node, key: &str) -> Option<&'n String> {
    node.metadata.labels.as_ref()?.get(key)
}

/// Region and zone of a node; all nodes without region and zone are in one zone.
fn zone(node: &Node) -> String {
    let text = |key| label(node, key).map_or("", String::as_str);
    let region = text("topology.kubernetes.io/region");
    format!("{region}:{}", text("topology.kubernetes.io/zone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(zone: &str) -> Node {
        let mut node = Node::default();
        let labels = [("topology.kubernetes.io/zone".to_owned(), zone.to_owned())];
        node.metadata.labels = Some(labels.into());
        node
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn zone_of(ready: usize, not_ready: usize) -> Disruption {
        let node = node("a");
        let all = std::iter::repeat_n(Some(true), ready);
        let all = all.chain(std::iter::repeat_n(Some(false), not_ready));
        Disruption::of(all.map(|ready| (&node, ready)))
    }

    fn permission(disruption: &Disruption) -> Permission {
        EvictionRateLimiter::default().permission(&node("a"), disruption, at(0))
    }

    // findings R2: as kube-controller-manager's ComputeZoneState and handleDisruption.
    #[test]
    fn the_more_nodes_are_silent_the_less_is_done_to_their_pods() {
        cov_mark::check!(findings_r2);
        assert_eq!(permission(&zone_of(2, 1)), Permission::Now);
        assert_eq!(permission(&zone_of(1, 2)), Permission::Now);
        assert_eq!(permission(&zone_of(2, 3)), Permission::Withheld);
        assert_eq!(permission(&zone_of(20, 40)), Permission::Now);
        assert_eq!(permission(&zone_of(0, 1)), Permission::Revoked);
        assert_eq!(permission(&zone_of(0, 7)), Permission::Revoked);
    }

    /// Nodes that join a healthy cluster, one after the other, do not cause a check of all nodes.
    #[test]
    fn counts_that_change_no_permission_are_as_before() {
        let permits_alike = |[one, other]: [(usize, usize); 2]| {
            let [one, other] = [one, other].map(|(ready, not)| zone_of(ready, not));
            assert_eq!(one.permits_as(&other), other.permits_as(&one));
            one.permits_as(&other)
        };
        assert!(Disruption::default().permits_as(&zone_of(5, 0)));
        assert!(permits_alike([(5, 0), (6, 0)]));
        assert!(permits_alike([(5, 0), (5, 1)]));
        assert!(!permits_alike([(2, 1), (2, 3)]), "withheld");
        assert!(!permits_alike([(20, 3), (20, 40)]), "slower");
        assert!(!permits_alike([(1, 2), (0, 3)]), "revoked");
        assert!(zone_of(3, 0).is_none() && !zone_of(3, 1).is_none());
    }

    #[test]
    fn a_zone_that_is_lost_alone_loses_its_pods() {
        let (here, there) = (node("a"), node("b"));
        let disruption = Disruption::of([(&here, Some(false)), (&there, Some(true))]);
        assert_eq!(permission(&disruption), Permission::Now);
        let mut excluded = there.clone();
        let labels = excluded.metadata.labels.as_mut().unwrap();
        labels.insert(EXCLUDE.to_owned(), String::new());
        let disruption = Disruption::of([(&here, Some(false)), (&excluded, Some(true))]);
        assert_eq!(permission(&disruption), Permission::Revoked);
    }

    #[test]
    fn nodes_of_a_zone_lose_their_pods_one_after_the_other() {
        let mut eviction_rate = EvictionRateLimiter::default();
        let (small, large) = (zone_of(2, 1), zone_of(20, 40));
        eviction_rate.begun(&node("a"), at(100));
        let ask = |disruption, second| eviction_rate.permission(&node("a"), disruption, at(second));
        assert_eq!(ask(&small, 101), Permission::At(at(110)));
        assert_eq!(ask(&small, 110), Permission::Now);
        assert_eq!(ask(&large, 110), Permission::At(at(200)));
        assert_eq!(
            eviction_rate.permission(&node("b"), &small, at(101)),
            Permission::Now
        );
        assert_eq!(
            ask(&small, 50),
            Permission::Now,
            "a clock that was set back"
        );
    }
}
