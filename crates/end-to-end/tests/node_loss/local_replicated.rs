//! A volume with a replica on another node loses the node of its primary, twice (docs/storage.md).
//!
//! The pod numbers its writes, and prints each number when the write is on disk. After the loss the pod runs on the
//! other node with all writes from before the stated recovery point, and without incomplete writes. The other writes of
//! the lost node are retained there when it returns.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use end_to_end::cluster::is_ready;
use end_to_end::{Kubectl, text, wait_for};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Cluster, Loss, get, read};

/// The class of the volumes.
pub(super) const CLASS: &str = r"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: every-two-seconds}
provisioner: mainstay.dev/local-cow
parameters: {replicas: '1', replicationIntervalSeconds: '2'}
volumeBindingMode: WaitForFirstConsumer
";

/// Each line has a number and the name of the running container that wrote it.
pub(super) const SET: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: db
  annotations: {mainstay.dev/node-failure: Failover}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: shell
        image: mainstay/debug
        command:
        - sh
        - -c
        - |
          body=$(cat /proc/sys/kernel/random/uuid)
          n=0
          if test -e /data/log; then n=$(wc -l </data/log); fi
          while true; do
            n=$((n+1))
            echo $n $body >>/data/log
            sync
            echo acknowledged $n $body
            sleep 0.1
          done
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      storageClassName: every-two-seconds
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 128Mi}}
";

/// The claim of the pod `db-0`.
pub(super) const CLAIM: &str = "data-db-0";

#[test]
fn the_pod_runs_on_the_other_node_with_a_stated_recovery_point() {
    let (mut cluster, kubectl) = with_the_set();
    let mut former: Vec<String> = Vec::new();
    for (loss, epoch) in [(Loss::Killed, 2), (Loss::CutOff, 3)] {
        let number = a_node_is_lost(&mut cluster, &kubectl, loss, epoch, &former, |_| {});
        cluster
            .server
            .network
            .run(|| the_event_states_the_point(&kubectl));
        let after = cluster.server.network.run(|| lines(&kubectl));
        former = after;
        cluster.bring_back(number, loss);
        let lost = cluster.nodes[number].data();
        cluster.server.network.run(|| {
            check_retained_lines(&kubectl, &lost, epoch - 1);
            wait_for_copy(&kubectl);
            let listed = get(&kubectl, &["pod", "db-0"]).expect("the pod");
            assert!(is_ready(&listed), "{listed}");
        });
    }
    cluster.server.network.run(|| {
        let volume = text(&claim(&kubectl).expect("a claim"), "/spec/volumeName").to_owned();
        kubectl.ok(&["delete", "statefulset", "db"]);
        kubectl.ok(&["delete", "pvc", CLAIM]);
        wait_for("the volume and its copies to be removed", 300, || {
            let objects = kubectl.run(&["get", "pv", "-o", "name"]).stdout;
            let left: Vec<PathBuf> = cluster
                .nodes
                .iter()
                .flat_map(|node| subvolumes(Path::new(&node.data()), &volume))
                .collect();
            match left.is_empty() && !objects.contains(&volume) {
                true => Ok(()),
                false => Err(format!("{left:?} {objects}")),
            }
        });
    });
    cluster.shut_down();
}

/// A server and two nodes, with the pod on one of the nodes.
pub(super) fn with_the_set() -> (Cluster, Kubectl) {
    with_the_set_on(2, CLASS)
}

/// A server and that many nodes, with the pod on one of the nodes and volumes of the class.
pub(super) fn with_the_set_on(nodes: u64, class: &str) -> (Cluster, Kubectl) {
    with(nodes, class, SET)
}

/// As [`with_the_set_on`], with a set with other volumes.
pub(super) fn with(nodes: u64, class: &str, set: &str) -> (Cluster, Kubectl) {
    let lease = ["--node-lease-duration", "16s"];
    let cluster = Cluster::of(nodes, &lease, |_| {});
    let kubectl = cluster.server.kubectl();
    cluster.server.network.run(|| {
        cluster.reserve_server_node(&kubectl);
        kubectl.apply(class);
        kubectl.apply(set);
        kubectl.wait_ready("db", 1);
    });
    (cluster, kubectl)
}

