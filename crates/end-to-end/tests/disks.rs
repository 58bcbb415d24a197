//! The disk of the data directory is full, does not respond, or cannot be written: the error reports this, pods
//! continue, and no acknowledged write is lost.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use end_to_end::disk::{Disk, ONE_THREAD};
use end_to_end::stateful_set::web_with_claims;
use end_to_end::{Instance, Kubectl, wait_for};
use serde_json::json;

/// A server with a separate disk, and a pod on it. The server is stopped before its disk is removed.
struct OnADisk {
    instance: Instance,
    disk: Disk,
}

impl OnADisk {
    fn start() -> Self {
        // Without the node's eviction, which would evict the pod.
        let arguments = ["--eviction-hard=memory.available<1Mi"];
        let mut instance = Instance::prepare(&arguments);
        let disk = Disk::mount(&instance.data(), 512);
        instance.set_variable(ONE_THREAD);
        instance.start_again();
        let kubectl = instance.kubectl();
        kubectl.apply(&web_with_claims(1).to_string());
        kubectl.wait_ready("web", 1);
        Self { instance, disk }
    }
}

impl Drop for OnADisk {
    /// A server that writes to a blocked disk cannot exit.
    fn drop(&mut self) {
        self.disk.thaw();
    }
}

/// The UID of the only pod, and the number of restarts of its container.
fn pod(kubectl: &Kubectl) -> (String, String) {
    let parts = "jsonpath={.metadata.uid} {.status.containerStatuses[0].restartCount}";
    let read = kubectl.ok(&["get", "pod", "web-0", "-o", parts]);
    let (uid, restarts) = read.split_once(' ').expect("two parts");
    (uid.to_owned(), restarts.to_owned())
}

#[test]
fn a_full_disk_holds_up_what_is_new() {
    let on_disk = OnADisk::start();
    let (instance, disk) = (&on_disk.instance, &on_disk.disk);
    let kubectl = instance.kubectl();
    let before = pod(&kubectl);
    kubectl.ok(&["create", "configmap", "old"]);
    kubectl.ok(&["create", "configmap", "kept", "--from-literal=count=0"]);
    let create = ["create", "configmap", "new"];

    disk.fill(16);
    let refused = kubectl.fails(&create);
    assert!(
        refused.contains("no room on the disk of the store: "),
        "{refused}"
    );
    // Existing objects can be changed and removed.
    kubectl.ok(&["label", "statefulset", "web", "disk=full"]);
    kubectl.ok(&["delete", "configmap", "old"]);
    // findings R13: the refusal of new objects is reported.
    let ready = kubectl.fails(&["get", "--raw", "/readyz?verbose"]);
    assert!(ready.contains("[-]store-room failed"), "{ready}");
    kubectl.ok(&["get", "--raw", "/livez"]);

    disk.fill(0);
    let mut patches = 0;
    let refused = wait_for("the disk to be full", 120, || {
        patches += 1;
        let text = patches.to_string().repeat(100_000);
        let patch = json!({"data": {"count": patches.to_string(), "text": text}});
        let output = kubectl.run_with_input(
            &["patch", "configmap", "kept", "--patch-file=/dev/stdin"],
            &patch.to_string(),
        );
        if output.code == 0 {
            Err(patches)
        } else {
            Ok(output.stderr)
        }
    });
    assert!(
        refused.contains("no room on the disk of the store: "),
        "{refused}"
    );
    let ready = kubectl.fails(&["get", "--raw", "/readyz?verbose"]);
    assert!(ready.contains("[-]store-room failed"), "{ready}");
    kubectl.ok(&["get", "--raw", "/livez"]);
    assert_eq!(pod(&kubectl), before);

    disk.reclaim_space();
    wait_for("the store to go on", 60, || kubectl.run(&create).success());
    kubectl.ok(&["get", "--raw", "/readyz"]);
    assert_eq!(pod(&kubectl), before);
    let count = "jsonpath={.data.count}";
    let count = kubectl.ok(&["get", "configmap", "kept", "-o", count]);
    let count: i32 = count.parse().expect("a number");
    // The last patch, which was refused, may be stored or not.
    assert!(patches - count <= 1, "{count} of {patches}");
    // The set still gets its pods.
    kubectl.ok(&["delete", "pod", "web-0"]);
    kubectl.wait_ready("web", 1);
}

