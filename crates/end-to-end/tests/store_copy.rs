//! The objects of a single server move into an etcd of several servers, and back (DESIGN §14): the same
//! objects with the same UIDs and resource versions, the same kubeconfig, and new resource versions
//! above the former ones.

use std::process::Output;

use end_to_end::etcd::Etcd;
use end_to_end::lan::{Lan, Role};
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
    spec: {containers: [{name: main, image: mainstay/hello}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

struct Machines {
    servers: [Role; 2],
    etcd: Etcd,
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
        let servers = ["a", "b"].map(|name| Role::new(&mut lan, name, directory.path()));
        let etcd = Etcd::start(&mut lan, directory.path());
        Self {
            servers,
            etcd,
            directory,
            _lan: lan,
        }
    }

    fn certificates(&self) -> [String; 3] {
        [
            format!("--etcd-cafile={}", self.etcd.file("ca.pem")),
            format!("--etcd-certfile={}", self.etcd.file("client.pem")),
            format!("--etcd-keyfile={}", self.etcd.file("client.key")),
        ]
    }

    fn start(&mut self, server: usize, further: &[String]) {
        let mut arguments = vec!["server".to_owned(), format!("--store={}", self.etcd.url(0))];
        arguments.extend(self.certificates());
        arguments.extend_from_slice(further);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.servers[server].start(&arguments);
    }

    /// Runs `mainstay store copy` on the first machine.
    fn copy(&self, from: &str, to: &str, further: &[String]) -> Output {
        let mut command = std::process::Command::new(end_to_end::binary());
        command
            .args(["store", "copy", "--from", from, "--to", to])
            .args(self.certificates())
            .args(further);
        let output = self.servers[0].network.run(|| command.output());
        output.expect("run mainstay store copy")
    }

    fn copied(&self, from: &str, to: &str, further: &[String]) {
        let output = self.copy(from, to, further);
        assert!(output.status.success(), "{output:?}");
    }

    fn refused(&self, from: &str, to: &str, reason: &str) {
        let output = self.copy(from, to, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{said}");
    }

    fn at<T: Send>(&self, server: usize, work: impl FnOnce(&Kubectl) -> T + Send) -> T {
        let kubectl = self.servers[server].kubectl();
        self.servers[server].network.run(|| work(&kubectl))
    }

    /// UIDs and times of creation of all objects, and the resource versions of those that no controller
    /// writes again.
    fn objects(&self, server: usize) -> String {
        let listed = |kinds: &str, field: &str| {
            let output = format!(
                "--output=jsonpath={{range .items[*]}}{{.kind}}/{{.metadata.name}} {{.metadata.uid}} \
                 {{.metadata.{field}}} {{end}}"
            );
            self.at(server, |kubectl| kubectl.ok(&["get", kinds, &output]))
        };
        let kinds = "pods,persistentvolumeclaims,statefulsets,serviceaccounts";
        listed(kinds, "creationTimestamp") + &listed("serviceaccounts", "resourceVersion")
    }

    /// Creates a ConfigMap, and returns its resource version.
    fn create(&self, server: usize, name: &str) -> u64 {
        let version = self.at(server, |kubectl| {
            kubectl.ok(&["create", "configmap", name, "--from-literal=a=1"]);
            let output = "--output=jsonpath={.metadata.resourceVersion}";
            kubectl.ok(&["get", "configmap", name, output])
        });
        version.trim().parse().expect("a resource version")
    }
}

#[test]
fn a_single_server_moves_into_etcd_and_back() {
    let mut machines = Machines::new();
    machines.servers[0].start(&["server"]);
    machines.at(0, |kubectl| {
        kubectl.apply(SET);
        wait_for("the claim and the pod", 60, || {
            let found =
                kubectl.run(&["get", "pvc/data-db-0", "pod/db-0", "serviceaccount/default"]);
            match found.code {
                0 => Ok(()),
                _ => Err(found),
            }
        });
    });
    let first = machines.create(0, "first");
    let before = machines.objects(0);
    let data = machines.servers[0].data();
    let url = machines.etcd.url(0);
    let kubeconfig = std::fs::read(format!("{data}/kubeconfig")).expect("read the kubeconfig");
    machines.refused(&data, &url, "already runs");
    machines.servers[0].interrupt();
    machines.refused(&data, &data, "one of --from and --to");
    machines.refused("/nonexistent", &url, "is not marked");
    machines.copied(&data, &url, &[]);

    // The directory alone is not used any more, and etcd not by a second copy.
    let said = machines.servers[0].refused(&["server"]);
    assert!(said.contains("are in etcd"), "{said}");
    machines.refused(&data, &url, "are in etcd already");
    machines.start(0, &[]);
    let token = format!("--server-token-file={data}/server-token");
    machines.start(1, std::slice::from_ref(&token));
    for server in [0, 1] {
        assert_eq!(machines.objects(server), before);
    }
    let second = machines.create(1, "second");
    assert!(second > first, "{second} > {first}");
    let old = machines.directory.path().join("old-kubeconfig");
    std::fs::write(&old, kubeconfig).expect("write a file");
    let with_old = Kubectl::new(&old);
    machines.servers[0].network.run(|| {
        with_old.ok(&["get", "configmap", "second"]);
        let gone = format!("/api/v1/configmaps?watch=1&resourceVersion={first}");
        let gone = with_old.run(&["get", "--raw", &gone]);
        let all = format!("{}{}", gone.stdout, gone.stderr);
        assert!(all.contains("too old resource version"), "{all}");
    });

    // And back, into the directory of a server.
    machines.refused(&url, &data, "already runs");
    machines.servers[0].interrupt();
    let back = machines.directory.path().join("back").display().to_string();
    machines.refused(&url, &back, "stop all of them");
    machines.servers[1].interrupt();
    machines.copied(&url, &data, &[]);
    let [ca, certificate, key] = machines.certificates();
    let store = format!("--store={url}");
    let late = ["server", &store, &ca, &certificate, &key, &token];
    let said = machines.servers[1].refused(&late);
    assert!(said.contains("was moved to"), "{said}");
    machines.servers[0].start(&["server"]);
    assert_eq!(machines.objects(0), before);
    let third = machines.create(0, "third");
    assert!(third > second, "{third} > {second}");
    machines.servers[0].interrupt();
    machines.refused(&data, &url, "was moved to");
}
