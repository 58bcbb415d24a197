//! The namespaces and resources of a pod, and those that the pod shares with the node.

use std::path::{Path, PathBuf};
use std::process::Command;

use image_store::ImageConfig;
use json_tree::{Value, json};

use crate::harness::Harness;
use crate::images::{self, layer_with};
use crate::pods::SLEEP;
use crate::spec::shell;
use crate::trace::{Trace, holds};

fn linked(kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    link.to_string_lossy().into_owned()
}

fn node_memory() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<i64>().unwrap() << 10
}

/// The lowest OOM score adjustment that this machine lets root set.
fn lowest_score() -> i64 {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    if capabilities & (1 << SYS_RESOURCE) == 0 {
        0
    } else {
        -997
    }
}

pub async fn namespaces_and_the_order_of_killing_are_as_asked() {
    // statefulset.md 12.16
    let harness = Harness::started("place").await;
    let kinds = ["ipc", "pid", "net", "uts", "mnt"];
    let script = format!(
        "for kind in {}; do busybox readlink /proc/self/ns/$kind; done; \
         cat /proc/self/oom_score_adj; echo seen; {SLEEP}",
        kinds.join(" ")
    );
    let spec = |pod_fields: Value, resources: Value| {
        let mut spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "command": shell(&script), "resources": resources}]});
        for (name, value) in pod_fields.as_object().unwrap() {
            spec[name] = value.clone();
        }
        spec
    };
    let best_effort = json!({});
    let guaranteed = json!({"limits": {"cpu": "50m", "memory": "64Mi"}});
    let burstable = json!({"requests": {"memory": "256Mi"}});
    let burst = (1000 - (1000 * (256 << 20)) / node_memory()).clamp(3, 999);
    for (name, pod_fields, resources, nodes, score) in [
        ("own", json!({}), best_effort.clone(), vec![], 1000),
        (
            "ipc",
            json!({"hostIPC": true}),
            guaranteed,
            vec!["ipc"],
            lowest_score(),
        ),
        (
            "pid",
            json!({"hostPID": true}),
            burstable,
            vec!["pid"],
            burst,
        ),
        (
            "net",
            json!({"hostNetwork": true}),
            best_effort,
            vec!["net", "uts"],
            1000,
        ),
    ] {
        harness.pod(name, spec(pod_fields, resources)).await;
        harness.ready(name).await;
        let log = harness.logged(name, "c", "seen").await;
        let lines: Vec<&str> = log.lines().collect();
        let shared = kinds.iter().zip(&lines);
        let shared = shared.filter(|(kind, line)| linked(kind) == **line);
        let shared: Vec<&str> = shared.map(|(kind, _)| *kind).collect();
        assert_eq!(shared, nodes, "{name}");
        assert_eq!(lines[kinds.len()], score.to_string(), "{name}");
    }
    harness.end().await;
}

