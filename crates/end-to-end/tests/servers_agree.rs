//! Three servers over one etcd, used concurrently: quotas, addresses and ports are assigned once, and encryption at
//! rest, the audit log and the metrics are those of a server with its own store.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Api, Network, text, wait_for, wait_for_text};
use http::Method;
use memchr::memmem;
use serde_json::{Value, json};

const SERVERS: usize = 3;
/// Requests of each server, which are sent concurrently to all servers.
const EACH: usize = 12;
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SECRET: &str = "a secret that nobody reads in a file";
const PLAIN: &str = "a value that anybody may read in a file";

/// The clients of the servers, on a separate machine.
struct Clients {
    network: Network,
    servers: Vec<Api>,
}

impl Clients {
    fn of(machines: &mut ServersOnEtcd) -> Self {
        let (network, _) = machines.lan.machine();
        let kubeconfigs = machines.servers.iter();
        let kubeconfigs = kubeconfigs.map(|server| Path::new(&server.data()).join("kubeconfig"));
        let kubeconfigs: Vec<_> = kubeconfigs.collect();
        let servers = network.run(|| kubeconfigs.into_iter().map(Api::with).collect());
        Self { network, servers }
    }

    /// Creates objects through all servers concurrently. Returns the created objects, and the codes of the refusals.
    fn create(
        &self,
        path: &str,
        object: impl Fn(usize, usize) -> Value + Sync,
    ) -> (Vec<Value>, Vec<u16>) {
        let through = |server: usize| {
            let results = (0..EACH).map(|number| {
                let object = object(server, number);
                self.servers[server].request(Method::POST, path, Some(&object))
            });
            results.collect::<Vec<_>>()
        };
        let results = thread::scope(|scope| {
            let threads: Vec<_> = (0..SERVERS)
                .map(|server| scope.spawn(move || self.network.run(|| through(server))))
                .collect();
            let results = threads
                .into_iter()
                .map(|thread| thread.join().expect("the responses"));
            results.flatten().collect::<Vec<_>>()
        });
        let (mut created, mut refused) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Ok(object) => created.push(object),
                Err(kube::Error::Api(status)) => refused.push(status.code),
                Err(error) => panic!("{path}: {error}"),
            }
        }
        (created, refused)
    }

    fn get(&self, server: usize, path: &str) -> Value {
        let result = self
            .network
            .run(|| self.servers[server].request(Method::GET, path, None));
        result.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn post(&self, server: usize, path: &str, object: &Value) -> Value {
        let api = &self.servers[server];
        self.network.run(|| api.create(path, object))
    }
}

fn service(name: &str, node_port: Option<u16>) -> Value {
    let kind = node_port.map_or("ClusterIP", |_| "NodePort");
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": kind, "ports": [{"port": 80, "nodePort": node_port}]},
    })
}

fn secret(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": {"a": SECRET},
    })
}

#[test]
fn three_servers_give_nothing_twice_and_protect_what_they_store() {
    let mut machines = ServersOnEtcd::of(&["a", "b", "c"]);
    machines.etcd.wait_until_ready();
    let around = machines.directory.path().to_owned();
    let protection = protection(&around);
    for server in 0..SERVERS {
        let mut further = protection.to_vec();
        further.push(format!(
            "--audit-log-path={}",
            audit_log(&around, server).display()
        ));
        if server > 0 {
            let first = machines.servers[0].data();
            further.push(format!("--server-token-file={first}/server-token"));
        }
        machines.start(server, server, &further);
    }
    let clients = Clients::of(&mut machines);
    addresses_are_allocated_once(&clients);
    a_port_is_allocated_once(&clients);
    a_quota_is_enforced(&clients);
    a_quota_that_comes_late_counts_all(&clients);
    stored_objects_are_protected(&clients, &around);
    each_server_has_its_log_and_its_metrics(&machines, &clients, &around);
}

fn audit_log(around: &Path, server: usize) -> std::path::PathBuf {
    around.join(format!("audit-{server}.log"))
}

/// The files of encryption and audit, which all servers use.
fn protection(around: &Path) -> [String; 2] {
    let encryption = around.join("encryption.yaml");
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
         - resources: [secrets]\n  providers:\n  - aesgcm: {{keys: [{{name: one, secret: {key}}}]}}\n  \
         - identity: {{}}\n"
    );
    std::fs::write(&encryption, text).expect("write a file");
    let policy = around.join("audit.yaml");
    let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
                - {level: Metadata, resources: [{resources: [secrets]}]}\n- {level: None}\n";
    std::fs::write(&policy, text).expect("write a file");
    [
        format!("--encryption-provider-config={}", encryption.display()),
        format!("--audit-policy-file={}", policy.display()),
    ]
}

fn addresses_are_allocated_once(clients: &Clients) {
    let (created, refused) = clients.create(SERVICES, |server, number| {
        service(&format!("address-{server}-{number}"), None)
    });
    assert!(refused.is_empty(), "{refused:?}");
    let addresses = created
        .iter()
        .map(|service| text(service, "/spec/clusterIP"));
    let addresses: BTreeSet<&str> = addresses.collect();
    assert_eq!(addresses.len(), SERVERS * EACH);
}

