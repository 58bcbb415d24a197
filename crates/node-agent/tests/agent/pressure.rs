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

use crate::pods::SLEEP;
use crate::registry::Registry;
use crate::spec::shell;
use crate::world::{IMAGE, NODE, PATIENCE, World, condition, is_ready, layer, phase};

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

async fn node(world: &World) -> Node {
    let nodes: Api<Node> = Api::all(world.client.clone());
    nodes.get(NODE).await.unwrap()
}

async fn node_until(world: &World, what: &str, condition: impl Fn(&Node) -> bool) -> Node {
    let begun = Instant::now();
    loop {
        let node = node(world).await;
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
    let mut world = World::new("memory").await;
    world.start(OnShutdown::LeavePods).await;
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
    world.pod("guaranteed", guaranteed).await;
    world.pod("burstable", burstable.clone()).await;
    world.pod("best-effort", spec(write, json!({}))).await;
    world.pod("critical", critical).await;
    for name in ["guaranteed", "burstable", "best-effort", "critical"] {
        world.ready(name).await;
    }
    world.logged("best-effort", "c", "wrote").await;
    world.stop().await;

    // No machine has that much memory, so every pod that may be evicted is evicted, one after another.
    world.eviction.thresholds = "memory.available<8Ei".parse().unwrap();
    world.start(OnShutdown::StopPods).await;
    let mut ends = Vec::new();
    for (name, request) in [
        ("best-effort", "0"),
        ("burstable", "4Ki"),
        ("guaranteed", ""),
    ] {
        let pod = world.until(name, "evicted", evicted).await;
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
        world
            .event(
                name,
                "Warning Evicted The node was low on resource: memory. ",
            )
            .await;
        ends.push(ended_at(&pod));
    }
    assert!(ends.is_sorted(), "{ends:?}");

    let node = node_until(&world, "under pressure", |node| has(node, "MemoryPressure")).await;
    assert!(!has(&node, "DiskPressure"));
    world
        .event(
            NODE,
            "Warning EvictionThresholdMet Attempting to reclaim memory",
        )
        .await;
    world.event(NODE, "Normal NodeHasInsufficientMemory").await;
    let refused = world.pod("late", spec("", json!({}))).await;
    let refused = refused.metadata.name.unwrap();
    let pod = world.until(&refused, "refused", evicted).await;
    let message = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!(why(&pod), ("Evicted".to_owned(), message.to_owned()));
    assert!(is_ready(&world.ready("critical").await));
    world.end().await;
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
    let mut world = World::new("disk").await;
    let disk = Disk::new(world.dir.join("pods"), "size=64m");
    world.eviction.thresholds = "nodefs.available<50%".parse().unwrap();
    world.start(OnShutdown::StopPods).await;
    let spec = |script: &str| {
        json!({"restartPolicy": "Never",
            "containers": [{"name": "c", "command": shell(script),
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}]})
    };
    let done = world.pod("done", spec("echo done")).await;
    world
        .until("done", "done", |pod| phase(pod) == "Succeeded")
        .await;
    let logs = |pod: &Pod| {
        let uid = pod.metadata.uid.clone().unwrap();
        let name = pod.metadata.name.clone().unwrap();
        disk.0.join(format!("default_{name}_{uid}/c/0.log"))
    };
    assert!(logs(&done).exists());
    let write = |bytes: u64| format!("head -c {bytes} /dev/zero > /v/file; echo wrote; {SLEEP}");
    let modest = world.pod("modest", spec(&write(1_000_000))).await;
    world.ready("modest").await;
    world.pod("greedy", spec(&write(40_000_000))).await;

    let pod = world.until("greedy", "evicted", evicted).await;
    let (reason, message) = why(&pod);
    assert_eq!(reason, "Evicted");
    let low = "The node was low on resource: ephemeral-storage. Threshold quantity: 32Mi, \
               available: ";
    assert!(message.starts_with(low), "{message}");
    assert!(!logs(&done).exists(), "what has ended gives its logs");
    world
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
    node_until(&world, "under pressure", |node| has(node, "DiskPressure")).await;
    world.pod("late", spec(SLEEP)).await;
    let late = world.until("late", "refused", evicted).await;
    let message = "Pod was rejected: The node had condition: [DiskPressure]. ";
    assert_eq!(why(&late), ("Evicted".to_owned(), message.to_owned()));
    assert!(is_ready(&world.ready("modest").await));
    assert!(logs(&modest).exists());
    world.stop().await;
    drop(disk);
    world.end().await;
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
    let mut world = World::new("imagegc").await;
    let store = ImageStore::open(world.dir.join("images")).unwrap();
    let config = ImageConfig::default();
    store
        .put_builtin(IMAGE, &file("own"), &config, "1")
        .unwrap();
    world.images = store.clone();
    world.start(OnShutdown::LeavePods).await;
    let spec = |image: &str, script: &str| {
        json!({"restartPolicy": "Never", "containers": [{"name": "c",
            "image": registry.name(image), "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/busybox", "sh", "-c", script]}]})
    };
    world
        .pod("runs", spec("used", &SLEEP.replace("sleep", "/bin/sleep")))
        .await;
    world.pod("done", spec("unused", "exit 0")).await;
    let mut mapped = spec("mapped", &SLEEP.replace("sleep", "/bin/sleep"));
    mapped["hostUsers"] = json!(false);
    world.pod("mapped", mapped).await;
    for name in ["runs", "mapped"] {
        world.ready(name).await;
    }
    world
        .until("done", "done", |pod| phase(pod) == "Succeeded")
        .await;
    let named = |name: &str| {
        let name = registry.name(name);
        move |node: &Node| images_of(node).contains(&name)
    };
    node_until(&world, "told of the image", named("unused")).await;
    // The image store also rejects the removal of images whose layers are mounted, even if an idmapped
    // mount shows another owner.
    for name in ["used", "mapped"] {
        let refused = store.remove(&registry.name(name)).unwrap_err();
        assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    }
    world.stop().await;

    // With these limits, every disk is too full. Images from before the agent's start count as old.
    world.image_gc = ImageGcPolicy {
        high_percent: 0,
        low_percent: 0,
        minimum_age: SignedDuration::from_mins(2),
        maximum_age: None,
    };
    world.start(OnShutdown::StopPods).await;
    let lists_unused = named("unused");
    let node = node_until(&world, "rid of the image", |node| !lists_unused(node)).await;
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
    world
        .event(
            NODE,
            "Warning FreeDiskSpaceFailed Failed to garbage collect required amount of images. ",
        )
        .await;

    // A pod that needs the image pulls it again. The running container was not restarted.
    world.pod("again", spec("unused", "exit 0")).await;
    world
        .until("again", "done", |pod| phase(pod) == "Succeeded")
        .await;
    world.event("again", "Successfully pulled image").await;
    for name in ["runs", "mapped"] {
        assert!(is_ready(&world.ready(name).await));
    }
    world.end().await;
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
