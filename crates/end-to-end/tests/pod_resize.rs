//! New resources for a running pod by the standard client, on real containers (kubectl.md 6.7).

use end_to_end::{Kubectl, Output, wait_for, with_images};
use serde_json::{Value, json};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: sized}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox:1
    command: [sh, -c, "trap 'exit 0' TERM; sleep 1000000 & wait"]
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {cpu: 100m, memory: 64Mi}
    resizePolicy:
    - {resourceName: memory, restartPolicy: RestartContainer}
"#;

/// The CPU quota in microseconds inside the container, in both versions of cgroups.
const QUOTA: &str = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null";

fn resize(kubectl: &Kubectl, cpu: &str, memory: &str) -> Output {
    let amounts = json!({"cpu": cpu, "memory": memory});
    let container = json!({"name": "c", "resources": {"requests": amounts, "limits": amounts}});
    let patch = json!({"spec": {"containers": [container]}}).to_string();
    let output = kubectl.run(&[
        "patch",
        "pod",
        "sized",
        "--subresource",
        "resize",
        "-p",
        &patch,
    ]);
    assert_eq!(output.code, 0, "{output:#?}");
    output
}

fn has(pod: &Value, cpu: &str, memory: &str, restarts: i64) -> bool {
    let status = &pod["status"]["containerStatuses"][0];
    let amounts = json!({"cpu": cpu, "memory": memory});
    let conditions = pod["status"]["conditions"].as_array();
    let resizing = conditions.into_iter().flatten().any(|condition| {
        let name = condition["type"].as_str().unwrap_or_default();
        name.starts_with("PodResize")
    });
    status["resources"]["limits"] == amounts
        && status["allocatedResources"] == amounts
        && status["restartCount"] == restarts
        && status["ready"] == true
        && !resizing
}

fn wait(kubectl: &Kubectl, what: &str, is_expected: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, 30, || {
        let pod = kubectl.get_for_wait(&["pod", "sized"])?;
        if is_expected(&pod) { Ok(pod) } else { Err(pod) }
    })
}

#[test]
fn a_running_pod_gets_other_resources() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.apply(POD);
    kubectl.wait_pods_ready(&["pod/sized"]);
    wait(&kubectl, "the requested resources", |pod| {
        has(pod, "100m", "64Mi", 0)
    });

    // CPU: changed at once, without a warning.
    let output = resize(&kubectl, "300m", "64Mi");
    assert!(!output.stderr.contains("Warning"), "{output:#?}");
    wait(&kubectl, "more processor time", |pod| {
        has(pod, "300m", "64Mi", 0)
    });
    let quota = kubectl.run(&["exec", "sized", "--", "sh", "-c", QUOTA]);
    assert!(quota.stdout.starts_with("30000"), "{quota:#?}");
    let events = kubectl.ok(&["events", "--for", "pod/sized"]);
    for reason in ["ResizeStarted", "ResizeCompleted"] {
        assert!(events.contains(reason), "{events}");
    }

    // Memory: changed at the container's next start, which is at once, as the pod requests.
    resize(&kubectl, "300m", "96Mi");
    wait(&kubectl, "more memory", |pod| has(pod, "300m", "96Mi", 1));

    // A request beyond the node's capacity is reported; the pod keeps its resources.
    resize(&kubectl, "4000", "96Mi");
    kubectl.ok(&[
        "wait",
        "--for=condition=PodResizePending",
        "pod/sized",
        "--timeout=300s",
    ]);
    let described = kubectl.ok(&["describe", "pod", "sized"]);
    assert!(described.contains("ResizeInfeasible"), "{described}");
    let pod = kubectl.pod("sized");
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["allocatedResources"]["cpu"], "300m");
    resize(&kubectl, "50m", "96Mi");
    wait(&kubectl, "less", |pod| has(pod, "50m", "96Mi", 1));
}
