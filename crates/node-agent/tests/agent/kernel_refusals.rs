//! Mounts and control groups that the kernel rejects. The error is reported with its path, value and cause,
//! affects no other container, and the step is retried.

use std::fs;
use std::path::{Path, PathBuf};

use json_tree::json;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube_api_client::ListParams;

use crate::faults::{run, until_node};
use crate::harness::{Harness, PATIENCE, state};
use crate::pods::SLEEP;
use crate::spec::shell;

/// The directories of the parent control group of all pods: one directory, or one for each controller.
fn control_groups(harness: &Harness) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let trees = fs::read_dir(top)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let trees = trees.filter(|path| path.is_dir()).chain([top.to_owned()]);
    let name = format!("mainstay-{}", harness.options.instance_id);
    let groups = trees.map(|tree| tree.join(&name));
    groups.filter(|group| group.is_dir()).collect()
}

/// Waits until an event that contains `text` was counted at least twice.
async fn reported_again(harness: &Harness, pod: &str, text: &str) {
    let only = ListParams::default().fields(&format!("involvedObject.name={pod}"));
    let begun = std::time::Instant::now();
    loop {
        let events = harness.api::<Event>().list(&only).await.unwrap();
        let reported = events.items.iter();
        let reported =
            reported.filter(|event| event.message.as_deref().is_some_and(|m| m.contains(text)));
        let count: i32 = reported.map(|event| event.count.unwrap_or(1)).sum();
        if count >= 2 {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{text:?} was told {count} times"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Waits until a container could not be started while the other container of its pod runs.
async fn refused(harness: &Harness, pod: &str, container: &str) {
    let reasons = ["CreateContainerError", "StartError 128", "CrashLoopBackOff"];
    let is_refused = |pod: &Pod| {
        let other = state(pod, "fine");
        reasons.contains(&state(pod, container).0.as_str()) && other == ("running".to_owned(), 0)
    };
    harness
        .until(pod, "refused beside one that runs", is_refused)
        .await;
}

/// A quota above the quota of the control group of all pods, which an administrator has limited: version 1
/// of control groups rejects it. The other container of the pod, and other pods, run.
// findings-2 S36
pub async fn a_value_that_the_kernel_refuses_concerns_its_container_alone() {
    let harness = Harness::started("refusedvalue").await;
    let quiet = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(SLEEP)}]});
    harness.pod("first", quiet.clone()).await;
    harness.ready("first").await;
    let groups = control_groups(&harness).into_iter();
    let mut files = groups.map(|group| group.join("cpu.cfs_quota_us"));
    // In version 2, a child may have more than its parent.
    if let Some(file) = files.find(|file| file.exists()) {
        fs::write(file, "50000").unwrap();
        try_greedy_pods(&harness).await;
    }
    harness.pod("second", quiet).await;
    harness.ready("second").await;
    let ready = until_node(&harness, "True").await;
    assert_eq!(ready, "kubelet is posting ready status");
    for pod in ["first", "second"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
    harness.end().await;
}

async fn try_greedy_pods(harness: &Harness) {
    let greedy = json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1"}});
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "fine", "command": shell(SLEEP)},
        {"name": "greedy", "command": shell(SLEEP), "resources": greedy}]});
    harness.pod("mixed", spec).await;
    // The pod has a limit if each container has a limit.
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(SLEEP), "resources": greedy}]});
    harness.pod("whole", spec).await;
    refused(harness, "mixed", "greedy").await;
    for (pod, begin) in [
        ("mixed", "Warning Failed Error: "),
        (
            "whole",
            "Warning FailedCreatePodSandBox Failed to create pod sandbox: ",
        ),
    ] {
        harness.event(pod, begin).await;
        let text = "cpu.cfs_quota_us to 100000: Invalid argument (os error 22)";
        reported_again(harness, pod, text).await;
        let events = harness.events(pod).await;
        let event = events.iter().find(|event| event.contains(text)).unwrap();
        let has_path = event.starts_with(begin) && event.contains("set /sys/fs/cgroup/");
        assert!(has_path, "{event}");
    }
    for pod in ["mixed", "whole"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
}

