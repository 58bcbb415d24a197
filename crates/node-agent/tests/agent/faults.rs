//! Containers that misbehave: each fault is reported separately, and other containers continue.

use std::time::Duration;

use json_tree::json;
use k8s_openapi::api::core::v1::Node;
use kube_api_client::Api;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Harness, NODE, phase, state};
use crate::node::until_some;
use crate::pods::SLEEP;
use crate::spec::shell;

pub async fn a_registry_that_is_down_or_silent_holds_up_nobody_else() {
    // statefulset.md 12.9
    let harness = Harness::started("registries").await;
    // A server that accepts connections and never responds.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let image = |port: u16| format!("127.0.0.1:{port}/app:1");
    // The socket is bound so that no other program listens at the port.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let of = |image: String| json!({"containers": [{"name": "c", "image": image}]});
    harness
        .pod("down", of(image(closed.local_addr().unwrap().port())))
        .await;
    let port = silent.local_addr().unwrap().port();
    harness.pod("silent", of(image(port))).await;
    harness
        .event("silent", "Normal Pulling Pulling image")
        .await;
    let failed = |pod: &_| state(pod, "c").0 == "ErrImagePull";
    harness.until("down", "told", failed).await;
    harness
        .event("down", "Warning Failed Failed to pull image")
        .await;
    let waits = |pod: &_| state(pod, "c").0 == "ImagePullBackOff";
    harness.until("down", "backing off", waits).await;
    harness
        .event("down", "Normal BackOff Back-off pulling image")
        .await;
    let quiet = json!({"containers": [{"name": "c", "command": shell(SLEEP)}]});
    harness.pod("quiet", quiet).await;
    harness.ready("quiet").await;
    // The deletion does not wait for the response that never arrives.
    harness.delete("silent").await;
    harness.wait_deleted("silent").await;
    drop(silent);
    harness.end().await;
}

pub async fn who_forks_eats_or_talks_without_end_harms_nobody_else() {
    // statefulset.md 12.16
    let harness = Harness::started("faults").await;
    let quiet = json!({"containers": [{"name": "c", "command": shell(SLEEP)}]});
    harness.pod("quiet", quiet).await;
    harness.ready("quiet").await;

    // More processes than the pod may have: the next fork fails.
    let forks = "while sleep 1000 & do :; done";
    let spec = json!({"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
        "containers": [{"name": "c", "command": shell(forks)}]});
    harness.pod("forks", spec).await;
    let ended = |pod: &_| phase(pod) == "Failed";
    let failed = harness.until("forks", "at its limit", ended).await;
    assert_eq!(state(&failed, "c").0, "Error 2");
    harness.logged("forks", "c", "can't fork").await;

    // More memory than the container may have: the kernel kills it.
    let eats = json!({"restartPolicy": "Never", "containers": [{"name": "c",
        "command": ["busybox", "tail", "-c", "90000000", "/dev/zero"],
        "resources": {"limits": {"memory": "16Mi"}}}]});
    harness.pod("eats", eats).await;
    let pod = harness.until("eats", "killed", ended).await;
    assert_eq!(state(&pod, "c").0, "OOMKilled 137");

    // More output than is stored: the oldest output is deleted.
    let line = "x".repeat(4000);
    let talks = format!("trap '' TERM; while true; do echo {line}; done");
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(&talks)}]});
    let pod = harness.pod("talks", spec).await;
    harness.ready("talks").await;
    let uid = pod.metadata.uid.unwrap();
    let logs = harness.dir.join(format!("pods/default_talks_{uid}/c"));
    let rotated = || std::fs::read_dir(&logs).unwrap().count();
    while rotated() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    harness.logged("talks", "c", "xxx").await;
    // The container ignores the termination signal.
    harness.delete("talks").await;
    harness.wait_deleted("talks").await;
    while logs.exists() {
        // The processes end shortly after their pod.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    let quiet = harness.ready("quiet").await;
    assert_eq!(state(&quiet, "c"), ("running".to_owned(), 0));
    harness.end().await;
}

/// findings R12, U3
pub async fn a_shim_that_is_stopped_is_named_and_keeps_nothing_alive() {
    let harness = Harness::started("stoppedshim").await;
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(SLEEP)}]});
    let pod = harness.pod("p", spec).await;
    harness.ready("p").await;
    let shim = shim_of(&pod.metadata.uid.unwrap());
    kill(shim, Signal::SIGSTOP).unwrap();
    harness.delete("p").await;
    // Requests to the stopped shim end at their timeout, so the test waits a little longer than the
    // timeout.
    tokio::time::sleep(Duration::from_secs(10)).await;
    harness
        .event(
            "p",
            "Warning FailedKillPod error killing container \"c\": the shim of sandbox",
        )
        .await;
    harness.wait_deleted("p").await;
    harness.end().await;
}

/// The shim of the pod with this UID.
fn shim_of(uid: &str) -> Pid {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let shim = pids.find(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.any(|word| String::from_utf8_lossy(word).ends_with(&format!("/sandboxes/{uid}")))
    });
    Pid::from_raw(shim.unwrap())
}

/// The disk cannot store records, as after an error of the device. A pod that is bound to the node waits,
/// and no work of the pod starts. The node reports the fault, and continues when the disk works again.
// findings-2 R34
pub async fn a_pod_whose_record_cannot_be_stored_waits_and_the_node_is_not_ready() {
    let harness = Harness::started("records").await;
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(SLEEP)}]});
    harness.pod("before", spec.clone()).await;
    let before = harness.ready("before").await;
    let pods = harness.dir.join("pods");
    let pods = pods.to_str().unwrap();
    run("mount", &["--bind", pods, pods]);
    run("mount", &["-o", "remount,bind,ro", pods]);
    let waiting = harness.pod("waits", spec).await;
    let text = "Warning FailedStorePodRecord The node cannot store the record of the pod";
    harness.event("waits", text).await;
    let message = until_node(&harness, "False").await;
    assert!(
        message.starts_with("the disk of the node takes no records: Read-only"),
        "{message}"
    );
    // The pod neither fails nor starts, so its StatefulSet does not replace it.
    let now = harness.until("waits", "there", |_| true).await;
    assert_eq!(
        (now.metadata.uid.clone(), phase(&now)),
        (waiting.metadata.uid, "Pending")
    );
    let sandboxes = harness.runtime.sandboxes().await.unwrap();
    assert_eq!(sandboxes.len(), 1, "the other pod's only");
    // A pod can end without its record.
    harness
        .pod(
            "ends",
            json!({"containers": [{"name": "c", "command": shell(SLEEP)}]}),
        )
        .await;
    harness.event("ends", text).await;
    harness.delete("ends").await;
    harness.wait_deleted("ends").await;
    run("umount", &[pods]);
    harness.ready("waits").await;
    until_node(&harness, "True").await;
    let after = harness.ready("before").await;
    assert_eq!(after.metadata.uid, before.metadata.uid);
    assert_eq!(state(&after, "c"), state(&before, "c"));
    harness.end().await;
}

/// Waits until the condition `Ready` of the node has a status. Returns the message of the condition.
pub async fn until_node(harness: &Harness, status: &str) -> String {
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let message = until_some("the node's readiness", async || {
        let conditions = nodes.get(NODE).await.unwrap().status?.conditions?;
        let ready = conditions
            .into_iter()
            .find(|condition| condition.type_ == "Ready")?;
        (ready.status == status).then(|| ready.message.unwrap_or_default())
    });
    message.await
}

/// Runs a program of the machine.
pub fn run(program: &str, arguments: &[&str]) {
    let output = std::process::Command::new(program).args(arguments).output();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}