pub async fn groups_and_process_files_are_as_asked() {
    // statefulset.md 12.16
    let harness = Harness::started("groups").await;
    let image = "test/groups:1";
    let users = [
        ("etc/passwd", b"app:x:1000:1000::/:/bin/sh\n".to_vec()),
        ("etc/group", b"app:x:1000:\nextra:x:50000:app\n".to_vec()),
    ];
    images::put(&harness, image, &layer_with(&users), ImageConfig::default());
    let script = format!("busybox id -G; {SLEEP}");
    for (name, policy, expected) in [
        ("merge", json!("Merge"), vec![2000, 3000, 4000, 50000]),
        ("usual", Value::Null, vec![2000, 3000, 4000, 50000]),
        ("strict", json!("Strict"), vec![2000, 3000, 4000]),
    ] {
        let spec = json!({"terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000,
                "supplementalGroups": [4000], "supplementalGroupsPolicy": policy},
            "containers": [{"name": "c", "image": image, "command": shell(&script)}]});
        harness.pod(name, spec).await;
        let pod = harness.ready(name).await;
        let log = harness.logged(name, "c", "\n").await;
        let mut groups: Vec<i64> = log
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        groups.sort_unstable();
        assert_eq!(groups, expected, "{name}");
        let user = pod.status.unwrap().container_statuses.unwrap()[0]
            .user
            .clone();
        let mut reported = user.unwrap().linux.unwrap().supplemental_groups.unwrap();
        reported.sort_unstable();
        assert!(
            reported.iter().all(|group| expected.contains(group)),
            "{reported:?}"
        );
        assert_eq!(
            reported.contains(&50000),
            expected.contains(&50000),
            "{name}"
        );
    }

    let script = format!("busybox grep -c ' /proc/' /proc/self/mountinfo; {SLEEP}");
    let of = |name: &str, mount: &str| json!({"name": name, "command": shell(&script), "securityContext": {"procMount": mount}});
    let spec = json!({"hostUsers": false, "terminationGracePeriodSeconds": 1,
        "containers": [of("usual", "Default"), of("bare", "Unmasked")]});
    harness.pod("proc", spec).await;
    harness.ready("proc").await;
    assert_ne!(harness.logged("proc", "usual", "\n").await, "0\n");
    assert_eq!(harness.logged("proc", "bare", "\n").await, "0\n");
    harness.end().await;
}

/// A shared mount point, which is unmounted when the value is dropped.
struct Shared(PathBuf);

impl Shared {
    fn new(dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        mount(&["-t", "tmpfs", "none"], &dir);
        let guard = Self(dir);
        mount(&["--make-shared"], &guard.0);
        guard
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Unmounts everything below it, too.
        Command::new("umount")
            .args(["-R", "-l"])
            .arg(&self.0)
            .status()
            .ok();
    }
}

fn mount(args: &[&str], at: &Path) {
    let status = Command::new("mount").args(args).arg(at).status().unwrap();
    assert!(status.success(), "mount {args:?}");
}

pub async fn later_mounts_travel_as_far_as_the_pod_says() {
    // statefulset.md 12.14
    let harness = Harness::started("travel").await;
    let trace = Trace::new(&harness);
    let volume = Shared::new(harness.dir.join("shared"));
    for sub in ["node", "container"] {
        std::fs::create_dir(volume.0.join(sub)).unwrap();
    }
    let command = |name: &str, then: &str| {
        let script = format!(
            "until test -e /trace/mounted; do sleep 0.05; done; \
             test -e /v/node/later && echo sees > /trace/{name} || echo misses > /trace/{name}; \
             {then} {SLEEP}"
        );
        shell(&script)
    };
    let of = |name: &str, propagation: Value, privileged: bool, then: &str| {
        json!({"name": name, "command": command(name, then),
            "securityContext": {"privileged": privileged},
            "volumeMounts": [Trace::mount(),
                {"name": "v", "mountPath": "/v", "mountPropagation": propagation}]})
    };
    let mounts = "busybox mount -t tmpfs none /v/container && touch /v/container/made; \
        touch /trace/made;";
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        of("usual", Value::Null, false, ""), of("none", json!("None"), false, ""),
        of("in", json!("HostToContainer"), false, ""),
        of("both", json!("Bidirectional"), true, mounts)],
        "volumes": [trace.volume(), {"name": "v", "hostPath": {"path": volume.0}}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    mount(&["-t", "tmpfs", "none"], &volume.0.join("node"));
    std::fs::write(volume.0.join("node/later"), "").unwrap();
    trace.make("mounted");
    for (name, expected) in [
        ("usual", "misses\n"),
        ("none", "misses\n"),
        ("in", "sees\n"),
        ("both", "sees\n"),
    ] {
        holds("it has looked", || trace.written(name).ends_with('\n')).await;
        assert_eq!(trace.written(name), expected, "{name}");
    }
    holds("it has mounted", || trace.0.join("made").exists()).await;
    assert!(volume.0.join("container/made").exists());
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    drop(volume);
    harness.end().await;
}
