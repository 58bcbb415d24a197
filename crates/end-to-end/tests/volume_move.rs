//! `mainstay volume move`: a volume moves to another node with its files (docs/storage.md).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use end_to_end::program::{mainstay, ok, refused};
use end_to_end::{Instance, Kubectl, binary, text, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SET: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
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
        command: [sleep, infinity]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
";

/// A pod that writes continuously: each number is in the log before it is the count.
const WRITER: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
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
          n=0
          if test -e /data/count; then n=$(cat /data/count); fi
          while true; do
            n=$((n+1))
            echo $n >>/data/log
            echo $n >/data/count.new
            mv /data/count.new /data/count
            sleep 0.1
          done
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      storageClassName: local-cow
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 256Mi}}
";

/// A pod that no controller would recreate.
const ALONE: &str = r"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: alone}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: unbound}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: alone}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: mainstay/debug
    command: [sleep, infinity]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: alone}}]
";

const CLAIM: &str = "data-db-0";

#[test]
fn a_pod_runs_on_the_other_node_with_its_files() {
    let instance = Instance::start(&["--nodes", "2"]);
    let kubectl = instance.kubectl();
    kubectl.apply(SET);
    kubectl.apply(ALONE);
    kubectl.wait_ready("db", 1);
    kubectl.wait_pods_ready(&["pod/alone"]);
    let first = node_of(&kubectl);
    let second = other_node(&kubectl, &first);
    let write = "umask 027; mkdir /data/deep; echo kept >/data/deep/file; ln -s deep/file /data/link; \
                 ln /data/deep/file /data/second; chmod 4711 /data/link; sync";
    kubectl.ok(&["exec", "db-0", "--", "sh", "-c", write]);
    let show = [
        "exec",
        "db-0",
        "--",
        "sh",
        "-c",
        "cd /data && ls -lnR && cat link second",
    ];
    let before = kubectl.ok(&show);
    let data = instance.data().display().to_string();
    refusals(&kubectl, &data, (&first, &second));
    a_directory_in_use_keeps_its_name(&instance, &kubectl, &second);
    wait_running_on(&kubectl, &second);
    assert_eq!(kubectl.ok(&show), before);
    let volume = volume(&kubectl);
    assert_eq!(claim(&kubectl)["status"]["phase"], "Bound");
    assert_eq!(
        directories(&instance.data(), text(&volume, "/metadata/name")).len(),
        1
    );
    // Back again, with the data that was written there.
    kubectl.ok(&[
        "exec",
        "db-0",
        "--",
        "sh",
        "-c",
        "echo more >>/data/second; sync",
    ]);
    ok(&["volume", "move", CLAIM, "--to", &first, "--data-dir", &data]);
    wait_running_on(&kubectl, &first);
    let now = kubectl.ok(&["exec", "db-0", "--", "cat", "/data/link"]);
    assert_eq!(now, "kept\nmore\n");
    let path = text(&volume, "/metadata/name");
    assert_eq!(directories(&instance.data(), path).len(), 1);
    a_node_gives_its_volumes_away(&kubectl, &data, &first);
    wait_running_on(&kubectl, &second);
    let now = kubectl.ok(&["exec", "db-0", "--", "cat", "/data/link"]);
    assert_eq!(now, "kept\nmore\n");
    // A volume that was moved is removed with its claim.
    kubectl.ok(&["delete", "statefulset", "db", "--wait=false"]);
    kubectl.ok(&["delete", "pvc", CLAIM]);
    wait_for("the directory to be removed", 120, || {
        let left = directories(&instance.data(), path);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// A pod without a controller blocks the move of its node's volumes, until it is left behind or deleted.
fn a_node_gives_its_volumes_away(kubectl: &Kubectl, data: &str, node: &str) {
    let pod = kubectl.json(&["get", "pod", "alone"]);
    let drain = ["volume", "drain", node, "--data-dir", data];
    if text(&pod, "/spec/nodeName") == node {
        let why = refused(&drain);
        assert!(
            why.contains("no controller") && why.contains("nothing was moved"),
            "{why}"
        );
    }
    kubectl.ok(&["delete", "pod", "alone"]);
    ok(&drain);
    let nothing = ok(&drain);
    assert!(nothing.contains("No claim has its volume"), "{nothing}");
    kubectl.ok(&["uncordon", node]);
}

/// A mount from outside of the cluster, which no object describes, blocks the move until it is unmounted.
fn a_directory_in_use_keeps_its_name(instance: &Instance, kubectl: &Kubectl, to: &str) {
    let data = instance.data();
    let path = text(&volume(kubectl), "/spec/local/path").to_owned();
    let outside = tempfile::tempdir().expect("make a directory");
    let outside = outside.path().to_str().expect("a path in UTF-8");
    run("mount", &["--bind", &path, outside]);
    let command = begin(&data, to);
    let waiting = wait_for("the move to wait", 120, || {
        let record = record(kubectl);
        let message = record["message"].as_str().unwrap_or_default();
        let waits = record["stage"] == "Copying" && message.contains("in use");
        if waits {
            Ok(message.to_owned())
        } else {
            Err(record)
        }
    });
    assert!(waiting.contains("process"), "{waiting}");
    wait_for("the name of the directory", 120, || {
        let is_there = Path::new(&path).join("deep/file").exists();
        if is_there {
            Ok(())
        } else {
            Err(directories(&data, ""))
        }
    });
    run("umount", &[outside]);
    let output = command.wait_with_output().expect("wait for the command");
    let moved = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && moved.contains("Moved"),
        "{output:?}"
    );
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.expect("run a program");
    assert!(output.status.success(), "{output:?}");
}

/// Starts the command without waiting.
fn begin(data: &Path, to: &str) -> Child {
    Command::new(binary())
        .args(["volume", "move", CLAIM, "--to", to, "--data-dir"])
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the command")
}

/// The record of the move.
fn record(kubectl: &Kubectl) -> Value {
    let volume = volume(kubectl);
    let record = &volume["metadata"]["annotations"]["node.mainstay.dev/volume-move"];
    serde_json::from_str(record.as_str().unwrap_or("{}")).expect("JSON")
}

fn wait_for_copy_to(kubectl: &Kubectl, node: &str) {
    wait_for("the copy", 120, || {
        let record = record(kubectl);
        let stage = record["stage"].as_str().unwrap_or_default();
        let is_begun = ["Copying", "Arrived", "Placed", "Moved"].contains(&stage);
        if is_begun && record["to"] == *node {
            Ok(())
        } else {
            Err(record)
        }
    });
}

fn refusals(kubectl: &Kubectl, data: &str, (first, second): (&str, &str)) {
    let refusal =
        |claim: &str, to: &str| refused(&["volume", "move", claim, "--to", to, "--data-dir", data]);
    let pod = kubectl.json(&["get", "pod", "alone"]);
    let elsewhere = other_node(kubectl, text(&pod, "/spec/nodeName"));
    for (claim, to, message) in [
        ("none", second, "not found"),
        ("unbound", second, "not bound"),
        (CLAIM, "nowhere", "does not exist"),
        (CLAIM, first, "already"),
        ("alone", &elsewhere, "no controller"),
    ] {
        let why = refusal(claim, to);
        assert!(why.contains(message), "{why}");
    }
    let cancel = ["volume", "move", CLAIM, "--cancel", "--data-dir", data];
    assert!(refused(&cancel).contains("not being moved"));
    // The node of a volume cannot be changed without the record of a move.
    let patch = format!(
        r#"{{"spec":{{"nodeAffinity":{{"required":{{"nodeSelectorTerms":[{{"matchExpressions":[{{"key":"kubernetes.io/hostname","operator":"In","values":["{second}"]}}]}}]}}}}}}}}"#
    );
    let name = text(&claim(kubectl), "/spec/volumeName").to_owned();
    let why = kubectl.fails(&["patch", "pv", &name, "-p", &patch]);
    assert!(why.contains("immutable"), "{why}");
}

#[test]
fn a_move_goes_on_after_the_server_and_its_nodes_were_killed() {
    let mut instance = Instance::start(&["--nodes", "2"]);
    let kubectl = instance.kubectl();
    kubectl.apply(SET);
    kubectl.wait_ready("db", 1);
    let first = node_of(&kubectl);
    let second = other_node(&kubectl, &first);
    let write = "head -c 268435456 /dev/urandom >/data/large; sync; sha256sum /data/large";
    let sum = kubectl.ok(&["exec", "db-0", "--", "sh", "-c", write]);
    let mut command = begin(&instance.data(), &second);
    wait_for_copy_to(&kubectl, &second);
    instance.kill();
    command.kill().expect("stop the command");
    command.wait().expect("wait for the command");
    instance.start_again();
    // The server continues by itself.
    wait_for("the end of the move", 300, || {
        let record = record(&kubectl);
        if record["stage"] == "Moved" {
            Ok(())
        } else {
            Err(record)
        }
    });
    let is_whole_on = |node: &str| {
        wait_running_on(&kubectl, node);
        let now = kubectl.ok(&["exec", "db-0", "--", "sha256sum", "/data/large"]);
        assert_eq!(now, sum);
        let name = text(&claim(&kubectl), "/spec/volumeName").to_owned();
        assert_eq!(directories(&instance.data(), &name).len(), 1);
    };
    is_whole_on(&second);
    // One agent is killed; the server restarts it.
    let command = begin(&instance.data(), &first);
    wait_for_copy_to(&kubectl, &first);
    kill_second_agent(&instance.data());
    let output = command.wait_with_output().expect("wait for the command");
    assert!(output.status.success(), "{output:?}");
    is_whole_on(&first);
    // A user cancels; the copy may have completed before.
    let data = instance.data().display().to_string();
    let command = begin(&instance.data(), &second);
    wait_for_copy_to(&kubectl, &second);
    let cancelled = mainstay(&["volume", "move", CLAIM, "--cancel", "--data-dir", &data]);
    let output = command.wait_with_output().expect("wait for the command");
    match (cancelled.status.success(), output.status.success()) {
        (true, false) => is_whole_on(&first),
        (_, true) => is_whole_on(&second),
        (false, false) => panic!("{cancelled:?} {output:?}"),
    }
}

#[test]
fn a_volume_of_local_cow_is_copied_while_its_pod_writes() {
    let instance = Instance::start(&["--nodes", "2"]);
    let kubectl = instance.kubectl();
    kubectl.apply(WRITER);
    kubectl.wait_ready("db", 1);
    let first = node_of(&kubectl);
    let second = other_node(&kubectl, &first);
    let write = "umask 027; mkdir /data/deep; head -c 134217728 /dev/urandom >/data/deep/large; \
                 ln -s deep/large /data/link; ln /data/deep/large /data/second; sync; \
                 sha256sum /data/deep/large";
    let sum = kubectl.ok(&["exec", "db-0", "--", "sh", "-c", write]);
    let uid = text(&kubectl.pod("db-0"), "/metadata/uid").to_owned();
    let command = begin(&instance.data(), &second);
    wait_for("the end of the move", 300, || {
        let record = record(&kubectl);
        if record["stage"] == "Moved" {
            Ok(())
        } else {
            Err(record)
        }
    });
    let output = command.wait_with_output().expect("wait for the command");
    let message = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(message.contains("Moved"), "{message}");
    let volume = text(&volume(&kubectl), "/metadata/name").to_owned();
    let is_whole_on = |node: &str| {
        wait_running_on(&kubectl, node);
        assert_ne!(text(&kubectl.pod("db-0"), "/metadata/uid"), uid);
        let now = kubectl.ok(&["exec", "db-0", "--", "sha256sum", "/data/deep/large"]);
        assert_eq!(now, sum);
        let links = kubectl.ok(&["exec", "db-0", "--", "ls", "-l", "/data/link"]);
        assert!(links.contains("deep/large"), "{links}");
        numbers_without_a_gap(&kubectl)
    };
    let numbers = is_whole_on(&second);
    // The snapshots are removed on both nodes.
    assert_eq!(directories(&instance.data(), &volume).len(), 1);
    // Back again, and cancelled: the copy may have completed before.
    let data = instance.data().display().to_string();
    let command = begin(&instance.data(), &first);
    wait_for("the move back", 120, || {
        let record = record(&kubectl);
        if record["to"] == *first {
            Ok(())
        } else {
            Err(record)
        }
    });
    let cancelled = mainstay(&["volume", "move", CLAIM, "--cancel", "--data-dir", &data]);
    let output = command.wait_with_output().expect("wait for the command");
    let after = match (cancelled.status.success(), output.status.success()) {
        (true, false) => is_whole_on(&second),
        (_, true) => is_whole_on(&first),
        (false, false) => panic!("{cancelled:?} {output:?}"),
    };
    assert!(after >= numbers, "{after} {numbers}");
    wait_for("the snapshots to be removed", 120, || {
        let left = directories(&instance.data(), &volume);
        if left.len() == 1 { Ok(()) } else { Err(left) }
    });
}

/// A node is lost during a move: the agent of the sender is killed, and then the agent of the receiver, during the
/// first copy.
#[test]
fn a_move_of_local_cow_goes_on_after_an_agent_was_killed_in_preparing() {
    let instance = Instance::start(&["--nodes", "2"]);
    let kubectl = instance.kubectl();
    kubectl.apply(&WRITER.replace("storage: 256Mi", "storage: 1Gi"));
    kubectl.wait_ready("db", 1);
    let write = "head -c 536870912 /dev/urandom >/data/large; sync; sha256sum /data/large";
    let sum = kubectl.ok(&["exec", "db-0", "--", "sh", "-c", write]);
    let name = text(&claim(&kubectl), "/spec/volumeName").to_owned();
    let mut last = 0;
    // The agent of the second node has one role, then the other.
    for _ in 0..2 {
        let from = node_of(&kubectl);
        let to = other_node(&kubectl, &from);
        let command = begin(&instance.data(), &to);
        wait_for("the first copy", 120, || {
            let record = record(&kubectl);
            match record["stage"] == "Preparing" && record["to"] == *to {
                true => Ok(()),
                false => Err(record),
            }
        });
        kill_second_agent(&instance.data());
        let killed_in = record(&kubectl);
        assert_eq!(killed_in["stage"], "Preparing", "{killed_in}");
        wait_for("the end of the move", 300, || {
            let record = record(&kubectl);
            match record["stage"] == "Moved" {
                true => Ok(()),
                false => Err(record),
            }
        });
        let output = command.wait_with_output().expect("wait for the command");
        assert!(output.status.success(), "{output:?}");
        wait_running_on(&kubectl, &to);
        let now = kubectl.ok(&["exec", "db-0", "--", "sha256sum", "/data/large"]);
        assert_eq!(now, sum);
        let written = numbers_without_a_gap(&kubectl);
        assert!(written >= last, "{written} {last}");
        last = written;
        wait_for("the snapshots to be removed", 120, || {
            let left = directories(&instance.data(), &name);
            if left.len() == 1 { Ok(()) } else { Err(left) }
        });
    }
}

/// The last number that the writer has logged. The pod continued with its last number, so no number is missing in the
/// log. The last number before a stop may be there twice.
#[track_caller]
fn numbers_without_a_gap(kubectl: &Kubectl) -> u64 {
    let log = kubectl.ok(&["exec", "db-0", "--", "cat", "/data/log"]);
    let numbers: BTreeSet<u64> = log.lines().filter_map(|line| line.parse().ok()).collect();
    let last = numbers.last().copied().unwrap_or_default();
    assert_eq!(numbers.len() as u64, last, "{log}");
    last
}

fn kill_second_agent(data: &Path) {
    let directory = data.join("nodes/2").display().to_string();
    let processes = fs::read_dir("/proc").expect("read /proc");
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_agent = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        words.nth(1).is_some_and(|word| word == "node") && words.any(|word| word == directory)
    };
    let agent = pids.find(is_agent).expect("the agent of the second node");
    kill(Pid::from_raw(agent), Signal::SIGKILL).expect("kill the agent");
}

/// The directories of a volume below the data directories of all nodes, with any names.
fn directories(data: &Path, volume: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut open = vec![data.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_directory {
                continue;
            }
            if directory.ends_with("volumes") && name.ends_with(volume) {
                paths.insert(path.display().to_string());
            } else if !["images", "pods", "namespaces"].contains(&name.as_str()) {
                open.push(path);
            }
        }
    }
    paths
}

fn claim(kubectl: &Kubectl) -> Value {
    kubectl.json(&["get", "pvc", CLAIM])
}

fn volume(kubectl: &Kubectl) -> Value {
    let name = text(&claim(kubectl), "/spec/volumeName").to_owned();
    kubectl.json(&["get", "pv", &name])
}

fn node_of(kubectl: &Kubectl) -> String {
    text(&kubectl.pod("db-0"), "/spec/nodeName").to_owned()
}

fn other_node(kubectl: &Kubectl, node: &str) -> String {
    let nodes = kubectl.json(&["get", "nodes"]);
    let names = nodes["items"].as_array().into_iter().flatten();
    let mut names = names.map(|node| text(node, "/metadata/name").to_owned());
    names.find(|name| name != node).expect("two nodes")
}

/// Waits until the pod of the set is ready on the node.
fn wait_running_on(kubectl: &Kubectl, node: &str) {
    wait_for("the pod on the other node", 180, || {
        let pod = kubectl.get(&["pod", "db-0"]).unwrap_or_default();
        let is_there = pod["spec"]["nodeName"] == *node && end_to_end::cluster::is_ready(&pod);
        if is_there {
            Ok(())
        } else {
            Err(pod["status"].clone())
        }
    });
}
