//! The number of replicas that an autoscaler demands (kubectl.md 10.2).

mod cluster;
mod other_apis;

use json_tree::{Value, json};
use proptest::prelude::*;

use cluster::{Cluster, at};

fn cpu(share: i32) -> Value {
    json!([{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": share}}}])
}

/// Three ready pods that request 1000m each and use the amounts `used`.
fn three(metrics: Value, used: [i64; 3]) -> Cluster {
    let mut cluster = Cluster::new(3, json!({"maxReplicas": 10, "metrics": metrics}));
    for (number, used) in used.into_iter().enumerate() {
        cluster = cluster.pod(&format!("web-{number}"), used);
    }
    cluster
}

#[test]
fn replicas_follow_the_share_of_what_is_requested() {
    for (used, goal, replicas) in [
        ([500, 500, 500], 50, 3),
        // A deviation of up to a tenth from the goal changes nothing.
        ([550, 550, 550], 50, 3),
        ([451, 451, 451], 50, 3),
        ([560, 560, 560], 50, 4),
        ([1000, 1000, 1000], 50, 6),
        ([100, 100, 100], 50, 1),
        ([0, 0, 0], 50, 1),
        ([900, 0, 0], 30, 3),
        ([900, 300, 0], 30, 4),
    ] {
        let mut cluster = three(cpu(goal), used);
        // Scaling down waits for its window, which has passed here.
        cluster.settle();
        assert_eq!(cluster.replicas(), replicas, "{used:?} of {goal}%");
    }
}

#[test]
fn the_status_says_what_was_measured_and_what_was_done() {
    let mut cluster = three(cpu(50), [1000, 1000, 1000]);
    let conclusion = cluster.round();
    assert_eq!(
        cluster.event_texts(),
        "SuccessfulRescale: New size: 6; reason: cpu resource utilization (percentage of request) \
         above target"
    );
    let status = conclusion.status.unwrap();
    assert_eq!(
        (status.current_replicas, status.desired_replicas),
        (Some(3), 6)
    );
    assert_eq!(status.last_scale_time.unwrap().0, at(0));
    let resource = status.current_metrics.unwrap()[0].resource.clone().unwrap();
    assert_eq!(resource.current.average_utilization, Some(100));
    assert_eq!(resource.current.average_value.unwrap().0, "1");
    assert_eq!(
        cluster.conditions(),
        "AbleToScale=True SucceededRescale (the HPA controller was able to update the target scale \
         to 6)\n\
         ScalingActive=True ValidMetricFound (the HPA was able to successfully calculate a replica \
         count from cpu resource utilization (percentage of request))\n\
         ScalingLimited=False DesiredWithinRange (the desired count is within the acceptable range)"
    );
}

#[test]
fn at_the_goal_nothing_is_written() {
    let mut cluster = three(cpu(50), [500, 500, 500]);
    assert!(cluster.round().status.is_some());
    let again = cluster.round();
    assert_eq!((again.status, again.notices), (None, Vec::new()));
}

#[test]
fn an_average_value_needs_no_requests() {
    let memory = json!([{"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "100Mi"}}}]);
    let mut cluster = Cluster::new(2, json!({"maxReplicas": 10, "metrics": memory}));
    cluster = cluster.measured("web-0", json!({"memory": "150Mi"}));
    cluster = cluster.measured("web-1", json!({"memory": "160Mi"}));
    let status = cluster.round().status.unwrap();
    assert_eq!(cluster.replicas(), 4);
    let resource = status.current_metrics.unwrap()[0].resource.clone().unwrap();
    assert_eq!(resource.current.average_value.unwrap().0, "155Mi");
    assert!(
        cluster
            .event_texts()
            .contains("memory resource above target")
    );
}

#[test]
fn one_container_can_be_measured() {
    let metric = json!([{"type": "ContainerResource", "containerResource": {"name": "cpu",
        "container": "side", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
    let mut cluster = Cluster::new(1, json!({"maxReplicas": 10, "metrics": metric}));
    cluster = cluster.pod_of(
        "web-0",
        &[("main", Some(1000), 900), ("side", Some(100), 100)],
    );
    cluster.round();
    assert_eq!(cluster.replicas(), 2);
    assert!(
        cluster
            .event_texts()
            .contains("cpu container resource utilization")
    );

    let mut cluster = three(metric_of("other"), [100, 100, 100]);
    cluster.round();
    assert!(
        cluster
            .event_texts()
            .starts_with("FailedGetContainerResourceMetric: failed to get cpu utilization: "),
        "{}",
        cluster.event_texts()
    );
}

fn metric_of(container: &str) -> Value {
    json!([{"type": "ContainerResource", "containerResource": {"name": "cpu",
        "container": container, "target": {"type": "Utilization", "averageUtilization": 50}}}])
}

#[test]
fn the_largest_demand_counts() {
    let mut metrics = cpu(50);
    let other = json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "1Ki"}}});
    metrics.as_array_mut().unwrap().push(other);
    let mut cluster = Cluster::new(2, json!({"maxReplicas": 10, "metrics": metrics}));
    for pod in ["web-0", "web-1"] {
        cluster = cluster
            .pod(pod, 500)
            .measured(pod, json!({"cpu": "500m", "memory": "2Ki"}));
    }
    cluster.round();
    assert_eq!(cluster.replicas(), 4);
}

#[test]
fn without_measurements_nothing_is_scaled() {
    let mut cluster = three(cpu(50), [1000, 1000, 1000]);
    cluster.observed.samples = Err(
        "unable to fetch metrics from resource metrics API: the server \
        could not find the requested resource (get pods.metrics.k8s.io)"
            .to_owned(),
    );
    let status = cluster.round().status.unwrap();
    let error = "failed to get cpu utilization: unable to get metrics for resource cpu: unable to \
        fetch metrics from resource metrics API: the server could not find the requested resource \
        (get pods.metrics.k8s.io)";
    assert_eq!(
        cluster.event_texts(),
        format!(
            "FailedGetResourceMetric: {error}\nFailedComputeMetricsReplicas: invalid metrics (1 \
             invalid out of 1), first error is: failed to get cpu resource metric value: {error}"
        )
    );
    assert_eq!(
        cluster.conditions(),
        format!(
            "AbleToScale=True SucceededGetScale (the HPA controller was able to get the target's \
             current scale)\nScalingActive=False FailedGetResourceMetric (the HPA was unable to \
             compute the replica count: {error})"
        )
    );
    assert_eq!(status.current_metrics.unwrap().len(), 1);
    assert_eq!(cluster.replicas(), 3);
}

#[test]
fn a_metric_that_is_missing_forbids_scaling_down_only() {
    let mut metrics = cpu(50);
    let queue = json!({"type": "External", "external": {"metric": {"name": "queue"},
        "target": {"type": "Value", "value": "5"}}});
    metrics.as_array_mut().unwrap().push(queue);
    let mut cluster = three(metrics.clone(), [100, 100, 100]);
    cluster.settle();
    assert_eq!(cluster.replicas(), 3);
    assert!(
        cluster
            .conditions()
            .contains("ScalingActive=False FailedGetExternalMetric")
    );
    let mut cluster = three(metrics, [1000, 1000, 1000]);
    cluster.round();
    assert_eq!(cluster.replicas(), 6);
    assert!(
        cluster
            .conditions()
            .contains("ScalingActive=True ValidMetricFound")
    );
}

#[test]
fn requests_are_needed_for_a_share() {
    let mut cluster = Cluster::new(1, json!({"maxReplicas": 4, "metrics": cpu(50)}));
    cluster = cluster.pod_of("web-0", &[("main", None, 900)]);
    cluster.round();
    let event = cluster.event_texts();
    assert!(
        event.contains("missing request for cpu in container main of Pod web-0"),
        "{event}"
    );
}

#[test]
fn a_missing_pod_speaks_against_a_change() {
    // Two pods at 100 % with a goal of 50 %: with the third pod at 0 % the average is 66 %, which makes four replicas.
    let mut cluster = three(cpu(50), [1000, 1000, 0]);
    cluster.forget_sample("web-2");
    cluster.round();
    assert_eq!(cluster.replicas(), 4);
    // Two pods at 10 %: with the third pod at 100 % the average is 40 %, which makes three replicas.
    let mut cluster = three(cpu(50), [100, 100, 0]);
    cluster.forget_sample("web-2");
    cluster.settle();
    assert_eq!(cluster.replicas(), 3);
    // Missing pods never reverse the direction: one pod is at 60 %, two of three pods are missing.
    let mut cluster = three(cpu(50), [600, 0, 0]);
    cluster.forget_sample("web-1");
    cluster.forget_sample("web-2");
    cluster.settle();
    assert_eq!(cluster.replicas(), 3);
}

#[test]
fn what_a_pod_takes_to_start_does_not_count() {
    // The third pod is not ready: its usage counts as 0 while scaling up.
    let mut cluster = three(cpu(50), [1000, 1000, 9000]);
    cluster.pod_mut("web-2").ready = Some((false, at(-3990)));
    cluster.round();
    assert_eq!(cluster.replicas(), 4);
    // The pod has been ready for a shorter time than the sample's window, soon after its start.
    let mut cluster = three(cpu(50), [1000, 1000, 9000]);
    cluster.pod_mut("web-2").started = Some(at(-60));
    cluster.pod_mut("web-2").ready = Some((true, at(-20)));
    cluster.round();
    assert_eq!(cluster.replicas(), 4);
    // A short time of readiness counts if the pod started long ago.
    let mut cluster = three(cpu(50), [1000, 1000, 1000]);
    cluster.pod_mut("web-2").ready = Some((true, at(-20)));
    cluster.round();
    assert_eq!(cluster.replicas(), 6);
    // Pods that are being deleted or have ended do not count.
    let mut cluster = three(cpu(50), [1000, 1000, 9000]);
    cluster.pod_mut("web-2").is_inactive = true;
    cluster.round();
    assert_eq!(cluster.replicas(), 4);
    let mut cluster = three(cpu(50), [1000, 1000, 1000]);
    for pod in ["web-0", "web-1", "web-2"] {
        cluster.pod_mut(pod).pending = true;
    }
    cluster.round();
    let event = cluster.event_texts();
    assert!(event.contains("did not receive metrics for targeted pods (pods might be unready)"));
}

#[test]
fn bounds_are_kept() {
    let mut cluster = three(cpu(10), [1000, 1000, 1000]);
    cluster.spec()["maxReplicas"] = json!(5);
    cluster.round();
    assert_eq!(cluster.replicas(), 5);
    assert!(cluster.conditions().contains(
        "ScalingLimited=True TooManyReplicas (the desired replica count is more than the maximum \
         replica count)"
    ));
    // One step at most doubles the replicas.
    let mut cluster = three(cpu(10), [1000, 1000, 1000]);
    cluster.spec()["maxReplicas"] = json!(50);
    cluster.round();
    assert_eq!(cluster.replicas(), 6);
    assert!(
        cluster
            .conditions()
            .contains("ScalingLimited=True ScaleUpLimit")
    );
    let mut cluster = three(cpu(50), [0, 0, 0]);
    cluster.spec()["minReplicas"] = json!(2);
    cluster.settle();
    assert_eq!(cluster.replicas(), 2);
    assert!(
        cluster
            .conditions()
            .contains("ScalingLimited=True TooFewReplicas")
    );
}

#[test]
fn a_size_out_of_bounds_needs_no_measurement() {
    let mut cluster = Cluster::new(12, json!({"maxReplicas": 10, "metrics": cpu(50)}));
    cluster.round();
    assert_eq!(cluster.replicas(), 10);
    assert!(
        cluster
            .event_texts()
            .ends_with("reason: Current number of replicas above Spec.MaxReplicas")
    );
    let mut cluster = Cluster::new(
        1,
        json!({"minReplicas": 2, "maxReplicas": 10, "metrics": cpu(50)}),
    );
    cluster.round();
    assert_eq!(cluster.replicas(), 2);
    assert!(
        cluster
            .event_texts()
            .ends_with("reason: Current number of replicas below Spec.MinReplicas")
    );
}

#[test]
fn a_target_at_zero_is_left_alone() {
    let mut cluster = Cluster::new(
        0,
        json!({"minReplicas": 2, "maxReplicas": 10, "metrics": cpu(50)}),
    );
    cluster.round();
    assert_eq!(
        (cluster.replicas(), cluster.event_texts().as_str()),
        (0, "")
    );
    assert!(cluster.conditions().contains(
        "ScalingActive=False ScalingDisabled (scaling is disabled since the replica count of the \
         target is zero)"
    ));
}

#[test]
fn scaling_down_waits_five_minutes() {
    let mut cluster = three(cpu(50), [100, 100, 100]);
    cluster.round();
    assert_eq!(cluster.replicas(), 3);
    assert!(
        cluster
            .conditions()
            .contains("AbleToScale=True ScaleDownStabilized")
    );
    cluster.later(299);
    assert_eq!(cluster.replicas(), 3);
    cluster.later(2);
    assert_eq!(cluster.replicas(), 1);
    assert!(
        cluster
            .event_texts()
            .ends_with("reason: All metrics below target")
    );
}

#[test]
fn a_window_for_scaling_up_takes_the_lowest() {
    let mut cluster = three(cpu(50), [1000, 1000, 1000]);
    cluster.spec()["behavior"] = json!({
        "scaleUp": {"stabilizationWindowSeconds": 60, "policies":
            [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
        "scaleDown": {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}});
    cluster.round();
    assert_eq!(cluster.replicas(), 3);
    assert!(
        cluster
            .conditions()
            .contains("AbleToScale=True ScaleUpStabilized")
    );
    cluster.later(61);
    assert_eq!(cluster.replicas(), 6);
}

#[test]
fn policies_limit_how_fast_it_goes() {
    let pods = |value: i32| json!({"type": "Pods", "value": value, "periodSeconds": 60});
    let percent = |value: i32| json!({"type": "Percent", "value": value, "periodSeconds": 60});
    for (policies, select, replicas) in [
        (json!([pods(1)]), "Max", 4),
        (json!([pods(1), percent(100)]), "Max", 6),
        (json!([pods(1), percent(100)]), "Min", 4),
        // A tenth of three is rounded up.
        (json!([percent(10)]), "Max", 4),
        (json!([pods(1)]), "Disabled", 3),
    ] {
        let mut cluster = three(cpu(10), [1000, 1000, 1000]);
        cluster.spec()["behavior"] = json!({
            "scaleUp": {"policies": policies, "selectPolicy": select}, "scaleDown": {}});
        cluster.round();
        assert_eq!(cluster.replicas(), replicas, "{policies} {select}");
        // Within the period there is no further change.
        cluster.later(30);
        assert_eq!(cluster.replicas(), replicas, "{policies} {select}");
    }
    let mut cluster = three(cpu(50), [0, 0, 0]);
    cluster.spec()["behavior"] = json!({"scaleUp": {}, "scaleDown": {
        "stabilizationWindowSeconds": 0, "policies": [pods(1)]}});
    cluster.round();
    assert_eq!(cluster.replicas(), 2);
    assert!(
        cluster
            .conditions()
            .contains("ScalingLimited=True ScaleDownLimit")
    );
    cluster.later(30);
    assert_eq!(cluster.replicas(), 2);
    cluster.later(31);
    assert_eq!(cluster.replicas(), 1);
}

#[test]
fn a_tolerance_of_its_own() {
    let mut cluster = three(cpu(50), [520, 520, 520]);
    cluster.spec()["behavior"] = json!({"scaleUp": {"tolerance": "0.01",
        "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}, "scaleDown": {}});
    cluster.round();
    assert_eq!(cluster.replicas(), 4);
}

#[test]
fn a_target_that_cannot_be_read_or_written() {
    let mut cluster = three(cpu(50), [1000, 1000, 1000]);
    cluster.refusal = Some("Operation cannot be fulfilled".to_owned());
    cluster.round();
    assert_eq!(cluster.replicas(), 3);
    assert!(
        cluster
            .event_texts()
            .starts_with("FailedRescale: New size: 6; reason: cpu resource")
    );
    assert!(cluster.conditions().contains(
        "AbleToScale=False FailedUpdateScale (the HPA controller was unable to update the target \
         scale: Operation cannot be fulfilled)"
    ));
    let before = cluster.observed.autoscaler.status.clone().unwrap();
    cluster.observed.scale = Err("deployments.apps \"web\" not found".to_owned());
    let status = cluster.round().status.unwrap();
    assert_eq!(
        cluster.event_texts(),
        "FailedGetScale: deployments.apps \"web\" not found"
    );
    assert!(
        cluster
            .conditions()
            .contains("AbleToScale=False FailedGetScale")
    );
    assert_eq!(status.current_metrics, before.current_metrics);
}

#[test]
fn a_selector_chooses_pods_of_one_scaler() {
    let mut cluster = three(cpu(50), [1000, 1000, 1000]);
    cluster.observed.selecting = vec!["default/a".to_owned(), "default/b".to_owned()];
    cluster.round();
    assert_eq!(cluster.replicas(), 3);
    let text = "pods by selector app=web are controlled by multiple HPAs: [default/a default/b]";
    assert!(
        cluster
            .event_texts()
            .starts_with(&format!("AmbiguousSelector: {text}"))
    );
    let mut cluster = three(cpu(50), [1000, 1000, 1000]);
    cluster.observed.scale.as_mut().unwrap().selector.clear();
    cluster.round();
    assert!(
        cluster
            .event_texts()
            .starts_with("SelectorRequired: selector is required")
    );
    assert!(
        cluster
            .conditions()
            .contains("ScalingActive=False InvalidSelector")
    );
    let mut cluster = three(cpu(50), [1000, 1000, 1000]);
    cluster.observed.scale.as_mut().unwrap().selector = "a in (".to_owned();
    cluster.round();
    assert!(
        cluster
            .event_texts()
            .starts_with("InvalidSelector: couldn't convert selector")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None,
        ..ProptestConfig::default() })]

    /// For any measurements the bounds and rates are respected.
    #[test]
    fn bounds_and_rates_hold(
        current in 1..40_i32,
        least in 1..10_i32,
        span in 0..30_i32,
        goal in 1..200_i32,
        used in prop::collection::vec(prop::option::of(0..5000_i64), 1..6),
        unready in prop::collection::vec(any::<bool>(), 6),
        window in 0..400_i32,
        up in 1..20_i32,
    ) {
        let most = least + span;
        let mut cluster = Cluster::new(current, json!({"minReplicas": least, "maxReplicas": most,
            "metrics": cpu(goal), "behavior": {
                "scaleUp": {"policies": [{"type": "Pods", "value": up, "periodSeconds": 15}]},
                "scaleDown": {"stabilizationWindowSeconds": window,
                    "policies": [{"type": "Percent", "value": 50, "periodSeconds": 15}]}}}));
        for (number, used) in used.iter().enumerate() {
            let name = format!("web-{number}");
            cluster = cluster.pod(&name, used.unwrap_or_default());
            if used.is_none() {
                cluster.forget_sample(&name);
            }
            if unready[number] {
                cluster.pod_mut(&name).ready = Some((false, at(0)));
            }
        }
        for _ in 0..60 {
            let before = cluster.replicas();
            cluster.later(16);
            let after = cluster.replicas();
            let inside = (least..=most).contains(&before);
            prop_assert!((least..=most).contains(&after));
            prop_assert!(!inside || after <= before + up);
            prop_assert!(!inside || after >= before / 2);
        }
    }
}
