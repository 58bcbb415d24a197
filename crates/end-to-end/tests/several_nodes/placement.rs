//! The nodes of pods, and pods that leave a node: scores, the rollback of a DaemonSet, a budget during a drain, and
//! taints with tolerations.

use std::collections::BTreeMap;

use end_to_end::{Kubectl, text, wait_for, wait_for_text};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::items;

const WORKLOADS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: bare}
spec: {selector: {app: bare}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: mainstay/hello}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: guarded}
spec:
  replicas: 3
  selector: {matchLabels: {app: guarded}}
  template:
    metadata: {labels: {app: guarded}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: mainstay/hello}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: guarded}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: guarded}}}
";

/// A pod with these labels and further fields. Its requests are too small to count in the score of free resources.
fn pod(name: &str, app: &str, more: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: hello, image: mainstay/hello, resources: {{requests: {{cpu: 1m, memory: 1Ki}}}}}}
{more}"
    )
}

fn of_app(kubectl: &Kubectl, app: &str) -> Vec<Value> {
    items(&kubectl.json(&["get", "pods", "-l", &format!("app={app}")]))
}

fn uids(kubectl: &Kubectl, app: &str) -> BTreeMap<String, String> {
    let pods = of_app(kubectl, app);
    let pair = |pod: &Value| {
        let node = text(pod, "/spec/nodeName").to_owned();
        (node, text(pod, "/metadata/uid").to_owned())
    };
    pods.iter().map(pair).collect()
}

/// Pods start and end on three nodes; `node` is drained and tainted.
pub fn pods_come_and_go(kubectl: &Kubectl, node: &str) {
    kubectl.apply(WORKLOADS);
    kubectl.ok(&["rollout", "status", "daemonset/agent", "--timeout=120s"]);
    kubectl.ok(&["rollout", "status", "deployment/guarded", "--timeout=120s"]);
    pods_of_a_service_are_spread(kubectl);
    a_daemon_set_is_rolled_back(kubectl);
    a_drain_keeps_to_the_budget(kubectl, node);
    a_taint_drives_pods_away(kubectl, node);
    let all = "deployment/guarded,daemonset/agent,service/bare,pdb/guarded";
    for resource in all.split(',') {
        kubectl.ok(&["delete", resource]);
    }
    kubectl.ok(&["delete", "pods", "-l", "app in (bare,driven)"]);
}

/// <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/#internal-default-constraints>
fn pods_of_a_service_are_spread(kubectl: &Kubectl) {
    let pods: String = (0..6)
        .map(|index| pod(&format!("bare-{index}"), "bare", ""))
        .collect();
    kubectl.apply(&pods);
    kubectl.ok(&[
        "wait",
        "pods",
        "-l",
        "app=bare",
        "--for=condition=Ready",
        "--timeout=120s",
    ]);
    let mut counts = BTreeMap::<String, usize>::new();
    for pod in of_app(kubectl, "bare") {
        let node = text(&pod, "/spec/nodeName").to_owned();
        *counts.entry(node).or_default() += 1;
    }
    let counts: Vec<usize> = counts.into_values().collect();
    assert_eq!(counts, [2, 2, 2]);
}

/// Pods that an update has not reached do not change when the update is undone.
fn a_daemon_set_is_rolled_back(kubectl: &Kubectl) {
    let before = uids(kubectl, "agent");
    assert_eq!(before.len(), 3, "one on each node: {before:?}");
    let image = ["set", "image", "daemonset/agent", "hello=mainstay/absent"];
    kubectl.ok(&image);
    let stuck = ["get", "pods", "-l", "app=agent", "--no-headers"];
    wait_for_text("0/1", 120, || kubectl.ok(&stuck));
    kubectl.ok(&["rollout", "undo", "daemonset/agent"]);
    kubectl.ok(&["rollout", "status", "daemonset/agent", "--timeout=120s"]);
    let after = uids(kubectl, "agent");
    let unchanged = before
        .iter()
        .filter(|(node, uid)| after.get(*node) == Some(*uid));
    assert_eq!(
        (after.len(), unchanged.count()),
        (3, 2),
        "{before:?} {after:?}"
    );
}

