//! A server and two nodes, each on a separate machine on one link (docs/many-machines.md): joining, pods on both nodes,
//! and the paths from a client to the pods.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use end_to_end::lan::{Lan, Role, ip};
use end_to_end::program::{ok, text};
use end_to_end::registry::curl;
use end_to_end::{Kubectl, wait_for, wait_for_text, words};

use crate::node_metrics::monitoring_reads_nodes;

/// A set with one pod on each node, and a Service for both.
pub const WEB: &str = r"
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

/// A further address of the server.
const SECOND: &str = "192.0.2.9";

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

    /// Adds or removes a further address of the server, which represents another server of the cluster.
    fn second_address(&self, action: &str) {
        let change = format!("address {action} {SECOND}/24 dev eth0");
        self.server.network.run(|| ip(&change));
    }
}

#[test]
fn two_machines_join_a_server() {
    let mut machines = Machines::new();
    machines.second_address("add");
    machines.server.start(&["server"]);
    wait_for_text("To add a node:", 10, || machines.server.output());
    let kubectl = machines.server.kubectl();
    let (url, token) = (machines.server.url(), machines.server.token(&[]));
    refused_joins(&mut machines, &url, &token);
    // The nodes learn the other address from the cluster.
    let second = format!("https://{SECOND}:6443");
    let join = ["--server", second.as_str(), "--token", token.as_str()];
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
        let [one, two] = machines.nodes.each_ref().map(|node| &*node.address);
        monitoring_reads_nodes(&kubectl, &[("n1", one), ("n2", two)]);
        pods_reach_each_other(&kubectl);
        wait_for_path(&kubectl, "n1", "Address");
    });
    a_server_vanishes(&machines, &kubectl);
    a_second_agent_is_refused(&machines, &kubectl);
    an_agent_starts_again(&mut machines, &kubectl);
    an_agent_starts_without_a_server(&mut machines, &kubectl);
    machines
        .server
        .network
        .run(|| a_deleted_node_is_registered_again(&kubectl));
    machines.server.network.run(|| a_node_is_drained(&kubectl));
    refused_starts(&mut machines, &url, &token);
    a_node_leaves(&mut machines, &kubectl, &url, &token);
    for node in &mut machines.nodes {
        node.interrupt();
        let links = node.network.run(links);
        assert!(!links.contains("ms"), "{links}");
    }
    machines.server.interrupt();
}

/// Each refusal has its own message, and leaves no data behind: the directory can join later.
fn refused_joins(machines: &mut Machines, url: &str, token: &str) {
    let data = machines.server.data();
    let (expired, deleted) = (
        machines.server.token(&["--ttl", "1s"]),
        machines.server.token(&[]),
    );
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
        let message = node.refused(&["node", "--server", url, "--token", token]);
        assert!(message.contains(reason), "{message}");
    }
    let message = node.refused(&["node"]);
    assert!(
        message.contains("has not joined a cluster yet"),
        "{message}"
    );
}

