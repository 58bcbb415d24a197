//! A driver with injected failures: it fails, is slow, exits between two steps and repeats responses, in every call.

use std::fs;

use end_to_end::csi::{claim, entries, pod, set};
use end_to_end::{text, wait_for, wait_for_text};
use serde_json::json;

use super::Harness;

/// Every call in the life of a volume.
const METHODS: [&str; 13] = [
    "CreateVolume",
    "ControllerPublishVolume",
    "NodeStageVolume",
    "NodePublishVolume",
    "ControllerExpandVolume",
    "NodeExpandVolume",
    "ControllerModifyVolume",
    "CreateSnapshot",
    "DeleteSnapshot",
    "NodeUnpublishVolume",
    "NodeUnstageVolume",
    "ControllerUnpublishVolume",
    "DeleteVolume",
];

/// The failures of each call, in the order of their names. After code 14 it is unknown whether the work was done.
const FAILURES: [(&str, &str); 5] = [
    ("before", "fail-13"),
    ("middle", "fail-14"),
    ("after", "fail-14"),
    ("after", "repeat"),
    ("middle", "slow-1000"),
];

#[test]
fn a_volume_s_life_with_a_driver_that_fails_in_every_call() {
    let harness = Harness::start(1, 0);
    for method in METHODS {
        for (number, (at, kind)) in FAILURES.iter().enumerate() {
            let name = format!("{method}-{number}");
            harness.order(&name, &json!({"method": method, "at": at, "kind": kind}));
        }
    }
    // The driver's containers exit once each, before the other failures between two steps.
    for method in ["CreateVolume", "NodePublishVolume"] {
        let name = format!("{method}--dies");
        harness.order(
            &name,
            &json!({"method": method, "at": "middle", "kind": "die"}),
        );
    }
    let kubectl = &harness.kubectl;
    kubectl.apply(&set("db", 1, "disks", json!({})).to_string());
    kubectl.wait_ready("db", 1);
    let keep = "echo kept >/data/file && sync";
    kubectl.ok(&["exec", "db-0", "--", "sh", "-c", keep]);
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Mi"}},
        "volumeAttributesClassName": "gold"}});
    kubectl.ok(&["patch", "pvc", "data-db-0", "-p", &more.to_string()]);
    wait_for("the larger volume with other attributes", 180, || {
        let claim = kubectl.get(&["pvc", "data-db-0"])?;
        let status = claim["status"].to_string();
        let is_done = status.contains(r#""currentVolumeAttributesClassName":"gold""#)
            && status.contains(r#""capacity":{"storage":"2097152"}"#)
            && !status.contains("allocatedResourceStatuses");
        if is_done { Ok(()) } else { Err(status) }
    });
    let snapshot = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"name": "one"}, "spec": {"volumeSnapshotClassName": "disks",
            "source": {"persistentVolumeClaimName": "data-db-0"}}});
    kubectl.apply(&snapshot.to_string());
    wait_for_text("true", 120, || {
        let ready = "jsonpath={.status.readyToUse}";
        kubectl.ok(&["get", "volumesnapshot", "one", "-o", ready])
    });
    kubectl.ok(&["delete", "pod", "db-0"]);
    kubectl.wait_ready("db", 1);
    assert_eq!(
        kubectl.ok(&["exec", "db-0", "--", "cat", "/data/file"]),
        "kept\n"
    );
    kubectl.ok(&["delete", "volumesnapshot", "one", "--timeout=480s"]);
    kubectl.ok(&["delete", "statefulset", "db", "--timeout=480s"]);
    kubectl.ok(&["delete", "pvc", "data-db-0", "--timeout=480s"]);
    harness.wait_deleted();
    // The last failure is in a call whose work was done.
    wait_for("all failures to have happened", 60, || {
        let mut left = entries(&harness.state.join("faults"));
        left.retain(|name| name.ends_with(".json"));
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// Each of these is reported by an event or a condition, and can be repaired.
#[test]
fn objects_that_do_not_fit_are_told() {
    let harness = Harness::start(1, 0);
    let kubectl = &harness.kubectl;
    let class = |name: &str, more: serde_json::Value| {
        let mut class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": name}, "provisioner": end_to_end::csi::DRIVER,
            "volumeBindingMode": "WaitForFirstConsumer"});
        end_to_end::csi::merge(&mut class, &more);
        kubectl.apply(&class.to_string());
        kubectl.apply(&claim(name, json!({"spec": {"storageClassName": name}})).to_string());
        kubectl.apply(&pod(name, name).to_string());
    };
    let event = |object: &str, part: &str| {
        let of = format!("involvedObject.name={object}");
        let events = ["get", "events", "--field-selector", &of];
        wait_for_text(part, 120, || kubectl.ok(&events));
    };
    // A parameter that the driver does not support.
    class("unknown", json!({"parameters": {"colour": "blue"}}));
    event("unknown", "unknown parameter colour");
    // A Secret that is missing at first, for the controller and for the node.
    let secret = |of: &str| {
        json!({"parameters": {(format!("csi.storage.k8s.io/{of}-secret-name")): format!("{of}-key"),
            (format!("csi.storage.k8s.io/{of}-secret-namespace")): "default"}})
    };
    class("secret", secret("provisioner"));
    event("secret", "provisioner-key");
    class("staged", secret("node-stage"));
    event("staged", "node-stage-key");
    for key in ["provisioner-key", "node-stage-key"] {
        kubectl.ok(&[
            "create",
            "secret",
            "generic",
            key,
            "--from-literal=password=sesame",
        ]);
    }
    kubectl.wait_pods_ready(&["pod/secret", "pod/staged"]);
    let journal = fs::read_to_string(harness.state.join("journal")).expect("the journal");
    assert!(journal.contains("password") && !journal.contains("sesame"));
    // The driver decides about mount options, which reach the driver unchanged.
    class("flags", json!({"mountOptions": ["o".repeat(4096)]}));
    event("flags", "mount_flags has 4096 bytes");
    let odd = json!([
        "bind",
        "remount,move",
        "line\nbreak",
        "nul\0",
        "x-mount.mkdir",
        " "
    ]);
    class("odd", json!({"mountOptions": odd}));
    kubectl.wait_pods_ready(&["pod/odd"]);
    let uses = entries(&harness.state.join("uses"))
        .into_iter()
        .map(|name| {
            let text = fs::read_to_string(harness.state.join("uses").join(name)).expect("a use");
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
        });
    let flags =
        |used: &serde_json::Value| used["staged"]["capability"]["mount"]["mount_flags"] == odd;
    assert_eq!(uses.filter(flags).count(), 1);
    // A class of a driver that runs on no node.
    class("nowhere", json!({"provisioner": "nobody.example.com"}));
    event("nowhere", "nobody.example.com");
    let driver = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
        "metadata": {"name": "absent.example.com"}});
    kubectl.apply(&driver.to_string());
    class("absent", json!({"provisioner": "absent.example.com"}));
    event("absent", "DriverNotOnNode");
    kubectl.ok(&["delete", "csidriver", "absent.example.com"]);
    // The longest name of a claim.
    let long = "n".repeat(253);
    kubectl.apply(&claim(&long, json!({})).to_string());
    kubectl.apply(&pod("long", &long).to_string());
    kubectl.wait_pods_ready(&["pod/long"]);
    let bound = kubectl.json(&["get", "pvc", &long]);
    assert_eq!(text(&bound, "/status/phase"), "Bound");
    kubectl.ok(&["delete", "pod", "--all", "--timeout=240s"]);
    kubectl.ok(&["delete", "pvc", "--all", "--timeout=240s"]);
    harness.wait_deleted();
}
