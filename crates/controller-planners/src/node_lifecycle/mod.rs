//! Nodes without heartbeats, and the eviction of their pods.
//!
//! **Goal**: a node without a heartbeat for [`GRACE`] is marked as lost, gets no new pods, and loses its pods when
//! their tolerations expire. **Relies on**: the caller, which records by its local monotonic clock when the caller read
//! each node's last heartbeat ([`NodeHeartbeats`]): clocks of other machines are not compared, and a new caller starts
//! its count again, or continues the count of its former run ([`silence`]). **Guarantees**: pods are only deleted with
//! grace; only the node, or an administrator, declares that the pods have stopped. No pod is evicted while no node is
//! ready, nor for a silence during which the control plane itself did not run.

mod conditions;
mod disruption;
mod eviction;
pub mod fate;
pub mod fence;
mod heartbeats;
pub mod reach;
pub mod silence;
mod taints;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use resource_kinds::pod_view::PodView;

pub use disruption::{Disruption, EvictionRateLimiter, Permission};
pub use eviction::{Eviction, Evictions, TimedTaints, evictions};
pub use heartbeats::NodeHeartbeats;

/// A node without a heartbeat for this time counts as lost; as kube-controller-manager.
pub const GRACE: SignedDuration = SignedDuration::from_secs(50);

/// The shortest grace period of a node with a short lease.
const GRACE_MIN: SignedDuration = SignedDuration::from_secs(10);

/// The time between two checks of all nodes; as kube-controller-manager's `--node-monitor-period`.
pub const PERIOD: SignedDuration = SignedDuration::from_secs(5);
/// The longest expected time between two checks. After a longer time the observer itself did not run: its process, or
/// the whole machine, was stopped.
pub const GAP: SignedDuration = SignedDuration::from_secs(15);

/// The observed state of a node.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The name of the node.
    pub name: Arc<str>,
    /// The Node object.
    pub node: Arc<Node>,
    /// The time since its last heartbeat, by the observer's monotonic clock.
    pub silent_for: SignedDuration,
    /// The time without a heartbeat after which the node counts as lost.
    pub grace: SignedDuration,
    /// Whether the node's lease was fenced, and the node has not acquired the lease again. Pods that are bound to such
    /// a node and may fail over are deleted at once, so the node gets no new pods, even if the node reports that it is
    /// ready.
    pub is_fenced: bool,
    /// The pods that are bound to the node.
    pub pods: Vec<Arc<PodView>>,
    /// The permission to evict its pods.
    pub permission: Permission,
}

/// The planned writes for a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeLifecyclePlan {
    /// All conditions of the node, if a condition changes.
    pub conditions: Option<Vec<NodeCondition>>,
    /// All taints of the node, if a taint changes.
    pub taints: Option<Vec<Taint>>,
    /// Pods whose Ready condition becomes False, because their state is unknown.
    pub pods_not_ready: Vec<Arc<PodView>>,
    /// An event, as reason and message.
    pub event: Option<(&'static str, String)>,
    /// The time at which the node counts as lost.
    pub wake_at: Option<Timestamp>,
}

/// Plans the writes for a node. Total.
pub fn plan(observed: &Observed, now: Timestamp) -> NodeLifecyclePlan {
    let mut plan = NodeLifecyclePlan::default();
    let silent = observed.silent_for >= observed.grace;
    if !silent {
        let left = observed.grace.saturating_sub(observed.silent_for);
        plan.wake_at = Some(now.checked_add(left).unwrap_or(Timestamp::MAX));
    }
    let status = observed.node.status.as_ref();
    let present = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let conditions = if silent {
        conditions::unknown(present, now)
    } else {
        present.to_vec()
    };
    let for_taints = match observed.is_fenced {
        true => conditions::unknown(&conditions, now),
        false => conditions.clone(),
    };
    plan.taints = taints::desired_taints(&observed.node, &for_taints, observed.permission, now);
    if let Permission::At(next) = observed.permission
        && ready(&conditions) == Some(false)
    {
        plan.wake_at = Some(plan.wake_at.map_or(next, |at| at.min(next)));
    }
    if ready(&conditions) != Some(true) {
        plan.pods_not_ready = observed
            .pods
            .iter()
            .filter(|pod| pod.ready().is_some())
            .cloned()
            .collect();
    }
    if ready(present) == Some(true) && ready(&conditions) != Some(true) {
        let name = &observed.name;
        plan.event = Some((
            "NodeNotReady",
            format!("Node {name} status is now: NodeNotReady"),
        ));
    }
    if conditions != present {
        plan.conditions = Some(conditions);
    }
    plan
}

