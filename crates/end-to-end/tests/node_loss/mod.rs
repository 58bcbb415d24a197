//! A replicated application loses the node of its primary under a write load (docs/node-failure.md).
//!
//! Each node is a machine on one link. A writer on another node prints the number of each write that the application
//! has acknowledged. After the loss the pod runs on another node, and no ordinal ever has two running containers. At
//! the end the application has every acknowledged write.

mod killed_server;
mod local_replicated;
mod lost_halfway;
mod mariadb;
mod planned_loss;
mod postgres;
mod redis;
mod replaced_replica;
mod replicated_databases;
mod zookeeper;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use end_to_end::cluster::is_ready;
use end_to_end::image::Image;
use end_to_end::lan::{Lan, Role};
use end_to_end::{Kubectl, Registry, example, process, text, wait_for, wait_for_or_report, words};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Maximum wait for the application, in seconds of an idle machine: shorter than the time after which the test runner
/// kills a test without a message.
const PATIENCE: u64 = 150;

/// The result of a read of the application; its error is for the message of a wait that takes too long.
type ReadResult<T> = Result<T, String>;

/// An application in one StatefulSet, whose label `app` is the set's name.
trait Application {
    /// The name of the set.
    const SET: &str;
    /// The number of its pods.
    const REPLICAS: u64;
    /// The manifest below `examples`.
    const MANIFEST: &str;
    /// Prefixes of the names of the programs in a running container.
    const PROGRAMS: &[&str];
    /// Repository and tag of the image.
    const IMAGE: (&str, &str);
    /// The ConfigMap that allows an empty member to start without a peer that has data.
    const FIRST_START: Option<&str> = None;
    /// The variables of the writer, in YAML.
    const WRITER_ENVIRONMENT: &str = "[]";
    /// The shell script of the writer: it prints `acknowledged NUMBER` for each acknowledged write. A write without a
    /// response is not repeated.
    const WRITER: &str;

    fn image() -> Image;

    /// The pod whose node is lost: the pod that receives the writes.
    fn primary(kubectl: &Kubectl) -> ReadResult<String>;

    /// Whether all members follow the primary.
    fn is_whole(kubectl: &Kubectl) -> ReadResult<()>;

    /// The numbers that are stored in the application.
    fn stored(kubectl: &Kubectl) -> ReadResult<BTreeSet<u64>>;
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    /// All processes are killed at once, as by a power failure.
    Killed,
    /// The agent is suspended, its pods continue.
    Frozen,
    /// No packet passes.
    CutOff,
}

/// The kinds of loss, in the order of a test.
const LOSSES: [Loss; 3] = [Loss::Killed, Loss::Frozen, Loss::CutOff];

/// The percentage of packets that are lost on each link before a node is lost; twice as many arrive late.
const PERCENT_LOST: u32 = 5;

/// A short lease for the nodes of databases whose volumes are given up, because these have a further delay.
const SHORT_LEASE: &[&str] = &["--node-lease-duration", "20s"];

struct Cluster {
    server: Role,
    nodes: Vec<Role>,
    node_flags: Vec<String>,
    lan: Lan,
    _registry: Registry,
    _directory: tempfile::TempDir,
}

impl Cluster {
    /// A server, whose own node is for the writer, and one node more than the number of the application's pods.
    fn start<A: Application>(lease: &[&str]) -> Self {
        let (repository, tag) = A::IMAGE;
        Self::of(A::REPLICAS + 1, lease, |registry| {
            registry.push(repository, tag, &A::image());
        })
    }

    /// A server with its own node, and that many other nodes.
    fn of(nodes: u64, lease: &[&str], push: impl FnOnce(&Registry) + Send) -> Self {
        let directory = tempfile::Builder::new().prefix("mainstay-test-").tempdir();
        let directory = directory.expect("make a directory");
        let mut lan = Lan::default();
        let mut role = |name: &str| Role::new(&mut lan, name, directory.path());
        let mut server = role("server");
        let nodes = (1..=nodes).map(|number| role(&format!("n{number}")));
        let nodes: Vec<Role> = nodes.collect();
        let address = server.address.clone();
        let registry = server.network.run(|| {
            let registry = Registry::start_at(&address);
            push(&registry);
            registry
        });
        let file = directory.path().join("registries.yaml");
        fs::write(&file, registry.registries_yaml()).expect("write the registries");
        let file = file.display().to_string();
        let flags = [&["--registries", &file], lease].concat();
        server.start(&[&["server", "--with-node"], &flags[..]].concat());
        let (url, token) = (server.url(), server.token(&[]));
        let mut cluster = Self {
            server,
            nodes,
            node_flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            lan,
            _registry: registry,
            _directory: directory,
        };
        for number in 0..cluster.nodes.len() {
            let name = format!("n{}", number + 1);
            let join = ["--server", &url, "--token", &token, "--node-name", &name];
            cluster.start_node(number, &join);
        }
        cluster
    }

