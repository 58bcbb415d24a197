//! A HorizontalPodAutoscaler that follows the real load of real containers (kubectl.md 3.6, 6.1).

use end_to_end::{text, wait_for, wait_for_or_report, with_images};

/// Each pod uses all that its limit allows, until a file stops it.
const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: load}
spec:
  serviceName: load
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: load}}
  template:
    metadata: {labels: {app: load}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: busybox:1
        command: [sh, -c, 'while true; do if test -e /tmp/quiet; then sleep 1; fi; done']
        resources: {requests: {cpu: 50m}, limits: {cpu: 200m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: load}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: load}
  maxReplicas: 2
  metrics:
  - type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 0}
";

#[test]
fn replicas_follow_the_load() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(SET);
    let wait_set = |what: &str, field: &str, replicas: u64| {
        let probe = || {
            let set = kubectl.get_for_wait(&["statefulset", "load"])?;
            if set.pointer(field) == Some(&replicas.into()) {
                Ok(())
            } else {
                Err(set)
            }
        };
        wait_for_or_report(what, 180, probe, || {
            kubectl.ok(&["describe", "hpa", "load"])
        });
    };
    wait_set("two replicas under load", "/status/readyReplicas", 2);
    let events = kubectl.ok(&["get", "events", "--field-selector=reason=SuccessfulRescale"]);
    let reason = "cpu resource utilization (percentage of request) above target";
    assert!(events.contains(reason), "{events}");
    wait_for("the measured usage to be reported", 60, || {
        let row = kubectl.ok(&["get", "hpa", "load", "--no-headers"]);
        let words: Vec<&str> = row.split_whitespace().collect();
        match words[..] {
            ["load", "StatefulSet/load", "cpu:", share, "1", "2", "2", _]
                if share.ends_with("%/80%") =>
            {
                Ok(())
            }
            _ => Err(row),
        }
    });
    for pod in ["load-0", "load-1"] {
        kubectl.ok(&["exec", pod, "--", "touch", "/tmp/quiet"]);
    }
    wait_set("one replica without load", "/spec/replicas", 1);
    let scaler = kubectl.json(&["get", "hpa", "load"]);
    assert_eq!(text(&scaler, "/status/conditions/0/type"), "AbleToScale");
    assert_eq!(text(&scaler, "/status/conditions/1/status"), "True");
}
