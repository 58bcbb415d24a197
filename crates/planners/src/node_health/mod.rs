//! Nodes that fall silent, and what becomes of their pods.
//!
//! **Goal**: a node that says nothing for a while is marked so, keeps new pods away, and loses its
//! pods when their tolerations run out.
//! **Relies on**: the caller noting, by its own clock, when it last heard from each node: clocks
//! of nodes may differ.
//! **Guarantees**: pods are only asked to go (deleted with grace); that they are gone is for the
//! node, or a person, to say.

mod conditions;
mod eviction;
mod taints;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use resource_kinds::pod_view::PodView;

pub use eviction::{Eviction, Evictions, evictions};

/// Silence after which a node counts as lost; as kube-controller-manager.
pub const GRACE: SignedDuration = SignedDuration::from_secs(50);

/// What is known about a node.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The node.
    pub node: Arc<Node>,
    /// When it was last heard from, by the clock of the observer.
    pub last_heard: Timestamp,
    /// Its pods.
    pub pods: Vec<Arc<PodView>>,
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
    plan.taints = taints::wanted(&observed.node, &conditions, now);
    let ready = |conditions: &[NodeCondition]| {
        let ready = conditions
            .iter()
            .find(|condition| condition.type_ == "Ready");
        ready.map(|condition| condition.status == "True")
    };
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

/// Notes when each node was heard from: now, if its lease or a heartbeat has changed.
///
/// The map keeps, for each node, what was heard and when.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    nodes: BTreeMap<String, (Vec<Timestamp>, Timestamp)>,
}

impl Heard {
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
        };
        assert_eq!(plan(&observed, at(60)), Plan::default());
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
        };
        let plan = plan(&observed, at(1));
        assert_eq!(keys(&plan.taints.unwrap()), ["mine:NoSchedule"]);
        assert!(plan.pods_not_ready.is_empty());
    }

    /// Only something new is a sign of life; a repetition is not, nor is our own write.
    #[test]
    fn silence_is_measured_by_our_own_clock() {
        let mut heard = Heard::default();
        let node = node("True", json!([]));
        assert_eq!(heard.last(&node, Some(at(1000)), at(1)), at(1));
        assert_eq!(heard.last(&node, Some(at(1000)), at(20)), at(1));
        assert_eq!(heard.last(&node, Some(at(1010)), at(30)), at(30));
        assert_eq!(heard.last(&node, None, at(40)), at(30));
    }
}
