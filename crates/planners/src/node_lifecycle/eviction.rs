//! Evictions by a node's `NoExecute` taints, with their times.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Taint, Toleration};
use resource_kinds::pod_view::PodView;

/// A pod to evict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// The pods to evict now, and the time of the next check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Pods to delete.
    pub now: Vec<Eviction>,
    /// The time at which the next toleration expires.
    pub wake_at: Option<Timestamp>,
}

/// Plans the evictions from a node with these taints. Total.
pub fn evictions(taints: &[Taint], pods: &[Arc<PodView>], now: Timestamp) -> Evictions {
    let mut found = Evictions::default();
    let taints = taints.iter();
    let taints: Vec<&Taint> = taints.filter(|taint| taint.effect == "NoExecute").collect();
    if taints.is_empty() {
        return found;
    }
    for pod in pods.iter().filter(|pod| !pod.is_deleting()) {
        match deadline(pod, &taints) {
            Some(at) if at <= now => found.now.push(Eviction {
                namespace: pod.namespace.to_string(),
                name: pod.name.to_string(),
                uid: pod.uid.to_string(),
            }),
            Some(at) => found.wake_at = Some(found.wake_at.map_or(at, |other| other.min(at))),
            None => {}
        }
    }
    found
}

/// The time of the pod's eviction; `None` if it tolerates all taints for ever.
fn deadline(pod: &PodView, taints: &[&Taint]) -> Option<Timestamp> {
    let tolerations = || pod.spec.tolerations.iter().flatten();
    let of_taint = |taint: &&Taint| {
        let matching: Vec<&Toleration> = tolerations()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        if matching.is_empty() {
            return Some(Timestamp::MIN);
        }
        // Of several tolerations of one taint the shortest counts; one without seconds is for ever.
        let seconds = matching
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds)
            .min();
        let since = taint
            .time_added
            .as_ref()
            .map_or(Timestamp::MIN, |time| time.0);
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
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, tolerations: Value) -> Arc<PodView> {
        let pod = json!({ "metadata": { "name": name, "namespace": "default", "uid": name },
            "spec": { "containers": [], "tolerations": tolerations } });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        Arc::new(PodView::from(&pod))
    }

    /// statefulset.md 12.17: pods go when their toleration of the taint runs out.
    #[test]
    fn pods_go_when_their_tolerations_run_out() {
        let taints = json!([
            { "key": "node.kubernetes.io/unreachable", "effect": "NoExecute",
              "timeAdded": "1970-01-01T00:01:40Z" },
            { "key": "node.kubernetes.io/unreachable", "effect": "NoSchedule" },
        ]);
        let taints: Vec<Taint> = serde_json::from_value(taints).unwrap();
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
        let at = |second| Timestamp::from_second(second).unwrap();
        let names = |found: &Evictions| -> Vec<String> {
            found
                .now
                .iter()
                .map(|eviction| eviction.name.clone())
                .collect()
        };
        let found = evictions(&taints, &pods, at(100));
        assert_eq!(names(&found), ["none", "other"]);
        assert_eq!(found.wake_at, Some(at(400)));
        let found = evictions(&taints, &pods, at(400));
        assert_eq!(names(&found), ["none", "other", "some"]);
        assert_eq!(found.wake_at, None);
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
        let at = |second| Timestamp::from_second(second).ok();
        let for_ever = |key: &str| equal(key, "v", Value::Null);
        let rows: [(Value, Value, Option<Timestamp>); 11] = [
            (json!([a()]), json!([]), now),
            (json!([a()]), json!([for_ever("a")]), None),
            (json!([a()]), json!([equal("a", "w", Value::Null)]), now),
            (json!([a()]), json!([seconds(300)]), at(400)),
            // Zero and less are at once.
            (json!([a()]), json!([seconds(0)]), at(100)),
            (json!([a()]), json!([seconds(-5)]), at(100)),
            // Without a time, the taint has been there always.
            (
                json!([taint("a", Value::Null)]),
                json!([for_ever("a")]),
                None,
            ),
            // Of several taints, the first to run out; one that is not tolerated is at once.
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
            // Of several tolerations of a taint, the shortest.
            (json!([a()]), json!([seconds(300), seconds(60)]), at(160)),
        ];
        for (taints, tolerations, expected) in rows {
            let parsed: Vec<Taint> = serde_json::from_value(taints.clone()).unwrap();
            let taints_of: Vec<&Taint> = parsed.iter().collect();
            let found = deadline(&pod("p", tolerations.clone()), &taints_of);
            assert_eq!(found, expected, "{taints} {tolerations}");
        }
    }
}
