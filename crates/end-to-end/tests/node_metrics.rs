//! The metrics of a joined node for monitoring, through the server and at the node's own port (docs/monitoring.md).

use std::net::TcpListener;

use end_to_end::registry::curl;
use end_to_end::{Instance, Kubectl, wait_for};

/// Paths of the kubelet API, and texts in their responses while `web-0` runs on the node.
const PATHS: [(&str, &[&str]); 5] = [
    (
        "metrics",
        &[
            "kubelet_running_pods ",
            "kubelet_volume_stats_capacity_bytes{namespace=\"default\",persistentvolumeclaim=\"data-web-",
            "kubelet_volume_stats_used_bytes{namespace=\"default\",persistentvolumeclaim=\"data-web-",
        ],
    ),
    (
        "metrics/cadvisor",
        &[
            "container_cpu_usage_seconds_total{container=\"hello\",",
            "container_memory_working_set_bytes{container=\"hello\",",
            "container_network_transmit_bytes_total{",
            "machine_memory_bytes{",
        ],
    ),
    (
        "metrics/resource",
        &[
            "node_memory_working_set_bytes",
            "container_cpu_usage_seconds_total{container=\"hello\",",
            "pod_memory_working_set_bytes{",
        ],
    ),
    (
        "metrics/probes",
        &[
            "prober_probe_total{container=\"hello\",",
            "probe_type=\"Readiness\",result=\"successful\"}",
        ],
    ),
    (
        "stats/summary",
        &["\"nodeName\"", "\"pvcRef\"", "\"data-web-"],
    ),
];

/// An account that may read the metrics of nodes, and an account without rights.
const ACCOUNTS: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: monitoring}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: nobody}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: node-metrics}
rules: [{apiGroups: [''], resources: [nodes/metrics, nodes/stats], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: node-metrics}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: node-metrics}
subjects: [{kind: ServiceAccount, name: monitoring, namespace: default}]
";

/// Each node with a pod of the set `web` responds on all paths to accounts with the right to read.
pub fn monitoring_reads_nodes(kubectl: &Kubectl, nodes: &[(&str, &str)]) {
    kubectl.apply(ACCOUNTS);
    let [reader, nobody] = ["monitoring", "nobody"].map(|name| token(kubectl, name));
    for (node, address) in nodes {
        for (path, texts) in PATHS {
            let proxied = format!("/api/v1/nodes/{node}/proxy/{path}");
            has(&proxied, texts, || {
                let output = kubectl.run(&["get", "--raw", &proxied]);
                output.stdout + &output.stderr
            });
            let url = format!("https://{address}:10250/{path}");
            has(&url, texts, || get_metrics(&url, Some(&reader)).1);
            assert_eq!(get_metrics(&url, Some(&nobody)).0, "403", "{url}");
            assert_eq!(get_metrics(&url, None).0, "401", "{url}");
        }
        let url = format!("https://{address}:10250/pods");
        assert_eq!(get_metrics(&url, Some(&reader)).0, "403", "{url}");
    }
}

// findings-2 C36
#[test]
fn the_node_of_up_serves_its_api_as_others_do() {
    let instance = Instance::start(&["--kubelet-port=0"]);
    let kubectl = instance.kubectl();
    kubectl.apply(ACCOUNTS);
    let [reader, nobody] = ["monitoring", "nobody"].map(|name| token(&kubectl, name));
    let (address, port) = kubelet(&kubectl);
    let port = port.expect("a port");
    let url = format!("https://{address}:{port}/metrics");
    has(&url, &["kubelet_running_pods "], || {
        get_metrics(&url, Some(&reader)).1
    });
    assert_eq!(get_metrics(&url, Some(&nobody)).0, "403", "{url}");
    assert_eq!(get_metrics(&url, None).0, "401", "{url}");
    // findings-2 C33: the path through the server gives the node's own API.
    let node = kubectl.node_name();
    let proxied = format!("/api/v1/nodes/{node}:{port}/proxy/healthz");
    assert_eq!(kubectl.ok(&["get", "--raw", &proxied]), "ok");
    // The certificate is the cluster's, for this address.
    let authority = instance.data().join("certificates/ca.crt");
    let authority = authority.display().to_string();
    let response = curl(&["--cacert", &authority, "--header", &reader, &url]);
    assert!(
        response
            .expect("a trusted response")
            .contains("kubelet_running_pods ")
    );
}

// findings-2 C36
#[test]
fn the_node_of_up_runs_without_a_port_that_another_program_has() {
    let other = TcpListener::bind(("0.0.0.0", 0)).expect("a port");
    let port = other.local_addr().expect("its address").port();
    let instance = Instance::start(&[&format!("--kubelet-port={port}")]);
    let kubectl = instance.kubectl();
    assert_eq!(kubelet(&kubectl).1, None);
    let message = format!("this node does not serve the kubelet API on port {port}: ");
    assert!(
        instance.output().contains(&message),
        "{}",
        instance.output()
    );
    let node = kubectl.node_name();
    let proxied = format!("/api/v1/nodes/{node}/proxy/healthz");
    assert_eq!(kubectl.ok(&["get", "--raw", &proxied]), "ok");
}

/// The address of the first node, and the port in its object.
fn kubelet(kubectl: &Kubectl) -> (String, Option<u64>) {
    let node = kubectl.json(&["get", "node", &kubectl.node_name()]);
    let status = &node["status"];
    let addresses = status["addresses"].as_array().expect("addresses");
    let internal = addresses
        .iter()
        .find(|address| address["type"] == "InternalIP");
    let address = internal.expect("an address")["address"].as_str();
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    (address.expect("a text").to_owned(), port)
}

fn token(kubectl: &Kubectl, account: &str) -> String {
    let token = kubectl.ok(&["create", "token", account]);
    format!("Authorization: Bearer {}", token.trim())
}

/// Waits until the response has all texts, because the metrics of files and volumes are updated every few seconds.
#[track_caller]
fn has(what: &str, texts: &[&str], response: impl Fn() -> String) {
    wait_for(what, 120, || {
        let response = response();
        match texts.iter().find(|text| !response.contains(**text)) {
            None => Ok(()),
            Some(text) => Err(format!("no {text} in {response}")),
        }
    });
}

/// Status and body of a response.
fn get_metrics(url: &str, header: Option<&str>) -> (String, String) {
    let mut arguments = vec![
        "--insecure",
        "--max-time",
        "60",
        "--write-out",
        "\n%{http_code}",
        url,
    ];
    arguments.extend(header.iter().flat_map(|header| ["--header", *header]));
    let response = curl(&arguments).expect("a response");
    let (body, status) = response.rsplit_once('\n').expect("a status");
    (status.to_owned(), body.to_owned())
}
