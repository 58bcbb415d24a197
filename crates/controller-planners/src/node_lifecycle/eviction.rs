//! Evictions by a node's `NoExecute` taints, with their times.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Taint, Toleration};
use object_model::{ObjectKey, Uid};
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition;

/// A pod to evict from a node with a `NoExecute` taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    pub pod: ObjectKey,
    /// UID of the pod: a new pod of that name is not evicted.
    pub uid: Uid,
}

/// The pods to evict now, and the time of the next check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Pods to evict now, because they do not tolerate a taint or their toleration has expired.
    pub now: Vec<Eviction>,
    /// The time at which the next toleration expires.
    pub wake_at: Option<Timestamp>,
}

/// A `NoExecute` taint, and the time since which the node has the taint.
type TimedTaint = (Taint, Timestamp);

/// The `NoExecute` taints of nodes with their times. Many taints have no `timeAdded` (`kubectl taint` writes none): as
/// in kube-controller-manager, their time is that of their first observation.
#[derive(Clone, Debug, Default)]
pub struct TimedTaints {
    nodes: BTreeMap<String, Vec<TimedTaint>>,
}

impl TimedTaints {
    /// Replaces the taints of the node, and returns those with the effect `NoExecute`.
    pub fn update(&mut self, node: &str, taints: &[Taint], now: Timestamp) -> Vec<TimedTaint> {
        let before = self.nodes.remove(node).unwrap_or_default();
        let first_observed = |taint: &Taint| {
            let same = before.iter().find(|(recorded, _)| recorded == taint);
            same.map_or(now, |(_, since)| *since)
        };
        let timed = |taint: &Taint| {
            let added = taint.time_added.as_ref().map(|time| time.0);
            let since = added.unwrap_or_else(|| first_observed(taint));
            (taint.clone(), since)
        };
        let taints = taints.iter().filter(|taint| taint.effect == "NoExecute");
        let taints: Vec<TimedTaint> = taints.map(timed).collect();
        if !taints.is_empty() {
            self.nodes.insert(node.to_owned(), taints.clone());
        }
        taints
    }

    /// Removes the nodes that do not exist.
    pub fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.nodes.retain(|name, _| exists(name));
    }
}

/// Plans the evictions from a node with these taints.
pub fn evictions(taints: &[TimedTaint], pods: &[Arc<PodView>], now: Timestamp) -> Evictions {
    let mut planned = Evictions::default();
    for pod in pods.iter().filter(|pod| !pod.is_deleting()) {
        match deadline(pod, taints) {
            Some(at) if at <= now => planned.now.push(Eviction {
                pod: ObjectKey::new(&*pod.namespace, &*pod.name),
                uid: pod.uid.clone(),
            }),
            Some(at) => planned.wake_at = Some(planned.wake_at.map_or(at, |other| other.min(at))),
            None => {}
        }
    }
    planned
}

/// The time since which the pod has its node: the toleration of an older taint counts from this time.
fn assigned(pod: &PodView) -> Option<Timestamp> {
    let scheduled = pod.condition(pod_condition::SCHEDULED);
    scheduled
        .filter(|condition| condition.holds())
        .and_then(|condition| condition.since)
        .or(pod.created)
}

