//! A replicated Redis on four machines loses the machine of its primary under a write load: killed, with
//! its agent frozen, cut off (DESIGN §15). No acknowledged write is lost, and no pod has two bodies.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use end_to_end::applications::redis;
use end_to_end::cluster::is_ready;
use end_to_end::lan::{Lan, Role};
use end_to_end::program::ok;
use end_to_end::{Kubectl, Registry, example, process, text, wait_for, words};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Writes numbers, and prints each that a replica has, too (`WAIT 1`).
const WRITER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  tolerations: [{key: writer, operator: Exists}]
  nodeSelector: {role: writer}
  terminationGracePeriodSeconds: 1
  containers:
  - name: writer
    image: redis:7
    command:
    - sh
    - -c
    - |
      n=0
      find() {
        for pod in 0 1 2; do
          primary=$(timeout 2 redis-cli -h cache-$pod.cache -p 26379 \
            sentinel get-master-addr-by-name main 2>/dev/null | sed -n 1p)
          case $primary in *.cache) return;; esac
        done
      }
      while sleep 0.05; do
        n=$((n + 1))
        [ "$primary" ] || find
        got=$(printf 'sadd log %s\nwait 1 1000\n' $n | timeout 3 redis-cli -h "$primary" 2>/dev/null)
        case $(echo $got) in
        '1 1' | '1 2') echo "acknowledged $n" ;;
        *) primary= ;;
        esac
      done
"#;

const PODS: [&str; 3] = ["cache-0", "cache-1", "cache-2"];

#[derive(Clone, Copy, Debug)]
enum Loss {
    /// All processes end at once, as with the power.
    Killed,
    /// The agent stands still, its pods go on.
    Frozen,
    /// No packet passes.
    CutOff,
}

struct Cluster {
    server: Role,
    nodes: Vec<Role>,
    registries: String,
    lan: Lan,
    _registry: Registry,
    _directory: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("mainstay-test-").tempdir();
        let directory = directory.expect("make a directory");
        let mut lan = Lan::default();
        let mut role = |name: &str| Role::new(&mut lan, name, directory.path());
        let mut server = role("server");
        let nodes = ["n1", "n2", "n3", "n4"].map(&mut role);
        let address = server.address.clone();
        let registry = server.network.run(|| {
            let registry = Registry::start_at(&address);
            registry.push("library/redis", "7", &redis());
            registry
        });
        let file = directory.path().join("registries.yaml");
        fs::write(&file, registry.registries_yaml()).expect("write the registries");
        let registries = file.display().to_string();
        server.start(&["server", "--with-node", "--registries", &registries]);
        let data = server.data();
        let token = server
            .network
            .run(|| ok(&["token", "create", "--data-dir", &data]));
        let url = format!("https://{address}:6443");
        let mut cluster = Self {
            server,
            nodes: nodes.into(),
            registries,
            lan,
            _registry: registry,
            _directory: directory,
        };
        for number in 0..cluster.nodes.len() {
            let name = format!("n{}", number + 1);
            let join = [
                "--server",
                &url,
                "--token",
                token.trim(),
                "--node-name",
                &name,
            ];
            cluster.start_node(number, &join);
        }
        cluster
    }

    fn start_node(&mut self, number: usize, more: &[&str]) {
        let start = ["node", "--registries", &self.registries];
        self.nodes[number].start(&[&start[..], more].concat());
    }

    fn lose(&mut self, number: usize, loss: Loss) {
        match loss {
            Loss::Killed => {
                self.nodes[number].kill();
                for shim in process::shims(Path::new(&self.nodes[number].data())) {
                    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("kill a shim");
                }
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
}

#[test]
fn no_acknowledged_write_is_lost_with_the_primarys_machine() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.server.kubectl();
    let manifest = fs::read_to_string(example("redis/failover.yaml")).expect("read the example");
    cluster.server.network.run(|| {
        let names = ["get", "nodes", "-o", "name"];
        let nodes = kubectl.ok(&names);
        let mut names = nodes.lines().filter_map(|name| name.strip_prefix("node/"));
        let own = names.find(|name| !["n1", "n2", "n3", "n4"].contains(name));
        let own = own.expect("the server's node");
        kubectl.ok(&["taint", "node", own, "writer=only:NoSchedule"]);
        kubectl.ok(&["label", "node", own, "role=writer"]);
        kubectl.apply(&manifest);
        kubectl.wait_ready("cache", 3);
        replicas_are_linked(&kubectl);
        kubectl.apply(WRITER);
        kubectl.wait_pods_ready(&["pod/writer"]);
    });
    for loss in [Loss::Killed, Loss::Frozen, Loss::CutOff] {
        the_primarys_machine_is_lost(&mut cluster, &kubectl, loss);
    }
    cluster.server.network.run(|| {
        let acknowledged = acknowledged(&kubectl);
        kubectl.ok(&["delete", "pod", "writer"]);
        let primary = primary(&kubectl).expect("a primary");
        let stored = ask(&kubectl, &primary, "smembers log").expect("the numbers");
        let stored: BTreeSet<u64> = stored
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        let lost: Vec<&u64> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "{lost:?} of {}", acknowledged.len());
    });
    for node in &mut cluster.nodes {
        node.interrupt();
    }
    cluster.server.interrupt();
}

