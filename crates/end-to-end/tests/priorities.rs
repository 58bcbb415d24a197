//! Pods of higher priority preempt other pods, as users observe it with kubectl.

use end_to_end::{Instance, Kubectl, text, wait_for, wait_for_text};
use serde_json::{Value, json};

const CLASSES: &str = r#"
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: low}
value: 10
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1000
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: patient}
value: 1000
preemptionPolicy: Never
"#;

fn spec(class: &str, milli: i64) -> Value {
    let requests = json!({"requests": {"cpu": format!("{milli}m")}});
    json!({
        "priorityClassName": class,
        "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "hello", "image": "mainstay/hello", "resources": requests}],
    })
}

fn pod(name: &str, class: &str, milli: i64) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": spec(class, milli)})
    .to_string()
}

fn low(milli: i64) -> String {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "low"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "low"}}, "serviceName": "low",
        "podManagementPolicy": "Parallel",
        "template": {"metadata": {"labels": {"app": "low"}}, "spec": spec("low", milli)}}})
    .to_string()
}

/// The node's unrequested CPU, in thousandths.
fn free(kubectl: &Kubectl) -> i64 {
    let nodes = kubectl.json(&["get", "nodes"]);
    let all = text(&nodes, "/items/0/status/allocatable/cpu").to_owned();
    match all.strip_suffix('m') {
        Some(milli) => milli.parse().expect("a number"),
        None => 1000 * all.parse::<i64>().expect("a number"),
    }
}

fn scheduled(kubectl: &Kubectl, pod: &str) -> String {
    let pod = kubectl.pod(pod);
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let why = conditions.find(|condition| condition["type"] == "PodScheduled");
    why.map_or_else(String::new, |why| {
        why["message"].as_str().unwrap_or_default().to_owned()
    })
}

fn wait_for_message(kubectl: &Kubectl, pod: &str, expected: &str) {
    wait_for(&format!("{pod} to wait"), 60, || {
        let message = scheduled(kubectl, pod);
        if message == expected {
            Ok(())
        } else {
            Err(message)
        }
    });
}

#[test]
fn the_important_come_first() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.apply(CLASSES);
    let part = free(&kubectl) * 2 / 5;
    kubectl.apply(&low(part));
    kubectl.wait_ready("low", 2);

    // A pod that may not preempt others waits, and reports this.
    kubectl.apply(&pod("patient", "patient", part));
    let full = "0/1 nodes are available: 1 Insufficient cpu.";
    let waits = format!("{full} preemption: not eligible due to preemptionPolicy=Never.");
    wait_for_message(&kubectl, "patient", &waits);
    kubectl.ok(&["delete", "pod", "patient"]);

    kubectl.apply(&pod("important", "high", part));
    kubectl.wait_pods_ready(&["pod/important"]);
    let important = kubectl.pod("important");
    wait_for_text(full, 60, || kubectl.ok(&["describe", "pod", "important"]));
    let events = wait_for("the event of the victim", 60, || {
        let listed = kubectl.get_for_wait(&["events", "--field-selector=reason=Preempted"])?;
        let events = listed["items"].as_array().cloned().unwrap_or_default();
        if events.is_empty() {
            Err(listed)
        } else {
            Ok(events)
        }
    });
    assert_eq!(events.len(), 1, "one was enough: {events:#?}");
    let message = format!(
        "Preempted by pod {} on node {}",
        text(&important, "/metadata/uid"),
        text(&important, "/spec/nodeName")
    );
    assert_eq!(text(&events[0], "/message"), message);
    assert_eq!(important["status"]["nominatedNodeName"], Value::Null);

    // The set recreates its pod, which has to wait, and preempts no pod.
    let victim = text(&events[0], "/involvedObject/name").to_owned();
    let waits = format!(
        "{full} preemption: 0/1 nodes are available: 1 No preemption victims found for incoming \
         pod."
    );
    wait_for(&format!("{victim} to wait"), 60, || {
        let output = kubectl.run(&["get", "pod", &victim]);
        if output.code == 0 && scheduled(&kubectl, &victim) == waits {
            Ok(())
        } else {
            Err(output)
        }
    });
    for expected in [
        "scheduler_preemption_victims_sum 1",
        "scheduler_pending_pods{queue=\"unschedulable\"} 1",
        "workqueue_depth{name=\"statefulset\"} 0",
    ] {
        wait_for(expected, 60, || {
            let message = kubectl.ok(&["get", "--raw", "/metrics"]);
            let is_reported = message.lines().any(|line| line == expected);
            if is_reported { Ok(()) } else { Err(message) }
        });
    }
    kubectl.ok(&["delete", "pod", "important"]);
    kubectl.wait_ready("low", 2);
}
