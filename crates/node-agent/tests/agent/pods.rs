//! Pods from their creation to their end.

use std::time::{Duration, Instant};

use json_tree::json;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube_api_client::Api;

use crate::harness::{Harness, condition, phase, state};
use crate::trace::Trace;

/// A script that sleeps until it receives the termination signal.
pub const SLEEP: &str = "trap 'exit 0' TERM; sleep 1000000 & wait";

pub async fn a_pod_runs_answers_and_goes() {
    let harness = Harness::started("simple").await;
    let node: Node = Api::all(harness.client.clone())
        .get("node-a")
        .await
        .unwrap();
    let status = node.status.unwrap();
    assert_eq!(status.node_info.unwrap().kubelet_version, "v1.36.0");
    assert!(status.capacity.unwrap().contains_key("memory"));
    let leases: Api<Lease> = Api::namespaced(harness.client.clone(), "kube-node-lease");

    let script = format!("echo up as $(hostname); echo oops >&2; cat /etc/hosts; {SLEEP}");
    let spec = json!({"hostname": "web-0", "subdomain": "web", "containers": [
        {"name": "c", "command": ["sh", "-c", script]}]});
    let begun = Instant::now();
    harness.pod("web-0", spec).await;
    let pod = harness.ready("web-0").await;
    println!("  created to ready: {} ms", begun.elapsed().as_millis());
    assert_eq!(phase(&pod), "Running");
    let ip = pod.status.as_ref().unwrap().pod_ip.clone().unwrap();
    let log = harness
        .logged("web-0", "c", "web-0.web.default.svc.cluster.local")
        .await;
    assert!(
        log.contains("up as web-0\n") && log.contains("oops\n"),
        "{log}"
    );
    assert!(
        log.contains(&format!("{ip}\tweb-0.web.default.svc.cluster.local\tweb-0")),
        "{log}"
    );
    for text in [
        "Normal Pulled Container image",
        "Normal Created",
        "Normal Started",
    ] {
        harness.event("web-0", text).await;
    }

    let begun = Instant::now();
    harness.delete("web-0").await;
    harness.wait_deleted("web-0").await;
    println!("  deleted to gone: {} ms", begun.elapsed().as_millis());
    harness
        .event("web-0", "Normal Killing Stopping container c")
        .await;
    assert!(leases.get("node-a").await.is_ok());
    harness.end().await;
}

pub async fn what_is_missing_is_told_and_healed() {
    // kubectl.md 1.9, statefulset.md 12.13
    let harness = Harness::started("missing").await;
    let sleep = json!(["sh", "-c", SLEEP]);
    let ready_in = async |name: &str| {
        let begun = Instant::now();
        let whole = json!({"containers": [{"name": "c", "command": sleep}]});
        harness.pod(name, whole).await;
        harness.ready(name).await;
        begun.elapsed()
    };
    let usual = ready_in("whole").await;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}}]);
    harness
        .pod(
            "env",
            json!({"containers": [{"name": "c", "command": sleep, "env": env}]}),
        )
        .await;
    let volumes = json!([{"name": "v", "configMap": {"name": "m"}}]);
    let mounts = json!([{"name": "v", "mountPath": "/m"}]);
    let containers = json!([{"name": "c", "command": sleep, "volumeMounts": mounts}]);
    harness
        .pod(
            "volume",
            json!({"containers": containers, "volumes": volumes}),
        )
        .await;
    harness
        .pod(
            "command",
            json!({"containers": [{"name": "c", "command": ["/none"]}]}),
        )
        .await;
    let never = json!({"containers": [
        {"name": "c", "image": "test/none:1", "imagePullPolicy": "Never"}]});
    harness.pod("image", never).await;
    let waits = |reason: &'static str| move |pod: &_| state(pod, "c").0 == reason;
    harness
        .until("env", "refused", waits("CreateContainerConfigError"))
        .await;
    harness
        .until("image", "missing", waits("ErrImageNeverPull"))
        .await;
    harness
        .until("command", "told", waits("RunContainerError"))
        .await;
    harness
        .event("env", "Error: configmap \"m\" not found")
        .await;
    harness
        .event(
            "volume",
            "MountVolume.SetUp failed for volume \"v\" : configmap",
        )
        .await;
    harness.event("command", "\"/none\"").await;
    harness
        .until("command", "backed off from", waits("CrashLoopBackOff"))
        .await;

    let begun = Instant::now();
    harness
        .create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"a": "1"}}))
        .await;
    harness.ready("env").await;
    harness.ready("volume").await;
    // No delay is left when the missing object exists.
    let took = begun.elapsed();
    // The machine may be busier than before.
    let usual = usual.max(ready_in("another").await);
    assert!(
        took < (3 * usual).max(Duration::from_millis(1500)),
        "{took:?}"
    );
    harness.end().await;
}

