//! Faults of a node and its links: packets that are lost or late, links that pass one direction, disks that are full or
//! do not respond, and machines that return. No ordinal ever has two running containers (docs/node-failure.md).

mod addresses;
mod copies;
mod full_disk;
mod half_open;
mod promise;
mod restarts;
mod returns;
mod versions;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use end_to_end::cluster::is_ready;
use end_to_end::disk::{Disk, ONE_THREAD};
use end_to_end::lan::{Lan, Role};
use end_to_end::{Kubectl, text, wait_for, wait_for_text};
use serde_json::Value;

/// A server and two nodes, each on a separate machine.
struct Machines {
    server: Role,
    nodes: [Role; 2],
    lan: Lan,
    /// The disk of the first node; dropped after the nodes.
    disk: Option<Disk>,
    _directory: tempfile::TempDir,
}

impl Drop for Machines {
    fn drop(&mut self) {
        // The disk must respond before the nodes are stopped.
        if let Some(disk) = &self.disk {
            disk.thaw();
        }
    }
}

impl Machines {
    /// Starts the server.
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("mainstay-test-").tempdir();
        let directory = directory.expect("make a directory");
        let mut lan = Lan::default();
        let mut role = |name| Role::new(&mut lan, name, directory.path());
        let (mut server, nodes) = (role("server"), [role("n1"), role("n2")]);
        server.start(&["server"]);
        Self {
            server,
            nodes,
            lan,
            disk: None,
            _directory: directory,
        }
    }

    /// Joins a node.
    fn join(&mut self, number: usize, flags: &[&str]) {
        let (url, token) = (self.server.url(), self.server.token(&[]));
        let name = format!("n{}", number + 1);
        let join = ["node", "--server", &url, "--token", &token];
        let name = ["--node-name", &name];
        self.nodes[number].start(&[&join[..], &name, flags].concat());
    }

    /// Joins the first node, and waits for the pod of the set "ticks" there.
    fn join_with_pod(&mut self, flags: &[&str]) -> RunningPods {
        self.join(0, flags);
        let kubectl = self.server.kubectl();
        let mut running_pods = RunningPods::default();
        self.server.network.run(|| {
            kubectl.apply(&set("ticks", 1));
            kubectl.wait_ready("ticks", 1);
            running_pods.read(&kubectl).expect("the pods");
        });
        running_pods
    }

    /// Joins the first node with a pod and a separate disk, and then the second node.
    fn join_on_a_disk(&mut self) -> RunningPods {
        let data = self.nodes[0].data();
        fs::create_dir(&data).expect("make a directory");
        self.disk = Some(Disk::mount(Path::new(&data), 1024));
        // Without the node's eviction, which would evict the pod.
        let flags = [&SHORT_LEASE[..], &["--eviction-hard=memory.available<1Mi"]].concat();
        self.nodes[0].set_variable(ONE_THREAD);
        let running_pods = self.join_with_pod(&flags);
        self.join(1, &SHORT_LEASE);
        running_pods
    }

    fn shut_down(mut self) {
        for node in &mut self.nodes {
            node.interrupt();
        }
        self.server.interrupt();
    }
}

/// A short lease.
const SHORT_LEASE: [&str; 2] = ["--node-lease-duration", "16s"];

/// A set that may fail over, with at most one pod on a node. Each pod writes a log continuously.
fn set(name: &str, replicas: u8) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {name}
  annotations: {{mainstay.dev/node-failure: Failover}}
spec:
  serviceName: {name}
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {{labelSelector: {{matchLabels: {{app: {name}}}}}, topologyKey: kubernetes.io/hostname}}
      containers:
      - name: shell
        image: mainstay/debug
        command: [sh, -c, '{BODY}']
"
    )
}

/// The program of each container.
const BODY: &str = "while true; do echo tick; sleep 0.2; done";

/// Whether the program of a pod's container runs.
fn runs(uid: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("read /proc");
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.any(|pid| {
        let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("cmdline").contains(BODY) && read("cgroup").contains(uid)
    })
}

/// The UIDs of the pods of each name, in the order of their observation.
#[derive(Default)]
struct RunningPods(BTreeMap<String, Vec<String>>);

