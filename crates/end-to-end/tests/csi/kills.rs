//! The agent is killed at each step of an attachment and of its removal.

use end_to_end::cluster::is_ready;
use end_to_end::csi::set;
use end_to_end::{text, wait_for_or_report};
use serde_json::json;

use super::Harness;

/// The calls of a volume's attachment, of its removal, and of its expansion.
const STEPS: [&str; 7] = [
    "ControllerPublishVolume",
    "NodeStageVolume",
    "NodePublishVolume",
    "NodeExpandVolume",
    "NodeUnpublishVolume",
    "NodeUnstageVolume",
    "ControllerUnpublishVolume",
];

#[test]
fn a_kill_at_any_step_neither_leaks_nor_mounts_twice() {
    let mut harness = Harness::start(1, 0);
    harness
        .kubectl
        .apply(&set("db", 1, "disks", json!({})).to_string());
    harness.kubectl.wait_ready("db", 1);
    let keep = "echo kept >/data/file && sync";
    harness
        .kubectl
        .ok(&["exec", "db-0", "--", "sh", "-c", keep]);
    let mut size = 1;
    for step in STEPS {
        for at in ["before", "after"] {
            if step == "NodeExpandVolume" {
                size += 1;
            }
            harness.killed_at((step, at, "slow-3000"), size);
        }
    }
    // The driver exits first, once for each of its halves, because a container that exits often is restarted late.
    for step in ["ControllerPublishVolume", "NodeStageVolume"] {
        harness.killed_at((step, "after", "die"), size);
    }
    harness
        .kubectl
        .ok(&["delete", "statefulset", "db", "--timeout=240s"]);
    harness
        .kubectl
        .ok(&["delete", "pvc", "data-db-0", "--timeout=240s"]);
    harness.wait_deleted();
}

impl Harness {
    /// The server is killed during a call, or just after the driver exited in it, and all work completes nevertheless.
    fn killed_at(&mut self, (step, at, fault): (&str, &str, &str), size: u32) {
        let order = json!({"method": step, "at": at, "kind": fault});
        self.order("order", &order);
        if step == "NodeExpandVolume" {
            let more =
                json!({"spec": {"resources": {"requests": {"storage": format!("{size}Mi")}}}});
            self.kubectl
                .ok(&["patch", "pvc", "data-db-0", "-p", &more.to_string()]);
        }
        let order = self.state.join("faults/order.json");
        let mut deleted = String::new();
        let happened = || {
            if !order.exists() {
                return Ok(());
            }
            // A pod that returns to its node before its volume is detached uses the attached volume again.
            let pod = self.kubectl.get_for_wait(&["pod", "db-0"])?;
            let uid = text(&pod, "/metadata/uid");
            if step != "NodeExpandVolume" && is_ready(&pod) && uid != deleted {
                self.kubectl.ok(&["delete", "pod", "db-0", "--wait=false"]);
                uid.clone_into(&mut deleted);
            }
            Err(pod["status"].clone())
        };
        let pods = || self.kubectl.run(&["get", "pods", "-A"]).stdout;
        wait_for_or_report(&format!("{step} {at}"), 60, happened, pods);
        self.instance.kill();
        self.instance.start_again();
        self.kubectl = self.instance.kubectl();
        let has_recovered = || {
            let claim = self.kubectl.get(&["pvc", "data-db-0"])?;
            let status = claim["status"].to_string();
            let has_grown = !status.contains("allocatedResourceStatuses");
            let pod = self.kubectl.get(&["pod", "db-0"])?;
            if !has_grown || !is_ready(&pod) {
                return Err(format!("{status} {}", pod["status"]));
            }
            let read = self
                .kubectl
                .run(&["exec", "db-0", "--", "cat", "/data/file"]);
            match read.stdout == "kept\n" {
                true => Ok(()),
                false => Err(format!("{read:?}")),
            }
        };
        let describe = || {
            let all = ["get", "pods,volumeattachments,events", "-A", "-o", "wide"];
            self.kubectl.run(&all).stdout
        };
        wait_for_or_report(
            &format!("{step} {at}, {fault}"),
            120,
            has_recovered,
            describe,
        );
        self.kubectl.wait_ready("db", 1);
        let uses = self.check_journal();
        assert_eq!(uses.attached.len(), 1, "{uses:?}");
        assert_eq!(
            uses.mounted.len(),
            2,
            "one mount to stage, one for the pod: {uses:?}"
        );
    }
}