/// The node of the pod is lost, and the work runs in the meantime; returns the number of the node.
pub(super) fn a_node_is_lost(
    cluster: &mut Cluster,
    kubectl: &Kubectl,
    loss: Loss,
    epoch: u64,
    former: &[String],
    meanwhile: impl FnOnce(&mut Cluster),
) -> usize {
    let (node, uid, written) = cluster.server.network.run(|| {
        wait_for_copy(kubectl);
        let (node, uid) = node_and_uid(kubectl);
        (node, uid, wait_for_more_than_the_copy(kubectl, "db-0"))
    });
    let number: usize = node[1..].parse().expect("a number");
    cluster.lose(number - 1, loss);
    meanwhile(cluster);
    cluster.server.network.run(|| {
        let point = wait_for_promotion(kubectl, (&node, &uid), epoch);
        let lines = wait_for("the lines of the new body", 120, || {
            let lines = lines(kubectl);
            match lines.is_empty() {
                true => Err(lines),
                false => Ok(lines),
            }
        });
        // No line is missing between the first and the last line, and no line is incomplete.
        for (at, line) in lines.iter().enumerate() {
            let whole = line.split_once(' ');
            let (number, body) = whole.unwrap_or_else(|| panic!("half a line: {line:?}"));
            assert_eq!(number.parse().ok(), Some(at + 1), "{line}");
            assert_eq!(body.len(), 36, "{line}");
        }
        assert!(
            lines.starts_with(former),
            "the new body has the former contents"
        );
        // Each write that was acknowledged before the recovery point is present.
        let early = written.iter().filter(|(_, time)| **time < point);
        for (line, _) in early {
            assert!(lines.contains(line), "{line} of before {point} is lost");
        }
    });
    number - 1
}

/// The node and the UID of the pod.
#[track_caller]
pub(super) fn node_and_uid(kubectl: &Kubectl) -> (String, String) {
    let pod = wait_for("the pod", 300, || get(kubectl, &["pod", "db-0"]));
    let at = |pointer| text(&pod, pointer).to_owned();
    (at("/spec/nodeName"), at("/metadata/uid"))
}

/// Waits until a pod has printed a write that is not in the last copy; returns all printed writes.
#[track_caller]
pub(super) fn wait_for_more_than_the_copy(kubectl: &Kubectl, pod: &str) -> BTreeMap<String, i64> {
    wait_for("writes after a copy", 120, || {
        let copied_until = record(kubectl)?["last"].as_i64().ok_or("no copy")?;
        let written = acknowledged(kubectl, pod)?;
        let newest = written.values().max().copied().unwrap_or_default();
        match newest > copied_until {
            true => Ok(written),
            false => Err(format!("{newest} {copied_until}")),
        }
    })
}

/// Waits until another pod is ready on a node other than the lost node; returns the recovery point, in milliseconds
/// since 1970, as the claim states it.
#[track_caller]
pub(super) fn wait_for_promotion(kubectl: &Kubectl, (node, uid): (&str, &str), epoch: u64) -> i64 {
    wait_for("the pod on the other node", 600, || {
        let pod = get(kubectl, &["pod", "db-0"])?;
        let is_new = text(&pod, "/metadata/uid") != uid && is_ready(&pod);
        match is_new && pod["spec"]["nodeName"] != *node {
            true => Ok(()),
            false => Err(format!("{} {}", pod["status"], record(kubectl)?)),
        }
    });
    let record = wait_for("the record", 120, || record(kubectl));
    // Each replacement of a replica increments the epoch.
    assert!(record["epoch"].as_u64() >= Some(epoch), "{record}");
    assert_eq!(text(&record, "/recovery/from"), node);
    wait_for("the stated recovery point", 120, || {
        let claim = read(kubectl, &["describe", "pvc", CLAIM])?;
        match claim.contains("recovery point") {
            true => Ok(()),
            false => Err(claim),
        }
    });
    record["recovery"]["time"].as_i64().expect("a time")
}

/// Waits until an event of the claim states the recovery point. A killed server may not have written the event.
#[track_caller]
pub(super) fn the_event_states_the_point(kubectl: &Kubectl) {
    wait_for("the event of the promotion", 120, || {
        let point = record(kubectl)?["recovery"]["time"].as_i64();
        let stated = Timestamp::from_millisecond(point.ok_or("no time")?);
        let stated = stated.map_err(|error| error.to_string())?;
        let claim = read(kubectl, &["describe", "pvc", CLAIM])?;
        let event = format!("with what was there at {stated}");
        match claim.contains("VolumePromoted") && claim.contains(&event) {
            true => Ok(()),
            false => Err(claim),
        }
    });
}