pub async fn containers_start_in_order_and_crash_with_back_off() {
    // statefulset.md 12.2, 12.3, 12.9
    let harness = Harness::started("order").await;
    let share = json!([{"name": "v", "mountPath": "/v"}]);
    let script = |text: &str| json!(["sh", "-c", text]);
    let spec = json!({
        "terminationGracePeriodSeconds": 5,
        "initContainers": [
            {"name": "first", "command": script("echo 1 > /v/first"), "volumeMounts": share},
            {"name": "side", "restartPolicy": "Always", "volumeMounts": share,
                "command": script(&format!("cat /v/first; touch /v/side; {SLEEP}")),
                "startupProbe": {"exec": {"command": ["test", "-e", "/v/side"]}}},
            {"name": "last", "command": script("test -e /v/side"), "volumeMounts": share}],
        "containers": [
            {"name": "c", "command": script(SLEEP)},
            {"name": "crash", "command": script("echo again; sleep 0.2; exit 3"),
                "terminationMessagePolicy": "FallbackToLogsOnError"}],
        "volumes": [{"name": "v", "emptyDir": {}}]});
    harness.pod("order", spec).await;
    let pod = harness
        .until("order", "backing off", |pod| {
            state(pod, "crash").0 == "CrashLoopBackOff"
        })
        .await;
    assert_eq!(state(&pod, "c").0, "running");
    assert_eq!(state(&pod, "first").0, "Completed 0");
    assert_eq!(state(&pod, "side").0, "running");
    assert_eq!(state(&pod, "crash").1, 1);
    assert_eq!(condition(&pod, "Initialized"), "True");
    assert_eq!(
        condition(&pod, "Ready"),
        "False ContainersNotReady containers with unready status: [crash]"
    );
    let statuses = pod.status.unwrap().container_statuses.unwrap();
    let crash = statuses
        .iter()
        .find(|status| status.name == "crash")
        .unwrap();
    let ended = crash.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(
        (ended.exit_code, ended.message.as_deref()),
        (3, Some("again\n"))
    );
    harness
        .event(
            "order",
            "Warning BackOff Back-off restarting failed container crash",
        )
        .await;
    harness.delete("order").await;
    harness.wait_deleted("order").await;
    harness.end().await;
}

pub async fn probes_decide_readiness_and_restarts() {
    // statefulset.md 12.5
    let harness = Harness::started("probes").await;
    let trace = Trace::new(&harness);
    let serves =
        "until test -e /trace/go; do sleep 0.05; done; while true; do nc -l -p 80 -e echo; done";
    let spec = json!({"terminationGracePeriodSeconds": 1, "volumes": [trace.volume()], "containers": [
        {"name": "c",
            "command": ["sh", "-c", serves], "volumeMounts": [Trace::mount()],
            "ports": [{"name": "web", "containerPort": 80}],
            "readinessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 1}}]});
    harness.pod("tcp", spec).await;
    let pod = harness
        .until("tcp", "running", |pod| phase(pod) == "Running")
        .await;
    assert!(condition(&pod, "Ready").starts_with("False ContainersNotReady"));
    trace.make("go");
    harness.ready("tcp").await;
    // A redirect to another host is a success, with a warning.
    let response = "HTTP/1.1 302 Found\\r\\nLocation: http://other.example/\\r\\n\
                  Content-Length: 5\\r\\n\\r\\nthere";
    let script = format!(
        "while true; do nc -l -p 80 -e sh -c 'while read line; do test ${{#line}} -gt 1 || break; \
         done; printf \"{response}\"'; done"
    );
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", script],
            "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1}}]});
    harness.pod("led", spec).await;
    harness.ready("led").await;
    let event = "Warning ProbeWarning Readiness probe warning: Probe terminated redirects, Response \
                body: there";
    harness.event("led", event).await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", format!("touch /ok; {SLEEP}")],
            "livenessProbe": {"exec": {"command": ["test", "-e", "/none"]},
                "initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 1}}]});
    harness.pod("live", spec).await;
    harness
        .until("live", "restarted", |pod| state(pod, "c").1 >= 1)
        .await;
    harness
        .event("live", "Warning Unhealthy Liveness probe failed:")
        .await;
    harness
        .event(
            "live",
            "Container c failed liveness probe, will be restarted",
        )
        .await;
    harness.end().await;
}

pub async fn the_end_is_graceful() {
    // statefulset.md 12.7, T40
    let harness = Harness::started("end").await;
    let spec = json!({"terminationGracePeriodSeconds": 2, "containers": [
        {"name": "deaf", "command": ["sh", "-c", "trap '' TERM; sleep 1000000 & wait"],
            "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "sleep 1"]}}}}]});
    harness.pod("deaf", spec).await;
    harness.ready("deaf").await;
    let begun = Instant::now();
    harness.delete("deaf").await;
    harness.wait_deleted("deaf").await;
    let took = begun.elapsed().as_secs_f32();
    // `preStop` takes one second; then the container has at least two seconds to handle the signal.
    assert!(took >= 2.9, "{took}");
    let spec = json!({"restartPolicy": "Never", "containers": [
        {"name": "c", "command": ["sh", "-c", "echo done"]}]});
    harness.pod("once", spec).await;
    let pod = harness
        .until("once", "done", |pod| phase(pod) == "Succeeded")
        .await;
    assert_eq!(condition(&pod, "Ready"), "False PodCompleted");
    assert_eq!(harness.logs("once", "c").await, "done\n");
    harness.end().await;
}