/// Both nodes are Ready, with separate pod ranges, labels and taints.
fn nodes_are_ready(kubectl: &Kubectl) {
    kubectl.ok(&[
        "wait",
        "--for=condition=Ready",
        "nodes",
        "--all",
        "--timeout=300s",
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

/// The condition of a node names the path by which the server reaches its kubelet API.
#[track_caller]
pub fn wait_for_path(kubectl: &Kubectl, node: &str, reason: &str) {
    let condition = "@.type==\"mainstay.dev/KubeletReachable\"";
    let path = format!("jsonpath={{.status.conditions[?({condition})].reason}}");
    wait_for_text(reason, 240, || {
        kubectl.ok(&["get", "node", node, "-o", &path])
    });
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
        client_reaches(kubectl, pod, directory);
    }
    client_sees_usage(kubectl, 2);
}

/// The streams of a client into a pod of [`WEB`].
pub fn client_reaches(kubectl: &Kubectl, pod: &str, directory: &Path) {
    // The node may still wait for its serving certificate.
    wait_for(&format!("exec in {pod}"), 120, || {
        let output = kubectl.run(&["exec", pod, "--", "hostname"]);
        let is_there = output.stdout.trim() == pod;
        if is_there { Ok(()) } else { Err(output) }
    });
    kubectl.ok(&["logs", pod]);
    let file = directory.join(pod);
    fs::write(&file, "copied\n").expect("write a file");
    kubectl.ok(&["cp", text(&file), &format!("{pod}:/data/copy")]);
    let back = kubectl.ok(&["exec", pod, "--", "cat", "/data/copy"]);
    assert_eq!(back, "copied\n");
    forward(kubectl, pod);
}

/// Checks the usage of that many nodes, and of as many pods.
pub fn client_sees_usage(kubectl: &Kubectl, number: usize) {
    for command in [["top", "nodes"], ["top", "pods"]] {
        wait_for(&command.join(" "), 120, || {
            let output = kubectl.run(&command);
            let rows = words(&output.stdout).len();
            if rows == number + 1 {
                Ok(())
            } else {
                Err(output)
            }
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
    let page = curl(&["--fail", "--max-time", "240", &format!("http://{address}/")]);
    child.kill().expect("end kubectl");
    child.wait().expect("wait for kubectl");
    assert!(page.expect("a page").contains(pod), "{line}");
}

/// By address, by the name of a pod, by a Service, and the API by its own Service, from each node.
pub fn pods_reach_each_other(kubectl: &Kubectl) {
    for (from, to) in [("web-0", "web-1"), ("web-1", "web-0")] {
        for host in [kubectl.pod_ip(to), format!("{to}.web")] {
            let url = format!("http://{host}/");
            wait_for_text(to, 30, || {
                let curl = ["exec", from, "--", "curl", "-s", "-m", "5", &url];
                let output = kubectl.run(&curl);
                output.stdout + &output.stderr
            });
        }
        // Both pods behind the Service respond.
        for pod_name in ["web-0", "web-1"] {
            wait_for_text(pod_name, 30, || {
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

/// A second agent on the data directory of a running agent is refused, with the name of the running agent. The first
/// agent continues: it renews its lease, keeps its pod, and executes commands.
fn a_second_agent_is_refused(machines: &Machines, kubectl: &Kubectl) {
    let node = &machines.nodes[0];
    let pod = machines.server.network.run(|| of_node(kubectl, "n1"));
    let data = node.data();
    let second = || end_to_end::program::refused(&["node", "--data-dir", &data]);
    let message = node.network.run(second);
    let reason = format!(
        "a node agent already runs on {data} (process {})",
        node.pid()
    );
    assert!(message.contains(&reason), "{message}");
    let remedy = format!("`mainstay down --data-dir {data}` stops it");
    assert!(message.contains(&remedy), "{message}");
    machines.server.network.run(|| {
        let renewed = || {
            let lease = kubectl.get(&["lease", "n1", "-n", "kube-node-lease"])?;
            Ok::<_, String>(lease["spec"]["renewTime"].clone())
        };
        let before = wait_for("the lease", 60, renewed);
        wait_for(
            "the first agent to renew the lease",
            60,
            || match renewed()? {
                now if now == before => Err(now.to_string()),
                _ => Ok(()),
            },
        );
        assert_eq!(of_node(kubectl, "n1"), pod);
        assert_eq!(
            kubectl.ok(&["exec", &pod.0, "--", "hostname"]).trim(),
            pod.0
        );
    });
}

/// A killed agent restarts without a token, and its pod continues.
fn an_agent_starts_again(machines: &mut Machines, kubectl: &Kubectl) {
    let pod = machines.server.network.run(|| of_node(kubectl, "n1"));
    let node = &mut machines.nodes[0];
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

/// The address by which the nodes have joined disappears silently: the nodes connect to the other address, which they
/// have learnt, with everything that runs on them.
fn a_server_vanishes(machines: &Machines, kubectl: &Kubectl) {
    let stored = |node: &Role| {
        let path = Path::new(&node.data()).join("node/membership.json");
        fs::read_to_string(path).expect("the membership")
    };
    for node in &machines.nodes {
        wait_for("the node to know both servers", 60, || {
            let stored = stored(node);
            match stored.contains(&machines.server.url()) {
                true => Ok(()),
                false => Err(stored),
            }
        });
    }
    machines.second_address("del");
    for node in &machines.nodes {
        wait_for("the node to go to the other server", 60, || {
            let output = node.output();
            match output.contains("goes to another server") {
                true => Ok(()),
                false => Err(output),
            }
        });
    }
    machines.server.network.run(|| {
        // The agent, the provisioner, DNS and the proxy.
        kubectl.ok(&["rollout", "restart", "statefulset/web"]);
        kubectl.ok(&["rollout", "status", "statefulset/web", "--timeout=480s"]);
        pods_reach_each_other(kubectl);
        let ready = "--for=condition=Ready";
        kubectl.ok(&["wait", ready, "nodes", "--all", "--timeout=300s"]);
    });
}

/// An agent starts while its server is absent: its pod continues, and is reachable when the server returns.
fn an_agent_starts_without_a_server(machines: &mut Machines, kubectl: &Kubectl) {
    let pod = machines.server.network.run(|| of_node(kubectl, "n1"));
    machines.server.kill();
    let node = &mut machines.nodes[0];
    node.kill();
    node.spawn(&["node"]);
    wait_for_text("no server answers", 60, || node.output());
    machines.server.start(&["server"]);
    wait_for_text("mainstay: ready", 60, || node.output());
    machines.server.network.run(|| {
        assert_eq!(of_node(kubectl, "n1"), pod);
        let name = pod.0.as_str();
        kubectl.ok(&["logs", name]);
        assert_eq!(kubectl.ok(&["exec", name, "--", "hostname"]).trim(), name);
    });
}

/// The agent of a deleted Node object creates it again, and its node runs pods.
fn a_deleted_node_is_registered_again(kubectl: &Kubectl) {
    let uid = |node: &str| {
        let uid_text = kubectl.run(&["get", "node", node, "-o", "jsonpath={.metadata.uid}"]);
        uid_text.stdout
    };
    let before = uid("n1");
    kubectl.ok(&["delete", "node", "n1"]);
    wait_for("the node to be registered again", 60, || {
        let now = uid("n1");
        match !now.is_empty() && now != before {
            true => Ok(()),
            false => Err(now),
        }
    });
    kubectl.ok(&["wait", "--for=condition=Ready", "node/n1", "--timeout=300s"]);
    kubectl.wait_ready("web", 2);
}

/// A node leaves if no data is lost, or by force; the machine can join again.
fn a_node_leaves(machines: &mut Machines, kubectl: &Kubectl, url: &str, token: &str) {
    let kubeconfig = format!("{}/kubeconfig", machines.server.data());
    let node = &mut machines.nodes[1];
    let data = node.data();
    let leave = ["node", "--leave", "--data-dir", &data];
    let with_admin = [&leave[..], &["--kubeconfig", &kubeconfig]].concat();
    let message = node
        .network
        .run(|| end_to_end::program::refused(&with_admin));
    assert!(message.contains("data-web-"), "{message}");
    assert!(message.contains("nothing was changed"), "{message}");
    let forced = [&with_admin[..], &["--force"]].concat();
    let message = node.stop_by(|| ok(&forced));
    for step in [
        "node n2 cordoned",
        "evicted",
        "node n2 deleted",
        "n2 has left the cluster",
    ] {
        assert!(message.contains(step), "{step}: {message}");
    }
    let nodes = machines
        .server
        .network
        .run(|| kubectl.ok(&["get", "nodes", "-o", "name"]));
    assert_eq!(nodes.trim(), "node/n1");
    let message = node.refused(&["node"]);
    assert!(
        message.contains("has not joined a cluster yet"),
        "{message}"
    );
    node.start(&[
        "node",
        "--server",
        url,
        "--token",
        token,
        "--node-name",
        "n2",
    ]);
    machines.server.network.run(|| kubectl.wait_ready("web", 2));
}

/// Name, UID and restarts of the pod on a node.
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
    kubectl.ok(&["drain", "n2", "--delete-emptydir-data", "--timeout=480s"]);
    wait_for("the pod to wait for its node", 60, || {
        // For a moment there is no pod of this name.
        let listed = kubectl.get_for_wait(&["pods"])?;
        let mut pods = listed["items"].as_array().into_iter().flatten();
        let now = pods.find(|pod_object| pod_object["metadata"]["name"] == pod.as_str());
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

/// A name of a live node is refused to a second node, and a directory has one role.
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
    let message = refused(&same);
    assert!(message.contains("n1 is alive"), "{message}");
    let data = machines.nodes[0].data();
    let message = refused(&["up", "--data-dir", &data, "--listen", "127.0.0.1:0"]);
    assert!(message.contains("belongs to `mainstay node`"), "{message}");
}

fn links() -> String {
    let output = std::process::Command::new("ip")
        .args(["-o", "link"])
        .output();
    String::from_utf8_lossy(&output.expect("run ip").stdout).into_owned()
}
