//! Rollouts: a canary by partition and its rollback, `OnDelete`, without a block, history and undo.

use end_to_end::stateful_set::{version, web};
use end_to_end::{Instance, Kubectl, wait_for};
use serde_json::json;

#[test]
fn rollouts_go_forth_and_back() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    canary(&kubectl.in_new_namespace("canary"));
    canary_rolled_back(&kubectl.in_new_namespace("back"));
    by_hand(&kubectl.in_new_namespace("by-hand"));
    without_a_block(&kubectl.in_new_namespace("bare"));
    history_and_undo(&kubectl.in_new_namespace("history"));
    several_at_once(&kubectl.in_new_namespace("several"));
}

fn partition(from: u64) -> serde_json::Value {
    json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": from}}}})
}

fn status(kubectl: &Kubectl, field: &str) -> String {
    let path = format!("jsonpath={{.status.{field}}}");
    kubectl.ok(&["get", "statefulset", "web", "-o", &path])
}

fn rollout_status(kubectl: &Kubectl) -> String {
    kubectl.ok(&["rollout", "status", "statefulset/web", "--timeout=300s"])
}

/// statefulset.md 5.4, 5.12, 5.18, T10, T11, T12.
fn canary(kubectl: &Kubectl) {
    kubectl.apply(&web(3).to_string());
    kubectl.wait_ready("web", 3);
    kubectl.patch_web(&partition(2));
    kubectl.patch_web(&version("b"));
    let message = rollout_status(kubectl);
    let last_line = "partitioned roll out complete: 1 new pods have been updated...";
    assert_eq!(message.lines().last(), Some(last_line), "{message}");
    kubectl.wait_versions("0:a 1:a 2:b");
    assert_ne!(
        status(kubectl, "currentRevision"),
        status(kubectl, "updateRevision")
    );
    assert_eq!(status(kubectl, "updatedReplicas"), "1");
    assert_eq!(status(kubectl, "currentReplicas"), "2");
    kubectl.wait_condition("Progressing", "True PartitionComplete");

    let label = |pod: &str| {
        let path = "jsonpath={.metadata.labels.controller-revision-hash}";
        kubectl.ok(&["get", "pod", pod, "-o", path])
    };
    let old = label("web-0");
    kubectl.ok(&["delete", "pod", "web-0"]);
    kubectl.wait_versions("0:a 1:a 2:b");
    assert_eq!(
        label("web-0"),
        old,
        "a pod below the partition returns as it was"
    );

    kubectl.patch_web(&partition(0));
    let message = rollout_status(kubectl);
    assert!(
        message.ends_with("3 new pods have been updated...\n"),
        "{message}"
    );
    kubectl.wait_versions("0:b 1:b 2:b");
    let created = |pod: &str| {
        let path = "jsonpath={.metadata.creationTimestamp}";
        kubectl.ok(&["get", "pod", pod, "-o", path])
    };
    assert!(created("web-1") <= created("web-0"), "from the top");
    assert_eq!(
        status(kubectl, "currentRevision"),
        status(kubectl, "updateRevision")
    );
}

/// statefulset.md 5.5, T13: with a raised partition a lost pod is recreated at its former revision; a rollback of the
/// template removes the canary.
fn canary_rolled_back(kubectl: &Kubectl) {
    kubectl.apply(&web(2).to_string());
    kubectl.wait_ready("web", 2);
    kubectl.patch_web(&partition(1));
    kubectl.patch_web(&version("b"));
    kubectl.wait_versions("0:a 1:b");
    let first = kubectl.pod_uid("web-0");
    kubectl.patch_web(&partition(2));
    kubectl.ok(&["delete", "pod", "web-1"]);
    kubectl.wait_versions("0:a 1:a");
    kubectl.patch_web(&partition(1));
    kubectl.wait_versions("0:a 1:b");
    kubectl.ok(&["rollout", "undo", "statefulset/web"]);
    kubectl.wait_versions("0:a 1:a");
    kubectl.patch_web(&partition(0));
    rollout_status(kubectl);
    assert_eq!(kubectl.pod_uid("web-0"), first, "it was never touched");
}