/// The set loses its primary with the machine, and is whole again on the others. Then the machine comes back.
fn the_primarys_machine_is_lost(cluster: &mut Cluster, kubectl: &Kubectl, loss: Loss) {
    let (name, uid, node) = cluster.server.network.run(|| {
        let name = wait_for("a primary", 60, || primary(kubectl));
        let pod = kubectl.pod(&name);
        let at = |pointer| text(&pod, pointer).to_owned();
        (name, at("/metadata/uid"), at("/spec/nodeName"))
    });
    let number: usize = node[1..].parse().expect("a number");
    let started = std::time::Instant::now();
    cluster.lose(number - 1, loss);
    cluster.server.network.run(|| {
        let mut before = None;
        let mut writes_again = None;
        wait_for(&format!("{name} on another node, {loss:?}"), 120, || {
            let listed = kubectl.json(&["get", "pods", "-l", "app=cache"]);
            let mut pods = listed["items"].as_array().into_iter().flatten();
            let now = pods.find(|pod| pod["metadata"]["name"] == name.as_str());
            let new = now.filter(|pod| pod["metadata"]["uid"] != uid.as_str());
            let new_runs = new.is_some_and(|pod| runs_redis(text(pod, "/metadata/uid")));
            assert!(!new_runs || !runs_redis(&uid), "{name} has two bodies");
            if writes_again.is_none() {
                let last = acknowledged(kubectl).last().copied();
                // A write that was on its way may still be acknowledged.
                if before.is_some_and(|before: u64| last > Some(before + 20)) {
                    writes_again = Some(started.elapsed());
                }
                before = before.or(last);
            }
            match new.is_some_and(is_ready) && writes_again.is_some() {
                true => Ok(()),
                false => Err(listed),
            }
        });
        println!(
            "{loss:?}: written again after {writes_again:?}, whole after {:?}",
            started.elapsed()
        );
        let moved = kubectl.pod(&name);
        assert_ne!(text(&moved, "/spec/nodeName"), node);
        replicas_are_linked(kubectl);
    });
    cluster.bring_back(number - 1, loss);
    cluster.server.network.run(|| {
        wait_for("the node to be back", 120, || {
            let node = kubectl.json(&["get", "node", &node]);
            match is_ready(&node) {
                true => Ok(()),
                false => Err(node["status"]["conditions"].to_string()),
            }
        });
        kubectl.wait_ready("cache", 3);
        assert!(!runs_redis(&uid), "the old body of {name} runs");
    });
}

/// Whether a Redis of the pod runs on this machine.
fn runs_redis(uid: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("read /proc");
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.any(|pid| {
        let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("comm").starts_with("redis-server") && read("cgroup").contains(uid)
    })
}

/// The numbers that the writer printed.
fn acknowledged(kubectl: &Kubectl) -> BTreeSet<u64> {
    let log = kubectl.ok(&["logs", "writer"]);
    let rows = words(&log);
    let numbers = rows.iter().filter(|row| row[0] == "acknowledged");
    numbers.filter_map(|row| row[1].parse().ok()).collect()
}

/// The answer of redis-cli in a pod.
fn ask(kubectl: &Kubectl, pod: &str, command: &str) -> Result<String, String> {
    let client = [
        "exec",
        pod,
        "-c",
        "redis",
        "--",
        "timeout",
        "5",
        "redis-cli",
        "--raw",
    ];
    let words = client.into_iter().chain(command.split(' '));
    let output = kubectl.run(&words.collect::<Vec<_>>());
    output.success().map_err(|output| output.stderr)
}

/// The pod that the Sentinels name.
fn primary(kubectl: &Kubectl) -> Result<String, Vec<Result<String, String>>> {
    let who = "-p 26379 sentinel get-master-addr-by-name main";
    let answers: Vec<_> = PODS.iter().map(|pod| ask(kubectl, pod, who)).collect();
    let names = answers.iter().flatten();
    let mut names: Vec<&str> = names.filter_map(|name| name.split('.').next()).collect();
    names.dedup();
    match names[..] {
        [name] if name.starts_with("cache-") => Ok(name.to_owned()),
        _ => Err(answers),
    }
}

/// Both replicas have all data of the primary.
fn replicas_are_linked(kubectl: &Kubectl) {
    wait_for("two replicas", 120, || {
        let primary = primary(kubectl).map_err(|answers| format!("{answers:?}"))?;
        let printed = ask(kubectl, &primary, "info replication")?;
        match printed.matches("state=online").count() {
            2 => Ok(()),
            _ => Err(printed),
        }
    });
}
