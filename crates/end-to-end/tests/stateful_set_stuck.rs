//! Rollouts that a bad template blocks, and the reasons that a waiting set reports.

use end_to_end::stateful_set::{container, version, web};
use end_to_end::{Instance, Kubectl, wait_for};
use serde_json::json;

#[test]
fn a_set_says_what_holds_it_up_and_frees_itself() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    broken_and_fixed(&kubectl.in_new_namespace("fixed"));
    broken_and_rolled_back(&kubectl.in_new_namespace("rolled-back"));
    broken_and_left(&kubectl.in_new_namespace("left"));
    waited_for(&kubectl.in_new_namespace("waits"));
    deadline(&kubectl.in_new_namespace("deadline"));
}

/// No registry listens at the address, so the pull fails at once.
fn bad_image() -> serde_json::Value {
    container(
        json!({"image": "127.0.0.1:1/none:1", "imagePullPolicy": "Always",
        "env": [{"name": "VERSION", "value": "bad"}]}),
    )
}

fn good_image(version: &str) -> serde_json::Value {
    container(
        json!({"image": "mainstay/hello", "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "VERSION", "value": version}]}),
    )
}

fn break_it(kubectl: &Kubectl) {
    kubectl.apply(&web(3).to_string());
    kubectl.wait_ready("web", 3);
    kubectl.patch_web(&bad_image());
    kubectl.wait_versions("0:a 1:a 2:bad!");
}

/// statefulset.md 5.20, T16: after the template is corrected, the rollout continues by itself.
fn broken_and_fixed(kubectl: &Kubectl) {
    break_it(kubectl);
    wait_for("the pull to fail", 60, || {
        let pod = kubectl.get_for_wait(&["pod", "web-2"])?;
        let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        match reason.as_str() {
            Some("ErrImagePull" | "ImagePullBackOff") => Ok(()),
            _ => Err(pod["status"].clone()),
        }
    });
    let message = kubectl.wait_condition("Progressing", "True UpdatingPods web-2: ");
    assert!(message.contains("127.0.0.1:1/none:1"), "{message}");
    let untouched = (kubectl.pod_uid("web-0"), kubectl.pod_uid("web-1"));
    let waited = kubectl.fails(&[
        "wait",
        "--for=condition=Available",
        "sts/web",
        "--timeout=1s",
    ]);
    assert!(
        waited.contains("timed out waiting for the condition"),
        "{waited}"
    );
    assert_eq!(
        (kubectl.pod_uid("web-0"), kubectl.pod_uid("web-1")),
        untouched
    );

    kubectl.patch_web(&good_image("c"));
    kubectl.wait_versions("0:c 1:c 2:c");
    kubectl.ok(&[
        "wait",
        "--for=condition=Available",
        "statefulset/web",
        "--timeout=300s",
    ]);
    let described = kubectl.ok(&["describe", "statefulset", "web"]);
    assert!(
        described.contains("Normal   ReplacedStuckPod"),
        "{described}"
    );
    kubectl.wait_condition(
        "Progressing",
        "True RolloutComplete 3 of 3 pods are available",
    );
}

/// statefulset.md 5.20, T16: after a rollback, only the broken pod is replaced.
fn broken_and_rolled_back(kubectl: &Kubectl) {
    break_it(kubectl);
    let untouched = (kubectl.pod_uid("web-0"), kubectl.pod_uid("web-1"));
    kubectl.ok(&["rollout", "undo", "statefulset/web"]);
    kubectl.wait_versions("0:a 1:a 2:a");
    assert_eq!(
        (kubectl.pod_uid("web-0"), kubectl.pod_uid("web-1")),
        untouched
    );
}

/// statefulset.md 3.12, 5.20, 5.21: with the option, the behaviour of Kubernetes.
fn broken_and_left(kubectl: &Kubectl) {
    break_it(kubectl);
    kubectl.ok(&[
        "annotate",
        "statefulset",
        "web",
        "mainstay.dev/stuck-rollout=Wait",
    ]);
    let bad = kubectl.pod_uid("web-2");
    kubectl.patch_web(&good_image("c"));
    let generation = [
        "get",
        "sts",
        "web",
        "-o",
        "jsonpath={.metadata.generation}={.status.observedGeneration}",
    ];
    wait_for("the new template to be observed", 30, || {
        let generations = kubectl.ok(&generation);
        let same = generations
            .split_once('=')
            .is_some_and(|(expected, generations)| expected == generations);
        if same { Ok(()) } else { Err(generations) }
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(kubectl.versions(), "0:a 1:a 2:bad!");
    assert_eq!(kubectl.pod_uid("web-2"), bad);
    kubectl.ok(&["delete", "pod", "web-2"]);
    kubectl.wait_versions("0:c 1:c 2:c");
}

/// statefulset.md 5.16, 7.3: where Kubernetes reports nothing, the set names the pod and the cause.
fn waited_for(kubectl: &Kubectl) {
    let mut set = web(2);
    let probe = &mut set["spec"]["template"]["spec"]["containers"][0]["readinessProbe"];
    probe["httpGet"]["path"] = json!("/missing");
    kubectl.apply(&set.to_string());
    kubectl.wait_versions("0:a!");
    let message = kubectl.wait_condition("Progressing", "True WaitingForPods web-0: ");
    assert!(message.contains("readiness probe"), "{message}");
    let available = kubectl.condition("Available");
    assert!(
        available.starts_with("False ReplicasUnavailable 0 of 2 pods"),
        "{available}"
    );
    kubectl.wait_condition("Stalled", "False NotStalled");
    let fixed = container(json!({"readinessProbe": {"httpGet": {"path": "/healthz"}}}));
    kubectl.patch_web(&fixed);
    kubectl.wait_versions("0:a 1:a");
    kubectl.ok(&[
        "wait",
        "--for=condition=Available",
        "sts/web",
        "--timeout=300s",
    ]);
    // An unchanged state is not reported again.
    let quiet = [
        "get",
        "sts",
        "web",
        "-o",
        "jsonpath={.metadata.resourceVersion}",
    ];
    wait_for("the set to be left as it is", 60, || {
        let before = kubectl.ok(&quiet);
        std::thread::sleep(std::time::Duration::from_secs(2));
        let after = kubectl.ok(&quiet);
        if after == before { Ok(()) } else { Err(after) }
    });
}

/// Without progress within the time of the annotation, the set is stalled until it progresses.
fn deadline(kubectl: &Kubectl) {
    let mut set = web(2);
    set["metadata"]["annotations"] = json!({"mainstay.dev/progress-deadline-seconds": "3"});
    kubectl.apply(&set.to_string());
    kubectl.wait_ready("web", 2);
    kubectl.patch_web(&bad_image());
    kubectl.wait_condition(
        "Stalled",
        "True ProgressDeadlineExceeded no progress for 3 seconds: ",
    );
    let progressing = kubectl.condition("Progressing");
    assert!(
        progressing.starts_with("False ProgressDeadlineExceeded"),
        "{progressing}"
    );
    let described = kubectl.ok(&["describe", "statefulset", "web"]);
    assert!(
        described.contains("Warning  ProgressDeadlineExceeded"),
        "{described}"
    );
    kubectl.patch_web(&good_image("b"));
    kubectl.wait_versions("0:b 1:b");
    kubectl.wait_condition("Stalled", "False NotStalled");
    kubectl.patch_web(&version("c"));
    kubectl.wait_versions("0:c 1:c");
}
