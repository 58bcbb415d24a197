//! Machines that return after they have lost their pods.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use end_to_end::cluster::is_ready;
use end_to_end::lan::Role;
use end_to_end::{process, text, wait_for, wait_for_text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{
    Machines, RunningPods, SHORT_LEASE, fenced, get, runs, set, wait_for_pod, wait_node_ready,
};

/// The set [`set`] with a separate volume for each pod, which stays with its node.
fn with_claim(name: &str) -> String {
    let volume = "        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      storageClassName: local
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 1Mi}}
";
    set(name, 1) + volume
}

/// All processes of the machine are killed at once.
fn lose(node: &mut Role) {
    node.kill();
    process::kill_shims(Path::new(&node.data()));
}

/// A set that may fail over, and a set that cannot because of its volume: its pod waits, and has its files again when
/// the node returns.
#[test]
fn a_volume_that_stayed_with_its_node_is_used_again() {
    let mut machines = Machines::new();
    machines.join(0, &SHORT_LEASE);
    let kubectl = machines.server.kubectl();
    let mut running_pods = RunningPods::default();
    let volume = || {
        let claim = get(&kubectl, &["pvc", "data-keeps-0"]).expect("the claim");
        text(&claim, "/spec/volumeName").to_owned()
    };
    let before = machines.server.network.run(|| {
        kubectl.apply(&(with_claim("keeps") + &set("moves", 1)));
        kubectl.wait_ready("keeps", 1);
        kubectl.wait_ready("moves", 1);
        running_pods.read(&kubectl).expect("the pods");
        let write = "echo kept >/data/file && sync";
        kubectl.ok(&["exec", "keeps-0", "--", "sh", "-c", write]);
        volume()
    });
    machines.join(1, &SHORT_LEASE);
    lose(&mut machines.nodes[0]);
    machines.server.network.run(|| {
        wait_for_pod(&kubectl, &mut running_pods, "moves-0", "n2");
        let events = ["get", "events", "--field-selector", "reason=StaysWithNode"];
        wait_for_text("keeps-0", 120, || kubectl.ok(&events));
        let pod = get(&kubectl, &["pod", "keeps-0"]).expect("the pod");
        assert_eq!(text(&pod, "/spec/nodeName"), "n1");
        assert!(!running_pods.0["keeps-0"].iter().any(|uid| runs(uid)));
    });
    machines.nodes[0].start(&[&["node"], &SHORT_LEASE[..]].concat());
    machines.server.network.run(|| {
        wait_for_pod(&kubectl, &mut running_pods, "keeps-0", "n1");
        let file = wait_for("the file", 120, || {
            let read = ["exec", "keeps-0", "--", "cat", "/data/file"];
            kubectl.run(&read).success()
        });
        assert_eq!(file, "kept\n");
        assert_eq!(volume(), before);
        // The node accepts other pods, too.
        kubectl.ok(&["scale", "statefulset/moves", "--replicas=2"]);
        wait_for_pod(&kubectl, &mut running_pods, "moves-1", "n1");
        assert_eq!(running_pods.0["moves-0"].len(), 2, "it was replaced once");
    });
    machines.shut_down();
}

/// A pod of a set without the value `Failover` waits for its lost node until a user confirms that the machine is off
/// (`node.kubernetes.io/out-of-service`).
#[test]
fn a_person_confirms_that_a_lost_node_is_off() {
    let mut machines = Machines::new();
    machines.join(0, &SHORT_LEASE);
    let kubectl = machines.server.kubectl();
    let mut running_pods = RunningPods::default();
    let annotation = "annotations: {mainstay.dev/node-failure: Failover}";
    let manifest = set("waits", 1).replace(annotation, "labels: {app: waits}");
    machines.server.network.run(|| {
        kubectl.apply(&manifest);
        kubectl.wait_ready("waits", 1);
        running_pods.read(&kubectl).expect("the pods");
    });
    machines.join(1, &SHORT_LEASE);
    lose(&mut machines.nodes[0]);
    let taint = "node.kubernetes.io/out-of-service";
    machines.server.network.run(|| {
        wait_for("the node to be lost", 300, || {
            let node = get(&kubectl, &["node", "n1"])?;
            match is_ready(&node) {
                true => Err(node["status"]["conditions"].to_string()),
                false => Ok(()),
            }
        });
        let pods = running_pods.read(&kubectl).expect("the pods");
        assert_eq!(pods[0]["spec"]["nodeName"], "n1");
        assert_eq!(running_pods.0["waits-0"].len(), 1, "it waits");
        let confirmed = format!("{taint}=nodeshutdown:NoExecute");
        kubectl.ok(&["taint", "node", "n1", &confirmed]);
        wait_for_pod(&kubectl, &mut running_pods, "waits-0", "n2");
    });
    machines.nodes[0].start(&[&["node"], &SHORT_LEASE[..]].concat());
    machines.server.network.run(|| {
        wait_node_ready(&kubectl, "n1");
        kubectl.ok(&["taint", "node", "n1", &format!("{taint}-")]);
        kubectl.ok(&["scale", "statefulset/waits", "--replicas=2"]);
        wait_for_pod(&kubectl, &mut running_pods, "waits-1", "n1");
        assert_eq!(running_pods.0["waits-0"].len(), 2, "it was replaced once");
    });
    machines.shut_down();
}