/// A file mounted over a directory: the event names both paths, and the container starts as soon as it can.
// findings-2 S36
pub async fn a_mount_that_the_kernel_refuses_is_told_and_tried_again() {
    let harness = Harness::started("refusedmount").await;
    let source = harness.dir.join("source");
    fs::write(&source, "").unwrap();
    let mount = json!([{"name": "files", "mountPath": "/tmp"}]);
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "files", "hostPath": {"path": source}}],
        "containers": [{"name": "fine", "command": shell(SLEEP)},
            {"name": "c", "command": shell(SLEEP), "volumeMounts": mount}]});
    harness.pod("p", spec).await;
    refused(&harness, "p", "c").await;
    let source_text = source.display();
    let text =
        format!("Error: mount {source_text} to /tmp: a file cannot be mounted over a directory");
    harness.event("p", &format!("Warning Failed {text}")).await;
    reported_again(&harness, "p", &text).await;
    let quiet = json!({"containers": [{"name": "c", "command": shell(SLEEP)}]});
    harness.pod("quiet", quiet).await;
    harness.ready("quiet").await;
    fs::remove_file(&source).unwrap();
    fs::create_dir(&source).unwrap();
    let pod = harness.ready("p").await;
    assert_eq!(state(&pod, "fine"), ("running".to_owned(), 0));
    for pod in ["p", "quiet"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
    harness.end().await;
}

/// Makes the control groups of all pods read-only until it is dropped.
struct ReadOnly(Vec<PathBuf>);

impl ReadOnly {
    fn make(harness: &Harness) -> Self {
        let groups = control_groups(harness);
        assert!(!groups.is_empty());
        for group in &groups {
            let path = group.to_str().unwrap();
            run("mount", &["--bind", path, path]);
            run("mount", &["-o", "remount,bind,ro", path]);
        }
        Self(groups)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        for group in &self.0 {
            run("umount", &[group.to_str().unwrap()]);
        }
    }
}

// findings-2 S36
pub async fn a_node_that_can_make_no_control_groups_says_so_until_it_can() {
    let harness = Harness::started("refusedgroups").await;
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(SLEEP)}]});
    harness.pod("before", spec.clone()).await;
    harness.ready("before").await;
    let read_only = ReadOnly::make(&harness);
    harness.pod("waits", spec.clone()).await;
    harness.pod("goes", spec).await;
    for pod in ["waits", "goes"] {
        let begin = "Warning FailedCreatePodSandBox Failed to create pod sandbox: ";
        harness.event(pod, begin).await;
        reported_again(&harness, pod, "Read-only file system").await;
        let events = harness.events(pod).await;
        assert!(
            events.iter().any(|one| one.contains("/sys/fs/cgroup/")),
            "{events:?}"
        );
    }
    let message = until_node(&harness, "False").await;
    let begin = "no control groups can be made for pods: ";
    assert!(
        message.starts_with(begin) && message.contains("Read-only"),
        "{message}"
    );
    assert_eq!(
        state(&harness.ready("before").await, "c"),
        ("running".to_owned(), 0)
    );
    // A pod that never started can be deleted.
    harness.delete("goes").await;
    harness.wait_deleted("goes").await;
    drop(read_only);
    harness.ready("waits").await;
    until_node(&harness, "True").await;
    for pod in ["before", "waits"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
    harness.end().await;
}

// findings-2 S36
pub async fn groups_that_cannot_be_removed_keep_their_pod_alone() {
    let harness = Harness::started("refusedremoval").await;
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(SLEEP)}]});
    for pod in ["stays", "other"] {
        harness.pod(pod, spec.clone()).await;
        harness.ready(pod).await;
    }
    let stays = harness.api::<Pod>().get("stays").await.unwrap();
    let uid = stays.metadata.uid.unwrap();
    let groups = control_groups(&harness).into_iter();
    let mut pod_groups = groups.map(|group| group.join(format!("pod{uid}")));
    let group = pod_groups.find(|group| group.is_dir()).unwrap();
    let path = group.to_str().unwrap();
    // A mount point cannot be removed, like a directory that a process uses.
    run("mount", &["--bind", path, path]);
    harness.delete("stays").await;
    harness.delete("other").await;
    harness.wait_deleted("other").await;
    let text = "Warning FailedKillPod error killing pod: remove control group";
    harness.event("stays", text).await;
    let events = harness.events("stays").await;
    let event = events.iter().find(|event| event.starts_with(text)).unwrap();
    assert!(event.contains(path) && event.contains("busy"), "{event}");
    run("umount", &[path]);
    harness.wait_deleted("stays").await;
    assert!(!group.exists());
    harness.end().await;
}