impl RunningPods {
    /// The present pods; fails if two pods of one name run.
    #[track_caller]
    fn read(&mut self, kubectl: &Kubectl) -> Result<Vec<Value>, String> {
        let mut listed = get(kubectl, &["pods"])?;
        let pods = listed["items"].as_array_mut();
        let pods: Vec<Value> = pods.map(std::mem::take).unwrap_or_default();
        for pod in &pods {
            let uids = self.0.entry(text(pod, "/metadata/name").to_owned());
            let (uids, uid) = (uids.or_default(), text(pod, "/metadata/uid"));
            if uids.last().is_none_or(|last| last != uid) {
                uids.push(uid.to_owned());
            }
        }
        for (name, uids) in &self.0 {
            let Some((newest, older)) = uids.split_last() else {
                continue;
            };
            // The new pod is checked first: an old pod that runs after this check has run concurrently with it.
            if !older.is_empty() && runs(newest) {
                assert!(
                    !older.iter().any(|uid| runs(uid)),
                    "{name} has two running containers"
                );
            }
        }
        Ok(pods)
    }
}

/// Objects of the API. A server that is suspended for seconds is no failure of the test.
fn get(kubectl: &Kubectl, what: &[&str]) -> Result<Value, String> {
    let output = kubectl.run(&[&["get", "-o", "json"], what].concat());
    let printed = output.success().map_err(|output| output.stderr)?;
    serde_json::from_str(&printed).map_err(|error| error.to_string())
}

/// Waits until the pod of that name is ready on the node, and is the only pod of its name.
#[track_caller]
fn wait_for_pod(kubectl: &Kubectl, running_pods: &mut RunningPods, name: &str, node: &str) {
    wait_for(&format!("{name} on {node}"), 300, || {
        let pods = running_pods.read(kubectl)?;
        let is_there = |pod: &Value| {
            text(pod, "/metadata/name") == name && pod["spec"]["nodeName"] == *node && is_ready(pod)
        };
        match pods.iter().any(is_there) {
            true => Ok(()),
            false => Err(format!("{pods:?}")),
        }
    });
}

#[track_caller]
fn wait_node_ready(kubectl: &Kubectl, name: &str) {
    wait_for(&format!("{name} to be ready"), 300, || {
        let node = get(kubectl, &["node", name])?;
        match is_ready(&node) {
            true => Ok(()),
            false => Err(node["status"]["conditions"].to_string()),
        }
    });
}

fn fenced(kubectl: &Kubectl) -> String {
    let reason = ["--field-selector", "reason=NodeFenced"];
    kubectl.ok(&[&["get", "events", "-A"], &reason[..]].concat())
}

