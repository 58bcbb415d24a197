//! Metrics of other APIs: custom and external metrics.

use controller_planners::horizontal_pod_autoscaler::{MetricSamples, pod_values, total_value};
use json_tree::{Value, json};

use super::cluster::Cluster;

/// One metric of another API, with its samples.
fn measured_by(metric: Value, samples: MetricSamples) -> Cluster {
    let spec = json!({"maxReplicas": 10, "metrics": [metric]});
    let mut cluster = Cluster::new(3, spec);
    for number in 0..3 {
        cluster = cluster.pod(&format!("web-{number}"), 100);
    }
    cluster.observed.measured = vec![Some(Ok(samples))];
    cluster
}

#[test]
fn values_of_other_apis_demand_replicas() {
    let metric = |kind: &str, more: Value, target: Value| {
        let mut source = more;
        source["metric"] = json!({"name": "queue"});
        source["target"] = target;
        json!({"type": kind, kind.to_lowercase(): source})
    };
    let object = || {
        let route =
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "main"});
        json!({ "describedObject": route })
    };
    let whole = json!({"type": "Value", "value": "10"});
    let each = json!({"type": "AverageValue", "averageValue": "10"});
    let value = |amount: i64| MetricSamples::Value(amount * 1000);
    let cases = [
        // Twice the value for three ready pods.
        (metric("Object", object(), whole.clone()), value(20), 6),
        (metric("External", json!({}), whole.clone()), value(20), 6),
        // Within the tolerance.
        (metric("External", json!({}), whole), value(11), 3),
        (metric("Object", object(), each.clone()), value(41), 5),
        (metric("External", json!({}), each.clone()), value(32), 3),
        (metric("External", json!({}), each.clone()), value(55), 6),
    ];
    for (metric, samples, expected) in cases {
        let mut cluster = measured_by(metric.clone(), samples);
        cluster.settle();
        assert_eq!(cluster.replicas(), expected, "{metric}");
        assert!(
            cluster.conditions().contains("ScalingActive=True"),
            "{metric}"
        );
    }
    let at = "2027-01-15T08:00:00Z";
    let item = |pod: &str, value: &str| json!({"describedObject": {"kind": "Pod", "name": pod}, "timestamp": at, "value": value});
    let list =
        json!({"items": [item("web-0", "20"), item("web-1", "15"), item("web-2", "25"), {}]});
    let samples = MetricSamples::Pods(pod_values(&list));
    let mut cluster = measured_by(metric("Pods", json!({}), each), samples);
    cluster.settle();
    assert_eq!(cluster.replicas(), 6);
    assert_eq!(total_value(&list), None);
    assert_eq!(
        total_value(&json!({"items": [{"value": "1500m"}, {"value": "2"}]})),
        Some(3500)
    );
    assert_eq!(total_value(&json!({"items": []})), None);
}

#[test]
fn an_error_of_another_api_is_named() {
    let queue = json!({"type": "External", "external": {"metric": {"name": "queue"},
        "target": {"type": "Value", "value": "5"}}});
    let mut cluster = measured_by(queue, MetricSamples::Value(0));
    cluster.observed.measured = vec![Some(Err("unable to fetch metrics: busy".to_owned()))];
    cluster.round();
    assert_eq!(cluster.replicas(), 3);
    let conditions = cluster.conditions();
    assert!(
        conditions.contains("ScalingActive=False FailedGetExternalMetric")
            && conditions.contains(
                "unable to get external metric default/queue: unable to fetch metrics: busy"
            ),
        "{conditions}"
    );
}
