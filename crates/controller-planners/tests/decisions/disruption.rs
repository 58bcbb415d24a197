//! PodDisruptionBudgets: the number of pods that may be evicted.

use std::sync::Arc;

use controller_planners::batching::WriteUrgency;
use controller_planners::disruption::{Observed, PodScale, plan};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use resource_kinds::pod_view::PodView;

fn pod(name: &str, ready: bool) -> Arc<PodView> {
    let ready = if ready { "True" } else { "False" };
    let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "1",
            "labels": {"app": "a"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs",
                "uid": "rs", "controller": true}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    let pod: Pod = json_tree::from_value(pod).unwrap();
    Arc::new(PodView::try_from(&pod).unwrap())
}

fn scale(scaler: &str, replicas: i32) -> PodScale {
    PodScale {
        scaler: scaler.parse().unwrap(),
        replicas,
    }
}

fn observed(spec: Value, pods: Vec<Arc<PodView>>) -> Observed {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "a"}});
    let budget = json!({"metadata": {"name": "b", "namespace": "d", "generation": 3},
        "spec": spec});
    Observed {
        budget: Arc::new(json_tree::from_value(budget).unwrap()),
        pods,
        scales: [("rs".parse().unwrap(), scale("web", 4))].into(),
    }
}

fn status(observed: &Observed) -> PodDisruptionBudgetStatus {
    plan(observed, Timestamp::UNIX_EPOCH)
        .unwrap()
        .status
        .unwrap()
}

/// The counts `[allowed, healthy, desired, expected]` of the status.
fn counts(spec: Value, pods: Vec<Arc<PodView>>) -> [i32; 4] {
    let status = status(&observed(spec, pods));
    assert_eq!(status.observed_generation, Some(3));
    [
        status.disruptions_allowed,
        status.current_healthy,
        status.desired_healthy,
        status.expected_pods,
    ]
    .map(Option::unwrap)
}

#[test]
fn budgets_count_pods_or_what_is_wanted() {
    let pods = || vec![pod("a", true), pod("b", true), pod("c", false)];
    assert_eq!(counts(json!({"minAvailable": 1}), pods()), [1, 2, 1, 3]);
    assert_eq!(counts(json!({"minAvailable": "75%"}), pods()), [0, 2, 3, 4]);
    assert_eq!(counts(json!({"maxUnavailable": 3}), pods()), [1, 2, 1, 4]);
    assert_eq!(
        counts(json!({"maxUnavailable": "50%"}), pods()),
        [0, 2, 2, 4]
    );
    assert_eq!(
        counts(json!({"maxUnavailable": 1}), Vec::new()),
        [0, 0, 0, 0]
    );
}

#[test]
fn what_cannot_be_counted_allows_nothing() {
    let mut observed = observed(json!({"maxUnavailable": 1}), vec![pod("a", true)]);
    observed.scales.clear();
    let plan = plan(&observed, Timestamp::UNIX_EPOCH).unwrap();
    let problem = plan.problem.unwrap();
    assert!(problem.ends_with("does not implement the scale subresource"));
    let status = plan.status.unwrap();
    assert_eq!(status.disruptions_allowed, Some(0));
    assert_eq!(status.conditions.unwrap()[0].reason, "SyncFailed");
}

#[test]
fn an_eviction_counts_until_it_is_seen() {
    let mut observed = observed(
        json!({"minAvailable": 1}),
        vec![pod("a", true), pod("b", true)],
    );
    let mut budget: PodDisruptionBudget = (*observed.budget).clone();
    let mut status = status(&observed);
    status.disrupted_pods =
        json_tree::from_value(json!({"a": "1970-01-01T00:00:00Z", "gone": "1970-01-01T00:00:00Z"}))
            .unwrap();
    budget.status = Some(status);
    observed.budget = Arc::new(budget);
    let soon = plan(&observed, Timestamp::from_second(5).unwrap()).unwrap();
    assert_eq!(soon.requeue_after.unwrap().as_secs(), 115);
    let status = soon.status.unwrap();
    assert_eq!(status.disruptions_allowed, Some(0));
    assert_eq!(status.disrupted_pods.unwrap().len(), 1);
    let late = plan(&observed, Timestamp::from_second(200).unwrap()).unwrap();
    assert_eq!(late.status.unwrap().disruptions_allowed, Some(1));
}

#[test]
fn what_is_said_already_is_not_written_again() {
    let mut observed = observed(json!({"minAvailable": 1}), vec![pod("a", true)]);
    let mut budget: PodDisruptionBudget = (*observed.budget).clone();
    budget.status = Some(status(&observed));
    observed.budget = Arc::new(budget);
    let later = plan(&observed, Timestamp::from_second(500).unwrap()).unwrap();
    assert_eq!((later.status, later.requeue_after), (None, None));
}

/// The weight of the new status compared with the stored status.
fn weight(stored: Option<Value>, pods: Vec<Arc<PodView>>) -> Option<WriteUrgency> {
    let mut observed = observed(json!({"minAvailable": 1}), pods);
    let mut budget = (*observed.budget).clone();
    budget.status = stored.map(|status| json_tree::from_value(status).unwrap());
    observed.budget = Arc::new(budget);
    plan(&observed, Timestamp::UNIX_EPOCH)
        .unwrap()
        .urgency(&observed.budget)
}

#[test]
fn fewer_allowed_evictions_are_written_at_once() {
    let stored = |allowed: i32, generation: i64| {
        json!({"disruptionsAllowed": allowed, "currentHealthy": allowed + 1, "desiredHealthy": 1,
            "expectedPods": allowed + 1, "observedGeneration": generation})
    };
    let pods = || vec![pod("a", true), pod("b", true)];
    assert_eq!(weight(None, pods()), Some(WriteUrgency::Immediate));
    assert_eq!(
        weight(Some(stored(2, 3)), pods()),
        Some(WriteUrgency::Immediate)
    );
    assert_eq!(
        weight(Some(stored(1, 2)), pods()),
        Some(WriteUrgency::Immediate)
    );
    assert_eq!(
        weight(Some(stored(0, 3)), pods()),
        Some(WriteUrgency::Prompt)
    );
    let mut written = observed(json!({"minAvailable": 1}), pods());
    let mut budget = (*written.budget).clone();
    budget.status = Some(status(&written));
    written.budget = Arc::new(budget);
    let idle = plan(&written, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(idle.urgency(&written.budget), None);
}