/// Whether a pod that is bound to the node may have to be evicted or marked as not ready. Pods of other nodes need no
/// check.
pub fn concerns_new_pods(node: &Node) -> bool {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    ready(conditions.unwrap_or_default()) != Some(true)
        || taints_of(node)
            .iter()
            .any(|taint| taint.effect == "NoExecute")
}

impl NodeLifecyclePlan {
    /// Whether the plan starts an eviction of the node's pods.
    pub fn begins_to_drive_away(&self, node: &Node) -> bool {
        let before = taints_of(node);
        let after = self.taints.as_deref().unwrap_or(before);
        taints::drives_pods_away(after) && !taints::drives_pods_away(before)
    }

    /// The taints of the node after this plan.
    pub fn taints_of<'p>(&'p self, node: &'p Node) -> &'p [Taint] {
        self.taints.as_deref().unwrap_or_else(|| taints_of(node))
    }
}

fn taints_of(node: &Node) -> &[Taint] {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

fn ready(conditions: &[NodeCondition]) -> Option<bool> {
    let mut conditions = conditions.iter();
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    ready.map(|condition| condition.status == "True")
}

/// The time without a heartbeat after which a node with that lease counts as lost. At this time the lease may be
/// fenced, so that no pod is bound to the node then; at most [`GRACE`].
pub fn grace(lease: Option<&Lease>) -> SignedDuration {
    let length = lease.map(|lease| fence::NodeLease::from(lease).length);
    length.map_or(GRACE, |length| fence::wait(length).clamp(GRACE_MIN, GRACE))
}

/// Whether a node is ready, given the time since its last heartbeat and its grace period; `None` if it
/// never reported a status.
pub fn is_ready(node: &Node, silent_for: SignedDuration, grace: SignedDuration) -> Option<bool> {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let silent = silent_for >= grace;
    ready(conditions.unwrap_or_default()).map(|ready| ready && !silent)
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn secs(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    fn node(ready: &str, taints: Value) -> Node {
        let node = json!({
            "metadata": { "name": "n" },
            "spec": { "taints": taints },
            "status": { "conditions": [
                { "type": "MemoryPressure", "status": "False" },
                { "type": "Ready", "status": ready },
            ] },
        });
        json_tree::from_value(node).unwrap()
    }

    fn ready_pod() -> Arc<PodView> {
        let pod = json!({ "metadata": { "name": "p", "uid": "u", "resourceVersion": "1" },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        let pod: Pod = json_tree::from_value(pod).unwrap();
        Arc::new(PodView::try_from(&pod).unwrap())
    }

    fn keys(taints: &[Taint]) -> Vec<String> {
        taints
            .iter()
            .map(|taint| format!("{}:{}", taint.key, taint.effect))
            .collect()
    }

    #[test]
    fn a_new_pod_matters_on_a_node_that_is_not_ready_or_drives_pods_away() {
        let taints = |effect: &str| json!([{ "key": "own", "effect": effect }]);
        for (ready, taints, expected) in [
            ("True", json!([]), false),
            ("True", taints("NoSchedule"), false),
            ("True", taints("NoExecute"), true),
            ("False", json!([]), true),
            ("Unknown", json!([]), true),
        ] {
            assert_eq!(concerns_new_pods(&node(ready, taints)), expected);
        }
        assert!(concerns_new_pods(&Node::default()));
    }

    #[test]
    fn the_grace_period_follows_a_short_lease() {
        let lease = |seconds: i64| -> Lease {
            json_tree::from_value(json!({ "spec": { "leaseDurationSeconds": seconds } })).unwrap()
        };
        assert_eq!(grace(None), GRACE);
        for (seconds, expected) in [(40, 50), (16, 20), (1, 10), (-5, 10), (3_600, 50)] {
            assert_eq!(grace(Some(&lease(seconds))), secs(expected), "{seconds}");
        }
    }

    /// The node's disk has failed, so its agent runs, but cannot acquire the lease again.
    // findings-2 R34
    #[test]
    fn a_fenced_node_that_says_it_is_ready_gets_no_pods() {
        let mut observed = Observed {
            name: "n".into(),
            node: Arc::new(node("True", json!([]))),
            silent_for: secs(1),
            grace: GRACE,
            is_fenced: true,
            pods: Vec::new(),
            permission: Permission::Now,
        };
        let plan = super::plan(&observed, at(1000));
        assert_eq!(plan.conditions, None, "the agent would correct them");
        let taints = plan.taints.unwrap();
        let unreachable = "node.kubernetes.io/unreachable";
        let expected = ["NoExecute", "NoSchedule"].map(|effect| format!("{unreachable}:{effect}"));
        assert_eq!(keys(&taints), expected);
        observed.node = Arc::new(node("True", json!(taints)));
        assert_eq!(super::plan(&observed, at(1001)).taints, None);
        observed.is_fenced = false;
        let plan = super::plan(&observed, at(1002));
        assert_eq!(keys(&plan.taints.unwrap()), [""; 0]);
    }

    /// statefulset.md 12.17: after silence all conditions are Unknown, and taints keep new pods away.
    #[test]
    fn a_silent_node_is_marked() {
        let node = Arc::new(node("True", json!([])));
        let mut observed = Observed {
            name: "n".into(),
            node,
            silent_for: secs(49),
            grace: GRACE,
            is_fenced: false,
            pods: vec![ready_pod()],
            permission: Permission::Now,
        };
        let quiet = plan(&observed, at(49));
        assert_eq!(
            (quiet.conditions, quiet.taints, quiet.wake_at),
            (None, None, Some(at(50)))
        );
        observed.silent_for = secs(50);
        let lost = plan(&observed, at(50));
        let conditions = lost.conditions.clone().unwrap();
        assert!(
            conditions
                .iter()
                .all(|condition| condition.status == "Unknown")
        );
        let expected = [
            "node.kubernetes.io/unreachable:NoExecute",
            "node.kubernetes.io/unreachable:NoSchedule",
        ];
        assert_eq!(keys(&lost.taints.clone().unwrap()), expected);
        assert_eq!(lost.pods_not_ready.len(), 1);
        assert_eq!(lost.event.unwrap().0, "NodeNotReady");
        // After its writes the plan is empty.
        let mut after = (*observed.node).clone();
        after.status.as_mut().unwrap().conditions = Some(conditions);
        after.spec.as_mut().unwrap().taints = lost.taints;
        observed = Observed {
            name: "n".into(),
            node: Arc::new(after),
            silent_for: secs(60),
            grace: GRACE,
            is_fenced: false,
            pods: Vec::new(),
            permission: Permission::Now,
        };
        assert_eq!(plan(&observed, at(60)), NodeLifecyclePlan::default());
    }

    /// The taints of a node after a long silence, with that permission.
    fn taints_of_silent(node: Node, permission: Permission) -> Vec<String> {
        let observed = Observed {
            name: "n".into(),
            node: Arc::new(node),
            silent_for: secs(1000),
            grace: GRACE,
            is_fenced: false,
            pods: Vec::new(),
            permission,
        };
        let plan = plan(&observed, at(1000));
        keys(plan.taints_of(&observed.node))
    }

    // findings R2: kube-controller-manager's master disruption mode.
    #[test]
    fn nobody_loses_pods_while_no_node_is_ready() {
        let unreachable = "node.kubernetes.io/unreachable";
        let effects = |effects: &[&str]| -> Vec<String> {
            effects
                .iter()
                .map(|effect| format!("{unreachable}:{effect}"))
                .collect()
        };
        let fresh = || node("True", json!([]));
        let tainted = || {
            let taint = |effect| json!({ "key": unreachable, "effect": effect });
            node("Unknown", json!([taint("NoExecute"), taint("NoSchedule")]))
        };
        let (both, one) = (
            effects(&["NoExecute", "NoSchedule"]),
            effects(&["NoSchedule"]),
        );
        assert_eq!(taints_of_silent(fresh(), Permission::Now), both);
        assert_eq!(taints_of_silent(fresh(), Permission::Withheld), one);
        assert_eq!(taints_of_silent(fresh(), Permission::At(at(1010))), one);
        assert_eq!(taints_of_silent(fresh(), Permission::Revoked), one);
        assert_eq!(taints_of_silent(tainted(), Permission::Withheld), both);
        assert_eq!(taints_of_silent(tainted(), Permission::Revoked), one);
    }

    // findings R2: the process was stopped for 50 s and more, and received no heartbeats in that time.
    #[test]
    fn a_gap_in_the_observation_is_no_silence() {
        let mut heartbeats = NodeHeartbeats::new(GAP);
        let node = node("True", json!([]));
        let renewed = Some(at(1000));
        let mut observe = |now| {
            heartbeats.check(secs(now));
            heartbeats.silent_for("n", &node, renewed, secs(now))
        };
        assert_eq!(observe(0), secs(0));
        assert_eq!(observe(5), secs(5));
        assert_eq!(observe(65), secs(0));
        assert_eq!(observe(70), secs(5));
        assert_eq!(observe(20), secs(0));
    }

    // findings R2
    #[test]
    fn a_transition_is_never_dated_before_the_one_before() {
        let mut node = node("True", json!([]));
        let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
        let later = Time(at(5000));
        conditions[1].last_transition_time = Some(later.clone());
        let unknown = conditions::unknown(conditions, at(1000));
        assert_eq!(unknown[1].status, "Unknown");
        assert_eq!(unknown[1].last_transition_time, Some(later));
    }

    /// A node that returns loses this controller's taints, and keeps other taints.
    #[test]
    fn a_node_that_is_back_is_cleared() {
        let taints = json!([
            { "key": "mine", "effect": "NoSchedule" },
            { "key": "node.kubernetes.io/unreachable", "effect": "NoExecute" },
            { "key": "node.kubernetes.io/unreachable", "effect": "NoSchedule" },
        ]);
        let node = Arc::new(node("True", taints));
        let observed = Observed {
            name: "n".into(),
            node,
            silent_for: secs(1),
            grace: GRACE,
            is_fenced: false,
            pods: vec![ready_pod()],
            permission: Permission::Now,
        };
        let plan = plan(&observed, at(1));
        assert_eq!(keys(&plan.taints.unwrap()), ["mine:NoSchedule"]);
        assert!(plan.pods_not_ready.is_empty());
    }

    /// A node whose clock is set back or forward by hours renews its lease as before, and is not lost.
    #[test]
    fn a_jump_of_a_nodes_clock_is_no_silence() {
        for hours in [-30, -3, 3, 30] {
            let mut heartbeats = NodeHeartbeats::new(GAP);
            let mut node = node("True", json!([]));
            let mut beat = |at: Timestamp| {
                let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
                conditions[1].last_heartbeat_time = Some(Time(at));
                node.clone()
            };
            let start = 1_000_000;
            let with_old_status = beat(at(start));
            assert_eq!(
                heartbeats.silent_for("n", &with_old_status, Some(at(start)), secs(0)),
                secs(0)
            );
            for tick in 1..20 {
                let on_node = at(start + hours * 3600 + tick * 10);
                let now = secs(tick * 10);
                // The status is written less often than the lease.
                let reported = if tick % 7 == 0 {
                    beat(on_node)
                } else {
                    beat(at(start))
                };
                let silent = heartbeats.silent_for("n", &reported, Some(on_node), now);
                assert_eq!(silent, secs(0), "{hours} h, {tick}");
                assert_eq!(is_ready(&reported, silent, GRACE), Some(true));
                assert_eq!(
                    heartbeats.silent_for("n", &reported, Some(on_node), now + secs(4)),
                    secs(4)
                );
            }
        }
    }

    /// A server writes the condition about its connections: the condition is no heartbeat of the node's agent.
    #[test]
    fn the_condition_of_a_server_is_no_heartbeat() {
        let mut heartbeats = NodeHeartbeats::new(GAP);
        let mut node = node("True", json!([]));
        assert_eq!(
            heartbeats.silent_for("n", &node, Some(at(1000)), secs(1)),
            secs(0)
        );
        let reached = reach::KubeletPath::AtAddress("10.0.0.1:10250".to_owned());
        let condition = reach::condition(&[], &reached, at(1050)).unwrap();
        node.status
            .as_mut()
            .unwrap()
            .conditions
            .as_mut()
            .unwrap()
            .push(condition);
        assert_eq!(
            heartbeats.silent_for("n", &node, Some(at(1000)), secs(60)),
            secs(59)
        );
    }

    /// A new heartbeat counts; a repeated heartbeat and this controller's own writes do not.
    #[test]
    fn silence_is_measured_by_our_own_clock() {
        let mut heartbeats = NodeHeartbeats::new(GAP);
        let node = node("True", json!([]));
        let mut silent_for = |renewed: Option<i64>, now| {
            heartbeats.silent_for("n", &node, renewed.map(at), secs(now))
        };
        assert_eq!(silent_for(Some(1000), 1), secs(0));
        assert_eq!(silent_for(Some(1000), 20), secs(19));
        assert_eq!(silent_for(Some(1010), 30), secs(0));
        assert_eq!(silent_for(None, 40), secs(10));
    }
}
