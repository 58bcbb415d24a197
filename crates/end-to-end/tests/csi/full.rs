//! A volume of a driver that becomes full: its pod gets ENOSPC, no other pod is affected, the metrics report it, and an
//! expansion provides free bytes again (docs/storage.md).

use end_to_end::cluster::is_ready;
use end_to_end::csi::set;
use end_to_end::program::ok;
use end_to_end::{text, wait_for};
use serde_json::{Value, json};

use super::Harness;

/// Free bytes of a full volume: less than a page.
const FREE_BYTES_MAX: f64 = 4096.0;

/// Runs concurrently with the set `db`, whose pods continue.
pub fn a_volume_fills_and_grows(harness: &Harness) {
    let kubectl = &harness.kubectl;
    let mut full = set("full", 1, "disks-limited", json!({}));
    // The image with `dd`.
    full["spec"]["template"]["spec"]["containers"][0]["image"] = json!("csi-test-driver:1");
    kubectl.apply(&full.to_string());
    kubectl.wait_ready("full", 1);
    let write = |file: &str, kib: u32| {
        let script = format!("dd if=/dev/zero of=/data/{file} bs=1024 count={kib}");
        kubectl.run(&["exec", "full-0", "--", "sh", "-c", &script])
    };
    let refused = write("filler", 2048);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(
        refused.stderr.contains("No space left on device"),
        "{refused:?}"
    );

    // The node and the pods have not changed.
    let pod = kubectl.pod("full-0");
    assert!(is_ready(&pod), "{pod}");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    let name = text(&pod, "/spec/nodeName");
    let node = kubectl.json(&["get", "node", name]);
    assert!(is_ready(&node) && has_no_disk_pressure(&node), "{node}");
    harness.write("db-0", "db-0");

    let figures = wait_for("the figures of the full volume", 180, || {
        let figures = Figures::read(harness, name)?;
        match figures.is_full() {
            true => Ok(figures),
            false => Err(format!("{figures:?}")),
        }
    });
    assert_eq!(figures.capacity, 1048576.0, "{figures:?}");
    let data = harness.instance.data().display().to_string();
    let listed = ok(&["volume", "ls", "--data-dir", &data]);
    let line = listed.lines().find(|line| line.starts_with("data-full-0"));
    let line = line.unwrap_or_else(|| panic!("{listed}"));
    assert_eq!(line.matches(" 1.0Mi ").count(), 1, "{listed}");

    harness.grow("data-full-0", "2Mi");
    harness.wait_size("data-full-0", &["2Mi", "2097152"]);
    let written = write("more", 512);
    assert_eq!(written.code, 0, "{written:?}");
    assert_eq!(
        kubectl.pod("full-0")["metadata"]["uid"],
        pod["metadata"]["uid"]
    );
    harness.remove_set("full");
}

fn has_no_disk_pressure(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions
        .any(|condition| condition["type"] == "DiskPressure" && condition["status"] == "False")
}

/// The figures of the volume, from the metrics and from the summary of its node.
#[derive(Debug)]
struct Figures {
    capacity: f64,
    available: f64,
    of_summary: Value,
}

impl Figures {
    fn read(harness: &Harness, node: &str) -> Result<Self, String> {
        let raw = |path: &str| {
            let path = format!("/api/v1/nodes/{node}/proxy/{path}");
            harness.kubectl.read(&path)
        };
        let metrics = raw("metrics")?;
        let of = |name: &str| {
            let start = format!(
                "kubelet_volume_stats_{name}{{namespace=\"default\",persistentvolumeclaim=\"data-full-0\"}} "
            );
            let mut lines = metrics.lines();
            let value = lines.find_map(|line| line.strip_prefix(&start));
            let value = value.and_then(|value| value.parse().ok());
            value.ok_or_else(|| format!("no {start} in {metrics}"))
        };
        let summary: Value =
            serde_json::from_str(&raw("stats/summary")?).map_err(|error| error.to_string())?;
        let pods = summary["pods"].as_array().into_iter().flatten();
        let mut volumes = pods.filter_map(|pod| pod["volume"].as_array()).flatten();
        let volume_stats = volumes.find(|volume| volume["pvcRef"]["name"] == "data-full-0");
        Ok(Self {
            capacity: of("capacity_bytes")?,
            available: of("available_bytes")?,
            of_summary: volume_stats.cloned().unwrap_or_default(),
        })
    }

    fn is_full(&self) -> bool {
        let available = self.of_summary["availableBytes"].as_f64();
        self.available < FREE_BYTES_MAX && available.is_some_and(|bytes| bytes < FREE_BYTES_MAX)
    }
}
