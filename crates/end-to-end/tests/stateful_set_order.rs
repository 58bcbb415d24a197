//! Order: creation, scaling, time before the next pod, all pods at once, other ordinals, adoption.

use end_to_end::stateful_set::{version, web};
use end_to_end::{Instance, Kubectl, text, wait_for};
use serde_json::{Value, json};

#[test]
fn sets_come_and_go_in_order() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    one_after_the_other(&kubectl.in_new_namespace("ordered"));
    min_ready_seconds_between_pods(&kubectl.in_new_namespace("min-ready"));
    all_at_once(&kubectl.in_new_namespace("parallel"));
    other_ordinals(&kubectl.in_new_namespace("start"));
    orphaned_and_adopted(&kubectl.in_new_namespace("orphans"));
    a_foreign_pod_with_the_name(&kubectl.in_new_namespace("taken"));
}

fn created(kubectl: &Kubectl, pod: &str) -> String {
    text(&kubectl.pod(pod), "/metadata/creationTimestamp").to_owned()
}

fn ready_since(pod: &Value) -> String {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let ready = conditions.find(|condition| condition["type"] == "Ready");
    text(ready.expect("a Ready condition"), "/lastTransitionTime").to_owned()
}

/// statefulset.md 3.11, 3.13, T1, T3, T5; seeds.md C12, C13.
fn one_after_the_other(kubectl: &Kubectl) {
    kubectl.apply(&web(3).to_string());
    kubectl.wait_ready("web", 3);
    for (before, after) in [("web-0", "web-1"), ("web-1", "web-2")] {
        let ready = ready_since(&kubectl.pod(before));
        assert!(
            ready <= created(kubectl, after),
            "{after} waits for {before}"
        );
    }
    let row = kubectl.ok(&["get", "statefulset", "web"]);
    assert!(
        row.lines().nth(1).is_some_and(|row| row.contains("3/3")),
        "{row}"
    );

    let neighbours = (kubectl.pod_uid("web-0"), kubectl.pod_uid("web-2"));
    kubectl.ok(&["delete", "pod", "web-1"]);
    kubectl.wait_ready("web", 3);
    assert_eq!(
        (kubectl.pod_uid("web-0"), kubectl.pod_uid("web-2")),
        neighbours
    );

    assert_eq!(
        kubectl.ok(&["scale", "statefulset", "web", "--replicas=4"]),
        "statefulset.apps/web scaled\n"
    );
    kubectl.wait_ready("web", 4);
    kubectl.ok(&["patch", "sts", "web", "-p", "{\"spec\":{\"replicas\":1}}"]);
    kubectl.wait_ready("web", 1);
    let events = kubectl.ok(&[
        "get",
        "events",
        "-o",
        "jsonpath={range .items[?(@.reason==\"SuccessfulDelete\")]}{.message}{\"\\n\"}{end}",
    ]);
    let order: Vec<&str> = events.lines().filter(|line| !line.is_empty()).collect();
    let message = |pod: &str| format!("delete Pod {pod} in StatefulSet web successful");
    assert_eq!(
        order,
        [message("web-3"), message("web-2"), message("web-1")]
    );
}

/// statefulset.md 3.35, T2: time passes between two pods.
fn min_ready_seconds_between_pods(kubectl: &Kubectl) {
    let mut set = web(2);
    set["spec"]["minReadySeconds"] = json!(3);
    kubectl.apply(&set.to_string());
    let status = wait_for("a pod that is Ready and not yet available", 60, || {
        let status = kubectl.get_for_wait(&["sts", "web"])?["status"].clone();
        let is = |field: &str, n: u64| status[field].as_u64().unwrap_or(0) == n;
        if is("readyReplicas", 1) && is("availableReplicas", 0) {
            Ok(status)
        } else {
            Err(status)
        }
    });
    assert_eq!(status["replicas"], 1, "{status}");
    kubectl.wait_ready("web", 2);
    let ready: Vec<String> = ["web-0", "web-1"]
        .iter()
        .map(|pod| ready_since(&kubectl.pod(pod)))
        .collect();
    let seconds = |time: &str| -> i64 {
        let clock: Vec<i64> = time[11..19]
            .split(':')
            .map(|n| n.parse().expect("a number"))
            .collect();
        clock[0] * 3600 + clock[1] * 60 + clock[2]
    };
    let apart = (seconds(&ready[1]) - seconds(&ready[0])).rem_euclid(86400);
    assert!(apart >= 3, "{ready:?}");
}

