//! One export for the pods of a set on three nodes: they write to one file by turns, while the server
//! goes away and comes back and a node loses its link.
//!
//! A turn is a hard link that one pod at a time can make. Each line is acknowledged in the pod's log after its file was
//! closed, so when the server has it. So the file has each acknowledged line, no line twice, and none by half.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use end_to_end::applications::busybox;
use end_to_end::cluster::is_ready;
use end_to_end::csi::first_node;
use end_to_end::lan::ip;
use end_to_end::program::{ok, text as path_text};
use end_to_end::{Instance, Kubectl, Network, text, wait_for, wait_for_or_tell, wait_for_text};
use serde_json::{Value, json};

use super::nfs::{EXPORT, ROOT, exported, on_a_server, serve};
use super::{exec, gone, manifest, of_claim, pod, ready};

const NODES: usize = 3;

/// The lines of the pods in the export, by turns, and a journal for each that the kernel writes when it likes.
const WRITE: &str = r"
trap 'exit 0' TERM
mine=/files/$HOSTNAME
body=$(cat /proc/sys/kernel/random/uuid)
echo >$mine
exec 3>>/own/journal
turn() { ln $mine /files/turn 2>/dev/null || test /files/turn -ef $mine; }
n=0
if test -e /own/count; then n=$(cat /own/count); fi
echo begins after $n
while true; do
  until turn; do sleep 0.2; done
  n=$((n+1))
  echo $n >/own/new
  mv /own/new /own/count
  echo $HOSTNAME $n >>/files/log
  echo acknowledged $HOSTNAME $n
  rm /files/turn
  printf '%s %06d\n' $body $n >&3
  sleep 0.2
done
";

/// The class `often` looks at the directory each second: a turn that was given back is seen soon.
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

/// A set whose pods have a directory of the export in common and one for each, on different nodes if there are.
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
    let places: BTreeSet<String> = (0..NODES)
        .map(|ordinal| node_of(&kubectl, ordinal))
        .collect();
    assert_eq!(places.len(), NODES, "{places:?}");
    all_write_more(&kubectl);

    // A node that uses an earlier version sees the same file.
    let host = first_node(&kubectl, NODES).expect("the nodes");
    let last = places
        .iter()
        .rfind(|node| **node != host)
        .expect("another node");
    let claim = kubectl.json(&["get", "pvc", "files"]);
    let below = kubectl.json(&["get", "pv", text(&claim, "/spec/volumeName")]);
    let below = text(&below, "/spec/nfs/path").to_owned();
    // Version 3 has no root of its own.
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
        let seen: BTreeSet<String> = lines(&exec(&kubectl, "old", "cat /data/log")).collect();
        match before.is_subset(&seen) {
            true => Ok(()),
            false => Err(seen),
        }
    });

    let served = a_server_goes_and_comes(&kubectl, address);
    kubectl.ok(&["delete", "pod", "old", "soft", "--timeout=600s"]);
    let acknowledged = a_node_is_lost(&instance, &kubectl, last);

    kubectl.ok(&["delete", "statefulset", "writers", "--timeout=600s"]);
    gone("the pods to go", || {
        let left = kubectl.ok(&["get", "pods", "-o", "name"]);
        left.lines().map(str::to_owned).collect()
    });
    check_log(
        &served.union(&acknowledged).cloned().collect(),
        &directory_of(&below),
    );
    kubectl.ok(&["delete", "pvc", "--all", "--timeout=600s"]);
    gone("the directories of the claims to be removed", || {
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

/// All that was acknowledged is in the file once, and nothing by half.
#[track_caller]
fn check_log(acknowledged: &BTreeSet<String>, directory: &Path) {
    let log = fs::read_to_string(directory.join("log")).expect("read the export");
    let mut seen = BTreeSet::new();
    for line in log.lines() {
        let number = line
            .strip_prefix("writers-")
            .and_then(|rest| rest.split_once(' '));
        let is_whole = number.is_some_and(|(_, number)| number.parse::<u64>().is_ok());
        assert!(is_whole, "half a line: {line:?}");
        assert!(seen.insert(line.to_owned()), "{line} is there twice");
    }
    let lost: Vec<&String> = acknowledged.difference(&seen).collect();
    assert!(lost.is_empty(), "{lost:?} are lost of {}", seen.len());
}

/// A volume made by hand, and a claim for it.
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

/// Writes into a soft mount, whose errors it sees.
const TRY: &str = r"
trap 'exit 0' TERM
n=0
while true; do
  n=$((n+1))
  if echo $n >/data/soft-$n; then echo wrote $n; else echo failed $n; fi
  sleep 0.2
done
";

/// With `hard` the writers wait for the server and go on; with `soft` they have errors. Returns what was acknowledged.
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
    let said = |word: &str| {
        wait_for_text(word, 300, || {
            kubectl.log("soft").unwrap_or_else(|error| error)
        });
    };
    said("wrote ");
    serve(false);
    said("failed ");
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

/// The pod of a node without a link goes on elsewhere, in its directories. Returns the acknowledged lines.
fn a_node_is_lost(instance: &Instance, kubectl: &Kubectl, lost: &str) -> BTreeSet<String> {
    let mut on_lost = (0..NODES).filter(|ordinal| node_of(kubectl, *ordinal) == lost);
    let ordinal = on_lost.next().expect("a pod on the node");
    let name = format!("writers-{ordinal}");
    let before = kubectl.pod(&name);
    let claim = kubectl.json(&["get", "pvc", &format!("own-{name}")]);
    let own = kubectl.json(&["get", "pv", text(&claim, "/spec/volumeName")]);
    let own = directory_of(text(&own, "/spec/nfs/path"));
    let mut seen = acknowledged(kubectl);
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
    let tell = || {
        kubectl
            .run(&["get", "pods,nodes,events", "-o", "wide"])
            .stdout
    };
    wait_for_or_tell("the pod on another node", 300, moved, tell);
    all_write_more(kubectl);
    link("up");
    let uid = text(&before, "/metadata/uid");
    wait_for("the former mounts to go", 300, || {
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
    seen.extend(acknowledged(kubectl));
    let log = kubectl.ok(&["logs", &name]);
    let begin = log
        .lines()
        .find_map(|line| line.strip_prefix("begins after "));
    let begin: u64 = begin
        .and_then(|number| number.parse().ok())
        .expect("a number");
    kubectl.ok(&["scale", "statefulset", "writers", "--replicas=0"]);
    gone("the pods to end", || {
        let left = kubectl.ok(&["get", "pods", "-o", "name"]);
        left.lines().map(str::to_owned).collect()
    });
    check_journal(&own, begin + 1);
    seen
}

/// The journal of a pod has all that its last body wrote, from this number on, and nothing by half. The line that
/// the former body was writing without a link may come later, over the first one: NFS has no fence (docs/nfs.md).
#[track_caller]
fn check_journal(own: &Path, first: u64) {
    let journal = fs::read_to_string(own.join("journal")).expect("read the export");
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
