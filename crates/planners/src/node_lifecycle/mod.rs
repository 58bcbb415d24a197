//! Nodes that fall silent, and what becomes of their pods.
//!
//! **Goal**: a node that says nothing for a while is marked so, keeps new pods away, and loses its
//! pods when their tolerations run out.
//! **Relies on**: the caller noting, by its own clock, when it last heard from each node: clocks
//! of nodes may differ.
//! **Guarantees**: pods are only asked to go (deleted with grace); that they are gone is for the
//! node, or a person, to say. Nobody loses pods while no node is ready, nor for a silence in which
//! the observer did not listen.

mod conditions;
mod disruption;
mod eviction;
mod taints;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use resource_kinds::pod_view::PodView;

pub use disruption::{Disruption, Pace, Permission};
pub use eviction::{Eviction, Evictions, evictions};

/// Silence after which a node counts as lost; as kube-controller-manager.
pub const GRACE: SignedDuration = SignedDuration::from_secs(50);

/// How often the observer looks at all nodes; as kube-controller-manager's
/// `--node-monitor-period`.
pub const PERIOD: SignedDuration = SignedDuration::from_secs(5);
/// Time between two looks of an observer after which it did not listen in between: its process, or
/// the whole machine, stood still.
pub const GAP: SignedDuration = SignedDuration::from_secs(15);

/// What is known about a node.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The node.
    pub node: Arc<Node>,
    /// When it was last heard from, by the clock of the observer.
    pub last_heard: Timestamp,
    /// Its pods.
    pub pods: Vec<Arc<PodView>>,
    /// Whether its pods may be made to go.
    pub permission: Permission,
}

/// What to write about a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// All its conditions, if some have changed.
    pub conditions: Option<Vec<NodeCondition>>,
    /// All its taints, if some have changed.
    pub taints: Option<Vec<Taint>>,
    /// Pods whose Ready condition is to become False: nobody can tell any more.
    pub pods_not_ready: Vec<Arc<PodView>>,
    /// An event to tell, as reason and text.
    pub event: Option<(&'static str, String)>,
    /// When the node will have been silent for too long.
    pub wake_at: Option<Timestamp>,
}

