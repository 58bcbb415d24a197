//! A node that runs out of memory or disk, and unused images.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use image_store::{ImageConfig, ImageStore, StoreError};
use jiff::SignedDuration;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube_api_client::Api;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use node_agent::{ImageGcPolicy, OnShutdown};

use crate::harness::{Harness, IMAGE, NODE, PATIENCE, condition, is_ready, layer, phase};
use crate::pods::SLEEP;
use crate::registry::Registry;
use crate::spec::shell;

fn evicted(pod: &Pod) -> bool {
    phase(pod) == "Failed"
}

/// Reason and message of the pod's status.
fn why(pod: &Pod) -> (String, String) {
    let status = pod.status.clone().unwrap();
    (
        status.reason.unwrap_or_default(),
        status.message.unwrap_or_default(),
    )
}

/// The time at which the pod's only container exited.
fn ended_at(pod: &Pod) -> jiff::Timestamp {
    let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref();
    let state = statuses.unwrap()[0].state.clone().unwrap();
    state.terminated.unwrap().finished_at.unwrap().0
}

async fn node(harness: &Harness) -> Node {
    let nodes: Api<Node> = Api::all(harness.client.clone());
    nodes.get(NODE).await.unwrap()
}

async fn node_until(harness: &Harness, what: &str, condition: impl Fn(&Node) -> bool) -> Node {
    let begun = Instant::now();
    loop {
        let node = node(harness).await;
        if condition(&node) {
            return node;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "the node is not {what}: {:#?}",
            node.status
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn has(node: &Node, type_: &str) -> bool {
    let status = node.status.as_ref().unwrap();
    let mut all = status.conditions.iter().flatten();
    all.any(|condition| condition.type_ == type_ && condition.status == "True")
}

pub async fn who_uses_most_over_its_request_goes_first() {
    // statefulset.md 12.1, 12.16
    let mut harness = Harness::new("memory").await;
    harness.start(OnShutdown::LeavePods).await;
    let resources =
        |requests: Value, limits: Value| json!({"requests": requests, "limits": limits});
    let spec = |script: &str, resources: Value| {
        json!({
            "containers": [{"name": "c", "command": shell(&format!("{script} {SLEEP}")),
                "resources": resources, "volumeMounts": [{"name": "m", "mountPath": "/m"}]}],
            "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}]})
    };
    let write = "head -c 16000000 /dev/zero > /m/file; echo wrote;";
    let all = json!({"cpu": "100m", "memory": "128Mi"});
    let guaranteed = spec("", resources(all.clone(), all));
    let burstable = spec("", resources(json!({"memory": "4Ki"}), json!({})));
    let mut critical = spec(write, json!({}));
    critical["priorityClassName"] = json!("system-cluster-critical");
    harness.pod("guaranteed", guaranteed).await;
    harness.pod("burstable", burstable.clone()).await;
    harness.pod("best-effort", spec(write, json!({}))).await;
    harness.pod("critical", critical).await;
    for name in ["guaranteed", "burstable", "best-effort", "critical"] {
        harness.ready(name).await;
    }
    harness.logged("best-effort", "c", "wrote").await;
    harness.stop().await;

    // No machine has that much memory, so every pod that may be evicted is evicted, one after another.
    harness.eviction.thresholds = "memory.available<8Ei".parse().unwrap();
    harness.start(OnShutdown::StopPods).await;
    let mut ends = Vec::new();
    for (name, request) in [
        ("best-effort", "0"),
        ("burstable", "4Ki"),
        ("guaranteed", ""),
    ] {
        let pod = harness.until(name, "evicted", evicted).await;
        let (reason, message) = why(&pod);
        assert_eq!(reason, "Evicted");
        let low = "The node was low on resource: memory. Threshold quantity: ";
        assert!(message.starts_with(low), "{message}");
        let over = format!(", request is {request}, has larger consumption of memory. ");
        assert_eq!(message.contains(&over), !request.is_empty(), "{message}");
        assert_eq!(
            condition(&pod, "DisruptionTarget"),
            format!("True TerminationByKubelet {message}")
        );
        harness
            .event(
                name,
                "Warning Evicted The node was low on resource: memory. ",
            )
            .await;
        ends.push(ended_at(&pod));
    }
    assert!(ends.is_sorted(), "{ends:?}");

    let node = node_until(&harness, "under pressure", |node| {
        has(node, "MemoryPressure")
    })
    .await;
    assert!(!has(&node, "DiskPressure"));
    harness
        .event(
            NODE,
            "Warning EvictionThresholdMet Attempting to reclaim memory",
        )
        .await;
    harness
        .event(NODE, "Normal NodeHasInsufficientMemory")
        .await;
    let refused = harness.pod("late", spec("", json!({}))).await;
    let refused = refused.metadata.name.unwrap();
    let pod = harness.until(&refused, "refused", evicted).await;
    let message = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!(why(&pod), ("Evicted".to_owned(), message.to_owned()));
    assert!(is_ready(&harness.ready("critical").await));
    harness.end().await;
}

/// A separate file system, which is unmounted when the value is dropped.
pub struct Disk(pub PathBuf);

impl Disk {
    pub fn new(path: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let kind = Some("tmpfs");
        mount(kind, &path, kind, MsFlags::empty(), Some(options)).unwrap();
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

pub async fn a_full_disk_costs_logs_of_ended_pods_then_the_pod_that_wrote_most() {
    // statefulset.md 12.1, 12.14, 12.16
    let mut harness = Harness::new("disk").await;
    let disk = Disk::new(harness.dir.join("pods"), "size=64m");
    harness.eviction.thresholds = "nodefs.available<50%".parse().unwrap();
    harness.start(OnShutdown::StopPods).await;
    let spec = |script: &str| {
        json!({"restartPolicy": "Never",
            "containers": [{"name": "c", "command": shell(script),
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}]})
    };
    let done = harness.pod("done", spec("echo done")).await;
    harness
        .until("done", "done", |pod| phase(pod) == "Succeeded")
        .await;
    let logs = |pod: &Pod| {
        let uid = pod.metadata.uid.clone().unwrap();
        let name = pod.metadata.name.clone().unwrap();
        disk.0.join(format!("default_{name}_{uid}/c/0.log"))
    };
    assert!(logs(&done).exists());
    let write = |bytes: u64| format!("head -c {bytes} /dev/zero > /v/file; echo wrote; {SLEEP}");
    let modest = harness.pod("modest", spec(&write(1_000_000))).await;
    harness.ready("modest").await;
    harness.pod("greedy", spec(&write(40_000_000))).await;

    let pod = harness.until("greedy", "evicted", evicted).await;
    let (reason, message) = why(&pod);
    assert_eq!(reason, "Evicted");
    let low = "The node was low on resource: ephemeral-storage. Threshold quantity: 32Mi, \
               available: ";
    assert!(message.starts_with(low), "{message}");
    assert!(!logs(&done).exists(), "what has ended gives its logs");
    harness
        .event(
            NODE,
            "EvictionThresholdMet Attempting to reclaim ephemeral-storage",
        )
        .await;

    // There is free space again, but the pressure condition stays for the transition period, so no pod is
    // admitted.
    let free = || {
        nix::sys::statvfs::statvfs(&disk.0)
            .unwrap()
            .blocks_available()
    };
    let begun = Instant::now();
    while free() * 4096 < 50 << 20 {
        assert!(begun.elapsed() < PATIENCE, "{}", free());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node_until(&harness, "under pressure", |node| has(node, "DiskPressure")).await;
    harness.pod("late", spec(SLEEP)).await;
    let late = harness.until("late", "refused", evicted).await;
    let message = "Pod was rejected: The node had condition: [DiskPressure]. ";
    assert_eq!(why(&late), ("Evicted".to_owned(), message.to_owned()));
    assert!(is_ready(&harness.ready("modest").await));
    assert!(logs(&modest).exists());
    harness.stop().await;
    drop(disk);
    harness.end().await;
}

fn images_of(node: &Node) -> Vec<String> {
    let images = node.status.as_ref().unwrap().images.iter().flatten();
    images
        .flat_map(|image| image.names.clone().unwrap())
        .collect()
}

pub async fn images_that_nobody_uses_make_room() {
    // statefulset.md 12.16. No other test has these layers: a store recognises layers in use by their
    // digests in all mounts of the machine.
    let registry = Registry::start(&[
        ("used", vec![layer(), file("used by a pod")]),
        ("mapped", vec![layer(), file("mapped by a pod")]),
        ("unused", vec![layer(), file("unused by pods")]),
    ])
    .await;
    let mut harness = Harness::new("imagegc").await;
    let store = ImageStore::open(harness.dir.join("images")).unwrap();
    let config = ImageConfig::default();
    store
        .put_builtin(IMAGE, &file("own"), &config, "1")
        .unwrap();
    harness.images = store.clone();
    harness.start(OnShutdown::LeavePods).await;
    let spec = |image: &str, script: &str| {
        json!({"restartPolicy": "Never", "containers": [{"name": "c",
            "image": registry.name(image), "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/busybox", "sh", "-c", script]}]})
    };
    harness
        .pod("runs", spec("used", &SLEEP.replace("sleep", "/bin/sleep")))
        .await;
    harness.pod("done", spec("unused", "exit 0")).await;
    let mut mapped = spec("mapped", &SLEEP.replace("sleep", "/bin/sleep"));
    mapped["hostUsers"] = json!(false);
    harness.pod("mapped", mapped).await;
    for name in ["runs", "mapped"] {
        harness.ready(name).await;
    }
    harness
        .until("done", "done", |pod| phase(pod) == "Succeeded")
        .await;
    let named = |name: &str| {
        let name = registry.name(name);
        move |node: &Node| images_of(node).contains(&name)
    };
    node_until(&harness, "told of the image", named("unused")).await;
    // The image store also rejects the removal of images whose layers are mounted, even if an idmapped
    // mount shows another owner.
    for name in ["used", "mapped"] {
        let refused = store.remove(&registry.name(name)).unwrap_err();
        assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    }
    harness.stop().await;

    // With these limits, every disk is too full. Images from before the agent's start count as old.
    harness.image_gc = ImageGcPolicy {
        high_percent: 0,
        low_percent: 0,
        minimum_age: SignedDuration::from_mins(2),
        maximum_age: None,
    };
    harness.start(OnShutdown::StopPods).await;
    let lists_unused = named("unused");
    let node = node_until(&harness, "rid of the image", |node| !lists_unused(node)).await;
    assert_eq!(store.get(&registry.name("unused")).unwrap(), None);
    let image = store.get(&registry.name("used")).unwrap().unwrap();
    let by_digest = format!("{}@{}", registry.repository("used"), image.digest);
    let names = images_of(&node);
    for name in [
        registry.name("used"),
        by_digest,
        format!("docker.io/{IMAGE}"),
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(image.layers.iter().all(|layer| layer.is_dir()));
    assert_eq!(store.layers().unwrap().len(), 4);
    harness
        .event(
            NODE,
            "Warning FreeDiskSpaceFailed Failed to garbage collect required amount of images. ",
        )
        .await;

    // A pod that needs the image pulls it again. The running container was not restarted.
    harness.pod("again", spec("unused", "exit 0")).await;
    harness
        .until("again", "done", |pod| phase(pod) == "Succeeded")
        .await;
    harness.event("again", "Successfully pulled image").await;
    for name in ["runs", "mapped"] {
        assert!(is_ready(&harness.ready(name).await));
    }
    harness.end().await;
}

/// A layer with one file.
fn file(text: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "file", text.as_bytes())
        .unwrap();
    archive.into_inner().unwrap()
}