/// All processes of a node are suspended, including those that guard its pods. They continue after its pod runs
/// elsewhere: the node is ready only after its old container has ended.
#[test]
fn a_node_that_thaws_after_the_takeover_ends_its_bodies_before_it_is_ready() {
    let mut machines = Machines::new();
    machines.join(0, &SHORT_LEASE);
    let kubectl = machines.server.kubectl();
    machines.server.network.run(|| {
        kubectl.apply(&set("ticks", 1));
        kubectl.wait_ready("ticks", 1);
    });
    let uid = || {
        let pod = get(&kubectl, &["pod", "ticks-0"])?;
        Ok::<_, String>(text(&pod, "/metadata/uid").to_owned())
    };
    let old = machines.server.network.run(|| uid().expect("the pod"));
    machines.join(1, &SHORT_LEASE);
    let frozen = freeze(&machines.nodes[0]);
    assert!(runs(&old) && frozen.len() > 2, "{frozen:?}");
    machines.server.network.run(|| {
        wait_for("the pod on the other node", 300, || {
            let pod = get(&kubectl, &["pod", "ticks-0"])?;
            match pod["spec"]["nodeName"] == "n2" && is_ready(&pod) {
                true => Ok(()),
                false => Err(pod["status"].to_string()),
            }
        });
        wait_for_text("n1", 120, || fenced(&kubectl));
    });
    // No process of the node has run in the meantime.
    let states = states();
    let standing = frozen.iter().filter(|pid| states[*pid].1 == 'T');
    assert_eq!(standing.count(), frozen.len());
    for pid in &frozen {
        // The guards, which continue first, end the other processes.
        kill(Pid::from_raw(*pid), Signal::SIGCONT).ok();
    }
    machines.server.network.run(|| {
        wait_for("the node to be back", 300, || {
            let node = get(&kubectl, &["node", "n1"])?;
            let is_back = is_ready(&node);
            // The check comes after the read: a container that has ended does not run again.
            assert!(!is_back || !runs(&old), "{node}");
            match is_back {
                true => Ok(()),
                false => Err(node["status"]["conditions"].to_string()),
            }
        });
        let new = uid().expect("the pod");
        assert!(new != old && runs(&new));
        let mut running_pods = RunningPods::default();
        running_pods.read(&kubectl).expect("the pods");
        kubectl.ok(&["scale", "statefulset/ticks", "--replicas=2"]);
        wait_for_pod(&kubectl, &mut running_pods, "ticks-1", "n1");
        assert_eq!(running_pods.0["ticks-0"], [new], "it was replaced once");
    });
    machines.shut_down();
}

/// Parent and state of each process (proc_pid_stat(5)).
fn states() -> BTreeMap<i32, (i32, char)> {
    let all = fs::read_dir("/proc").expect("read /proc");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let state = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        let mut words = after_name.split(' ');
        let state = words.next()?.chars().next()?;
        Some((pid, (words.next()?.parse().ok()?, state)))
    };
    pids.filter_map(state).collect()
}

/// Suspends the agent, the shims of its pods, and all their child processes; returns them, parents first.
fn freeze(node: &Role) -> Vec<i32> {
    let mut roots = process::shims(Path::new(&node.data()));
    roots.push(node.pid());
    let of_node = |states: &BTreeMap<i32, (i32, char)>| {
        let mut processes = roots.clone();
        let mut next = 0;
        while let Some(parent) = processes.get(next).copied() {
            let children = states.iter().filter(|(_, (of, _))| *of == parent);
            let new: Vec<i32> = children.map(|(pid, _)| *pid).collect();
            processes.extend(new.into_iter().filter(|pid| !roots.contains(pid)));
            next += 1;
        }
        processes.retain(|pid| states.get(pid).is_some_and(|(_, state)| *state != 'Z'));
        processes
    };
    wait_for("the node to stand still", 60, || {
        let states = states();
        let all = of_node(&states);
        let moving = all.iter().filter(|pid| states[*pid].1 != 'T');
        let moving: Vec<i32> = moving.copied().collect();
        for pid in &moving {
            // The process may have exited in the meantime.
            kill(Pid::from_raw(*pid), Signal::SIGSTOP).ok();
        }
        match moving.is_empty() {
            true => Ok(all),
            false => Err(moving),
        }
    })
}
