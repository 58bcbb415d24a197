//! The time from the death of a node until the replacement of its pod is ready on another node, in its phases, with the
//! default lease and with a short lease.
//!
//! Machines are network namespaces on one bridge. The pod has no volume; its set has the annotation value `Failover`.
//! All processes of the node are killed at once. Run the benchmark on an idle machine with `cargo xtask bench
//! node-loss`.

use std::path::Path;
use std::time::{Duration, Instant};

use end_to_end::api::first_match;
use end_to_end::cluster::is_ready;
use end_to_end::lan::{Lan, Role};
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, Kubectl, process, text};
use http::Method;
use serde_json::{Value, json};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const PODS: &str = "/api/v1/namespaces/default/pods";
const POD: &str = "/api/v1/namespaces/default/pods/web-0";
const FENCED: &str = "/metadata/annotations/node.mainstay.dev~1fenced";
const LIMIT: Duration = Duration::from_secs(300);

/// Arguments of the nodes, with their descriptions.
const LEASE_TIMES: [(&str, &str); 2] = [("38s", "the default lease"), ("12s", "a lease of 12 s")];

pub(crate) fn bench() {
    for (lease, words) in &LEASE_TIMES[sized(0, 1)..] {
        let mut machines = Machines::start(lease);
        let mut losses = Losses::default();
        let rounds = sized(5, 1);
        for _ in 0..rounds {
            losses.add(&mut machines, lease);
        }
        println!("the node of a pod is killed, {rounds} rounds with {words}");
        for (part, times) in &losses.parts {
            println!("  {part}: {times}");
        }
        machines.shut_down();
    }
}

/// A server, and two nodes.
struct Machines {
    server: Role,
    nodes: [Role; 2],
    api: Api,
    kubectl: Kubectl,
    _lan: Lan,
    _directory: tempfile::TempDir,
}

impl Machines {
    fn start(lease: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("mainstay-bench-").tempdir();
        let directory = directory.expect("make a directory");
        let mut lan = Lan::default();
        let mut server = Role::new(&mut lan, "server", directory.path());
        server.start(&["server"]);
        let (url, token) = (server.url(), server.token(&[]));
        let join = ["--server", &url, "--token", &token, "--node-name"];
        let nodes = ["n1", "n2"].map(|name| {
            let mut node = Role::new(&mut lan, name, directory.path());
            node.start(&[&as_node(lease)[..], &join, &[name]].concat());
            node
        });
        let kubeconfig = Path::new(&server.data()).join("kubeconfig");
        let machines = Self {
            api: server.network.run(|| Api::with(kubeconfig)),
            kubectl: server.kubectl(),
            server,
            nodes,
            _lan: lan,
            _directory: directory,
        };
        machines.server.network.run(|| {
            machines.kubectl.apply(&set().to_string());
            machines.kubectl.wait_ready("web", 1);
        });
        machines
    }

    fn shut_down(mut self) {
        self.server
            .network
            .run(|| self.kubectl.ok(&["delete", "statefulset", "web"]));
        for node in &mut self.nodes {
            node.interrupt();
        }
        self.server.interrupt();
    }
}

fn as_node(lease: &str) -> [&str; 3] {
    ["node", "--node-lease-duration", lease]
}

fn set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "web", "annotations": {"mainstay.dev/node-failure": "Failover"}},
        "spec": {"serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": "mainstay/hello", "readinessProbe":
                    {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 1}}]}}}})
}

/// The phases of the time without the pod.
struct Losses {
    parts: [(&'static str, Sample); 5],
}

impl Default for Losses {
    fn default() -> Self {
        let parts = [
            ("from the death of the node until it is fenced", "s"),
            ("until the set has made the replacement", "ms"),
            ("until the replacement has a node", "ms"),
            ("until the replacement is ready", "ms"),
            ("all of it", "s"),
        ];
        Self {
            parts: parts.map(|(part, unit)| (part, Sample::new(unit))),
        }
    }
}

impl Losses {
    /// Kills the node of the pod, and restarts it.
    fn add(&mut self, machines: &mut Machines, lease: &str) {
        let network = &machines.server.network;
        let pod = network.run(|| machines.api.request(Method::GET, POD, None));
        let pod = pod.expect("the pod");
        let (name, uid) = (text(&pod, "/spec/nodeName"), text(&pod, "/metadata/uid"));
        let [leases, pods] = network.run(|| [LEASES, PODS].map(|path| machines.api.watch(path)));
        let number: usize = name[1..].parse().expect("a number");
        let node = &mut machines.nodes[number - 1];
        let died = Instant::now();
        node.kill();
        process::kill_shims(Path::new(&node.data()));
        let (fenced, _) = first_match(&leases, LIMIT, |_, lease| {
            lease["metadata"]["name"] == name && lease.pointer(FENCED).is_some()
        });
        let is_next = |pod: &Value| pod["metadata"]["uid"] != uid;
        let [mut created, mut bound] = [None; 2];
        let (ready, _) = first_match(&pods, LIMIT, |at, pod| {
            if !is_next(pod) {
                return false;
            }
            created.get_or_insert(at);
            if pod["spec"]["nodeName"].is_string() {
                bound.get_or_insert(at);
            }
            is_ready(pod)
        });
        let [created, bound] =
            [created, bound].map(|at| at.expect("the change was observed before"));
        let since = |later: Instant, earlier| later.saturating_duration_since(earlier);
        let [fence, replacement, bound_at, start, all] = [
            since(fenced, died),
            since(created, fenced),
            since(bound, created),
            since(ready, bound),
            since(ready, died),
        ];
        self.parts[0].1.push(fence.as_secs_f64());
        for ((_, sample), time) in self.parts[1..4]
            .iter_mut()
            .zip([replacement, bound_at, start])
        {
            sample.push_time(time);
        }
        self.parts[4].1.push(all.as_secs_f64());
        node.start(&as_node(lease));
    }
}
