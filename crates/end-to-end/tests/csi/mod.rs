//! A CSI driver with its sidecars, installed by manifests like those of a chart, and used by sets (docs/storage.md).
//! The driver and the replacements for the sidecars are the project's own (`csi-test-driver`).

mod faults;
mod full;
mod kills;
mod loss;
mod sets;

use std::collections::BTreeMap;
use std::fs;
use std::ops::{Deref, DerefMut};

use end_to_end::csi::{CsiDriver, entries};
use end_to_end::program::text as path_text;
use end_to_end::wait_for_or_report;
use serde_json::Value;

/// An instance with the driver.
struct Harness(CsiDriver);

impl Deref for Harness {
    type Target = CsiDriver;

    fn deref(&self) -> &CsiDriver {
        &self.0
    }
}

impl DerefMut for Harness {
    fn deref_mut(&mut self) -> &mut CsiDriver {
        &mut self.0
    }
}

impl Harness {
    /// Starts the nodes, and the driver, with this limit of volumes on each node.
    #[track_caller]
    fn start(nodes: usize, limit: u32) -> Self {
        Self(CsiDriver::start(nodes, limit, &[]))
    }

    /// Checks that no volume was ever attached to two nodes, or mounted twice at one path.
    #[track_caller]
    fn check_journal(&self) -> Uses {
        let mut uses = Uses::default();
        for line in self.journal() {
            uses.take(&line);
        }
        uses
    }

    /// Waits until the driver has no volumes, and checks that no remains of them exist.
    #[track_caller]
    fn wait_deleted(&self) {
        let volumes = || {
            let left = entries(&self.state.join("volumes"));
            if left.is_empty() { Ok(()) } else { Err(left) }
        };
        let describe = || {
            let all = ["get", "pods,pvc,pv,volumeattachments,events", "-A"];
            self.kubectl.run(&all).stdout
        };
        wait_for_or_report("the volumes to be deleted", 120, volumes, describe);
        for kind in ["uses", "data", "snapshots"] {
            assert_eq!(entries(&self.state.join(kind)), [""; 0], "{kind}");
        }
        let uses = self.check_journal();
        assert!(
            uses.attached.is_empty() && uses.mounted.is_empty(),
            "{uses:?}"
        );
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let state = path_text(&self.state);
        assert!(!mounts.contains(state), "{mounts}");
    }
}

/// The uses of volumes, from the journal.
#[derive(Debug, Default)]
struct Uses {
    /// The node of each attached volume.
    attached: BTreeMap<String, String>,
    /// The volume at each path of a node.
    mounted: BTreeMap<(String, String), String>,
}

impl Uses {
    #[track_caller]
    fn take(&mut self, line: &Value) {
        let at = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let (volume, node, path) = (at("volume"), at("node"), at("at"));
        match line["event"].as_str() {
            Some("attached") => {
                let before = self.attached.insert(volume.clone(), node.clone());
                let is_same = before.as_ref().is_none_or(|before| *before == node);
                assert!(is_same, "{volume} is attached to {before:?} and {node}");
            }
            Some("detached") => drop(self.attached.remove(&volume)),
            Some("mounted") => {
                let before = self
                    .mounted
                    .insert((node.clone(), path.clone()), volume.clone());
                assert_eq!(
                    before, None,
                    "{volume} is mounted again at {path} of {node}"
                );
            }
            Some("unmounted") => drop(self.mounted.remove(&(node, path))),
            _ => {}
        }
    }
}
