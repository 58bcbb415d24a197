//! Pods with a user namespace: `hostUsers: false` (KEP-127).

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube_api_client::{Api, Patch, PatchParams};
use node_agent::OnShutdown;

use crate::harness::{Harness, IMAGE, NODE, state};
use crate::pods::SLEEP;

/// Whether the kernel supports idmapped mounts of tmpfs: from Linux 6.3 on.
fn memory_shows_ids() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 3),
        _ => panic!("an odd kernel: {release}"),
    }
}

pub async fn all_of_a_pod_has_the_same_users_and_its_files_theirs() {
    // statefulset.md 12.16
    let mut harness = Harness::new("ownusers").await;
    harness.start(OnShutdown::LeavePods).await;
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let features = nodes.get(NODE).await.unwrap().status.unwrap();
    let features = features.runtime_handlers.unwrap()[0].features.clone();
    assert_eq!(features.unwrap().user_namespaces, Some(true));
    harness
        .create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"a": "1"}}))
        .await;
    harness
        .create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"p": "pw"}}))
        .await;
    let host = harness.dir.join("host");
    harness.pod("p", spec_with_all_volumes(&host)).await;
    let pod = harness.ready("p").await;
    let map = check_ids_in_container(&harness, &pod).await;
    check_owners_on_disk(&harness, &pod, &host);
    // A new agent, and commands of `exec`, use the user namespace of the pod.
    harness.stop().await;
    harness.start(OnShutdown::StopPods).await;
    check_debug_container(&harness, &map).await;
    // Another pod has other ids.
    let other = json!({"hostUsers": false, "containers": [{"name": "c",
        "command": ["sh", "-c", format!("cat /proc/self/uid_map; echo ran; {SLEEP}")]}]});
    harness.pod("other", other).await;
    harness.ready("other").await;
    assert!(!harness.logged("other", "c", "ran").await.contains(&map));
    for name in ["p", "other"] {
        harness.delete(name).await;
        harness.wait_deleted(name).await;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(harness.dir.to_str().unwrap()), "{mounts}");
    harness.end().await;
}

/// A pod with each type of volume, which logs the owners of its files.
fn spec_with_all_volumes(host: &Path) -> Value {
    let ids = "busybox stat -L -c '%u:%g %n'";
    let script = format!(
        "cat /proc/self/uid_map; {ids} /bin/busybox /etc/hosts /m/a /s/p /t/token /image/bin/busybox \
         /cache/early; touch /cache/late /mem/x /host/file; {ids} /cache/late /mem/x /host/file; \
         echo end > /dev/termination-log; echo ran $(busybox id -u); {SLEEP}"
    );
    let medium = if memory_shows_ids() { "Memory" } else { "" };
    let mounts = json!([
        {"name": "m", "mountPath": "/m"}, {"name": "s", "mountPath": "/s"},
        {"name": "t", "mountPath": "/t"}, {"name": "cache", "mountPath": "/cache"},
        {"name": "mem", "mountPath": "/mem"}, {"name": "host", "mountPath": "/host"},
        {"name": "image", "mountPath": "/image"}]);
    let probe = json!({"exec": {"command": ["sh", "-c",
        "test $(busybox id -u) = 0 && touch /cache/probed"]}});
    json!({
        "hostUsers": false,
        "securityContext": {"fsGroup": 2000},
        "initContainers": [{"name": "i", "command": ["touch", "/cache/early"],
            "securityContext": {"runAsUser": 1000},
            "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}],
        "containers": [{"name": "c", "command": ["sh", "-c", script], "volumeMounts": mounts,
            "readinessProbe": probe}],
        "volumes": [
            {"name": "m", "configMap": {"name": "m"}},
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 256}},
            {"name": "t", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}},
            {"name": "cache", "emptyDir": {}},
            {"name": "mem", "emptyDir": {"medium": medium, "sizeLimit": "1Mi"}},
            {"name": "image", "image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}},
            {"name": "host", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}]})
}

/// Returns the line of `uid_map`.
async fn check_ids_in_container(harness: &Harness, pod: &Pod) -> String {
    let log = harness.logged("p", "c", "ran").await;
    let map = log.lines().next().unwrap().to_owned();
    let numbers: Vec<u32> = map
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(numbers[0] == 0 && numbers[1] >= 65_536 && numbers[2] == 65_536);
    let rest: Vec<&str> = log.lines().skip(1).collect();
    let expected = [
        "0:0 /bin/busybox",
        "0:0 /etc/hosts",
        "0:2000 /m/a",
        "0:2000 /s/p",
        "0:2000 /t/token",
        "0:0 /image/bin/busybox",
        "1000:2000 /cache/early",
        "0:2000 /cache/late",
        "0:2000 /mem/x",
        "0:0 /host/file",
        "ran 0",
    ];
    assert_eq!(rest, expected);
    let status = pod.status.clone().unwrap();
    let user = status.container_statuses.unwrap()[0].user.clone();
    assert_eq!(user.unwrap().linux.unwrap().uid, 0);
    map
}

/// On disk, the owners of the files are those of a pod without a user namespace.
fn check_owners_on_disk(harness: &Harness, pod: &Pod, host: &Path) {
    let uid = pod.metadata.uid.clone().unwrap();
    let volumes = format!("default_p_{uid}/.state/volumes/cache");
    let cache = harness.dir.join("pods").join(volumes);
    for (path, owner) in [
        (cache.join("early"), (1000, 2000)),
        (cache.join("late"), (0, 2000)),
        (cache.join("probed"), (0, 2000)),
        (host.join("file"), (0, 0)),
    ] {
        let metadata = std::fs::metadata(&path).unwrap();
        let ids = (metadata.uid(), metadata.gid());
        assert_eq!(ids, owner, "{}", path.display());
    }
}

async fn check_debug_container(harness: &Harness, map: &str) {
    let debugger = json!({"name": "debug", "image": IMAGE, "targetContainerName": "c",
        "command": ["sh", "-c", "cat /proc/1/uid_map; busybox readlink /proc/1/ns/user; \
            busybox readlink /proc/self/ns/user"]});
    let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [debugger]}}));
    let pods = harness.api::<Pod>();
    pods.patch_subresource("ephemeralcontainers", "p", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let has_ended = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let ephemeral = status.ephemeral_container_statuses.unwrap_or_default();
        let mut states = ephemeral.into_iter().filter_map(|status| status.state);
        states.any(|state| state.terminated.is_some())
    };
    harness.until("p", "looked into", has_ended).await;
    let log = harness.logged("p", "debug", "user:[").await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!((lines[0], lines[1]), (map, lines[2]));
}

pub async fn what_cannot_be_shown_with_its_users_is_refused() {
    // statefulset.md 12.16
    let harness = Harness::started("ownusersno").await;
    let spec = json!({"hostUsers": false, "containers": [
            {"name": "c", "command": ["sh", "-c", SLEEP],
                "volumeMounts": [{"name": "node", "mountPath": "/node"}]}],
        "volumes": [{"name": "node", "hostPath": {"path": "/proc"}}]});
    harness.pod("p", spec).await;
    let refused = |pod: &Pod| state(pod, "c").0 == "CreateContainerError";
    harness.until("p", "refused", refused).await;
    harness
        .event("p", "cannot show the ids of the pod's user namespace")
        .await;
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    harness.end().await;
}