/// statefulset.md 3.20, 3.21, T7: no pod waits for another.
fn all_at_once(kubectl: &Kubectl) {
    let mut set = web(4);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    // No pod ever becomes Ready.
    set["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] =
        json!("/missing");
    kubectl.apply(&set.to_string());
    kubectl.wait_versions("0:a! 1:a! 2:a! 3:a!");
    kubectl.ok(&["scale", "sts", "web", "--replicas=0"]);
    kubectl.wait_versions("");
}

/// statefulset.md 1.3, T36: the new ordinals are created first, then the old ones are deleted from the highest.
fn other_ordinals(kubectl: &Kubectl) {
    let mut set = web(2);
    set["spec"]["ordinals"] = json!({"start": 5});
    kubectl.apply(&set.to_string());
    kubectl.wait_versions("5:a 6:a");
    kubectl.patch_web(&json!({"spec": {"ordinals": {"start": 0}}}));
    kubectl.wait_versions("0:a 1:a");
    let index = kubectl.ok(&[
        "get",
        "pod",
        "web-1",
        "-o",
        "jsonpath={.metadata.labels.apps\\.kubernetes\\.io/pod-index}",
    ]);
    assert_eq!(index, "1");
}

/// statefulset.md 8.6, T32: the pods stay, and the next set adopts them; surplus pods are deleted.
fn orphaned_and_adopted(kubectl: &Kubectl) {
    kubectl.apply(&web(3).to_string());
    kubectl.wait_ready("web", 3);
    let uids = (kubectl.pod_uid("web-0"), kubectl.pod_uid("web-1"));
    kubectl.ok(&["delete", "statefulset", "web", "--cascade=orphan"]);
    kubectl.ok(&["delete", "pod", "web-0"]);
    kubectl.wait_versions("1:a 2:a");
    let owners = [
        "get",
        "pod",
        "web-1",
        "-o",
        "jsonpath={.metadata.ownerReferences}",
    ];
    assert_eq!(kubectl.ok(&owners), "");
    kubectl.apply(&web(2).to_string());
    kubectl.wait_versions("0:a 1:a");
    assert_eq!(kubectl.pod_uid("web-1"), uids.1);
    assert_ne!(kubectl.pod_uid("web-0"), uids.0);
    let described = kubectl.ok(&["describe", "pod", "web-1"]);
    assert!(
        described.contains("Controlled By:  StatefulSet/web"),
        "{described}"
    );
    let history = kubectl.ok(&["rollout", "history", "statefulset/web"]);
    assert!(
        history.contains("1         <none>") && !history.contains("2 "),
        "{history}"
    );
}

/// statefulset.md 8.4, T34: a foreign pod has the name; the set reports it and waits.
fn a_foreign_pod_with_the_name(kubectl: &Kubectl) {
    kubectl.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web-1, labels: {app: other}}\nspec: \
         {terminationGracePeriodSeconds: 0, containers: [{name: c, image: mainstay/hello}]}",
    );
    kubectl.apply(&web(2).to_string());
    let message = "True NameTaken a pod that is not of the set has the name web-1";
    kubectl.wait_condition("Stalled", message);
    let described = kubectl.ok(&["describe", "statefulset", "web"]);
    assert!(described.contains("Warning  NameTaken"), "{described}");
    kubectl.ok(&["delete", "pod", "web-1"]);
    kubectl.wait_versions("0:a 1:a");
    kubectl.wait_condition("Stalled", "False NotStalled");
    kubectl.patch_web(&version("b"));
    kubectl.wait_versions("0:b 1:b");
}