#[test]
fn a_disk_that_does_not_answer_is_waited_for() {
    let on_disk = OnADisk::start();
    let (instance, disk) = (&on_disk.instance, &on_disk.disk);
    // The client stores its discovery cache next to its configuration.
    let cache_dir = tempfile::tempdir().expect("a directory");
    let config = cache_dir.path().join("kubeconfig");
    fs::copy(instance.data().join("kubeconfig"), &config).expect("copy");
    let kubectl = Kubectl::new(&config);
    let before = pod(&kubectl);
    disk.block_writes();
    let create = kubectl.start(&["create", "configmap", "new"]);
    // Longer than the time after which a node counts as lost, because a node with a slow disk must not.
    for _ in 0..10 {
        sleep(Duration::from_secs(1));
        assert_eq!(create.output(), "", "acknowledged before it was written");
        assert_eq!(pod(&kubectl), before);
    }
    disk.unblock_writes();
    wait_for("the object", 30, || match create.output() {
        text if text == "configmap/new created\n" => Ok(()),
        text => Err(text),
    });
    assert_eq!(pod(&kubectl), before);
    kubectl.wait_ready("web", 1);
}

#[test]
fn a_disk_that_cannot_be_written_is_refused_at_start() {
    let mut on_disk = OnADisk::start();
    let (instance, disk) = (&mut on_disk.instance, &on_disk.disk);
    let claim = "jsonpath={.metadata.uid}";
    let claim = ["get", "pvc", "data-web-0", "-o", claim];
    let before = instance.kubectl().ok(&claim);
    assert!(instance.interrupt().success());
    disk.set_read_only(true);
    let refused = instance.start_refused();
    assert!(refused.contains("Read-only file system"), "{refused}");
    disk.set_read_only(false);
    instance.start_again();
    let kubectl = instance.kubectl();
    kubectl.wait_ready("web", 1);
    assert_eq!(kubectl.ok(&claim), before);
}

#[test]
fn a_disk_that_fails_under_running_pods_takes_nothing_with_it() {
    let mut on_disk = OnADisk::start();
    let (instance, disk) = (&mut on_disk.instance, &on_disk.disk);
    let cache_dir = tempfile::tempdir().expect("a directory");
    let config = cache_dir.path().join("kubeconfig");
    fs::copy(instance.data().join("kubeconfig"), &config).expect("copy");
    let kubectl = Kubectl::new(&config);
    let before = pod(&kubectl);
    kubectl.ok(&["create", "configmap", "kept", "--from-literal=a=1"]);
    disk.fail();
    for _ in 0..3 {
        let refused = kubectl.fails(&["create", "configmap", "lost"]);
        assert!(refused.contains("Read-only file system"), "{refused}");
    }
    // Existing objects can be read, and pods run; requests get an error with the reason.
    assert_eq!(pod(&kubectl), before);
    kubectl.ok(&["exec", "web-0", "--", "/mainstay", "--version"]);
    let alive = kubectl.fails(&["get", "--raw", "/livez?verbose"]);
    assert!(alive.contains("[-]store failed"), "{alive}");

    instance.interrupt();
    disk.repair();
    instance.start_again();
    let kubectl = instance.kubectl();
    kubectl.wait_ready("web", 1);
    assert_eq!(pod(&kubectl).0, before.0, "the same pod");
    let value = kubectl.ok(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]);
    assert_eq!(value, "1");
    kubectl.fails(&["get", "configmap", "lost"]);
}

/// Findings R13: on a full disk the program starts, so that objects can be deleted.
#[test]
fn a_start_on_a_full_disk_lets_things_be_deleted() {
    let mut on_disk = OnADisk::start();
    let (instance, disk) = (&mut on_disk.instance, &on_disk.disk);
    let before = instance.kubectl().pod_uid("web-0");
    instance.kubectl().ok(&["create", "configmap", "old"]);
    instance.kill();
    disk.fill(0);
    instance.start_again();
    let kubectl = instance.kubectl();
    assert_eq!(kubectl.pod_uid("web-0"), before);
    wait_for("a deletion", 60, || {
        kubectl
            .run(&["delete", "configmap", "old", "--ignore-not-found"])
            .success()
    });
    disk.reclaim_space();
    wait_for("the store to go on", 60, || {
        kubectl.run(&["create", "configmap", "new"]).success()
    });
    kubectl.wait_ready("web", 1);
}
