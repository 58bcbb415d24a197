//! Ports of the node that belong to pods, by the standard client, on real containers; pods that a user binds to a node
//! without free resources for them.

use end_to_end::registry::curl;
use end_to_end::{Kubectl, Network, text, wait_for, wait_for_text, with_images};
use serde_json::{Value, json};

const PORT: u16 = 18_580;

fn pod(name: &str, port: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "http", "image": "nginx:1", "ports": [port],
                "lifecycle": {"postStart": {"exec": {"command":
                    ["sh", "-c", "hostname > /usr/share/nginx/html/index.html"]}}},
            }],
        },
    })
}

fn bound(kubectl: &Kubectl, mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = json!(kubectl.node_name());
    pod
}

fn page(address: &str, port: u16) -> Result<String, String> {
    let url = format!("http://{address}:{port}/");
    let page = curl(&["--fail", "--max-time", "60", &url])?;
    Ok(page.trim().to_owned())
}

#[track_caller]
fn wait_for_page(address: &str, port: u16, expected: &str) {
    wait_for(
        &format!("{expected} at {address}:{port}"),
        30,
        || match page(address, port) {
            Ok(page) if page == expected => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

#[track_caller]
fn refused(kubectl: &Kubectl, name: &str, reason: &str, message: &str) {
    kubectl.wait_phase(name, "Failed");
    let pod = kubectl.pod(name);
    assert_eq!(text(&pod, "/status/reason"), reason);
    let output = text(&pod, "/status/message");
    assert!(output.starts_with("Pod was rejected: "), "{output}");
    assert!(output.contains(message), "{output}");
    let row = kubectl.ok(&["get", "pod", name, "--no-headers"]);
    assert!(row.contains(reason), "{row}");
    wait_for_text(message, 30, || kubectl.ok(&["describe", "pod", name]));
}

#[test]
fn a_port_of_the_node_is_one_pods_and_answers_everybody() {
    let (_registry, mut instance) = with_images();
    let kubectl = instance.kubectl();
    let node = kubectl.node_address();
    let port = json!({"containerPort": 80, "hostPort": PORT});
    kubectl.apply(&pod("first", &port).to_string());
    let on_localhost = json!({"containerPort": 80, "hostPort": PORT + 1, "hostIP": "127.0.0.1"});
    kubectl.apply(&pod("inside", &on_localhost).to_string());
    kubectl.wait_pods_ready(&["pod/first", "pod/inside"]);
    wait_for_page(&node, PORT, "first");
    wait_for_page("127.0.0.1", PORT, "first");
    wait_for_page("127.0.0.1", PORT + 1, "inside");
    assert!(page(&node, PORT + 1).is_err(), "on 127.0.0.1 alone");
    // From another pod, and from the pod itself.
    for from in ["inside", "first"] {
        let network = Network::of_pod(&kubectl, from, "nginx");
        assert_eq!(network.run(|| page(&node, PORT)).as_deref(), Ok("first"));
    }

    // Another pod that requests the port waits, and fails if a user binds it to the node.
    kubectl.apply(&pod("second", &port).to_string());
    wait_for_text(
        "didn't have free ports for the requested pod ports",
        30,
        || kubectl.ok(&["describe", "pod", "second"]),
    );
    kubectl.apply(&bound(&kubectl, pod("forced", &port)).to_string());
    refused(
        &kubectl,
        "forced",
        "NodePorts",
        "Predicate NodePorts failed",
    );
    let mut greedy = pod("greedy", &json!({"containerPort": 80}));
    greedy["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "100Ti"}});
    kubectl.apply(&bound(&kubectl, greedy).to_string());
    let message = "Node didn't have enough resource: memory, requested: 109951162777600";
    refused(&kubectl, "greedy", "OutOfmemory", message);

    // The port is served while no server runs, and by the next server.
    instance.kill();
    assert_eq!(page("127.0.0.1", PORT).as_deref(), Ok("first"));
    instance.start_again();
    assert_eq!(page("127.0.0.1", PORT).as_deref(), Ok("first"));
    kubectl.wait_pods_ready(&["pod/first"]);

    // The port is released with its pod, and the next pod gets it.
    kubectl.ok(&["delete", "pod", "first"]);
    kubectl.wait_pods_ready(&["pod/second"]);
    wait_for_page("127.0.0.1", PORT, "second");
    kubectl.ok(&["delete", "pod", "second"]);
    wait_for("the port to close", 30, || match page(&node, PORT) {
        Err(_) => Ok(()),
        Ok(page) => Err(page),
    });
}