    /// Reserves the server's own node for the writer.
    fn reserve_server_node(&self, kubectl: &Kubectl) {
        let nodes = kubectl.ok(&["get", "nodes", "-o", "name"]);
        let mut names = nodes.lines().filter_map(|name| name.strip_prefix("node/"));
        let is_joined = |name: &str| {
            name.strip_prefix('n')
                .is_some_and(|n| n.parse::<u8>().is_ok())
        };
        let node = names.find(|name| !is_joined(name));
        let node = node.expect("the server's node");
        kubectl.ok(&["taint", "node", node, "writer=only:NoSchedule"]);
        kubectl.ok(&["label", "node", node, "role=writer"]);
    }

    fn start_node(&mut self, number: usize, more: &[&str]) {
        let flags = self.node_flags.iter().map(|flag| &**flag);
        let start: Vec<&str> = std::iter::once("node").chain(flags).collect();
        self.nodes[number].start(&[&start[..], more].concat());
    }

    fn lose(&mut self, number: usize, loss: Loss) {
        match loss {
            Loss::Killed => {
                self.nodes[number].kill();
                process::kill_shims(Path::new(&self.nodes[number].data()));
            }
            Loss::Frozen => self.nodes[number].signal(Signal::SIGSTOP),
            Loss::CutOff => self.lan.set_link(&self.nodes[number], "down"),
        }
    }

    fn bring_back(&mut self, number: usize, loss: Loss) {
        match loss {
            Loss::Killed => self.start_node(number, &[]),
            Loss::Frozen => self.nodes[number].signal(Signal::SIGCONT),
            Loss::CutOff => self.lan.set_link(&self.nodes[number], "up"),
        }
    }

    fn shut_down(mut self) {
        for node in &mut self.nodes {
            node.interrupt();
        }
        self.server.interrupt();
    }
}

/// The application loses the node of its primary by each kind of loss, one after the other.
#[track_caller]
fn no_acknowledged_write_is_lost<A: Application>(lease: &[&str]) {
    let mut cluster = Cluster::start::<A>(lease);
    let kubectl = cluster.server.kubectl();
    let manifest = fs::read_to_string(example(A::MANIFEST)).expect("read the example");
    // The example waits for five minutes before a volume is given up.
    let manifest = manifest.replace("lost-volume-seconds: '300'", "lost-volume-seconds: '20'");
    cluster.server.network.run(|| {
        cluster.reserve_server_node(&kubectl);
        if let Some(name) = A::FIRST_START {
            kubectl.ok(&["create", "configmap", name, "--from-literal=create="]);
        }
        kubectl.apply(&manifest);
        kubectl.wait_ready(A::SET, A::REPLICAS);
        wait_whole::<A>(&kubectl);
        if let Some(name) = A::FIRST_START {
            kubectl.ok(&["delete", "configmap", name]);
        }
        kubectl.apply(&writer::<A>(A::WRITER));
    });
    for loss in LOSSES {
        the_primarys_node_is_lost::<A>(&mut cluster, &kubectl, loss);
    }
    cluster.server.network.run(|| {
        let acknowledged = wait_for("the writer's log", 300, || acknowledged(&kubectl));
        kubectl.ok(&["delete", "pod", "writer"]);
        let stored = wait_for("the stored numbers", 300, || A::stored(&kubectl));
        let lost: Vec<&u64> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "{lost:?} of {}", acknowledged.len());
        eprintln!(
            "{}: {} writes were acknowledged",
            A::SET,
            acknowledged.len()
        );
    });
    cluster.shut_down();
}

/// The pod `writer` with a shell script, on the node that no other pod may use.
fn writer<A: Application>(script: &str) -> String {
    let (repository, tag) = A::IMAGE;
    let image = repository.trim_start_matches("library/");
    let script = script.trim().replace('\n', "\n      ");
    let environment = A::WRITER_ENVIRONMENT;
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: writer}}
spec:
  tolerations: [{{key: writer, operator: Exists}}]
  nodeSelector: {{role: writer}}
  terminationGracePeriodSeconds: 1
  containers:
  - name: writer
    image: {image}:{tag}
    env: {environment}
    command:
    - sh
    - -c
    - |
      {script}
"
    )
}

