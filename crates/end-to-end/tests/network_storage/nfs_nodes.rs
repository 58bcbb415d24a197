//! One export for the pods of a set on three nodes: the pods write to one file with a lock, while the server stops and
//! starts and a node loses its link.
//!
//! The lock is a hard link that only one pod at a time can create. Each line is acknowledged in the pod's log after its
//! file was closed, so after the server has stored it. So the file contains each acknowledged line, no line twice, and
//! no incomplete line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use end_to_end::applications::busybox;
use end_to_end::cluster::is_ready;
use end_to_end::csi::first_node;
use end_to_end::lan::ip;
use end_to_end::program::{ok, text as path_text};
use end_to_end::{Instance, Kubectl, Network, text, wait_for, wait_for_or_report, wait_for_text};
use serde_json::{Value, json};

use super::nfs::{EXPORT, ROOT, exported, on_a_server, serve};
use super::{exec, manifest, of_claim, pod, ready, wait_until_empty};

const NODES: usize = 3;

/// The lines of the pods in the export, with a lock, and a journal for each pod that the kernel writes at any time.
const WRITE: &str = r"
trap 'exit 0' TERM
mine=/files/$HOSTNAME
body=$(cat /proc/sys/kernel/random/uuid)
echo >$mine
exec 3>>/own/journal
lock() { ln $mine /files/lock 2>/dev/null || test /files/lock -ef $mine; }
n=0
if test -e /own/count; then n=$(cat /own/count); fi
echo begins after $n
while true; do
  until lock; do sleep 0.2; done
  n=$((n+1))
  echo $n >/own/new
  mv /own/new /own/count
  echo $HOSTNAME $n >>/files/log
  echo acknowledged $HOSTNAME $n
  rm /files/lock
  printf '%s %06d\n' $body $n >&3
  sleep 0.2
done
";

/// The class `often` checks the directory each second, so that a pod detects the release of the lock soon.
const CLASS: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: often}
provisioner: mainstay.dev/nfs
parameters: {server: ADDRESS, path: EXPORT, onDelete: delete}
mountOptions: [hard, actimeo=1]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files}
spec:
  storageClassName: often
  accessModes: [ReadWriteMany]
  resources: {requests: {storage: 1Gi}}
";

#[test]
fn pods_on_several_nodes_write_to_one_export() {
    on_a_server(with_server);
}

