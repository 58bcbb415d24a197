//! The behaviour of mainstay where Kubernetes stays stuck, and the annotations that restore it.

use end_to_end::stateful_set::{version, web};
use end_to_end::{Kubectl, wait_for, with_images};
use serde_json::{Value, json};

#[test]
fn each_option_brings_back_what_kubernetes_does() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    unhealthy_surplus_goes(&kubectl.in_new_namespace("down"));
    unhealthy_surplus_waits(&kubectl.in_new_namespace("down-waiting"));
    down_anyway(&kubectl.in_new_namespace("down-anyway"));
    short_history(&kubectl.in_new_namespace("short-history"));
    unsupported_values_are_refused(&kubectl.in_new_namespace("unknown"));
}

/// A set whose pods are Ready as long as they have a file.
fn with_file(replicas: u64) -> Value {
    let mut set = web(replicas);
    let container = &mut set["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!("busybox:1");
    let script = "touch /tmp/ready; trap 'exit 0' TERM; sleep 1000000 & wait";
    container["command"] = json!(["sh", "-c", script]);
    container["readinessProbe"] = json!({"periodSeconds": 1, "failureThreshold": 1,
        "exec": {"command": ["test", "-f", "/tmp/ready"]}});
    set
}

/// Three pods; the two highest are not Ready.
fn upper_two_unhealthy(kubectl: &Kubectl, annotations: Value) {
    let mut set = with_file(3);
    set["metadata"]["annotations"] = annotations;
    kubectl.apply(&set.to_string());
    kubectl.wait_ready("web", 3);
    for pod in ["web-1", "web-2"] {
        kubectl.ok(&["exec", pod, "--", "rm", "/tmp/ready"]);
    }
    kubectl.wait_versions("0:a 1:a! 2:a!");
}

/// statefulset.md 3.14, T6: surplus pods are deleted from the highest, healthy or not.
fn unhealthy_surplus_goes(kubectl: &Kubectl) {
    upper_two_unhealthy(kubectl, json!({}));
    kubectl.ok(&["scale", "statefulset", "web", "--replicas=1"]);
    kubectl.wait_versions("0:a");
}

/// statefulset.md 3.14: each pod waits for the other, until a user deletes one.
fn unhealthy_surplus_waits(kubectl: &Kubectl) {
    upper_two_unhealthy(kubectl, json!({"mainstay.dev/scale-down": "WaitForLowest"}));
    kubectl.ok(&["scale", "statefulset", "web", "--replicas=1"]);
    wait_until_observed(kubectl);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(kubectl.versions(), "0:a 1:a! 2:a!");
    kubectl.ok(&["delete", "pod", "web-2"]);
    kubectl.wait_versions("0:a");
}

/// statefulset.md 3.43, 3.44, 3.45: with the option an unavailable outdated pod uses up the budget; without it the pod
/// is deleted at once.
fn down_anyway(kubectl: &Kubectl) {
    let mut set = web(1);
    set["metadata"]["annotations"] = json!({
        "mainstay.dev/max-unavailable": "AsReleased",
        "mainstay.dev/stuck-rollout": "Wait",
    });
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    set["spec"]["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": 1}});
    let probe = &mut set["spec"]["template"]["spec"]["containers"][0]["readinessProbe"];
    probe["httpGet"]["path"] = json!("/missing");
    kubectl.apply(&set.to_string());
    kubectl.wait_versions("0:a!");
    kubectl.patch_web(&version("b"));
    wait_until_observed(kubectl);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(kubectl.versions(), "0:a!");
    kubectl.ok(&[
        "annotate",
        "statefulset",
        "web",
        "mainstay.dev/max-unavailable-",
    ]);
    kubectl.wait_versions("0:b!");
}

/// statefulset.md 4.11: the number of old revisions is limited by the set.
fn short_history(kubectl: &Kubectl) {
    let mut set = web(1);
    set["spec"]["revisionHistoryLimit"] = json!(1);
    kubectl.apply(&set.to_string());
    for next in ["b", "c", "d"] {
        kubectl.wait_ready("web", 1);
        kubectl.patch_web(&version(next));
        kubectl.wait_versions(&format!("0:{next}"));
    }
    wait_for("two revisions", 30, || {
        let all = kubectl.ok(&["get", "controllerrevisions", "-o", "name"]);
        if all.lines().count() == 2 {
            Ok(())
        } else {
            Err(all)
        }
    });
}

fn unsupported_values_are_refused(kubectl: &Kubectl) {
    let mut set = web(1);
    set["metadata"]["annotations"] = json!({"mainstay.dev/scale-down": "Lowest"});
    let refused = kubectl.run_with_input(&["apply", "-f", "-"], &set.to_string());
    let allowed = "supported values: \"HighestFirst\", \"WaitAMoment\", \"WaitForLowest\"";
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains(allowed), "{refused:?}");
}

/// Waits until the controller has observed the present set.
fn wait_until_observed(kubectl: &Kubectl) {
    let path = "jsonpath={.metadata.generation}={.status.observedGeneration}";
    wait_for("the set to be observed", 30, || {
        let generations = kubectl.ok(&["get", "statefulset", "web", "-o", path]);
        let same = generations
            .split_once('=')
            .is_some_and(|(generation, observed)| generation == observed);
        if same { Ok(()) } else { Err(generations) }
    });
}
