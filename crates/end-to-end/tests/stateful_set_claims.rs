//! Claims: the claims that each retention policy retains, and the effect of a deleted claim on its pod.

use end_to_end::registry::curl;
use end_to_end::stateful_set::{version, web_with_claims};
use end_to_end::{Instance, Kubectl, text, wait_for};
use serde_json::{Value, json};

#[test]
fn claims_stay_and_go_as_the_policy_says() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    scaled_away(&kubectl.in_new_namespace("scaled"));
    deleted_with_the_set(&kubectl.in_new_namespace("deleted"));
    policy_changed(&kubectl.in_new_namespace("changed"));
    every_policy_keeps_the_data_of_a_pod_that_returns(&kubectl);
    a_claim_that_goes(&kubectl.in_new_namespace("going"));
}

fn with_policy(replicas: u64, deleted: &str, scaled: &str) -> String {
    let mut set = web_with_claims(replicas);
    set["spec"]["persistentVolumeClaimRetentionPolicy"] =
        json!({"whenDeleted": deleted, "whenScaled": scaled});
    set.to_string()
}

fn wait_owners(kubectl: &Kubectl, expected: &str) {
    wait_for(&format!("claims {expected}"), 60, || {
        let owners = kubectl.claim_owners();
        if owners == expected {
            Ok(())
        } else {
            Err(owners)
        }
    });
}

fn claim_uid(kubectl: &Kubectl, name: &str) -> String {
    kubectl.ok(&["get", "pvc", name, "-o", "jsonpath={.metadata.uid}"])
}

/// The number of visits of the pod, counted on its volume.
fn visit(kubectl: &Kubectl, pod: &str) -> u64 {
    let url = format!("http://{}/", kubectl.pod_ip(pod));
    let page = wait_for(&format!("{pod} to respond"), 60, || {
        curl(&["--fail", "-H", "Accept: application/json", &url])
    });
    let page: Value = serde_json::from_str(&page).expect("hello responds with JSON");
    page["visits"].as_u64().expect("a number")
}

/// statefulset.md 2.11, 2.14, 2.15, T25.
fn scaled_away(kubectl: &Kubectl) {
    kubectl.apply(&with_policy(2, "Retain", "Delete"));
    kubectl.wait_ready("web", 2);
    visit(kubectl, "web-1");
    assert_eq!(visit(kubectl, "web-1"), 2);
    assert_eq!(kubectl.claim_owners(), "data-web-0: data-web-1:");
    let former = claim_uid(kubectl, "data-web-1");
    kubectl.ok(&["scale", "statefulset", "web", "--replicas=1"]);
    wait_owners(kubectl, "data-web-0:");
    kubectl.ok(&["scale", "statefulset", "web", "--replicas=2"]);
    kubectl.wait_versions("0:a 1:a");
    assert_ne!(claim_uid(kubectl, "data-web-1"), former);
    assert_eq!(visit(kubectl, "web-1"), 1, "a fresh volume");
    kubectl.ok(&["delete", "statefulset", "web"]);
    wait_owners(kubectl, "data-web-0: data-web-1:");
}

/// statefulset.md 2.17, T26: with the set; orphaned claims stay without an owner.
fn deleted_with_the_set(kubectl: &Kubectl) {
    kubectl.apply(&with_policy(2, "Delete", "Retain"));
    kubectl.wait_ready("web", 2);
    wait_owners(kubectl, "data-web-0:StatefulSet data-web-1:StatefulSet");
    kubectl.ok(&["delete", "statefulset", "web", "--cascade=orphan"]);
    wait_owners(kubectl, "data-web-0: data-web-1:");
    kubectl.apply(&with_policy(2, "Delete", "Retain"));
    wait_owners(kubectl, "data-web-0:StatefulSet data-web-1:StatefulSet");
    kubectl.ok(&["delete", "statefulset", "web"]);
    wait_owners(kubectl, "");
    // Claims are protected while pods use them; an ended pod does not (statefulset.md 11.10).
    let pods = kubectl.json(&["get", "pods", "-l", "app=web"]);
    for pod in pods["items"].as_array().into_iter().flatten() {
        let phase = text(pod, "/status/phase");
        assert!(["Succeeded", "Failed"].contains(&phase), "{pod:#}");
    }
    kubectl.wait_versions("");
}

/// statefulset.md 2.13, T28: references follow the policy.
fn policy_changed(kubectl: &Kubectl) {
    kubectl.apply(&with_policy(2, "Retain", "Retain"));
    kubectl.wait_ready("web", 2);
    assert_eq!(kubectl.claim_owners(), "data-web-0: data-web-1:");
    let policy = |deleted: &str| json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted}}});
    kubectl.patch_web(&policy("Delete"));
    wait_owners(kubectl, "data-web-0:StatefulSet data-web-1:StatefulSet");
    kubectl.patch_web(&policy("Retain"));
    wait_owners(kubectl, "data-web-0: data-web-1:");
}

/// statefulset.md 2.14, T27: a pod is deleted by a user, evicted by a drain, replaced by an update.
fn every_policy_keeps_the_data_of_a_pod_that_returns(kubectl: &Kubectl) {
    for (deleted, scaled) in [
        ("Retain", "Retain"),
        ("Retain", "Delete"),
        ("Delete", "Retain"),
        ("Delete", "Delete"),
    ] {
        let name = format!("keeps-{deleted}-{scaled}").to_lowercase();
        let kubectl = kubectl.in_new_namespace(&name);
        kubectl.apply(&with_policy(1, deleted, scaled));
        kubectl.wait_ready("web", 1);
        let claim = claim_uid(&kubectl, "data-web-0");
        assert_eq!(visit(&kubectl, "web-0"), 1);
        kubectl.ok(&["delete", "pod", "web-0"]);
        kubectl.wait_versions("0:a");
        assert_eq!(visit(&kubectl, "web-0"), 2, "{name}");
        kubectl.patch_web(&version("b"));
        kubectl.wait_versions("0:b");
        assert_eq!(visit(&kubectl, "web-0"), 3, "{name}");
        assert_eq!(claim_uid(&kubectl, "data-web-0"), claim);
    }
}

/// statefulset.md 2.5, T30: a claim in use stays; then it is removed, and pod and claim are created again.
fn a_claim_that_goes(kubectl: &Kubectl) {
    kubectl.apply(&with_policy(1, "Retain", "Retain"));
    kubectl.wait_ready("web", 1);
    let former = claim_uid(kubectl, "data-web-0");
    visit(kubectl, "web-0");
    kubectl.ok(&["delete", "pvc", "data-web-0", "--wait=false"]);
    let claims = kubectl.ok(&["get", "pvc"]);
    assert!(claims.contains("Terminating"), "{claims}");
    assert_eq!(kubectl.versions(), "0:a");
    kubectl.ok(&["delete", "pod", "web-0"]);
    wait_for("a fresh claim", 60, || {
        let claims = kubectl.run(&["get", "pvc", "data-web-0", "-o", "jsonpath={.metadata.uid}"]);
        let fresh = claims.code == 0 && claims.stdout != former;
        if fresh { Ok(()) } else { Err(claims) }
    });
    kubectl.wait_versions("0:a");
    assert_eq!(visit(kubectl, "web-0"), 1, "a fresh volume");
}