/// A set whose pods share a directory of the export and each have a separate one, on different nodes if there are
/// several.
fn set() -> Value {
    let apart = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "writers"}}}}]}});
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "writers", "annotations": {"mainstay.dev/node-failure": "Failover"}},
        "spec": {"serviceName": "writers", "replicas": NODES, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "writers"}},
            "template": {"metadata": {"labels": {"app": "writers"}}, "spec": {
                "terminationGracePeriodSeconds": 1, "affinity": apart,
                "containers": [{"name": "c", "image": "busybox:1", "command": ["sh", "-c", WRITE],
                    "volumeMounts": [{"name": "files", "mountPath": "/files"},
                        {"name": "own", "mountPath": "/own"}]}],
                "volumes": [{"name": "files", "persistentVolumeClaim": {"claimName": "files"}}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "own"}, "spec": {
                "storageClassName": "nfs-client", "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "100Mi"}}}}]}})
}

fn with_server(address: &str) {
    let directory = tempfile::tempdir().expect("make a directory");
    let image = directory.path().join("busybox.tar");
    busybox().write_archive(&image, "docker.io/library/busybox:1");
    let instance = Instance::start(&["--nodes", &NODES.to_string()]);
    let kubectl = instance.kubectl();
    let data = instance.data();
    let further = (2..=NODES).map(|number| data.join(format!("nodes/{number}")));
    for node in std::iter::once(data.clone()).chain(further) {
        let node = path_text(&node);
        ok(&["image", "--data-dir", node, "import", path_text(&image)]);
    }
    kubectl.apply(&manifest("nfs", "class.yaml", address));
    let class = CLASS.replace("ADDRESS", address);
    kubectl.apply(&class.replace("EXPORT", EXPORT));
    kubectl.apply(&set().to_string());
    kubectl.wait_ready("writers", NODES as u64);
    let nodes_used: BTreeSet<String> = (0..NODES)
        .map(|ordinal| node_of(&kubectl, ordinal))
        .collect();
    assert_eq!(nodes_used.len(), NODES, "{nodes_used:?}");
    all_write_more(&kubectl);

    // A node with an older NFS version reads the shared file, too.
    let host = first_node(&kubectl, NODES).expect("the nodes");
    let last = nodes_used
        .iter()
        .rfind(|node| **node != host)
        .expect("another node");
    let claim = kubectl.json(&["get", "pvc", "files"]);
    let below = kubectl.json(&["get", "pv", text(&claim, "/spec/volumeName")]);
    let below = text(&below, "/spec/nfs/path").to_owned();
    // Version 3 has no separate root.
    let options = ["nfsvers=3", "nolock"];
    by_hand(
        &kubectl,
        "old",
        (address, &format!("{ROOT}{below}")),
        &options,
    );
    apply_on(&kubectl, last, &pod("old", of_claim("old")));
    ready(&kubectl, "old");
    let before = written(&kubectl, 0);
    wait_for("what the others wrote", 120, || {
        let lines_of_log: BTreeSet<String> =
            lines(&exec(&kubectl, "old", "cat /data/log")).collect();
        match before.is_subset(&lines_of_log) {
            true => Ok(()),
            false => Err(lines_of_log),
        }
    });

    let served = a_server_goes_and_comes(&kubectl, address);
    kubectl.ok(&["delete", "pod", "old", "soft", "--timeout=600s"]);
    let acknowledged = a_node_is_lost(&instance, &kubectl, last);

    kubectl.ok(&["delete", "statefulset", "writers", "--timeout=600s"]);
    wait_until_empty("the pods to be deleted", || {
        let left = kubectl.ok(&["get", "pods", "-o", "name"]);
        left.lines().map(str::to_owned).collect()
    });
    check_log(
        &served.union(&acknowledged).cloned().collect(),
        &directory_of(&below),
    );
    kubectl.ok(&["delete", "pvc", "--all", "--timeout=600s"]);
    wait_until_empty("the directories of the claims to be removed", || {
        let entries = fs::read_dir(exported()).expect("list the export");
        let names = entries.map(|entry| entry.expect("list the export").file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("default-")).collect()
    });
}

/// The directory of a volume of the export on this machine.
fn directory_of(below: &str) -> std::path::PathBuf {
    Path::new(ROOT).join(below.trim_start_matches('/'))
}

fn node_of(kubectl: &Kubectl, ordinal: usize) -> String {
    let pod = kubectl.pod(&format!("writers-{ordinal}"));
    text(&pod, "/spec/nodeName").to_owned()
}

fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(str::to_owned)
}

/// The lines that a pod has acknowledged.
fn written(kubectl: &Kubectl, ordinal: usize) -> BTreeSet<String> {
    let log = kubectl.log(&format!("writers-{ordinal}"));
    let log = log.unwrap_or_default();
    let acknowledged = log
        .lines()
        .filter_map(|line| line.strip_prefix("acknowledged "));
    acknowledged.map(str::to_owned).collect()
}

/// Waits until each pod has acknowledged more lines.
#[track_caller]
fn all_write_more(kubectl: &Kubectl) {
    for ordinal in 0..NODES {
        let before = written(kubectl, ordinal).len();
        wait_for(
            &format!("more lines of writers-{ordinal}"),
            300,
            || match written(kubectl, ordinal).len() {
                now if now >= before + 5 => Ok(()),
                now => Err(now),
            },
        );
    }
}

/// All acknowledged lines are in the file once, and no line is incomplete.
#[track_caller]
fn check_log(acknowledged: &BTreeSet<String>, directory: &Path) {
    let log = fs::read_to_string(directory.join("log")).expect("read the export");
    let mut visited = BTreeSet::new();
    for line in log.lines() {
        let number = line
            .strip_prefix("writers-")
            .and_then(|rest| rest.split_once(' '));
        let is_whole = number.is_some_and(|(_, number)| number.parse::<u64>().is_ok());
        assert!(is_whole, "half a line: {line:?}");
        assert!(visited.insert(line.to_owned()), "{line} is there twice");
    }
    let lost: Vec<&String> = acknowledged.difference(&visited).collect();
    assert!(lost.is_empty(), "{lost:?} are lost of {}", visited.len());
}

/// A volume that a user creates, and a claim for it.
fn by_hand(kubectl: &Kubectl, name: &str, (server, path): (&str, &str), options: &[&str]) {
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"],
            "storageClassName": "by-hand", "mountOptions": options,
            "claimRef": {"namespace": "default", "name": name},
            "nfs": {"server": server, "path": path}}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"storageClassName": "by-hand", "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}}}});
    kubectl.apply(&volume.to_string());
    kubectl.apply(&claim.to_string());
}

/// Creates a pod on a node.
fn apply_on(kubectl: &Kubectl, node: &str, pod: &str) {
    let mut pod: Value = serde_json::from_str(pod).expect("JSON");
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    kubectl.apply(&pod.to_string());
}

/// Writes into a soft mount, and reports its errors.
const TRY: &str = r"
trap 'exit 0' TERM
n=0
while true; do
  n=$((n+1))
  if echo $n >/data/soft-$n; then echo wrote $n; else echo failed $n; fi
  sleep 0.2
done
";

