//! The disk of the pods becomes full: the pods of their set start again when the disk has free bytes, with their
//! claims.

use std::fs;
use std::path::PathBuf;

use end_to_end::disk::Disk;
use end_to_end::stateful_set::web_with_claims;
use end_to_end::{Instance, Kubectl, wait_for, wait_for_text};

/// A server whose pods have a separate disk. The server is stopped before the disk, and the disk before the directory
/// in which it is mounted.
struct OnADisk {
    instance: Instance,
    disk: Disk,
    _directory: Directory,
}

/// A directory that is removed when this value is dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl OnADisk {
    fn start() -> Self {
        let mut disk = None;
        let arguments = [
            "--eviction-hard=nodefs.available<40%",
            "--eviction-pressure-transition-period=5s",
        ];
        let instance = Instance::start_prepared(&arguments, |data| {
            let pods = data.join("pods");
            fs::create_dir(&pods).expect("make the directory of the pods");
            disk = Some(Disk::mount(&pods, 256));
        });
        let disk = disk.expect("a disk");
        let data = instance.data();
        let directory = data.parent().expect("a directory of the test's own");
        Self {
            _directory: Directory(directory.to_owned()),
            instance,
            disk,
        }
    }
}

fn disk_pressure(kubectl: &Kubectl) -> String {
    let condition = "jsonpath={.items[0].status.conditions[?(@.type==\"DiskPressure\")].status}";
    kubectl.ok(&["get", "nodes", "-o", condition])
}

#[test]
fn a_set_whose_pods_are_driven_out_comes_back_with_its_data() {
    // statefulset.md 12.1, 12.16: eviction because of the disk.
    let on_disk = OnADisk::start();
    let kubectl = on_disk.instance.kubectl();
    kubectl.apply(&web_with_claims(2).to_string());
    kubectl.wait_ready("web", 2);
    let uids = || ["web-0", "web-1"].map(|name| kubectl.pod_uid(name));
    let claims = || kubectl.ok(&["get", "pvc", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let (before, claims_before) = (uids(), claims());

    on_disk.disk.fill(64);
    wait_for_text("True", 60, || disk_pressure(&kubectl));
    for name in ["web-0", "web-1"] {
        let object = format!("involvedObject.name={name},reason=Evicted");
        let events = ["get", "events", "--field-selector", &object];
        wait_for_text(
            "The node was low on resource: ephemeral-storage.",
            60,
            || kubectl.ok(&events),
        );
    }
    let node = kubectl.ok(&["describe", "nodes"]);
    for text in [
        "node.kubernetes.io/disk-pressure:NoSchedule",
        "KubeletHasDiskPressure",
        "Attempting to reclaim ephemeral-storage",
    ] {
        assert!(node.contains(text), "{text}: {node}");
    }

    on_disk.disk.reclaim_space();
    wait_for_text("False", 60, || disk_pressure(&kubectl));
    kubectl.wait_ready("web", 2);
    wait_for("other pods", 60, || {
        let after = uids();
        let others = after.iter().zip(&before).all(|(now, then)| now != then);
        others.then_some(()).ok_or(after)
    });
    assert_eq!(claims(), claims_before);
}
