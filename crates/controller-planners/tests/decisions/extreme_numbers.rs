//! Extreme numbers in the objects that controllers read: every plan is computed without a panic, and no plan has an
//! unbounded number of writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_planners::horizontal_pod_autoscaler::{Memory, PodFacts, Scale, samples};
use controller_planners::node_lifecycle::Permission;
use controller_planners::{
    cron_job, daemon_set, deployment, disruption, horizontal_pod_autoscaler, job, node_lifecycle,
    replica_set, stateful_set,
};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::serde::de::DeserializeOwned;
use resource_kinds::pod_view::PodView;

const NUMBERS: [i64; 10] = [
    i64::MAX,
    i64::MAX - 1,
    i64::MIN,
    i64::MAX / 1_000_000_000,
    i32::MAX as i64,
    i32::MAX as i64 - 1,
    i32::MIN as i64,
    1000,
    0,
    -1,
];

/// A plan with more writes counts as unbounded.
const WRITES_MAX: usize = 1000;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// The paths of numbers in an object.
fn places(object: &Value, path: &str, paths: &mut Vec<String>) {
    match object {
        Value::Number(_) => paths.push(path.to_owned()),
        Value::Object(fields) => {
            for (name, value) in fields {
                places(value, &format!("{path}/{name}"), paths);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{path}/{index}"), paths);
            }
        }
        _ => {}
    }
}

/// Copies of the object in which each number, or all numbers, have the extreme values of their range, as far as the
/// object's type can decode them.
fn variants<K: DeserializeOwned>(object: &Value) -> Vec<(String, K)> {
    let mut paths = Vec::new();
    places(object, "", &mut paths);
    let mut variants = Vec::new();
    for number in NUMBERS {
        let mut all = object.clone();
        for path in &paths {
            let mut one = object.clone();
            *one.pointer_mut(path).unwrap() = number.into();
            if let Ok(typed) = json_tree::from_value(one) {
                *all.pointer_mut(path).unwrap() = number.into();
                variants.push((format!("{path} = {number}"), typed));
            }
        }
        variants.push((format!("{number}"), json_tree::from_value(all).unwrap()));
    }
    assert!(variants.len() > NUMBERS.len());
    variants
}

fn typed<K: DeserializeOwned>(object: Value) -> K {
    json_tree::from_value(object).unwrap()
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}})
}

/// Two pods of an owner; one pod is ready.
fn pods(api: &str, kind: &str) -> Vec<Arc<PodView>> {
    let pod = |name: &str, ready: &str| {
        let pod: Pod = typed(json!({
            "metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "1", "labels": {"app": "a"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": api, "kind": kind, "name": "x", "uid": "u",
                    "controller": true}]},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}],
                "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": i64::MAX}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready,
                "lastTransitionTime": "2026-01-01T00:00:10Z"}]}}));
        Arc::new(PodView::try_from(&pod).unwrap())
    };
    vec![pod("x-0", "True"), pod("x-1", "False")]
}

fn metadata() -> Value {
    json!({"name": "x", "namespace": "d", "uid": "u", "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z"})
}