/// Decides what to write about a node. Total.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let silent_at = observed
        .last_heard
        .checked_add(GRACE)
        .unwrap_or(Timestamp::MAX);
    let silent = now >= silent_at;
    if !silent {
        plan.wake_at = Some(silent_at);
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
    plan.taints = taints::wanted(&observed.node, &conditions, observed.permission, now);
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
        let name = observed.node.metadata.name.clone().unwrap_or_default();
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

impl Plan {
    /// Whether it makes the pods of the node go, which went on undisturbed before.
    pub fn begins_to_drive_away(&self, node: &Node) -> bool {
        let before = taints_of(node);
        let after = self.taints.as_deref().unwrap_or(before);
        taints::drives_pods_away(after) && !taints::drives_pods_away(before)
    }

    /// The taints that the node has once this is written.
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

/// Whether a node is ready, given when it was last heard from; none if it never said anything.
pub fn is_ready(node: &Node, last_heard: Timestamp, now: Timestamp) -> Option<bool> {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let silent = now.duration_since(last_heard) >= GRACE;
    ready(conditions.unwrap_or_default()).map(|ready| ready && !silent)
}

/// Notes when each node was heard from: now, if its lease or a heartbeat has changed.
///
/// The map keeps, for each node, what was heard and when.
#[derive(Clone, Debug)]
pub struct Heard {
    nodes: BTreeMap<String, (Vec<Timestamp>, Timestamp)>,
    looked: Option<Timestamp>,
    gap: SignedDuration,
}

impl Heard {
    /// Nothing was heard yet. `gap` is the time between two looks after which the observer did not
    /// listen in between, usually [`GAP`].
    pub fn new(gap: SignedDuration) -> Self {
        Self {
            nodes: BTreeMap::new(),
            looked: None,
            gap,
        }
    }

    /// Notes that the observer looks, as it does at least every [`PERIOD`].
    ///
    /// After a gap nobody knows which nodes were silent and which were not listened to, and their
    /// messages may still be on the way: the grace of all begins anew. So it does when the clock has
    /// jumped.
    pub fn look(&mut self, now: Timestamp) {
        let looked = self.looked.replace(now);
        let is_gap = |looked: Timestamp| {
            let since = now.duration_since(looked);
            since > self.gap || since < SignedDuration::ZERO
        };
        if looked.is_some_and(is_gap) {
            self.begin_anew(now);
        }
    }

    /// Counts all nodes as heard from now.
    pub fn begin_anew(&mut self, now: Timestamp) {
        for (_, heard) in self.nodes.values_mut() {
            *heard = now;
        }
    }

    /// When the node was last heard from, given the time that its lease was renewed.
    pub fn last(&mut self, node: &Node, renewed: Option<Timestamp>, now: Timestamp) -> Timestamp {
        let status = node.status.as_ref();
        let conditions = status
            .into_iter()
            .flat_map(|s| s.conditions.iter().flatten());
        let beats = conditions.filter_map(|condition| condition.last_heartbeat_time.as_ref());
        let mut signs: Vec<Timestamp> = beats.map(|time| time.0).chain(renewed).collect();
        signs.sort();
        signs.dedup();
        let name = node.metadata.name.clone().unwrap_or_default();
        let entry = self
            .nodes
            .entry(name)
            .or_insert_with(|| (signs.clone(), now));
        // Only what is newer than all before is a sign of life: this controller's own writes
        // are not.
        if signs.last() > entry.0.last() {
            *entry = (signs, now);
        }
        entry.1
    }

    /// Forgets nodes that are gone.
    pub fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.nodes.retain(|name, _| exists(name));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
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
        serde_json::from_value(node).unwrap()
    }

    fn ready_pod() -> Arc<PodView> {
        let pod = json!({ "metadata": { "name": "p" },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        Arc::new(PodView::from(&pod))
    }

    fn keys(taints: &[Taint]) -> Vec<String> {
        taints
            .iter()
            .map(|taint| format!("{}:{}", taint.key, taint.effect))
            .collect()
    }

    /// statefulset.md 12.17: silence makes everything unknown and keeps pods away.
    #[test]
    fn a_silent_node_is_marked() {
        let node = Arc::new(node("True", json!([])));
        let mut observed = Observed {
            node,
            last_heard: at(0),
            pods: vec![ready_pod()],
            permission: Permission::Now,
        };
        let quiet = plan(&observed, at(49));
        assert_eq!(
            (quiet.conditions, quiet.taints, quiet.wake_at),
            (None, None, Some(at(50)))
        );
        let lost = plan(&observed, at(50));
        let conditions = lost.conditions.clone().unwrap();
        assert!(
            conditions
                .iter()
                .all(|condition| condition.status == "Unknown")
        );
        let wanted = [
            "node.kubernetes.io/unreachable:NoExecute",
            "node.kubernetes.io/unreachable:NoSchedule",
        ];
        assert_eq!(keys(&lost.taints.clone().unwrap()), wanted);
        assert_eq!(lost.pods_not_ready.len(), 1);
        assert_eq!(lost.event.unwrap().0, "NodeNotReady");
        // Carried out, there is nothing more to do.
        let mut after = (*observed.node).clone();
        after.status.as_mut().unwrap().conditions = Some(conditions);
        after.spec.as_mut().unwrap().taints = lost.taints;
        observed = Observed {
            node: Arc::new(after),
            last_heard: at(0),
            pods: Vec::new(),
            permission: Permission::Now,
        };
        assert_eq!(plan(&observed, at(60)), Plan::default());
    }

    /// The taints of a node that has been silent for long, where that is permitted.
    fn taints_of_silent(node: Node, permission: Permission) -> Vec<String> {
        let observed = Observed {
            node: Arc::new(node),
            last_heard: at(0),
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

    // findings R2: the process was stopped for 50 s and more, and so were its ears.
    #[test]
    fn a_gap_in_the_observation_is_no_silence() {
        let mut heard = Heard::new(GAP);
        let node = node("True", json!([]));
        let renewed = Some(at(1000));
        heard.look(at(0));
        assert_eq!(heard.last(&node, renewed, at(0)), at(0));
        heard.look(at(5));
        assert_eq!(heard.last(&node, renewed, at(5)), at(0));
        heard.look(at(65));
        assert_eq!(heard.last(&node, renewed, at(65)), at(65));
        heard.look(at(70));
        heard.look(at(20));
        assert_eq!(heard.last(&node, renewed, at(20)), at(20));
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

    /// A node that is back loses our taints, and keeps other people's.
    #[test]
    fn a_node_that_is_back_is_cleared() {
        let taints = json!([
            { "key": "mine", "effect": "NoSchedule" },
            { "key": "node.kubernetes.io/unreachable", "effect": "NoExecute" },
            { "key": "node.kubernetes.io/unreachable", "effect": "NoSchedule" },
        ]);
        let node = Arc::new(node("True", taints));
        let observed = Observed {
            node,
            last_heard: at(0),
            pods: vec![ready_pod()],
            permission: Permission::Now,
        };
        let plan = plan(&observed, at(1));
        assert_eq!(keys(&plan.taints.unwrap()), ["mine:NoSchedule"]);
        assert!(plan.pods_not_ready.is_empty());
    }

    /// Only something new is a sign of life; a repetition is not, nor is our own write.
    #[test]
    fn silence_is_measured_by_our_own_clock() {
        let mut heard = Heard::new(GAP);
        let node = node("True", json!([]));
        assert_eq!(heard.last(&node, Some(at(1000)), at(1)), at(1));
        assert_eq!(heard.last(&node, Some(at(1000)), at(20)), at(1));
        assert_eq!(heard.last(&node, Some(at(1010)), at(30)), at(30));
        assert_eq!(heard.last(&node, None, at(40)), at(30));
    }
}