/// statefulset.md 5.1, T14: only pods that a user deletes are replaced.
fn by_hand(kubectl: &Kubectl) {
    let mut set = web(2);
    set["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    kubectl.apply(&set.to_string());
    kubectl.wait_ready("web", 2);
    let before = status(kubectl, "currentRevision");
    kubectl.patch_web(&version("b"));
    kubectl.wait_condition("Progressing", "True WaitingForDeletion 2 of 2 pods");
    kubectl.ok(&["delete", "pod", "web-1"]);
    kubectl.wait_versions("0:a 1:b");
    kubectl.ok(&["delete", "pod", "web-0"]);
    kubectl.wait_versions("0:b 1:b");
    assert_eq!(status(kubectl, "currentRevision"), before);
    let error = kubectl.fails(&["rollout", "status", "statefulset/web"]);
    let text = "rollout status is only available for RollingUpdate strategy type";
    assert!(error.contains(text), "{error}");
}

/// statefulset.md 5.10, 5.18, T15.
fn without_a_block(kubectl: &Kubectl) {
    let mut set = web(2);
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
    kubectl.apply(&set.to_string());
    kubectl.wait_ready("web", 2);
    let strategy = ["get", "sts", "web", "-o", "jsonpath={.spec.updateStrategy}"];
    assert_eq!(kubectl.ok(&strategy), r#"{"type":"RollingUpdate"}"#);
    kubectl.patch_web(&version("b"));
    let message = rollout_status(kubectl);
    let last_line = format!(
        "statefulset rolling update complete 2 pods at revision {}...",
        status(kubectl, "updateRevision")
    );
    assert_eq!(
        message.lines().last(),
        Some(last_line.as_str()),
        "{message}"
    );
    kubectl.wait_versions("0:b 1:b");
}

/// statefulset.md 4.6, 5.22, 5.24, T17.
fn history_and_undo(kubectl: &Kubectl) {
    kubectl.apply(&web(1).to_string());
    kubectl.wait_versions("0:a");
    let cause = "kubernetes.io/change-cause=the second";
    kubectl.ok(&["annotate", "statefulset", "web", cause]);
    kubectl.patch_web(&version("b"));
    kubectl.wait_versions("0:b");
    let rows = || -> Vec<String> {
        let history = kubectl.ok(&["rollout", "history", "statefulset/web"]);
        let rows = history.lines().skip(2).filter(|row| !row.is_empty());
        rows.map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(rows(), ["1 <none>", "2 the second"]);
    let first = kubectl.ok(&["rollout", "history", "statefulset/web", "--revision=1"]);
    assert!(
        first.contains("VERSION:") && first.contains("a\n"),
        "{first}"
    );

    let undo = ["rollout", "undo", "statefulset/web", "--to-revision=1"];
    assert_eq!(kubectl.ok(&undo), "statefulset.apps/web rolled back\n");
    kubectl.wait_versions("0:a");
    assert_eq!(
        rows(),
        ["2 the second", "3 <none>"],
        "the first has become the third"
    );
    let undo = ["rollout", "undo", "statefulset/web", "--to-revision=3"];
    let skipped = kubectl.ok(&undo);
    assert!(
        skipped.contains("skipped rollback (current template already matches"),
        "{skipped}"
    );

    let error = kubectl.fails(&["rollout", "pause", "statefulset/web"]);
    assert!(error.contains("pausing is not supported"), "{error}");
    kubectl.ok(&["rollout", "restart", "statefulset/web"]);
    rollout_status(kubectl);
    assert_eq!(rows().len(), 3, "a restart is a revision");
}

/// statefulset.md 3.47: the allowed and the actual number of unavailable pods, for dashboards.
fn figures(kubectl: &Kubectl) {
    let labels = "{pod_management_policy=\"Parallel\",statefulset_name=\"web\",\
                  statefulset_namespace=\"several\"}";
    for line in [
        format!("statefulset_controller_statefulset_max_unavailable{labels} 2"),
        format!("statefulset_controller_statefulset_unavailable_replicas{labels} 0"),
    ] {
        wait_for(&line, 30, || {
            let metrics = kubectl.ok(&["get", "--raw", "/metrics"]);
            let here = metrics.lines().any(|other| other == line);
            if here { Ok(()) } else { Err(metrics) }
        });
    }
}

/// statefulset.md 3.42, 3.45, T44: unavailable pods are replaced first, and two pods at a time are unavailable.
fn several_at_once(kubectl: &Kubectl) {
    let mut set = web(4);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    set["spec"]["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": "50%"}});
    kubectl.apply(&set.to_string());
    kubectl.wait_ready("web", 4);
    kubectl.patch_web(&version("b"));
    rollout_status(kubectl);
    kubectl.wait_versions("0:b 1:b 2:b 3:b");
    let deleted = kubectl.ok(&[
        "get",
        "events",
        "-o",
        "jsonpath={range .items[?(@.reason==\"SuccessfulDelete\")]}{.message}{\"\\n\"}{end}",
    ]);
    figures(kubectl);
    let first: Vec<&str> = deleted.lines().take(2).collect();
    let both = ["web-3", "web-2"];
    let mentions = |pod: &&str| first.iter().any(|line| line.contains(*pod));
    assert!(both.iter().all(mentions), "{deleted}");
}