/// With `hard` the writers wait for the server and continue; with `soft` they get errors. Returns the acknowledged
/// lines.
fn a_server_goes_and_comes(kubectl: &Kubectl, address: &str) -> BTreeSet<String> {
    let options = ["soft", "timeo=10", "retrans=1", "nfsvers=4.1"];
    by_hand(
        kubectl,
        "soft",
        (address, &format!("{EXPORT}/shared")),
        &options,
    );
    let mut soft: Value = serde_json::from_str(&pod("soft", of_claim("soft"))).expect("JSON");
    soft["spec"]["containers"][0]["command"] = json!(["sh", "-c", TRY]);
    kubectl.apply(&soft.to_string());
    let wait_for_word = |word: &str| {
        wait_for_text(word, 300, || {
            kubectl.log("soft").unwrap_or_else(|error| error)
        });
    };
    wait_for_word("wrote ");
    serve(false);
    wait_for_word("failed ");
    let waiting = acknowledged(kubectl);
    serve(true);
    all_write_more(kubectl);
    wait_for("the soft writer to go on", 300, || {
        let log = kubectl.log("soft")?;
        let last = log.lines().last().unwrap_or_default();
        match last.starts_with("wrote ") {
            true => Ok(()),
            false => Err(last.to_owned()),
        }
    });
    let pods = kubectl.json(&["get", "pods"]);
    for pod in pods["items"].as_array().into_iter().flatten() {
        assert_eq!(
            pod["status"]["containerStatuses"][0]["restartCount"], 0,
            "{pod}"
        );
    }
    waiting
}

/// The lines that all pods have acknowledged.
fn acknowledged(kubectl: &Kubectl) -> BTreeSet<String> {
    (0..NODES)
        .flat_map(|ordinal| written(kubectl, ordinal))
        .collect()
}

/// The pod of a node without a link starts on another node, with its directories. Returns the acknowledged lines.
fn a_node_is_lost(instance: &Instance, kubectl: &Kubectl, lost: &str) -> BTreeSet<String> {
    let mut on_lost = (0..NODES).filter(|ordinal| node_of(kubectl, *ordinal) == lost);
    let ordinal = on_lost.next().expect("a pod on the node");
    let name = format!("writers-{ordinal}");
    let before = kubectl.pod(&name);
    let claim = kubectl.json(&["get", "pvc", &format!("own-{name}")]);
    let volume = kubectl.json(&["get", "pv", text(&claim, "/spec/volumeName")]);
    let volume = directory_of(text(&volume, "/spec/nfs/path"));
    let mut acknowledged_lines = acknowledged(kubectl);
    let number = lost.rsplit('-').next().expect("a number");
    let switch = instance.data().join("namespaces/switch");
    let link = |state: &str| {
        Network::at(&switch).run(|| ip(&format!("link set node-{number} {state}")));
    };
    link("down");
    let moved = || {
        let pod = kubectl.get(&["pod", &name])?;
        let is_new = pod["metadata"]["uid"] != before["metadata"]["uid"];
        match is_new && is_ready(&pod) && pod["spec"]["nodeName"] != *lost {
            true => Ok(()),
            false => Err(pod["status"].to_string()),
        }
    };
    let describe = || {
        kubectl
            .run(&["get", "pods,nodes,events", "-o", "wide"])
            .stdout
    };
    wait_for_or_report("the pod on another node", 300, moved, describe);
    all_write_more(kubectl);
    link("up");
    let uid = text(&before, "/metadata/uid");
    wait_for("the former mounts to be unmounted", 300, || {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
        let mut left = mounts.lines().filter(|line| line.contains(uid));
        left.next().map_or(Ok(()), |line| Err(line.to_owned()))
    });
    wait_for("the node to be ready", 300, || {
        match is_ready(&kubectl.get(&["node", lost])?) {
            true => Ok(()),
            false => Err("not ready".to_owned()),
        }
    });
    all_write_more(kubectl);
    acknowledged_lines.extend(acknowledged(kubectl));
    let log = kubectl.ok(&["logs", &name]);
    let begin = log
        .lines()
        .find_map(|line| line.strip_prefix("begins after "));
    let begin: u64 = begin
        .and_then(|number| number.parse().ok())
        .expect("a number");
    kubectl.ok(&["scale", "statefulset", "writers", "--replicas=0"]);
    wait_until_empty("the pods to exit", || {
        let left = kubectl.ok(&["get", "pods", "-o", "name"]);
        left.lines().map(str::to_owned).collect()
    });
    check_journal(&volume, begin + 1);
    acknowledged_lines
}

/// The journal of a pod has all lines of its last container from this number on, and no incomplete line. The line that
/// the former container was writing without a link may be stored later, over the first line, because NFS has no fence
/// (docs/nfs.md).
#[track_caller]
fn check_journal(directory: &Path, first: u64) {
    let journal = fs::read_to_string(directory.join("journal")).expect("read the export");
    let lines = journal.lines().map(|line| {
        let (body, number) = line.split_once(' ').unwrap_or_default();
        let is_whole = body.len() == 36 && number.len() == 6;
        let number = number.parse().ok().filter(|_| is_whole);
        let number: u64 = number.unwrap_or_else(|| panic!("half a line: {line:?} in {journal}"));
        (body, number)
    });
    let lines: Vec<(&str, u64)> = lines.collect();
    let (last, _) = lines.last().expect("a line");
    let of_last = lines.iter().filter(|(body, _)| body == last);
    let of_last: Vec<u64> = of_last.map(|(_, number)| *number).collect();
    let begin = of_last[0];
    assert!(begin == first || begin == first + 1, "{first} in {journal}");
    let whole: Vec<u64> = (begin..).take(of_last.len()).collect();
    assert_eq!(of_last, whole, "{journal}");
}
