//! A server and two nodes, each a machine of its own on one link (DESIGN §13): joining, pods on both
//! nodes, and the ways of a client to them.

use std::path::Path;
use std::process::Stdio;

use end_to_end::lan::{Lan, Role};
use end_to_end::program::{ok, text};
use end_to_end::registry::curl;
use end_to_end::{Kubectl, wait_for, wait_for_text, words};

/// A set with one pod on each node, and a Service for both.
const WEB: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: both}
spec: {selector: {app: web}, ports: [{port: 8080, targetPort: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {labelSelector: {matchLabels: {app: web}}, topologyKey: kubernetes.io/hostname}
      containers:
      - name: hello
        image: mainstay/hello
        readinessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
";

struct Machines {
    server: Role,
    nodes: [Role; 2],
    directory: tempfile::TempDir,
    _lan: Lan,
}

impl Machines {
    fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mainstay-test-")
            .tempdir()
            .expect("make a directory");
        let mut lan = Lan::default();
        let mut role = |name| Role::new(&mut lan, name, directory.path());
        let (server, nodes) = (role("server"), [role("n1"), role("n2")]);
        Self {
            server,
            nodes,
            directory,
            _lan: lan,
        }
    }

    fn url(&self) -> String {
        format!("https://{}:6443", self.server.address)
    }

    /// A token that `mainstay token create` prints.
    fn token(&self, more: &[&str]) -> String {
        let data = self.server.data();
        let create = [&["token", "create", "--data-dir", &data], more].concat();
        self.server.network.run(|| ok(&create)).trim().to_owned()
    }
}

#[test]
fn two_machines_join_a_server() {
    let mut machines = Machines::new();
    machines.server.start(&["server"]);
    let added = machines.server.output();
    assert!(added.contains("To add a node:"), "{added}");
    let kubectl = machines.server.kubectl();
    let (url, token) = (machines.url(), machines.token(&[]));
    refused_joins(&mut machines, &url, &token);
    let join = ["--server", url.as_str(), "--token", token.as_str()];
    for (node, more) in machines.nodes.iter_mut().zip([
        ["--node-name", "n1", "--labels", "disk=fast,rack=7"],
        ["--node-name", "n2", "--taints", "new=yes:PreferNoSchedule"],
    ]) {
        node.start(&[&["node"], &join[..], &more].concat());
    }
    machines.server.network.run(|| nodes_are_ready(&kubectl));
    machines.server.network.run(|| {
        kubectl.apply(WEB);
        kubectl.wait_ready("web", 2);
        let address = machines.server.address.clone();
        assert_eq!(endpoint(&kubectl, "kubernetes"), format!("{address}:6443"));
        clients_reach_pods(&kubectl, machines.directory.path());
        pods_reach_each_other(&kubectl);
    });
    an_agent_starts_again(&mut machines, &kubectl);
    machines.server.network.run(|| a_node_is_drained(&kubectl));
    refused_starts(&mut machines, &url, &token);
    for node in &mut machines.nodes {
        node.interrupt();
        let links = node.network.run(links);
        assert!(!links.contains("ms"), "{links}");
    }
    machines.server.interrupt();
}

/// Each reason has its text, and nothing is left of it: the same directory joins later.
fn refused_joins(machines: &mut Machines, url: &str, token: &str) {
    let data = machines.server.data();
    let (expired, deleted) = (machines.token(&["--ttl", "1s"]), machines.token(&[]));
    machines.server.network.run(|| {
        ok(&["token", "delete", "--data-dir", &data, &deleted]);
        wait_for("the token to expire", 10, || {
            let list = ok(&["token", "list", "--data-dir", &data]);
            let row = list.lines().find(|line| line.starts_with(&expired[..6]));
            match row.is_none_or(|row| row.contains("<expired>")) {
                true => Ok(()),
                false => Err(list),
            }
        });
    });
    let (bearer, hash) = token.rsplit_once('.').expect("three parts");
    let wrong = format!("{bearer}.{}", hash.chars().rev().collect::<String>());
    let node = &mut machines.nodes[0];
    for (token, reason) in [
        ("abcdef", "is not of the form ID.SECRET.HASH"),
        (
            &wrong,
            "is not a server of the cluster that the token is for",
        ),
        (&deleted, "the server does not accept the token"),
        (&expired, "it has expired"),
    ] {
        let said = node.refused(&["node", "--server", url, "--token", token]);
        assert!(said.contains(reason), "{said}");
    }
    let said = node.refused(&["node"]);
    assert!(said.contains("has not joined a cluster yet"), "{said}");
}

/// Both nodes are Ready, with pod ranges of their own, labels and taints.
fn nodes_are_ready(kubectl: &Kubectl) {
    kubectl.ok(&[
        "wait",
        "--for=condition=Ready",
        "nodes",
        "--all",
        "--timeout=60s",
    ]);
    let column = "custom-columns=N:.metadata.name,R:.spec.podCIDR,D:.metadata.labels.disk,\
                  T:.spec.taints[*].key,A:.status.addresses[0].address";
    let table = kubectl.ok(&["get", "nodes", "--no-headers", "-o", column]);
    let rows = words(&table);
    assert_eq!(rows[0], ["n1", rows[0][1], "fast", "<none>", "192.0.2.2"]);
    assert_eq!(rows[1], ["n2", rows[1][1], "<none>", "new", "192.0.2.3"]);
    assert_ne!(rows[0][1], rows[1][1]);
    for row in &rows {
        assert!(
            row[1].starts_with("10.244.") && row[1].ends_with("/24"),
            "{table}"
        );
    }
    let wide = kubectl.ok(&["get", "nodes", "-o", "wide"]);
    assert!(wide.contains("192.0.2.3"), "{wide}");
}

fn endpoint(kubectl: &Kubectl, service: &str) -> String {
    let slice = format!("kubernetes.io/service-name={service}");
    let path = "jsonpath={.items[0].endpoints[0].addresses[0]}:{.items[0].ports[0].port}";
    kubectl.ok(&["get", "endpointslices", "-l", &slice, "-o", path])
}

/// Logs, exec, cp, port-forward and top of the pods of each node.
fn clients_reach_pods(kubectl: &Kubectl, directory: &Path) {
    let wide = kubectl.ok(&["get", "pods", "-o", "wide", "--no-headers"]);
    let mut nodes: Vec<&str> = words(&wide).iter().map(|row| row[6]).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2"], "{wide}");
    for pod in ["web-0", "web-1"] {
        // The node may still wait for its serving certificate.
        wait_for(&format!("exec in {pod}"), 60, || {
            let output = kubectl.run(&["exec", pod, "--", "hostname"]);
            let is_there = output.stdout.trim() == pod;
            if is_there { Ok(()) } else { Err(output) }
        });
        kubectl.ok(&["logs", pod]);
        let file = directory.join(pod);
        std::fs::write(&file, "copied\n").expect("write a file");
        kubectl.ok(&["cp", text(&file), &format!("{pod}:/data/copy")]);
        let back = kubectl.ok(&["exec", pod, "--", "cat", "/data/copy"]);
        assert_eq!(back, "copied\n");
        forward(kubectl, pod);
    }
    for command in [["top", "nodes"], ["top", "pods"]] {
        wait_for(&command.join(" "), 60, || {
            let output = kubectl.run(&command);
            let rows = words(&output.stdout).len();
            if rows == 3 { Ok(()) } else { Err(output) }
        });
    }
}

fn forward(kubectl: &Kubectl, pod: &str) {
    let mut command = kubectl.command(&["port-forward", pod, ":80"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("start kubectl");
    let mut line = String::new();
    let pipe = child.stdout.as_mut().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(pipe), &mut line).expect("a line");
    let address = line.split(' ').nth(2).unwrap_or_default();
    let page = curl(&["--fail", "--max-time", "10", &format!("http://{address}/")]);
    child.kill().expect("end kubectl");
    child.wait().expect("wait for kubectl");
    assert!(page.expect("a page").contains(pod), "{line}");
}

/// By address, by the name of a pod, by a Service, and the API by its own Service, from each node.
fn pods_reach_each_other(kubectl: &Kubectl) {
    for (from, to) in [("web-0", "web-1"), ("web-1", "web-0")] {
        for host in [kubectl.pod_ip(to), format!("{to}.web")] {
            let url = format!("http://{host}/");
            wait_for_text(to, 30, || {
                let curl = ["exec", from, "--", "curl", "-s", "-m", "5", &url];
                let output = kubectl.run(&curl);
                output.stdout + &output.stderr
            });
        }
        // Both pods answer behind the Service.
        for answers in ["web-0", "web-1"] {
            wait_for_text(answers, 30, || {
                let curl = [
                    "exec",
                    from,
                    "--",
                    "curl",
                    "-s",
                    "-m",
                    "5",
                    "http://both:8080/",
                ];
                let output = kubectl.run(&curl);
                output.stdout.lines().take(3).collect::<Vec<_>>().join("\n") + &output.stderr
            });
        }
        wait_for_text("v1.36", 30, || {
            let url = "https://kubernetes.default/version";
            let output = kubectl.run(&["exec", from, "--", "curl", "-sk", "-m", "5", url]);
            output.stdout + &output.stderr
        });
    }
}

/// A killed agent starts again without a token, and its pod goes on.
fn an_agent_starts_again(machines: &mut Machines, kubectl: &Kubectl) {
    let pod = machines.server.network.run(|| of_node(kubectl, "n1"));
    let node = &mut machines.nodes[0];
    let second = node
        .network
        .run(|| end_to_end::program::refused(&["node", "--data-dir", &node.data()]));
    assert!(second.contains("a node agent already runs on"), "{second}");
    node.kill();
    node.start(&["node"]);
    machines.server.network.run(|| {
        let after = of_node(kubectl, "n1");
        assert_eq!(after, pod);
        let name = pod.0.as_str();
        wait_for("the agent to serve", 30, || {
            kubectl.run(&["exec", name, "--", "hostname"]).success()
        });
    });
}

/// Name, uid and restarts of the pod on a node.
fn of_node(kubectl: &Kubectl, node: &str) -> (String, String, String) {
    let field = format!("--field-selector=spec.nodeName={node}");
    let row = "jsonpath={.items[0].metadata.name} {.items[0].metadata.uid} \
               {.items[0].status.containerStatuses[0].restartCount}";
    let text = kubectl.ok(&["get", "pods", &field, "-o", row]);
    let mut parts = text.split(' ').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

/// The pod of a drained node waits for the node of its volume.
fn a_node_is_drained(kubectl: &Kubectl) {
    let (pod, uid, _) = of_node(kubectl, "n2");
    kubectl.ok(&["drain", "n2", "--delete-emptydir-data", "--timeout=120s"]);
    wait_for("the pod to wait for its node", 60, || {
        // For a moment there is no pod of this name.
        let listed = kubectl.json(&["get", "pods"]);
        let mut pods = listed["items"].as_array().into_iter().flatten();
        let now = pods.find(|found| found["metadata"]["name"] == pod.as_str());
        let waits = now.is_some_and(|now| {
            now["status"]["phase"] == "Pending" && now["metadata"]["uid"] != uid.as_str()
        });
        if waits { Ok(()) } else { Err(listed) }
    });
    kubectl.ok(&["uncordon", "n2"]);
    kubectl.wait_ready("web", 2);
    let copied = kubectl.ok(&["exec", &pod, "--", "cat", "/data/copy"]);
    assert_eq!(copied, "copied\n");
}

/// A live name is not given twice, and a directory has one role.
fn refused_starts(machines: &mut Machines, url: &str, token: &str) {
    let around = machines.directory.path().join("again");
    let again = around.display().to_string();
    let network = &machines.nodes[0].network;
    let refused = |arguments: &[&str]| network.run(|| end_to_end::program::refused(arguments));
    let same = [
        "node",
        "--data-dir",
        &again,
        "--server",
        url,
        "--token",
        token,
        "--node-name",
        "n1",
    ];
    let said = refused(&same);
    assert!(said.contains("n1 is alive"), "{said}");
    let data = machines.nodes[0].data();
    let said = refused(&["up", "--data-dir", &data, "--listen", "127.0.0.1:0"]);
    assert!(said.contains("belongs to `mainstay node`"), "{said}");
}

fn links() -> String {
    let output = std::process::Command::new("ip")
        .args(["-o", "link"])
        .output();
    String::from_utf8_lossy(&output.expect("run ip").stdout).into_owned()
}
