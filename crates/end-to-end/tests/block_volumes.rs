//! Claims that are block devices (statefulset.md §11): data that was written to a device is there for the next pod of
//! that name, whatever happened in between.

use std::path::Path;

use end_to_end::{Kubectl, wait_for, wait_for_text, with_images};
use serde_json::{Value, json};

/// The path of the device in the containers.
const DEVICE: &str = "/dev/raw";
/// An offset behind any page or buffer.
const FAR_KIB: &str = "8192";

#[test]
fn a_block_device_is_its_pods_again_and_again() {
    let (_registry, mut instance) = with_images();
    let kubectl = instance.kubectl();
    let volumes = instance.data().join("volumes");
    kubectl.apply(&set());
    kubectl.wait_ready("raw", 2);
    assert_eq!(attached(&volumes).len(), 2);
    write(&kubectl, "raw-0", "pattern-0");
    write(&kubectl, "raw-1", "pattern-1");

    kubectl.ok(&["delete", "pod", "raw-0"]);
    kubectl.wait_ready("raw", 2);
    assert_eq!(read(&kubectl, "raw-0"), "pattern-0");
    assert_eq!(read(&kubectl, "raw-1"), "pattern-1");
    grows_in_use(&kubectl);

    // After a kill the pods continue with their devices; after an orderly stop no device remains.
    instance.kill();
    instance.start_again();
    let kubectl = instance.kubectl();
    assert_eq!(read(&kubectl, "raw-0"), "pattern-0");
    instance.interrupt();
    wait_detached(&volumes);
    instance.start_again();
    let kubectl = instance.kubectl();
    kubectl.wait_ready("raw", 2);
    assert_eq!(read(&kubectl, "raw-0"), "pattern-0");

    kubectl.ok(&["delete", "statefulset", "raw"]);
    kubectl.ok(&[
        "wait",
        "--for=delete",
        "pod",
        "-l",
        "app=raw",
        "--timeout=300s",
    ]);
    kubectl.ok(&["delete", "pvc", "data-raw-0", "data-raw-1"]);
    wait_for("the volumes to go", 60, || {
        let left = kubectl.ok(&["get", "pv", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    wait_detached(&volumes);
}

#[test]
fn what_is_no_block_device_is_said() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    // A pool that copies on write supports no block devices.
    kubectl.apply(&claim("pooled", "local-cow").to_string());
    kubectl.apply(&pod("pooled").to_string());
    event(
        &kubectl,
        "pooled",
        "ProvisioningFailed",
        "makes no block devices",
    );
    // A directory is no block device.
    let node = kubectl.node_name();
    let path = instance.data();
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "directory"},
        "spec": {"capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Block", "storageClassName": "by-hand", "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}});
    kubectl.apply(&volume.to_string());
    kubectl.apply(&claim("by-hand", "by-hand").to_string());
    kubectl.apply(&pod("by-hand").to_string());
    event(
        &kubectl,
        "by-hand",
        "FailedMapVolume",
        "is not a block device",
    );
    kubectl.ok(&["delete", "pod", "pooled", "by-hand", "--now"]);
}

fn claim_spec(class: &str) -> Value {
    json!({"storageClassName": class, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
        "resources": {"requests": {"storage": "64Mi"}}})
}

fn claim(name: &str, class: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": claim_spec(class)})
}

fn container() -> Value {
    json!({"name": "c", "image": "busybox:1",
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"],
        "volumeDevices": [{"name": "data", "devicePath": DEVICE}]})
}

fn pod(claim: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": claim}, "spec": {
        "containers": [container()],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}})
}

fn set() -> String {
    let template = json!({"metadata": {"labels": {"app": "raw"}},
        "spec": {"containers": [container()]}});
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "raw"},
        "spec": {"serviceName": "raw", "replicas": 2,
            "selector": {"matchLabels": {"app": "raw"}}, "template": template,
            "volumeClaimTemplates": [
                {"metadata": {"name": "data"}, "spec": claim_spec("local")}]}})
    .to_string()
}

fn shell(kubectl: &Kubectl, pod: &str, command: &str) -> String {
    kubectl.ok(&["exec", pod, "--", "sh", "-c", command])
}

fn write(kubectl: &Kubectl, pod: &str, pattern: &str) {
    let command =
        format!("echo {pattern} | dd of={DEVICE} bs=1024 seek={FAR_KIB} conv=fsync,notrunc");
    shell(kubectl, pod, &command);
}

fn read(kubectl: &Kubectl, pod: &str) -> String {
    let command = format!("dd if={DEVICE} bs=1024 skip={FAR_KIB} count=1 2>/dev/null | head -n 1");
    shell(kubectl, pod, &command).trim().to_owned()
}

/// statefulset.md 11.13
fn grows_in_use(kubectl: &Kubectl) {
    let size = || shell(kubectl, "raw-0", &format!("wc -c < {DEVICE}"));
    assert_eq!(size().trim(), (64 << 20).to_string());
    let request = json!({"spec": {"resources": {"requests": {"storage": "96Mi"}}}});
    kubectl.ok(&["patch", "pvc", "data-raw-0", "-p", &request.to_string()]);
    wait_for("the claim to have grown", 60, || {
        let claim = kubectl.get_for_wait(&["pvc/data-raw-0"])?;
        let is_larger = claim["status"]["capacity"]["storage"] == "96Mi";
        if is_larger { Ok(()) } else { Err(claim) }
    });
    assert_eq!(size().trim(), (96 << 20).to_string());
    assert_eq!(read(kubectl, "raw-0"), "pattern-0");
}

/// Waits until no loop device uses a file below a directory: the kernel detaches a device when no process has it open,
/// and other tests open every device for a moment, to find their own.
fn wait_detached(directory: &Path) {
    wait_for("the loop devices to go", 60, || {
        let left = attached(directory);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// Files below a directory that loop devices use.
fn attached(directory: &Path) -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").expect("the kernel's block devices");
    let backing = devices.filter_map(|device| {
        let path = device.ok()?.path().join("loop/backing_file");
        std::fs::read_to_string(path).ok()
    });
    let directory = directory.to_string_lossy();
    backing
        .filter(|file| file.starts_with(&*directory))
        .collect()
}

fn event(kubectl: &Kubectl, about: &str, reason: &str, part: &str) {
    let selector = format!("involvedObject.name={about},reason={reason}");
    wait_for_text(part, 60, || {
        kubectl.ok(&["get", "events", "--field-selector", &selector])
    });
}
