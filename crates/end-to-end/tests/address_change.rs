//! A machine whose address changes while everything runs, as the standard client observes it.

use std::process::Command;

use end_to_end::registry::curl;
use end_to_end::{Instance, Network, text, wait_for, wait_for_text};

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: on-host, labels: {app: on-host}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: mainstay/hello}]
---
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: mainstay/hello, ports: [{containerPort: 80, hostPort: 18680}]}]
---
apiVersion: v1
kind: Service
metadata: {name: on-host}
spec:
  type: LoadBalancer
  selector: {app: on-host}
  ports: [{port: 18681, targetPort: 80}]
"#;

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.expect("run ip");
    assert!(output.status.success(), "ip {words}: {output:?}");
}

fn wait_for_page(url: &str) {
    wait_for(url, 30, || curl(&["--fail", "--max-time", "5", url]));
}

#[test]
fn another_address_is_followed_and_nothing_is_restarted() {
    Network::isolated().run(|| {
        ip("link set lo up");
        ip("link add up0 type veth peer name up1");
        ip("link set up0 up");
        ip("link set up1 up");
        ip("address add 192.0.2.7/24 dev up0");
        let instance = Instance::start(&[]);
        let kubectl = instance.kubectl();
        assert_eq!(kubectl.node_address(), "192.0.2.7");
        kubectl.apply(MANIFESTS);
        kubectl.wait_pods_ready(&["pod/on-host", "pod/plain"]);
        wait_for_page("http://192.0.2.7:18680/");
        wait_for_page("http://192.0.2.7:18681/");
        let plain = kubectl.pod("plain");
        let by_new_address = ["--tls-server-name=192.0.2.9", "get", "--raw", "/version"];
        kubectl.fails(&by_new_address);

        ip("address del 192.0.2.7/24 dev up0");
        ip("address add 192.0.2.9/24 dev up0");
        wait_for_page("http://192.0.2.9:18680/");
        wait_for("the node to have the address", 60, || {
            match kubectl.node_address() {
                address if address == "192.0.2.9" => Ok(()),
                other => Err(other),
            }
        });
        let node = kubectl.node_name();
        let message = format!("Node {node} has the address 192.0.2.9; it was 192.0.2.7");
        wait_for_text(&message, 30, || kubectl.ok(&["describe", "node", &node]));
        for (what, arguments) in [
            ("the pod's address", ["get", "pod", "on-host"]),
            ("the endpoints", ["get", "endpoints", "on-host"]),
            ("the load balancer", ["get", "service", "on-host"]),
        ] {
            let printed = wait_for_text("192.0.2.9", 30, || {
                let wide = [arguments.as_slice(), &["-o", "wide"]].concat();
                kubectl.ok(&wide)
            });
            assert!(!printed.contains("192.0.2.7"), "{what}: {printed}");
        }
        wait_for_page("http://192.0.2.9:18681/");
        let after = kubectl.pod("plain");
        for field in ["/metadata/uid", "/status/podIP", "/status/startTime"] {
            assert_eq!(text(&plain, field), text(&after, field));
        }
        for pod in ["plain", "on-host"] {
            let restarts =
                kubectl.pod(pod)["status"]["containerStatuses"][0]["restartCount"].clone();
            assert_eq!(restarts, 0, "{pod}");
        }

        // The API is reachable by the new address for clients that trust its authority.
        kubectl.ok(&by_new_address);
    });
}
