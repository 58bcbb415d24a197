//! Limits of containers: the node's disk, the size of logs, huge pages.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use json_tree::json;
use k8s_openapi::api::core::v1::Pod;

use crate::harness::{Harness, condition, phase};
use crate::pods::SLEEP;
use crate::spec::shell;

pub async fn pods_that_write_more_than_they_may_are_driven_out() {
    // statefulset.md 12.14
    let harness = Harness::started("fills").await;
    let of = |name: &str, script: &str, limit: &str| {
        json!({"name": name, "command": shell(&format!("{script}; {SLEEP}")),
            "resources": {"limits": {"ephemeral-storage": limit}}})
    };
    let writes = "head -c 3000000 /dev/zero > /tmp/file";
    let layer = json!({"containers": [of("writes", writes, "1Mi"), of("idle", "true", "64Mi")]});
    let talks = "busybox yes 0123456789abcdef | head -c 3000000";
    let log = json!({"containers": [of("talks", talks, "1Mi")]});
    harness.pod("layer", layer).await;
    harness.pod("log", log).await;
    harness
        .pod("modest", json!({"containers": [of("c", writes, "16Mi")]}))
        .await;
    let volume = |limit: &str| {
        let script = format!("head -c 1000000 /dev/zero > /v/file; {SLEEP}");
        json!({
            "containers": [{"name": "c", "command": shell(&script),
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": limit}}]})
    };
    harness.pod("volume", volume("64Ki")).await;
    harness.pod("roomy", volume("4Mi")).await;
    for (name, message) in [
        (
            "layer",
            "Container writes exceeded its local ephemeral storage limit \"1Mi\". ",
        ),
        (
            "log",
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
        ),
        (
            "volume",
            "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". ",
        ),
    ] {
        let driven = |pod: &Pod| phase(pod) == "Failed";
        let pod = harness.until(name, "evicted", driven).await;
        assert_eq!(
            condition(&pod, "DisruptionTarget"),
            format!("True TerminationByKubelet {message}")
        );
        let status = pod.status.unwrap();
        assert_eq!(status.reason.as_deref(), Some("Evicted"));
        assert_eq!(status.message.as_deref(), Some(message));
        harness
            .event(name, &format!("Warning Evicted {message}"))
            .await;
    }
    for name in ["modest", "roomy"] {
        harness.ready(name).await;
    }
    harness.end().await;
}

/// The size of each file of a container's log, by name.
fn sizes(dir: &Path) -> BTreeMap<PathBuf, fs::Metadata> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    // A file may have been renamed by a rotation.
    let files = entries.filter_map(|path| Some((path.clone(), fs::metadata(path).ok()?)));
    files.collect()
}

pub async fn a_log_never_takes_more_than_its_room() {
    // statefulset.md 12.16
    let harness = Harness::started("floods").await;
    let of = |name: &str, script: &str| json!({"name": name, "command": ["sh", "-c", script]});
    let line = "x".repeat(3000);
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        of("lines", &format!("busybox yes {line}")),
        of("endless", "busybox tr '\\0' x < /dev/zero")]});
    let uid = harness.pod("p", spec).await.metadata.uid.unwrap();
    harness.ready("p").await;
    // The limits of the agent in these tests. A file may exceed its limit by one entry.
    let (files_max, file_bytes_max) = (3, (1 << 20) + (16 << 10) + 64);
    for name in ["lines", "endless"] {
        let dir = harness.dir.join(format!("pods/default_p_{uid}/{name}"));
        let (mut begun, mut current) = (0, 0);
        while begun < 12 {
            let files = sizes(&dir);
            assert!(files.len() <= files_max, "{name}: {files:?}");
            for file in files.values() {
                assert!(file.len() <= file_bytes_max, "{name}: {file:?}");
            }
            // Counts each rotation: the current file has another inode.
            let now = files
                .get(&dir.join("0.log"))
                .map_or(current, MetadataExt::ino);
            begun += u32::from(now != current);
            current = now;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    harness.end().await;
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Huge pages of the node, which are released when the value is dropped.
struct Pages {
    before: String,
}

impl Pages {
    /// Reserves huge pages; `None` if the kernel does not count them for control groups, or has no memory
    /// for them.
    fn reserve(count: u64) -> Option<Self> {
        let counted = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .contains("hugetlb")
        };
        if !counted("/sys/fs/cgroup/cgroup.controllers") && !counted("/proc/self/cgroup") {
            return None;
        }
        let before = fs::read_to_string(POOL).ok()?;
        fs::write(POOL, count.to_string()).ok()?;
        let pages = Self { before };
        let given = fs::read_to_string(POOL).ok()?;
        (given.trim().parse() == Ok(count)).then_some(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        fs::write(POOL, self.before.trim()).ok();
    }
}

pub async fn huge_pages_are_limited_or_refused_where_there_are_none() {
    // statefulset.md 12.16
    let pages = Pages::reserve(16);
    let harness = Harness::started("huge").await;
    let script = "busybox fallocate -l 4194304 /huge/file && echo fits; \
        busybox fallocate -l 12582912 /huge/file || echo no more";
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(&format!("{script}; {SLEEP}")),
            "volumeMounts": [{"name": "huge", "mountPath": "/huge"}],
            "resources": {"limits": {"hugepages-2Mi": "8Mi", "memory": "64Mi", "cpu": "100m"}}}],
        "volumes": [{"name": "huge", "emptyDir": {"medium": "HugePages"}}]});
    harness.pod("p", spec).await;
    if pages.is_some() {
        harness.ready("p").await;
        let log = harness.logged("p", "c", "no more").await;
        assert!(log.contains("fits\n"), "{log}");
    } else {
        let refused = harness
            .until("p", "the refusal", |pod| phase(pod) == "Failed")
            .await;
        let status = refused.status.unwrap();
        assert_eq!(status.reason.as_deref(), Some("OutOfhugepages-2Mi"));
    }
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    harness.end().await;
    drop(pages);
}
