//! Two sets that share a guard (rollouts.md R28).

use end_to_end::program::mainstay;
use end_to_end::{Instance, wait_for_text};
use serde_json::{Value, json};

/// A set whose pods are ready while they have a file.
fn set(name: &str, replicas: u64) -> Value {
    let command = "touch /tmp/ready; exec sleep infinity";
    let probe = json!({"exec": {"command": ["test", "-f", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "serviceName": "", "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "mainstay/debug",
                "command": ["sh", "-c", command], "readinessProbe": probe}]}}}})
}

/// An update of one set and an eviction in it wait for a pod of the other, and go on when it is healthy.
#[test]
fn sets_of_a_group_share_their_healthy_pods() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl().in_new_namespace("shared");
    let policy = json!({"apiVersion": "apps.mainstay.dev/v1alpha1", "kind": "StatefulSetPolicy",
        "metadata": {"name": "all"},
        "spec": {"selector": {}, "guard": {"minHealthy": "Quorum", "group": "members"}}});
    for object in [policy, set("db", 2), set("voter", 1)] {
        kubectl.apply(&object.to_string());
    }
    kubectl.wait_ready("db", 2);
    kubectl.wait_ready("voter", 1);
    kubectl.ok(&["exec", "voter-0", "--", "rm", "/tmp/ready"]);
    kubectl.ok(&[
        "wait",
        "--for=condition=Ready=false",
        "pod/voter-0",
        "--timeout=60s",
    ]);

    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "db-0"}});
    let path = "/api/v1/namespaces/shared/pods/db-0/eviction";
    let refused =
        kubectl.run_with_input(&["create", "--raw", path, "-f", "-"], &eviction.to_string());
    let held =
        "2 of 3 pods of group members must stay healthy, and 2 are; StatefulSet voter has 0 of 1";
    assert!(refused.stderr.contains("TooManyRequests"), "{refused:#?}");
    assert!(refused.stderr.contains(held), "{refused:#?}");

    kubectl.ok(&["set", "env", "sts/db", "EDITION=2"]);
    let message = "jsonpath={.status.conditions[?(@.type==\"Progressing\")].message}";
    wait_for_text(held, 30, || {
        kubectl.ok(&["get", "sts", "db", "-o", message])
    });
    let data = instance.data().display().to_string();
    let why = mainstay(&["why", "sts/db", "-n", "shared", "--data-dir", &data]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(
        why.contains("\u{2190} pod/voter-0: readiness probe of container main does not pass"),
        "{why}"
    );

    kubectl.ok(&["exec", "voter-0", "--", "touch", "/tmp/ready"]);
    kubectl.ok(&["rollout", "status", "sts/db", "--timeout=60s"]);
}