fn a_port_is_allocated_once(clients: &Clients) {
    let (created, refused) = clients.create(SERVICES, |server, number| {
        service(&format!("port-{server}-{number}"), Some(30_080))
    });
    assert_eq!(created.len(), 1, "{created:?}");
    assert!(refused.iter().all(|code| *code == 422), "{refused:?}");
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A quota of Secrets.
fn quota(name: &str, secrets: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": name},
        "spec": {"hard": {"secrets": secrets}},
    })
}

fn a_quota_is_enforced(clients: &Clients) {
    let namespace = namespace("small");
    clients.post(0, "/api/v1/namespaces", &namespace);
    let quota = quota("few", "5");
    clients.post(1, "/api/v1/namespaces/small/resourcequotas", &quota);
    let path = "/api/v1/namespaces/small/secrets";
    let (created, refused) = clients.create(path, |server, number| {
        secret(&format!("s{server}-{number}"))
    });
    assert_eq!(created.len(), 5, "{refused:?}");
    assert!(refused.iter().all(|code| *code == 403), "{refused:?}");
    for server in 0..SERVERS {
        let listed = clients.get(server, path);
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(5));
    }
}

/// findings R19: a quota that one server stores during writes by all servers counts the earlier objects, too.
fn a_quota_that_comes_late_counts_all(clients: &Clients) {
    let namespace = namespace("late");
    clients.post(2, "/api/v1/namespaces", &namespace);
    let quota = quota("many", "1000");
    let quotas = "/api/v1/namespaces/late/resourcequotas";
    let path = "/api/v1/namespaces/late/secrets";
    let object = |server, number| secret(&format!("s{server}-{number}"));
    let (created, refused) = thread::scope(|scope| {
        let writing = scope.spawn(|| clients.create(path, object));
        wait_for("some of the Secrets", 60, || {
            let listed = clients.get(1, path);
            let is_begun = listed["items"].as_array().is_some_and(|all| all.len() > 3);
            is_begun.then_some(()).ok_or(listed)
        });
        clients.post(1, quotas, &quota);
        writing.join().expect("the responses")
    });
    assert_eq!(created.len(), SERVERS * EACH, "{refused:?}");
    let all = (SERVERS * EACH).to_string();
    for server in 0..SERVERS {
        wait_for("the count of the quota", 60, || {
            let quota = clients.get(server, &format!("{quotas}/many"));
            match quota["status"]["used"]["secrets"] == all.as_str() {
                true => Ok(()),
                false => Err(quota),
            }
        });
    }
}

/// All servers read a Secret, and no file of etcd contains its contents; the contents of a ConfigMap show the
/// unencrypted form.
fn stored_objects_are_protected(clients: &Clients, around: &Path) {
    clients.post(1, "/api/v1/namespaces/default/secrets", &secret("kept"));
    let plain = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "plain"},
        "data": {"a": PLAIN},
    });
    clients.post(1, "/api/v1/namespaces/default/configmaps", &plain);
    let encoded = "YSBzZWNyZXQgdGhhdCBub2JvZHkgcmVhZHMgaW4gYSBmaWxl";
    for server in 0..SERVERS {
        let read = clients.get(server, "/api/v1/namespaces/default/secrets/kept");
        assert_eq!(read["data"]["a"], encoded);
    }
    for member in 0..3 {
        let data = around.join(format!("etcd/data-{member}/member/wal"));
        let has = |text: &str| {
            let files = std::fs::read_dir(&data).expect("the files of etcd");
            let mut files = files.map(|file| std::fs::read(file.expect("a file").path()));
            files.any(|content| {
                let content = content.expect("read a file");
                memmem::find(&content, text.as_bytes()).is_some()
            })
        };
        wait_for("the ConfigMap in etcd", 120, || match has(PLAIN) {
            true => Ok(()),
            false => Err(member),
        });
        assert!(!has(SECRET) && !has(encoded), "member {member}");
    }
}

fn each_server_has_its_log_and_its_metrics(
    machines: &ServersOnEtcd,
    clients: &Clients,
    around: &Path,
) {
    let path = |server: usize| format!("/api/v1/namespaces/default/secrets/asked-{server}");
    for server in 0..SERVERS {
        let api = &clients.servers[server];
        let log_lines = clients
            .network
            .run(|| api.request(Method::GET, &path(server), None));
        assert!(log_lines.is_err());
    }
    for server in 0..SERVERS {
        let log = wait_for("the audit log", 120, || {
            let log = std::fs::read_to_string(audit_log(around, server)).unwrap_or_default();
            match log.contains(&path(server)) {
                true => Ok(log),
                false => Err(log),
            }
        });
        assert!(!log.contains(&path((server + 1) % SERVERS)));
        // A server renews its own Lease every few seconds.
        let renewal = "etcd_requests_total{operation=\"update\",group=\"coordination.k8s.io\",resource=\"leases\"}";
        let metrics = machines.at(server, |kubectl| {
            wait_for_text(renewal, 60, || {
                kubectl.run(&["get", "--raw", "/metrics"]).stdout
            })
        });
        for (metric, labels) in [
            (
                "etcd_request_duration_seconds_count",
                "operation=\"Range\",group=\"\",resource=\"\"",
            ),
            (
                "apiserver_storage_size_bytes",
                "storage_cluster_id=\"etcd-0\"",
            ),
        ] {
            let line = format!("{metric}{{{labels}}}");
            assert!(metrics.contains(&line), "{line}: {metrics}");
        }
        for shared in [
            "apiserver_request_duration_seconds",
            "apiserver_storage_objects",
        ] {
            assert!(metrics.contains(shared), "{shared}");
        }
    }
}