/// A fifth of all packets between all machines is lost, and another fifth is late.
#[test]
fn a_rollout_over_two_nodes_completes_while_packets_are_lost() {
    let mut machines = Machines::new();
    machines.join(0, &[]);
    machines.join(1, &[]);
    let kubectl = machines.server.kubectl();
    machines.server.network.run(|| {
        kubectl.apply(&(set("rolls", 2) + &set("stays", 2)));
        kubectl.wait_ready("rolls", 2);
        kubectl.wait_ready("stays", 2);
        let mut running_pods = RunningPods::default();
        let stays = |pods: Vec<Value>| {
            let all = pods.into_iter();
            let local = all.filter(|pod| text(pod, "/metadata/name").starts_with("stays"));
            let ids = local.map(|pod| {
                let container = pod["status"]["containerStatuses"][0]["containerID"].clone();
                (pod["metadata"]["uid"].clone(), container)
            });
            ids.collect::<Vec<_>>()
        };
        let before = stays(running_pods.read(&kubectl).expect("the pods"));
        machines.lan.disturb(20);
        for version in ["b", "c"] {
            let version = format!("VERSION={version}");
            kubectl.ok(&["set", "env", "statefulset/rolls", &version]);
            wait_for("the rollout", 600, || {
                let pods = running_pods.read(&kubectl)?;
                let set = get(&kubectl, &["statefulset", "rolls"])?;
                let status = &set["status"];
                let is_observed = status["observedGeneration"] == set["metadata"]["generation"];
                let is = |field: &str| status[field] == 2;
                let is_new = status["currentRevision"] == status["updateRevision"];
                match is_observed && is_new && is("updatedReplicas") && is("readyReplicas") {
                    true => Ok(()),
                    false => Err(format!("{status} {pods:?}")),
                }
            });
        }
        // The nodes renew their leases, and respond.
        for name in ["n1", "n2"] {
            let lease = ["lease", "-n", "kube-node-lease", name];
            let renewed = || Ok::<_, String>(get(&kubectl, &lease)?["spec"]["renewTime"].clone());
            let mut last_renewal = wait_for("a lease", 120, renewed);
            for _ in 0..3 {
                last_renewal = wait_for(&format!("a renewal of {name}"), 120, || {
                    running_pods.read(&kubectl)?;
                    let now = renewed()?;
                    if now == last_renewal {
                        Err(now.to_string())
                    } else {
                        Ok(now)
                    }
                });
            }
        }
        for pod in ["rolls-0", "rolls-1"] {
            wait_for("a command in a pod", 120, || {
                let output = kubectl.run(&["exec", pod, "--", "hostname"]);
                match output.stdout.trim() == pod {
                    true => Ok(()),
                    false => Err(output),
                }
            });
        }
        machines.lan.calm();
        for name in ["n1", "n2"] {
            wait_node_ready(&kubectl, name);
        }
        kubectl.wait_ready("rolls", 2);
        kubectl.wait_ready("stays", 2);
        assert_eq!(fenced(&kubectl), "", "no node was lost");
        assert_eq!(
            stays(running_pods.read(&kubectl).expect("the pods")),
            before
        );
    });
    machines.shut_down();
}

/// Writes to the disk of a node's data directory block. The agent cannot renew the lease, so the pods end with the
/// lease, although the process that stores their logs waits for the disk.
#[test]
fn a_node_whose_disk_hangs_loses_its_pods_to_another_node() {
    let mut machines = Machines::new();
    let mut running_pods = machines.join_on_a_disk();
    let kubectl = machines.server.kubectl();
    let disk = machines.disk.as_ref().expect("a disk");
    disk.block_writes();
    // The agent waits for the disk, too, to write the deadline of its lease, but still responds.
    let old = moves_while_the_agent_responds(&machines, &mut running_pods);
    disk.unblock_writes();
    machines.server.network.run(|| {
        wait_node_ready(&kubectl, "n1");
        kubectl.ok(&["scale", "statefulset/ticks", "--replicas=2"]);
        wait_for_pod(&kubectl, &mut running_pods, "ticks-1", "n1");
        wait_for_pod(&kubectl, &mut running_pods, "ticks-0", "n2");
        assert!(!runs(&old));
        assert_eq!(running_pods.0["ticks-0"].len(), 2, "it was replaced once");
    });
    machines.shut_down();
}

/// Writes to the disk fail. The agent does not exit (a write to a page of a mapped file would kill it), and does not
/// renew a lease whose deadline it cannot write.
#[test]
fn a_node_whose_disk_fails_loses_its_pods_to_another_node() {
    let mut machines = Machines::new();
    let mut running_pods = machines.join_on_a_disk();
    machines.disk.as_ref().expect("a disk").fail();
    moves_while_the_agent_responds(&machines, &mut running_pods);
    machines.nodes[0].kill();
    // The mounts of the node can be removed then.
    machines.disk.as_ref().expect("a disk").repair();
    machines.nodes[1].interrupt();
    machines.server.interrupt();
}

/// Waits until the pod of the first node runs on the other node; returns the UID of the former pod.
fn moves_while_the_agent_responds(machines: &Machines, running_pods: &mut RunningPods) -> String {
    let kubectl = machines.server.kubectl();
    let old = running_pods.0["ticks-0"][0].clone();
    assert!(runs(&old));
    machines.server.network.run(|| {
        wait_for_pod(&kubectl, running_pods, "ticks-0", "n2");
        assert!(!runs(&old));
        wait_for_text("n1", 120, || fenced(&kubectl));
        let health = "/api/v1/nodes/n1/proxy/healthz";
        assert_eq!(kubectl.ok(&["get", "--raw", health]), "ok");
    });
    old
}