/// kubectl.md 3.6
fn a_drain_keeps_to_the_budget(kubectl: &Kubectl, node: &str) {
    let drain = |timeout: &str| {
        let timeout = format!("--timeout={timeout}");
        let only = ["--pod-selector", "app=guarded"];
        kubectl.run(&["drain", node, only[0], only[1], &timeout])
    };
    let before = uids(kubectl, "guarded");
    let refused = drain("1s");
    let why = "would violate the pod's disruption budget";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    assert_eq!(uids(kubectl, "guarded"), before);
    let allow = r#"{"spec":{"maxUnavailable":1}}"#;
    kubectl.ok(&["patch", "pdb", "guarded", "--type=merge", "-p", allow]);
    wait_for("a disruption to be allowed", 60, || {
        let budget = kubectl.get_for_wait(&["pdb", "guarded"])?;
        let allowed = budget["status"]["disruptionsAllowed"] == 1;
        if allowed { Ok(()) } else { Err(budget) }
    });
    drain("120s").expect_success("drain");
    kubectl.ok(&["rollout", "status", "deployment/guarded", "--timeout=120s"]);
    let after = uids(kubectl, "guarded");
    assert!(!after.contains_key(node), "{after:?}");
    kubectl.ok(&["uncordon", node]);
}

/// <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions>
fn a_taint_drives_pods_away(kubectl: &Kubectl, node: &str) {
    let there = format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n");
    let tolerates = |seconds: &str| {
        let toleration = format!("{{key: test, operator: Exists, effect: NoExecute{seconds}}}");
        format!("{there}  tolerations: [{toleration}]\n")
    };
    let pods = [
        pod("goes", "driven", &there),
        pod("later", "driven", &tolerates(", tolerationSeconds: 2")),
        pod("stays", "driven", &tolerates("")),
    ];
    kubectl.apply(&pods.concat());
    kubectl.wait_pods_ready(&["pod/goes", "pod/later", "pod/stays"]);
    // A finalizer keeps the pods, and with them the times of their deletions.
    let finalizers = |value: &str| {
        let patch = format!(r#"{{"metadata":{{"finalizers":{value}}}}}"#);
        for name in ["goes", "later"] {
            kubectl.ok(&["patch", "pod", name, "--type=merge", "-p", &patch]);
        }
    };
    finalizers(r#"["example.com/kept"]"#);
    let tainted = Timestamp::now();
    kubectl.ok(&["taint", "nodes", node, "test=x:NoExecute"]);
    let [goes, later] = wait_for("both pods to be deleted", 120, || {
        let pods = of_app(kubectl, "driven");
        let deleted = |name: &str| {
            let pod = pods
                .iter()
                .find(|pod| text(pod, "/metadata/name") == name)?;
            // The time at which the grace period ends. The node ends it early when the containers have exited.
            let deletion = pod.pointer("/metadata/deletionTimestamp")?.as_str()?;
            let grace = pod.pointer("/metadata/deletionGracePeriodSeconds")?;
            let grace = SignedDuration::from_secs(grace.as_i64()?);
            Some(deletion.parse::<Timestamp>().ok()? - grace)
        };
        match (deleted("goes"), deleted("later"), deleted("stays")) {
            (Some(goes), Some(later), None) => Ok([goes, later]),
            times => Err(times),
        }
    });
    assert!(goes <= later, "{goes} {later}");
    // The times of deletions are in whole seconds.
    let tolerated = SignedDuration::from_secs(1);
    assert!(later > tainted + tolerated, "{tainted} {later}");
    finalizers("null");
    wait_for("both pods to go", 120, || {
        let pods = of_app(kubectl, "driven");
        let names: Vec<&str> = pods.iter().map(|pod| text(pod, "/metadata/name")).collect();
        if names == ["stays"] {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    });
    kubectl.ok(&["taint", "nodes", node, "test-"]);
    let message = "TaintManagerEviction";
    let events = [
        "get",
        "events",
        "--field-selector",
        "reason=TaintManagerEviction",
    ];
    wait_for_text(message, 60, || kubectl.ok(&events));
}
