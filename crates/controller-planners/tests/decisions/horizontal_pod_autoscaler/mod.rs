//! The number of replicas that an autoscaler demands (kubectl.md 10.2).

mod world;

use json_tree::{Value, json};
use proptest::prelude::*;

use world::{World, at};

fn cpu(share: i32) -> Value {
    json!([{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": share}}}])
}

/// Three ready pods that request 1000m each and use the amounts `used`.
fn three(metrics: Value, used: [i64; 3]) -> World {
    let mut world = World::new(3, json!({"maxReplicas": 10, "metrics": metrics}));
    for (number, used) in used.into_iter().enumerate() {
        world = world.pod(&format!("web-{number}"), used);
    }
    world
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
        let mut world = three(cpu(goal), used);
        // Scaling down waits for its window, which has passed here.
        world.settle();
        assert_eq!(world.replicas(), replicas, "{used:?} of {goal}%");
    }
}

#[test]
fn the_status_says_what_was_measured_and_what_was_done() {
    let mut world = three(cpu(50), [1000, 1000, 1000]);
    let conclusion = world.round();
    assert_eq!(
        world.told(),
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
        world.conditions(),
        "AbleToScale=True SucceededRescale (the HPA controller was able to update the target scale \
         to 6)\n\
         ScalingActive=True ValidMetricFound (the HPA was able to successfully calculate a replica \
         count from cpu resource utilization (percentage of request))\n\
         ScalingLimited=False DesiredWithinRange (the desired count is within the acceptable range)"
    );
}

#[test]
fn at_the_goal_nothing_is_written() {
    let mut world = three(cpu(50), [500, 500, 500]);
    assert!(world.round().status.is_some());
    let again = world.round();
    assert_eq!((again.status, again.notices), (None, Vec::new()));
}

#[test]
fn an_average_value_needs_no_requests() {
    let memory = json!([{"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "100Mi"}}}]);
    let mut world = World::new(2, json!({"maxReplicas": 10, "metrics": memory}));
    world = world.measured("web-0", json!({"memory": "150Mi"}));
    world = world.measured("web-1", json!({"memory": "160Mi"}));
    let status = world.round().status.unwrap();
    assert_eq!(world.replicas(), 4);
    let resource = status.current_metrics.unwrap()[0].resource.clone().unwrap();
    assert_eq!(resource.current.average_value.unwrap().0, "155Mi");
    assert!(world.told().contains("memory resource above target"));
}

#[test]
fn one_container_can_be_measured() {
    let metric = json!([{"type": "ContainerResource", "containerResource": {"name": "cpu",
        "container": "side", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
    let mut world = World::new(1, json!({"maxReplicas": 10, "metrics": metric}));
    world = world.pod_of(
        "web-0",
        &[("main", Some(1000), 900), ("side", Some(100), 100)],
    );
    world.round();
    assert_eq!(world.replicas(), 2);
    assert!(world.told().contains("cpu container resource utilization"));

    let mut world = three(metric_of("other"), [100, 100, 100]);
    world.round();
    assert!(
        world
            .told()
            .starts_with("FailedGetContainerResourceMetric: failed to get cpu utilization: "),
        "{}",
        world.told()
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
    let mut world = World::new(2, json!({"maxReplicas": 10, "metrics": metrics}));
    for pod in ["web-0", "web-1"] {
        world = world
            .pod(pod, 500)
            .measured(pod, json!({"cpu": "500m", "memory": "2Ki"}));
    }
    world.round();
    assert_eq!(world.replicas(), 4);
}

#[test]
fn without_measurements_nothing_is_scaled() {
    let mut world = three(cpu(50), [1000, 1000, 1000]);
    world.observed.samples = Err(
        "unable to fetch metrics from resource metrics API: the server \
        could not find the requested resource (get pods.metrics.k8s.io)"
            .to_owned(),
    );
    let status = world.round().status.unwrap();
    let error = "failed to get cpu utilization: unable to get metrics for resource cpu: unable to \
        fetch metrics from resource metrics API: the server could not find the requested resource \
        (get pods.metrics.k8s.io)";
    assert_eq!(
        world.told(),
        format!(
            "FailedGetResourceMetric: {error}\nFailedComputeMetricsReplicas: invalid metrics (1 \
             invalid out of 1), first error is: failed to get cpu resource metric value: {error}"
        )
    );
    assert_eq!(
        world.conditions(),
        format!(
            "AbleToScale=True SucceededGetScale (the HPA controller was able to get the target's \
             current scale)\nScalingActive=False FailedGetResourceMetric (the HPA was unable to \
             compute the replica count: {error})"
        )
    );
    assert_eq!(status.current_metrics.unwrap().len(), 1);
    assert_eq!(world.replicas(), 3);
}

#[test]
fn a_metric_that_is_missing_forbids_scaling_down_only() {
    let mut metrics = cpu(50);
    let queue = json!({"type": "External", "external": {"metric": {"name": "queue"},
        "target": {"type": "Value", "value": "5"}}});
    metrics.as_array_mut().unwrap().push(queue);
    let mut world = three(metrics.clone(), [100, 100, 100]);
    world.settle();
    assert_eq!(world.replicas(), 3);
    assert!(
        world
            .conditions()
            .contains("ScalingActive=False FailedGetExternalMetric")
    );
    let mut world = three(metrics, [1000, 1000, 1000]);
    world.round();
    assert_eq!(world.replicas(), 6);
    assert!(
        world
            .conditions()
            .contains("ScalingActive=True ValidMetricFound")
    );
}

#[test]
fn requests_are_needed_for_a_share() {
    let mut world = World::new(1, json!({"maxReplicas": 4, "metrics": cpu(50)}));
    world = world.pod_of("web-0", &[("main", None, 900)]);
    world.round();
    let event = world.told();
    assert!(
        event.contains("missing request for cpu in container main of Pod web-0"),
        "{event}"
    );
}

#[test]
fn a_missing_pod_speaks_against_a_change() {
    // Two pods at 100 % with a goal of 50 %: with the third pod at 0 % the average is 66 %, which makes four replicas.
    let mut world = three(cpu(50), [1000, 1000, 0]);
    world.forget_sample("web-2");
    world.round();
    assert_eq!(world.replicas(), 4);
    // Two pods at 10 %: with the third pod at 100 % the average is 40 %, which makes three replicas.
    let mut world = three(cpu(50), [100, 100, 0]);
    world.forget_sample("web-2");
    world.settle();
    assert_eq!(world.replicas(), 3);
    // Missing pods never reverse the direction: one pod is at 60 %, two of three pods are missing.
    let mut world = three(cpu(50), [600, 0, 0]);
    world.forget_sample("web-1");
    world.forget_sample("web-2");
    world.settle();
    assert_eq!(world.replicas(), 3);
}

#[test]
fn what_a_pod_takes_to_start_does_not_count() {
    // The third pod is not ready: its usage counts as 0 while scaling up.
    let mut world = three(cpu(50), [1000, 1000, 9000]);
    world.pod_mut("web-2").ready = Some((false, at(-3990)));
    world.round();
    assert_eq!(world.replicas(), 4);
    // The pod has been ready for a shorter time than the sample's window, soon after its start.
    let mut world = three(cpu(50), [1000, 1000, 9000]);
    world.pod_mut("web-2").started = Some(at(-60));
    world.pod_mut("web-2").ready = Some((true, at(-20)));
    world.round();
    assert_eq!(world.replicas(), 4);
    // A short time of readiness counts if the pod started long ago.
    let mut world = three(cpu(50), [1000, 1000, 1000]);
    world.pod_mut("web-2").ready = Some((true, at(-20)));
    world.round();
    assert_eq!(world.replicas(), 6);
    // Pods that are being deleted or have ended do not count.
    let mut world = three(cpu(50), [1000, 1000, 9000]);
    world.pod_mut("web-2").is_inactive = true;
    world.round();
    assert_eq!(world.replicas(), 4);
    let mut world = three(cpu(50), [1000, 1000, 1000]);
    for pod in ["web-0", "web-1", "web-2"] {
        world.pod_mut(pod).pending = true;
    }
    world.round();
    let event = world.told();
    assert!(event.contains("did not receive metrics for targeted pods (pods might be unready)"));
}

#[test]
fn bounds_are_kept() {
    let mut world = three(cpu(10), [1000, 1000, 1000]);
    world.spec()["maxReplicas"] = json!(5);
    world.round();
    assert_eq!(world.replicas(), 5);
    assert!(world.conditions().contains(
        "ScalingLimited=True TooManyReplicas (the desired replica count is more than the maximum \
         replica count)"
    ));
    // One step at most doubles the replicas.
    let mut world = three(cpu(10), [1000, 1000, 1000]);
    world.spec()["maxReplicas"] = json!(50);
    world.round();
    assert_eq!(world.replicas(), 6);
    assert!(
        world
            .conditions()
            .contains("ScalingLimited=True ScaleUpLimit")
    );
    let mut world = three(cpu(50), [0, 0, 0]);
    world.spec()["minReplicas"] = json!(2);
    world.settle();
    assert_eq!(world.replicas(), 2);
    assert!(
        world
            .conditions()
            .contains("ScalingLimited=True TooFewReplicas")
    );
}

#[test]
fn a_size_out_of_bounds_needs_no_measurement() {
    let mut world = World::new(12, json!({"maxReplicas": 10, "metrics": cpu(50)}));
    world.round();
    assert_eq!(world.replicas(), 10);
    assert!(
        world
            .told()
            .ends_with("reason: Current number of replicas above Spec.MaxReplicas")
    );
    let mut world = World::new(
        1,
        json!({"minReplicas": 2, "maxReplicas": 10, "metrics": cpu(50)}),
    );
    world.round();
    assert_eq!(world.replicas(), 2);
    assert!(
        world
            .told()
            .ends_with("reason: Current number of replicas below Spec.MinReplicas")
    );
}

#[test]
fn a_target_at_zero_is_left_alone() {
    let mut world = World::new(
        0,
        json!({"minReplicas": 2, "maxReplicas": 10, "metrics": cpu(50)}),
    );
    world.round();
    assert_eq!((world.replicas(), world.told().as_str()), (0, ""));
    assert!(world.conditions().contains(
        "ScalingActive=False ScalingDisabled (scaling is disabled since the replica count of the \
         target is zero)"
    ));
}

#[test]
fn scaling_down_waits_five_minutes() {
    let mut world = three(cpu(50), [100, 100, 100]);
    world.round();
    assert_eq!(world.replicas(), 3);
    assert!(
        world
            .conditions()
            .contains("AbleToScale=True ScaleDownStabilized")
    );
    world.later(299);
    assert_eq!(world.replicas(), 3);
    world.later(2);
    assert_eq!(world.replicas(), 1);
    assert!(world.told().ends_with("reason: All metrics below target"));
}

#[test]
fn a_window_for_scaling_up_takes_the_lowest() {
    let mut world = three(cpu(50), [1000, 1000, 1000]);
    world.spec()["behavior"] = json!({
        "scaleUp": {"stabilizationWindowSeconds": 60, "policies":
            [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
        "scaleDown": {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}});
    world.round();
    assert_eq!(world.replicas(), 3);
    assert!(
        world
            .conditions()
            .contains("AbleToScale=True ScaleUpStabilized")
    );
    world.later(61);
    assert_eq!(world.replicas(), 6);
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
        let mut world = three(cpu(10), [1000, 1000, 1000]);
        world.spec()["behavior"] = json!({
            "scaleUp": {"policies": policies, "selectPolicy": select}, "scaleDown": {}});
        world.round();
        assert_eq!(world.replicas(), replicas, "{policies} {select}");
        // Within the period there is no further change.
        world.later(30);
        assert_eq!(world.replicas(), replicas, "{policies} {select}");
    }
    let mut world = three(cpu(50), [0, 0, 0]);
    world.spec()["behavior"] = json!({"scaleUp": {}, "scaleDown": {
        "stabilizationWindowSeconds": 0, "policies": [pods(1)]}});
    world.round();
    assert_eq!(world.replicas(), 2);
    assert!(
        world
            .conditions()
            .contains("ScalingLimited=True ScaleDownLimit")
    );
    world.later(30);
    assert_eq!(world.replicas(), 2);
    world.later(31);
    assert_eq!(world.replicas(), 1);
}

#[test]
fn a_tolerance_of_its_own() {
    let mut world = three(cpu(50), [520, 520, 520]);
    world.spec()["behavior"] = json!({"scaleUp": {"tolerance": "0.01",
        "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}, "scaleDown": {}});
    world.round();
    assert_eq!(world.replicas(), 4);
}

#[test]
fn a_target_that_cannot_be_read_or_written() {
    let mut world = three(cpu(50), [1000, 1000, 1000]);
    world.refusal = Some("Operation cannot be fulfilled".to_owned());
    world.round();
    assert_eq!(world.replicas(), 3);
    assert!(
        world
            .told()
            .starts_with("FailedRescale: New size: 6; reason: cpu resource")
    );
    assert!(world.conditions().contains(
        "AbleToScale=False FailedUpdateScale (the HPA controller was unable to update the target \
         scale: Operation cannot be fulfilled)"
    ));
    let before = world.observed.autoscaler.status.clone().unwrap();
    world.observed.scale = Err("deployments.apps \"web\" not found".to_owned());
    let status = world.round().status.unwrap();
    assert_eq!(
        world.told(),
        "FailedGetScale: deployments.apps \"web\" not found"
    );
    assert!(
        world
            .conditions()
            .contains("AbleToScale=False FailedGetScale")
    );
    assert_eq!(status.current_metrics, before.current_metrics);
}

#[test]
fn a_selector_chooses_pods_of_one_scaler() {
    let mut world = three(cpu(50), [1000, 1000, 1000]);
    world.observed.selecting = vec!["default/a".to_owned(), "default/b".to_owned()];
    world.round();
    assert_eq!(world.replicas(), 3);
    let text = "pods by selector app=web are controlled by multiple HPAs: [default/a default/b]";
    assert!(
        world
            .told()
            .starts_with(&format!("AmbiguousSelector: {text}"))
    );
    let mut world = three(cpu(50), [1000, 1000, 1000]);
    world.observed.scale.as_mut().unwrap().selector.clear();
    world.round();
    assert!(
        world
            .told()
            .starts_with("SelectorRequired: selector is required")
    );
    assert!(
        world
            .conditions()
            .contains("ScalingActive=False InvalidSelector")
    );
    let mut world = three(cpu(50), [1000, 1000, 1000]);
    world.observed.scale.as_mut().unwrap().selector = "a in (".to_owned();
    world.round();
    assert!(
        world
            .told()
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
        let mut world = World::new(current, json!({"minReplicas": least, "maxReplicas": most,
            "metrics": cpu(goal), "behavior": {
                "scaleUp": {"policies": [{"type": "Pods", "value": up, "periodSeconds": 15}]},
                "scaleDown": {"stabilizationWindowSeconds": window,
                    "policies": [{"type": "Percent", "value": 50, "periodSeconds": 15}]}}}));
        for (number, used) in used.iter().enumerate() {
            let name = format!("web-{number}");
            world = world.pod(&name, used.unwrap_or_default());
            if used.is_none() {
                world.forget_sample(&name);
            }
            if unready[number] {
                world.pod_mut(&name).ready = Some((false, at(0)));
            }
        }
        for _ in 0..60 {
            let before = world.replicas();
            world.later(16);
            let after = world.replicas();
            let inside = (least..=most).contains(&before);
            prop_assert!((least..=most).contains(&after));
            prop_assert!(!inside || after <= before + up);
            prop_assert!(!inside || after >= before / 2);
        }
    }
}