/// The time of the pod's eviction; `None` if it tolerates all taints for ever.
fn deadline(pod: &PodView, taints: &[TimedTaint]) -> Option<Timestamp> {
    let assigned = assigned(pod).unwrap_or(Timestamp::MIN);
    let tolerations = || pod.spec.tolerations.iter().flatten();
    let of_taint = |(taint, since): &TimedTaint| {
        let matching: Vec<&Toleration> = tolerations()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        if matching.is_empty() {
            return Some(Timestamp::MIN);
        }
        // Of several tolerations of one taint the shortest counts; a toleration without seconds has no end.
        let seconds = matching
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds)
            .min();
        let since = assigned.max(*since);
        let seconds = SignedDuration::from_secs(seconds?.max(0));
        Some(since.checked_add(seconds).unwrap_or(Timestamp::MAX))
    };
    taints.iter().filter_map(of_taint).min()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            !key.is_empty() && text(&toleration.value) == text(&taint.value)
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str, tolerations: Value) -> Arc<PodView> {
        let pod = json!({ "metadata": { "name": name, "namespace": "default", "uid": name,
                "resourceVersion": "1" },
            "spec": { "containers": [], "tolerations": tolerations } });
        let pod: Pod = json_tree::from_value(pod).unwrap();
        Arc::new(PodView::try_from(&pod).unwrap())
    }

    /// The timed taints of a node whose first observation is at this second.
    fn timed(taints: &Value, second: i64) -> Vec<TimedTaint> {
        let taints: Vec<Taint> = json_tree::from_value(taints.clone()).unwrap();
        TimedTaints::default().update("n", &taints, at(second))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// statefulset.md 12.17: pods are evicted when their toleration of the taint expires.
    #[test]
    fn pods_go_when_their_tolerations_run_out() {
        let taints = json!([
            { "key": "node.kubernetes.io/unreachable", "effect": "NoExecute",
              "timeAdded": "1970-01-01T00:01:40Z" },
            { "key": "node.kubernetes.io/unreachable", "effect": "NoSchedule" },
        ]);
        let taints = timed(&taints, 0);
        let tolerate = |seconds: Value| {
            json!([{ "key": "node.kubernetes.io/unreachable", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": seconds }])
        };
        let pods = vec![
            pod("none", json!([])),
            pod("other", json!([{ "key": "x", "operator": "Exists" }])),
            pod("some", tolerate(json!(300))),
            pod("for-ever", tolerate(Value::Null)),
            pod("all", json!([{ "operator": "Exists" }])),
        ];
        let names = |result: &Evictions| -> Vec<String> {
            result
                .now
                .iter()
                .map(|eviction| eviction.pod.name.to_string())
                .collect()
        };
        let planned = evictions(&taints, &pods, at(100));
        assert_eq!(names(&planned), ["none", "other"]);
        assert_eq!(planned.wake_at, Some(at(400)));
        let planned = evictions(&taints, &pods, at(400));
        assert_eq!(names(&planned), ["none", "other", "some"]);
        assert_eq!(planned.wake_at, None);
    }

    /// <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions>
    #[test]
    fn the_first_toleration_that_runs_out_counts() {
        let taint = |key: &str, added: Value| json!({ "key": key, "value": "v", "effect": "NoExecute", "timeAdded": added });
        let (at_100, at_200) = ("1970-01-01T00:01:40Z", "1970-01-01T00:03:20Z");
        let a = || taint("a", json!(at_100));
        let equal = |key: &str, value: &str, seconds: Value| json!({ "key": key, "value": value, "tolerationSeconds": seconds });
        let seconds = |seconds: i64| equal("a", "v", json!(seconds));
        let b = || taint("b", json!(at_200));
        let now = Some(Timestamp::MIN);
        let at = |second| Some(at(second));
        let for_ever = |key: &str| equal(key, "v", Value::Null);
        let rows: [(Value, Value, Option<Timestamp>); 12] = [
            (json!([a()]), json!([]), now),
            (json!([a()]), json!([for_ever("a")]), None),
            (json!([a()]), json!([equal("a", "w", Value::Null)]), now),
            (json!([a()]), json!([seconds(300)]), at(400)),
            // Zero or negative seconds expire at once.
            (json!([a()]), json!([seconds(0)]), at(100)),
            (json!([a()]), json!([seconds(-5)]), at(100)),
            // Without `timeAdded`, the time of the taint is that of its first observation.
            (
                json!([taint("a", Value::Null)]),
                json!([for_ever("a")]),
                None,
            ),
            (
                json!([taint("a", Value::Null)]),
                json!([seconds(2)]),
                at(502),
            ),
            // Of several taints the first expiry counts; a taint without a toleration evicts at once.
            (
                json!([a(), b()]),
                json!([seconds(300), for_ever("b")]),
                at(400),
            ),
            (
                json!([a(), b()]),
                json!([seconds(300), equal("b", "v", json!(50))]),
                at(250),
            ),
            (json!([a(), b()]), json!([seconds(300)]), now),
            // Of several tolerations of a taint the shortest counts.
            (json!([a()]), json!([seconds(300), seconds(60)]), at(160)),
        ];
        for (taints, tolerations, expected) in rows {
            let timed = timed(&taints, 500);
            let evicted_at = deadline(&pod("p", tolerations.clone()), &timed);
            assert_eq!(evicted_at, expected, "{taints} {tolerations}");
        }
    }

    /// A taint without `timeAdded` keeps the time of its first observation until the taint is removed.
    #[test]
    fn a_taint_without_a_time_counts_from_the_first_look() {
        let mut timed_taints = TimedTaints::default();
        let taint = |key: &str, effect: &str| Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            ..Taint::default()
        };
        let (a, b) = (taint("a", "NoExecute"), taint("b", "NoExecute"));
        let other = taint("c", "NoSchedule");
        let first = timed_taints.update("n", &[a.clone(), other.clone()], at(10));
        assert_eq!(first, [(a.clone(), at(10))]);
        let both = timed_taints.update("n", &[b.clone(), a.clone()], at(20));
        assert_eq!(both, [(b.clone(), at(20)), (a.clone(), at(10))]);
        assert_eq!(
            timed_taints.update("m", std::slice::from_ref(&a), at(30)),
            [(a.clone(), at(30))]
        );
        assert_eq!(timed_taints.update("n", &[other], at(40)), []);
        assert_eq!(
            timed_taints.update("n", std::slice::from_ref(&a), at(50)),
            [(a.clone(), at(50))]
        );
        timed_taints.retain(|name| name == "m");
        assert_eq!(
            timed_taints.update("n", std::slice::from_ref(&a), at(60)),
            [(a.clone(), at(60))]
        );
        assert_eq!(
            timed_taints.update("m", std::slice::from_ref(&a), at(60)),
            [(a, at(30))]
        );
    }

    /// As in kube-controller-manager, a pod that is bound to a tainted node has its whole toleration time.
    #[test]
    fn a_pod_that_comes_later_is_tolerated_from_then_on() {
        let taints =
            json!([{ "key": "a", "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z" }]);
        let toleration = json!([{ "key": "a", "operator": "Exists", "tolerationSeconds": 60 }]);
        let row = |conditions: Value| {
            let pod = json!({
                "metadata": { "name": "p", "uid": "u", "resourceVersion": "1",
                    "creationTimestamp": "1970-01-01T00:05:00Z" },
                "spec": { "containers": [], "tolerations": toleration },
                "status": { "conditions": conditions },
            });
            let pod: Pod = json_tree::from_value(pod).unwrap();
            deadline(&PodView::try_from(&pod).unwrap(), &timed(&taints, 0))
        };
        let scheduled = |status: &str| json!([{ "type": "PodScheduled", "status": status, "lastTransitionTime": "1970-01-01T00:06:40Z" }]);
        assert_eq!(row(json!([])), Some(at(360)));
        assert_eq!(row(scheduled("True")), Some(at(460)));
        assert_eq!(row(scheduled("False")), Some(at(360)));
    }
}