/// findings S32
#[test]
fn sets_of_any_size_are_planned_piece_by_piece() {
    let selector = json!({"matchLabels": {"app": "a"}});
    let set = json!({"metadata": metadata(), "spec": {"serviceName": "x", "replicas": 2,
            "minReadySeconds": 1, "revisionHistoryLimit": 1, "ordinals": {"start": 1},
            "updateStrategy": {"rollingUpdate": {"partition": 1, "maxUnavailable": 1}},
            "podManagementPolicy": "Parallel", "selector": selector, "template": template()},
        "status": {"replicas": 1, "observedGeneration": 1, "collisionCount": 1}});
    for (what, set) in variants(&set) {
        let observed = stateful_set::Observed {
            set: Arc::new(set),
            pods: pods("apps/v1", "StatefulSet"),
            ..Default::default()
        };
        let plan = stateful_set::plan(&observed, now()).unwrap();
        assert!(plan.actions().count() <= WRITES_MAX, "{what}");
    }
    let set = json!({"metadata": metadata(), "spec": {"replicas": 2, "minReadySeconds": 1,
            "selector": selector, "template": template()},
        "status": {"replicas": 1, "observedGeneration": 1}});
    for (what, set) in variants(&set) {
        let observed = replica_set::Observed {
            kind: replica_set::REPLICA_SET,
            set: Arc::new(set),
            pods: pods("apps/v1", "ReplicaSet"),
        };
        let plan = replica_set::plan(&observed, now()).unwrap();
        assert!(plan.actions.len() <= WRITES_MAX, "{what}");
    }
    let rolling = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
    let deployment = json!({"metadata": metadata(), "spec": {"replicas": 2, "minReadySeconds": 1,
            "revisionHistoryLimit": 1, "progressDeadlineSeconds": 2, "strategy": rolling,
            "selector": selector, "template": template()},
        "status": {"replicas": 1, "observedGeneration": 1, "collisionCount": 1, "conditions": [
            {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
                "lastUpdateTime": "2026-01-01T00:00:00Z"}]}});
    let part = json!({"metadata": {"name": "x-1", "namespace": "d", "uid": "s", "resourceVersion": "1",
            "labels": {"app": "a"},
            "annotations": {"deployment.kubernetes.io/desired-replicas": "2147483647",
                "deployment.kubernetes.io/max-replicas": "-2147483648",
                "deployment.kubernetes.io/revision": "9223372036854775807"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "x",
                "uid": "u", "controller": true}]},
        "spec": {"replicas": 1, "selector": selector, "template": template()},
        "status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1}});
    for (_, deployment) in variants(&deployment) {
        let deployment: Arc<Deployment> = Arc::new(deployment);
        for (what, part) in variants(&part) {
            let observed = deployment::Observed {
                deployment: deployment.clone(),
                sets: vec![Arc::new(part)],
                pods: pods("apps/v1", "ReplicaSet"),
            };
            let plan = deployment::plan(&observed, now()).unwrap();
            assert!(plan.actions.len() <= WRITES_MAX, "{what}");
        }
    }
    let set = json!({"metadata": metadata(), "spec": {"minReadySeconds": 1,
            "revisionHistoryLimit": 1, "updateStrategy": rolling, "selector": selector,
            "template": template()},
        "status": {"currentNumberScheduled": 1, "desiredNumberScheduled": 1, "numberReady": 1,
            "numberMisscheduled": 1, "collisionCount": 1, "observedGeneration": 1}});
    let fit = daemon_set::NodeFit {
        starts: true,
        stays: true,
    };
    for (what, set) in variants(&set) {
        let observed = daemon_set::Observed {
            set: Arc::new(set),
            pods: pods("apps/v1", "DaemonSet"),
            nodes: [("n".to_owned(), fit), ("m".to_owned(), fit)].into(),
            ..Default::default()
        };
        let plan = daemon_set::plan(&observed, now()).unwrap();
        assert!(plan.pods.len() <= WRITES_MAX, "{what}");
    }
}

fn job_spec() -> Value {
    json!({"parallelism": 2, "completions": 3, "backoffLimit": 1, "backoffLimitPerIndex": 1,
        "maxFailedIndexes": 1, "completionMode": "Indexed", "activeDeadlineSeconds": 1,
        "ttlSecondsAfterFinished": 1, "selector": {"matchLabels": {"app": "a"}},
        "podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]},
        "successPolicy": {"rules": [{"succeededCount": 1}]}, "template": template()})
}

/// findings S32
#[test]
fn jobs_of_any_size_are_planned_piece_by_piece() {
    for mode in ["Indexed", "NonIndexed"] {
        let mut spec = job_spec();
        spec["completionMode"] = mode.into();
        for condition in [None, Some("Complete")] {
            let conditions = condition.map(|type_| {
                json!([{"type": type_, "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}])
            });
            let object = json!({"metadata": metadata(), "spec": spec,
                "status": {"startTime": "2026-01-01T00:00:00Z", "active": 1, "succeeded": 1,
                    "failed": 1, "ready": 1, "terminating": 1, "completedIndexes": "0,2147483646",
                    "failedIndexes": "1-9223372036854775807", "conditions": conditions}});
            for (what, object) in variants(&object) {
                let observed = job::Observed {
                    job: Arc::new(object),
                    pods: pods("batch/v1", "Job"),
                };
                let plan = job::plan(&observed, now()).unwrap();
                assert!(plan.pods.len() <= WRITES_MAX, "{what}");
            }
        }
    }
    let object = json!({"metadata": metadata(), "spec": {"schedule": "* * * * *",
            "startingDeadlineSeconds": 1, "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1, "jobTemplate": {"spec": job_spec()}},
        "status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}});
    let ended = |name: &str| {
        Arc::new(typed(
            json!({"metadata": {"name": name, "namespace": "d", "uid": name},
            "status": {"conditions": [{"type": "Complete", "status": "True"}],
                "startTime": "2026-01-01T00:00:00Z"}}),
        ))
    };
    for (what, object) in variants(&object) {
        let observed = cron_job::Observed {
            cron_job: Arc::new(object),
            jobs: vec![ended("a"), ended("b")],
        };
        let plan = cron_job::plan(&observed, now()).unwrap();
        assert!(plan.delete.len() <= 2, "{what}");
    }
}

fn pod_scale(replicas: i32) -> disruption::PodScale {
    disruption::PodScale {
        scaler: "x".parse().unwrap(),
        replicas,
    }
}

/// findings S32: the number of replicas stays within the bounds of the autoscaler.
#[test]
fn scalers_stay_within_their_bounds() {
    let policy = json!({"stabilizationWindowSeconds": 1, "policies": [
        {"type": "Pods", "value": 1, "periodSeconds": 1},
        {"type": "Percent", "value": 1, "periodSeconds": 1}]});
    let resource =
        |target: Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
    for target in [
        json!({"type": "Utilization", "averageUtilization": 1}),
        json!({"type": "AverageValue", "averageValue": "9223372036854775807"}),
        json!({"type": "AverageValue", "averageValue": "1n"}),
        json!({"type": "AverageValue", "averageValue": "0"}),
    ] {
        let object = json!({"metadata": metadata(), "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"},
                "minReplicas": 1, "maxReplicas": 5, "metrics": [resource(target)],
                "behavior": {"scaleUp": policy, "scaleDown": policy}},
            "status": {"currentReplicas": 1, "desiredReplicas": 1, "observedGeneration": 1}});
        for (what, object) in variants::<HorizontalPodAutoscaler>(&object) {
            let spec = object.spec.clone();
            let bounds = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
            for (replicas, request, used) in [
                (1, 1000, "9223372036854775807"),
                (i32::MAX, 1, "1n"),
                (i32::MIN, i64::MAX, "8Ei"),
                (0, 0, "-1"),
            ] {
                let listed = json!({"items": [{"metadata": {"name": "p"},
                    "timestamp": "2026-01-01T00:00:00Z", "window": "15s",
                    "containers": [{"name": "c", "usage": {"cpu": used, "memory": used}}]}]});
                let requests: BTreeMap<String, i64> = [("cpu".to_owned(), request)].into();
                let observed = horizontal_pod_autoscaler::Observed {
                    autoscaler: Arc::new(object.clone()),
                    scale: Ok(Scale {
                        replicas,
                        selector: "app=a".to_owned(),
                    }),
                    pods: vec![PodFacts {
                        name: "p".to_owned(),
                        started: Some(Timestamp::MIN),
                        ready: Some((true, Timestamp::MIN)),
                        requests: requests.clone(),
                        containers: vec![("c".to_owned(), requests)],
                        ..PodFacts::default()
                    }],
                    samples: Ok(samples(&listed)),
                    measured: Vec::new(),
                    selecting: vec!["d/x".to_owned()],
                };
                let plan = horizontal_pod_autoscaler::plan(&observed, &Memory::default(), now());
                // The API accepts no other bounds.
                let is_valid = !what.contains('-') && bounds.0 <= bounds.1;
                if let Some(rescale) = plan.rescale.as_ref().filter(|_| is_valid) {
                    let to = rescale.to;
                    assert!(
                        bounds.0 <= to && to <= bounds.1,
                        "{what}: {to} of {bounds:?}"
                    );
                }
                plan.conclude(Ok(()));
            }
        }
    }
}

/// findings S32
#[test]
fn budgets_and_nodes_are_planned_with_any_number() {
    for spec in [json!({"minAvailable": 1}), json!({"maxUnavailable": 1})] {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "a"}});
        let budget = json!({"metadata": metadata(), "spec": spec, "status": {
            "disruptionsAllowed": 1, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1,
            "observedGeneration": 1}});
        for (what, budget) in variants(&budget) {
            let budget: Arc<PodDisruptionBudget> = Arc::new(budget);
            for scale in [i32::MAX, i32::MIN, 0] {
                let observed = disruption::Observed {
                    budget: budget.clone(),
                    pods: pods("apps/v1", "ReplicaSet"),
                    scales: [("u".parse().unwrap(), pod_scale(scale))].into(),
                };
                let status = disruption::plan(&observed, now())
                    .unwrap()
                    .status
                    .unwrap_or_default();
                let allowed = status.disruptions_allowed.unwrap_or_default();
                let is_valid = !what.contains('-');
                assert!(!is_valid || (0..=1).contains(&allowed), "{what}: {allowed}");
            }
        }
    }
    for heartbeat in [Timestamp::MIN, Timestamp::UNIX_EPOCH, now(), Timestamp::MAX] {
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute",
                "timeAdded": "2026-01-01T00:00:00Z"}]}});
        let observed = node_lifecycle::Observed {
            name: "n".into(),
            node: Arc::new(typed(node)),
            silent_for: heartbeat.duration_since(Timestamp::UNIX_EPOCH),
            grace: node_lifecycle::GRACE,
            is_fenced: false,
            pods: pods("apps/v1", "ReplicaSet"),
            permission: Permission::default(),
        };
        node_lifecycle::plan(&observed, now());
    }
}