/// The former primary of an epoch retains its lines.
#[track_caller]
pub(super) fn check_retained_lines(kubectl: &Kubectl, data: &str, epoch: u64) {
    let state_dir = check_retained_state(kubectl, data, epoch);
    let log = fs::read_to_string(state_dir.join("log"));
    let log = log.unwrap_or_else(|error| panic!("{}: {error}", state_dir.display()));
    assert!(log.lines().count() > 0);
}

/// The former primary of an epoch retains its state, which cannot be changed; returns its directory.
#[track_caller]
pub(super) fn check_retained_state(kubectl: &Kubectl, data: &str, epoch: u64) -> PathBuf {
    let snapshot = wait_for("the retained state of the lost node", 300, || {
        let record = record(kubectl)?;
        let states = record["diverged"].as_array().into_iter().flatten();
        let names = states.filter_map(|state| state["snapshot"].as_str());
        let prefix = format!("diverged-{epoch}-");
        let mut names = names.filter(|name| name.starts_with(&prefix));
        names.next().map(str::to_owned).ok_or(record.to_string())
    });
    let states = Path::new(data).join("pool/mount/snapshots").join(snapshot);
    let error = fs::write(states.join("more"), "").expect_err("a read-only snapshot");
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    states
}

/// Waits until the replica has a copy of the claim's present contents.
#[track_caller]
pub(super) fn wait_for_copy(kubectl: &Kubectl) {
    // A copy that begins now: a running copy may be of an old state if the machine is busy.
    let now = Timestamp::now().as_millisecond();
    wait_for("a copy of the present state", 300, || {
        let record = record(kubectl)?;
        match record["last"].as_i64() {
            Some(last) if last >= now => Ok(()),
            _ => Err(record.to_string()),
        }
    });
    wait_for("the condition of the claim", 120, || {
        let claim = claim(kubectl)?;
        let conditions = claim["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let condition = conditions.find(|condition| condition["type"] == "mainstay.dev/Replicated");
        match condition.is_some_and(|condition| condition["status"] == "True") {
            true => Ok(()),
            false => Err(claim["status"].to_string()),
        }
    });
}

pub(super) fn claim(kubectl: &Kubectl) -> Result<Value, String> {
    get(kubectl, &["pvc", CLAIM])
}

/// The record of the volume.
pub(super) fn record(kubectl: &Kubectl) -> Result<Value, String> {
    let name = text(&claim(kubectl)?, "/spec/volumeName").to_owned();
    let volume = get(kubectl, &["pv", &name])?;
    let record = &volume["metadata"]["annotations"]["node.mainstay.dev/volume-replication"];
    serde_json::from_str(record.as_str().unwrap_or("{}")).map_err(|error| error.to_string())
}

/// The lines of the volume, in order.
pub(super) fn lines(kubectl: &Kubectl) -> Vec<String> {
    let log = read(kubectl, &["exec", "db-0", "--", "cat", "/data/log"]);
    let log = log.unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// The lines that a pod printed as acknowledged, with their times in milliseconds since 1970.
pub(super) fn acknowledged(kubectl: &Kubectl, pod: &str) -> Result<BTreeMap<String, i64>, String> {
    let log = read(kubectl, &["logs", "--timestamps", pod])?;
    let rows = log.lines().filter_map(|row| {
        let (time, line) = row.split_once(" acknowledged ")?;
        let time: Timestamp = time.parse().ok()?;
        Some((line.to_owned(), time.as_millisecond()))
    });
    Ok(rows.collect())
}

/// The subvolumes of a volume in the pool of a node, with any names.
pub(super) fn subvolumes(data: &Path, volume: &str) -> Vec<PathBuf> {
    let directories = ["volumes", "snapshots"].map(|name| data.join("pool/mount").join(name));
    let entries = directories.iter().filter_map(|at| fs::read_dir(at).ok());
    let paths = entries
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter(|path| path.is_dir() && path.to_string_lossy().ends_with(volume))
        .collect()
}
