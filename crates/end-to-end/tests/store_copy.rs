//! The objects of a single server move into an etcd of several servers, and back (docs/high-availability.md): UIDs,
//! resource versions and the kubeconfig do not change, and new resource versions are above the former ones. A volume
//! keeps its file, an object of a custom resource and an encrypted Secret their contents, and a token of a
//! ServiceAccount is valid at all servers.

use std::process::Output;

use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Kubectl, wait_for};

const SET: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: mainstay/hello
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

const THING: &str = r"
apiVersion: example.com/v1
kind: Thing
metadata: {name: kept}
spec: {content: of a custom resource}
";

const ENCRYPTION: &str = r"
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aesgcm: {keys: [{name: one, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
";

/// Runs `mainstay store copy` on the first machine.
fn copy(machines: &ServersOnEtcd, from: &str, to: &str) -> Output {
    let mut command = std::process::Command::new(end_to_end::binary());
    command
        .args(["store", "copy", "--from", from, "--to", to])
        .args(machines.certificates());
    let output = machines.servers[0].network.run(|| command.output());
    output.expect("run mainstay store copy")
}

fn copied(machines: &ServersOnEtcd, from: &str, to: &str) {
    let output = copy(machines, from, to);
    assert!(output.status.success(), "{output:?}");
}

fn refused(machines: &ServersOnEtcd, from: &str, to: &str, reason: &str) {
    let output = copy(machines, from, to);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && message.contains(reason),
        "{message}"
    );
}

/// UIDs and times of creation of all objects, and the resource versions of objects that no controller writes again.
fn objects(machines: &ServersOnEtcd, server: usize) -> String {
    let listed = |kinds: &str, field: &str| {
        let output = format!(
            "--output=jsonpath={{range .items[*]}}{{.kind}}/{{.metadata.name}} {{.metadata.uid}} \
                 {{.metadata.{field}}} {{end}}"
        );
        machines.at(server, |kubectl| kubectl.ok(&["get", kinds, &output]))
    };
    let kinds = "pods,persistentvolumeclaims,persistentvolumes,statefulsets,serviceaccounts";
    let constant = "serviceaccounts,secrets,things,customresourcedefinitions";
    listed(kinds, "creationTimestamp") + &listed(constant, "resourceVersion")
}

/// Creates a ConfigMap, and returns its resource version.
fn create(machines: &ServersOnEtcd, server: usize, name: &str) -> u64 {
    let version = machines.at(server, |kubectl| {
        kubectl.ok(&["create", "configmap", name, "--from-literal=a=1"]);
        let output = "--output=jsonpath={.metadata.resourceVersion}";
        kubectl.ok(&["get", "configmap", name, output])
    });
    version.trim().parse().expect("a resource version")
}

/// Creates the objects that must be preserved; returns a token.
fn make_contents(kubectl: &Kubectl) -> String {
    kubectl.define_things();
    kubectl.apply(THING);
    let secret = [
        "create",
        "secret",
        "generic",
        "kept",
        "--from-literal=a=secret",
    ];
    kubectl.ok(&secret);
    kubectl.ok(&[
        "create",
        "rolebinding",
        "reads",
        "--clusterrole=view",
        "--serviceaccount=default:default",
    ]);
    kubectl.apply(SET);
    kubectl.wait_ready("db", 1);
    kubectl.ok(&[
        "exec",
        "db-0",
        "--",
        "sh",
        "-c",
        "echo of a volume > /data/kept",
    ]);
    kubectl.ok(&["create", "token", "default", "--duration=24h"])
}

/// Checks that a server has the objects, and accepts the token.
fn check_contents(kubectl: &Kubectl, token: &str) {
    let content = ["get", "thing", "kept", "-o", "jsonpath={.spec.content}"];
    assert_eq!(kubectl.ok(&content), "of a custom resource");
    let secret = ["get", "secret", "kept", "-o", "jsonpath={.data.a}"];
    assert_eq!(kubectl.ok(&secret), "c2VjcmV0");
    let bearer = kubectl.with_token(token.trim());
    bearer.ok(&["get", "statefulset", "db"]);
}

/// The pod runs with the file of its volume.
fn check_volume(kubectl: &Kubectl) {
    wait_for("the file of the volume", 60, || {
        let read = kubectl.run(&["exec", "db-0", "--", "cat", "/data/kept"]);
        match read.stdout == "of a volume\n" {
            true => Ok(()),
            false => Err(read),
        }
    });
}

#[test]
fn a_single_server_moves_into_etcd_and_back() {
    let mut machines = ServersOnEtcd::new();
    let encryption = machines.directory.path().join("encryption.yaml");
    std::fs::write(&encryption, ENCRYPTION).expect("write a file");
    let encryption = format!("--encryption-provider-config={}", encryption.display());
    // The pod of the server continues during the move.
    let with_node = ["--with-node", "--on-stop=leave-pods", &encryption];
    machines.servers[0].start(&[&["server"], &with_node[..]].concat());
    let bearer = machines.at(0, make_contents);
    let first = create(&machines, 0, "first");
    let before = objects(&machines, 0);
    let data = machines.servers[0].data();
    let url = machines.etcd.url(0);
    let kubeconfig = std::fs::read(format!("{data}/kubeconfig")).expect("read the kubeconfig");
    refused(&machines, &data, &url, "already runs");
    machines.servers[0].interrupt();
    refused(&machines, &data, &data, "one of --from and --to");
    refused(&machines, "/nonexistent", &url, "is not marked");
    copied(&machines, &data, &url);

    // The former directory is not usable any more, and etcd accepts no second copy.
    let message = machines.servers[0].refused(&["server"]);
    assert!(message.contains("are in etcd"), "{message}");
    refused(&machines, &data, &url, "are in etcd already");
    machines.start(0, 0, &with_node.map(str::to_owned));
    let token = format!("--server-token-file={data}/server-token");
    machines.start(1, 0, &[token.clone(), encryption.clone()]);
    for server in [0, 1] {
        assert_eq!(objects(&machines, server), before);
        machines.at(server, |kubectl| check_contents(kubectl, &bearer));
    }
    machines.at(0, check_volume);
    let second = create(&machines, 1, "second");
    assert!(second > first, "{second} > {first}");
    let old = machines.directory.path().join("old-kubeconfig");
    std::fs::write(&old, kubeconfig).expect("write a file");
    let with_old = Kubectl::new(&old);
    machines.servers[0].network.run(|| {
        with_old.ok(&["get", "configmap", "second"]);
        let expired = format!("/api/v1/configmaps?watch=1&resourceVersion={first}");
        let expired = with_old.run(&["get", "--raw", &expired]);
        let all = format!("{}{}", expired.stdout, expired.stderr);
        assert!(all.contains("too old resource version"), "{all}");
    });

    // Back into the directory of a server.
    refused(&machines, &url, &data, "already runs");
    machines.servers[0].interrupt();
    let back = machines.directory.path().join("back").display().to_string();
    refused(&machines, &url, &back, "stop all of them");
    machines.servers[1].interrupt();
    copied(&machines, &url, &data);
    let mut late = machines.arguments(0);
    late.push(token);
    let late: Vec<&str> = late.iter().map(String::as_str).collect();
    let message = machines.servers[1].refused(&late);
    assert!(message.contains("was moved to"), "{message}");
    machines.servers[0].start(&[&["server"], &with_node[..]].concat());
    assert_eq!(objects(&machines, 0), before);
    machines.at(0, |kubectl| {
        check_contents(kubectl, &bearer);
        check_volume(kubectl);
    });
    let third = create(&machines, 0, "third");
    assert!(third > second, "{third} > {second}");
    machines.servers[0].interrupt();
    refused(&machines, &data, &url, "was moved to");
}
