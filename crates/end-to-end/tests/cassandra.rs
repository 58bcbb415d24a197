//! Cassandra: the tutorial's manifests word by word, `examples/cassandra`. A ring of three members, which know each
//! other by name. A member is drained before it is stopped, and no data is lost.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use end_to_end::applications::cassandra;
use end_to_end::{
    Kubectl, Pasted, Shell, example, text, wait_for, wait_for_text, with_registry_of,
};
use serde_json::json;

/// Serves a file once, as the tutorial's site does; returns the URL.
fn publish(file: &str) -> String {
    let contents = std::fs::read(example("cassandra").join(file)).expect("read the manifest");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number");
    thread::spawn(move || {
        let (mut client, _) = listener.accept()?;
        let mut request = [0; 4096];
        let _length = client.read(&mut request)?;
        let length = contents.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        client.write_all(head.as_bytes())?;
        client.write_all(&contents)
    });
    format!("http://{address}/{file}")
}

/// seeds.md C2, M8 to M10: from URLs, as printed; findings U7: the example's page, as pasted.
#[test]
fn the_tutorials_ring() {
    let image = cassandra();
    let (_registry, instance) = with_registry_of(&[("google-samples/cassandra", "v13", &image)]);
    let kubectl = instance.kubectl();
    let shell = Shell::new(&instance, example("cassandra"));
    let url = publish("cassandra-service.yaml");
    assert_eq!(
        shell.ok(&format!("kubectl apply -f {url}")),
        "service/cassandra created\n"
    );
    let url = publish("cassandra-statefulset.yaml");
    assert_eq!(
        shell.ok(&format!("kubectl apply -f {url}")),
        "statefulset.apps/cassandra created\nstorageclass.storage.k8s.io/fast created\n"
    );
    wait_ring(&kubectl, 3);
    is_to_the_letter(&kubectl);
    let name = |ordinal: u32| format!("cassandra-{ordinal}.cassandra.default.svc.cluster.local");
    let output = shell.ok(&format!("kubectl exec cassandra-0 -- nslookup {}", name(2)));
    assert!(output.contains(&kubectl.pod_ip("cassandra-2")), "{output}");

    let statements = "create keyspace app with placement_strategy = 'SimpleStrategy' \
        and strategy_options = {replication_factor:3};
        use app;
        create column family towns with comparator = UTF8Type \
        and key_validation_class = UTF8Type and default_validation_class = UTF8Type;
        set towns['1']['name'] = 'Ghent';
";
    let client = |pod| ["exec", "-i", pod, "--", "cassandra-cli", "-h", "127.0.0.1"];
    let message = kubectl.ok_with_input(&client("cassandra-0"), statements);
    assert!(message.contains("Value inserted"), "{message}");

    // The example's page, with the running ring. A member is drained, stopped, and returns with its data at another
    // address.
    let logs = shell.start("kubectl logs -f cassandra-1");
    let printed = Pasted::for_instance(&instance).page("examples/cassandra/README.md");
    assert!(printed.stdout.matches("\nUN ").count() >= 3, "{printed:#?}");
    wait_for_text("DRAINED", 30, || logs.output());
    wait_ring(&kubectl, 3);
    let read = wait_for_text("value=Ghent", 60, || {
        let query = "use app;\nget towns['1'];\n";
        kubectl.run_with_input(&client("cassandra-1"), query).stdout
    });
    assert!(read.contains("Returned 1 results"), "{read}");
}

/// Waits until all members are up, as each member reports itself (`UN` is up and normal).
#[track_caller]
fn wait_ring(kubectl: &Kubectl, size: usize) {
    wait_for(&format!("a ring of {size}"), 240, || {
        let ready = kubectl.get(&["sts", "cassandra"])?["status"]["readyReplicas"].clone();
        if ready != size {
            let pods = kubectl.run(&["get", "pods", "-o", "wide"]);
            return Err(pods.stdout);
        }
        let status = kubectl.run(&["exec", "cassandra-0", "--", "nodetool", "status"]);
        let up = status.stdout.lines().filter(|line| line.starts_with("UN "));
        if up.count() == size {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    });
}

fn is_to_the_letter(kubectl: &Kubectl) {
    let pod = kubectl.pod("cassandra-0");
    assert_eq!(pod["status"]["qosClass"], "Guaranteed");
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 1800);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["image"], "gcr.io/google-samples/cassandra:v13");
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(
        container["resources"]["limits"],
        json!({"cpu": "500m", "memory": "1Gi"})
    );
    assert_eq!(container["ports"].as_array().map(Vec::len), Some(4));
    let added = &container["securityContext"]["capabilities"]["add"];
    assert_eq!(*added, json!(["IPC_LOCK"]));
    let logs = kubectl.ok(&["logs", "cassandra-0"]);
    assert!(logs.contains("JNA mlockall successful"), "{logs}");
    let claim = kubectl.json(&["get", "pvc", "cassandra-data-cassandra-0"]);
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert_eq!(claim["status"]["phase"], "Bound");
    let class = kubectl.json(&["get", "storageclass", "fast"]);
    assert_eq!(text(&class, "/provisioner"), "k8s.io/minikube-hostpath");
    let memory = ["exec", "cassandra-0", "--", "sh", "-c", "echo $POD_IP"];
    assert_eq!(kubectl.ok(&memory).trim(), kubectl.pod_ip("cassandra-0"));
    let service = kubectl.json(&["get", "service", "cassandra"]);
    assert!(service["spec"]["ports"][0]["name"].is_null(), "{service}");
}