/// The set loses its primary with the node, and is complete again on the other nodes. Then the node returns.
fn the_primarys_node_is_lost<A: Application>(cluster: &mut Cluster, kubectl: &Kubectl, loss: Loss) {
    // Packets are lost and arrive out of order during the writes of the application.
    cluster.lan.disturb(PERCENT_LOST);
    cluster
        .server
        .network
        .run(|| wait_for_writes(kubectl, 40, &mut Gap::default()));
    cluster.lan.calm();
    let (name, uid, node) = cluster.server.network.run(|| {
        let name = wait_for("a primary", 300, || A::primary(kubectl));
        wait_for_writes(kubectl, 20, &mut Gap::default());
        let pod = wait_for("the pod", 300, || get(kubectl, &["pod", &name]));
        let at = |pointer| text(&pod, pointer).to_owned();
        (name, at("/metadata/uid"), at("/spec/nodeName"))
    });
    let number: usize = node[1..].parse().expect("a number");
    let started = Instant::now();
    cluster.lose(number - 1, loss);
    cluster.server.network.run(|| {
        let mut gap = Gap::default();
        wait_for(&format!("{name} on another node, {loss:?}"), 600, || {
            gap.see(acknowledged(kubectl)?.len());
            let listed = get(kubectl, &["pods", "-l", &format!("app={}", A::SET)])?;
            let new = successor(&listed, &name, &uid);
            let new_runs = new.is_some_and(|pod| runs::<A>(text(pod, "/metadata/uid")));
            assert!(!new_runs || !runs::<A>(&uid), "{name} has two running containers");
            match new.is_some_and(is_ready) {
                true => Ok(()),
                false => Err(listed.to_string()),
            }
        });
        let whole = started.elapsed();
        wait_whole::<A>(kubectl);
        wait_for_writes(kubectl, 20, &mut gap);
        eprintln!(
            "{}, {loss:?}: {name} is ready on another node after {whole:?}; the longest time without an \
             acknowledged write: {:?}",
            A::SET,
            gap.longest
        );
        let moved = wait_for("the pod", 300, || get(kubectl, &["pod", &name]));
        assert_ne!(text(&moved, "/spec/nodeName"), node);
    });
    cluster.bring_back(number - 1, loss);
    cluster.server.network.run(|| {
        wait_for("the node to be back", 300, || {
            let node = get(kubectl, &["node", &node])?;
            match is_ready(&node) {
                true => Ok(()),
                false => Err(node["status"]["conditions"].to_string()),
            }
        });
        kubectl.wait_ready(A::SET, A::REPLICAS);
        wait_whole::<A>(kubectl);
        assert!(!runs::<A>(&uid), "the old container of {name} runs");
    });
}

/// The longest time without a new acknowledged write.
#[derive(Default)]
struct Gap {
    count: usize,
    since: Option<Instant>,
    longest: Duration,
}

impl Gap {
    fn see(&mut self, count: usize) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        self.longest = self.longest.max(now - since);
        if count != self.count {
            self.count = count;
            self.since = Some(now);
        }
    }
}

/// The pod of that name with another UID.
fn successor<'a>(listed: &'a Value, name: &str, uid: &str) -> Option<&'a Value> {
    let mut pods = listed["items"].as_array().into_iter().flatten();
    let now = pods.find(|pod| pod["metadata"]["name"] == name)?;
    (now["metadata"]["uid"] != uid).then_some(now)
}

/// Pods and their newest output, for the message of a wait that takes too long.
fn members(kubectl: &Kubectl, set: &str) -> String {
    let label = format!("app={set}");
    let pods = kubectl.run(&["get", "pods", "-o", "wide"]).stdout;
    let logs = [
        "logs",
        "-l",
        &label,
        "--all-containers",
        "--prefix",
        "--tail=5",
    ];
    format!("{pods}{}", kubectl.run(&logs).stdout)
}

/// Whether a program of the pod runs on this machine.
fn runs<A: Application>(uid: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("read /proc");
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.any(|pid| {
        let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let name = read("comm");
        let is_body = A::PROGRAMS.iter().any(|program| name.starts_with(program));
        is_body && read("cgroup").contains(uid)
    })
}

#[track_caller]
fn wait_whole<A: Application>(kubectl: &Kubectl) {
    wait_for_or_report(
        "all members to follow the primary",
        PATIENCE,
        || A::is_whole(kubectl),
        || members(kubectl, A::SET),
    );
}

/// Waits for that many more acknowledged writes.
#[track_caller]
fn wait_for_writes(kubectl: &Kubectl, more: usize, gap: &mut Gap) {
    let mut before = None;
    let enough = || {
        let count = acknowledged(kubectl)?.len();
        gap.see(count);
        match count >= *before.get_or_insert(count) + more {
            true => Ok(()),
            false => Err(count.to_string()),
        }
    };
    let describe = || kubectl.run(&["logs", "writer", "--tail=5"]).stdout;
    wait_for_or_report("acknowledged writes", PATIENCE, enough, describe);
}

/// The numbers that the writer printed.
fn acknowledged(kubectl: &Kubectl) -> ReadResult<BTreeSet<u64>> {
    let log = kubectl.log("writer")?;
    let rows = words(&log);
    let numbers = rows.iter().filter_map(|row| match row[..] {
        ["acknowledged", number] => number.parse().ok(),
        _ => None,
    });
    Ok(numbers.collect())
}

/// The output of kubectl. A machine that is suspended for seconds is no failure of the test.
fn read(kubectl: &Kubectl, arguments: &[&str]) -> ReadResult<String> {
    let output = kubectl.run(arguments).success();
    output.map_err(|output| output.stderr)
}

/// Objects of the API.
fn get(kubectl: &Kubectl, arguments: &[&str]) -> ReadResult<Value> {
    kubectl.get(arguments)
}

/// The numbers in a text.
fn numbers(text: &str) -> BTreeSet<u64> {
    let parts = text.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// The output of a command in a pod.
fn exec(kubectl: &Kubectl, pod: &str, command: &[&str]) -> ReadResult<String> {
    let exec = ["exec", pod, "--", "timeout", "30"];
    read(kubectl, &[&exec[..], command].concat())
}
