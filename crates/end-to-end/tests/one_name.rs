//! Several servers behind one name (`--tls-san`): kubectl verifies the servers by that name, through a load balancer
//! that passes TLS through, and continues when a server is killed.

use std::fs;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Kubectl, Network, Output, wait_for};

const NAME: &str = "api.example.test";
const PORT: u16 = 6443;

/// A load balancer for TCP: each connection is forwarded to the first server that accepts it.
struct Balancer {
    address: String,
    is_over: Arc<AtomicBool>,
}

impl Balancer {
    /// Listens in the network of this thread.
    fn start(address: &str, servers: Vec<String>) -> Self {
        let listener = TcpListener::bind((address, PORT)).expect("listen");
        let is_over = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&is_over);
        thread::spawn(move || {
            for client in listener.incoming() {
                if is_stopped.load(Ordering::SeqCst) {
                    return;
                }
                let connect = |address: &String| TcpStream::connect((address.as_str(), PORT)).ok();
                if let (Ok(client), Some(server)) = (client, servers.iter().find_map(connect)) {
                    thread::spawn(|| pass(client, server));
                }
            }
        });
        Self {
            address: address.to_owned(),
            is_over,
        }
    }

    /// Stops the balancer, in its network.
    fn stop(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        // The balancer waits for a connection, so a last connection wakes it.
        drop(TcpStream::connect((self.address.as_str(), PORT)));
    }
}

/// Forwards bytes in both directions until one end closes.
fn pass(client: TcpStream, server: TcpStream) {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        drop(io::copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Both));
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(&server, &client));
        copy(&client, &server);
    });
}

/// A machine whose programs know only the name of the servers, which resolves to the balancer on this machine.
struct Client {
    network: Network,
    balancer: Balancer,
    kubectl: Kubectl,
    hosts: PathBuf,
    ca: PathBuf,
}

impl Client {
    /// Requires that the server with the number 0 has run.
    fn new(machines: &mut ServersOnEtcd) -> Self {
        let (network, address) = machines.lan.machine();
        let servers = machines.servers.iter();
        let servers = servers.map(|server| server.address.clone()).collect();
        let balancer = network.run(|| Balancer::start(&address, servers));
        let file = |name: &str| machines.directory.path().join(name);
        let (hosts, kubeconfig) = (file("hosts"), file("kubeconfig-by-name"));
        fs::write(&hosts, format!("{address} {NAME}\n")).expect("write a hosts file");
        let data = PathBuf::from(machines.servers[0].data());
        fs::copy(data.join("kubeconfig"), &kubeconfig).expect("copy the kubeconfig");
        let kubectl = Kubectl::new(&kubeconfig);
        let server = format!("--server=https://{NAME}:{PORT}");
        kubectl.ok(&["config", "set-cluster", "mainstay", &server]);
        Self {
            network,
            balancer,
            kubectl,
            hosts,
            ca: data.join("certificates/ca.crt"),
        }
    }

    /// Runs a command that resolves the name by the hosts file.
    fn run(&self, command: &Command) -> Output {
        let mut inside = Command::new("unshare");
        inside
            .args(["--mount", "sh", "-c"])
            .arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"")
            .arg(&self.hosts)
            .arg(command.get_program())
            .args(command.get_args());
        let done = self.network.run(|| inside.output());
        let done = done.expect("start unshare");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output {
            code: done.status.code().unwrap_or(-1),
            stdout: text(&done.stdout),
            stderr: text(&done.stderr),
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        self.run(&self.kubectl.command(arguments))
    }

    /// The response to the health check of a load balancer, which has no credentials, and its code.
    fn curl(&self, path: &str) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--write-out", " %{http_code}"])
            .arg("--cacert")
            .arg(&self.ca)
            .arg(format!("https://{NAME}:{PORT}{path}"));
        self.run(&curl)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.network.run(|| self.balancer.stop());
    }
}

#[test]
fn servers_are_verified_by_the_name_that_clients_use() {
    let mut machines = ServersOnEtcd::new();
    machines.etcd.wait_until_ready();
    machines.start_as_member(0);
    let client = Client::new(&mut machines);
    let refused = client.kubectl(&["get", "namespace", "default"]);
    assert!(refused.stderr.contains("x509"), "{refused:?}");

    // The list of names for the certificate has changed.
    let name = format!("--tls-san={NAME}");
    let token = format!(
        "--server-token-file={}/server-token",
        machines.servers[0].data()
    );
    machines.servers[0].interrupt();
    machines.start(0, 0, std::slice::from_ref(&name));
    machines.start(1, 1, &[name, token]);
    let create = ["create", "configmap", "by-name", "--from-literal=a=1"];
    client.kubectl(&create).expect_success("create a ConfigMap");
    let health = client.curl("/readyz").expect_success("the health check");
    assert_eq!(health, "ok 200");
    let namespaces = client.curl("/api/v1/namespaces");
    assert!(namespaces.stdout.ends_with(" 401"), "{namespaces:?}");

    machines.servers[0].kill();
    wait_for("a response of the other server", 60, || {
        client.kubectl(&["get", "configmap", "by-name"]).success()
    });
    wait_for("the health of the other server", 60, || {
        match client.curl("/readyz") {
            reply if reply.stdout == "ok 200" => Ok(()),
            other => Err(other),
        }
    });

    // A name that was removed from the list.
    machines.start_as_member(0);
    let refused = client.kubectl(&["get", "namespace", "default"]);
    assert!(refused.stderr.contains("x509"), "{refused:?}");
}
