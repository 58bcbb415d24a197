//! Members of etcd, and a cluster of three members, each on a separate machine, with TLS for clients and members.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use certificates::{Authority, SubjectAltNames};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::background::BackgroundProgram;
use crate::lan::{Lan, Machine};
use crate::registry::curl;
use crate::{Network, text, tool, wait_for};

/// The port of a member's metrics, which need no certificate.
const METRICS: u16 = 2381;
/// The directories of the tools with the etcd of the tests, and with an etcd that is too old.
const CURRENT: &str = "etcd";
const OLD: &str = "old-etcd";
/// Timeout of a request for metrics.
const METRICS_LIMIT: Duration = Duration::from_secs(5);

/// One member, which stops when this value is dropped.
pub(crate) struct Member {
    network: Network,
    program: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// The cluster, which stops when this value is dropped.
pub struct Etcd {
    members: Vec<Member>,
    addresses: Vec<String>,
    directory: PathBuf,
}

impl Etcd {
    /// Starts the members on machines of the link, with their data below `around`.
    ///
    /// # Panics
    /// The members cannot be started.
    pub fn start(lan: &mut Lan, around: &Path) -> Self {
        let directory = around.join("etcd");
        let machines: Vec<(Network, String)> = (0..3).map(|_| lan.machine()).collect();
        let addresses: Vec<String> = machines
            .iter()
            .map(|(_, address)| address.clone())
            .collect();
        write_certificates(&directory, &addresses);
        let peers = addresses.iter().enumerate();
        let peers: Vec<String> = peers
            .map(|(number, address)| format!("m{number}=http://{address}:2380"))
            .collect();
        let file = |name: &str| directory.join(name).display().to_string();
        let members = machines.into_iter().enumerate().map(|(number, machine)| {
            let (network, address) = machine;
            let client = format!("https://{address}:2379");
            let peer = format!("http://{address}:2380");
            let arguments = vec![
                format!("--name=m{number}"),
                format!("--data-dir={}", file(&format!("data-{number}"))),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={}", peers.join(",")),
                format!("--listen-metrics-urls=http://{address}:{METRICS}"),
                "--client-cert-auth".to_owned(),
                format!("--trusted-ca-file={}", file("ca.pem")),
                format!("--cert-file={}", file("server.pem")),
                format!("--key-file={}", file("server.key")),
                "--log-level=error".to_owned(),
                // The gateway is a client of its own member, and would need another certificate.
                "--enable-grpc-gateway=false".to_owned(),
            ];
            Member::start(network, arguments)
        });
        Self {
            members: members.collect(),
            addresses,
            directory,
        }
    }

    /// The machine of a member.
    pub fn machine(&self, number: usize) -> Machine<'_> {
        Machine {
            network: &self.members[number].network,
            address: &self.addresses[number],
        }
    }

    /// The metrics of a member, if it responds.
    pub fn metrics(&self, number: usize) -> Option<String> {
        let Machine { network, address } = self.machine(number);
        network.run(|| {
            let address = format!("{address}:{METRICS}").parse().ok()?;
            let mut stream = TcpStream::connect_timeout(&address, METRICS_LIMIT).ok()?;
            stream.set_read_timeout(Some(METRICS_LIMIT)).ok()?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })
    }

    /// Whether a member is the leader, as it reports itself.
    pub fn leads(&self, number: usize) -> bool {
        let metrics = self.metrics(number).unwrap_or_default();
        let mut lines = metrics.lines();
        lines.any(|line| line == "etcd_server_is_leader 1")
    }

    /// The member that reports itself as the leader.
    ///
    /// # Panics
    ///
    /// No member is the leader.
    pub fn leader(&self) -> usize {
        wait_for("a leader among the members", 120, || {
            let leader = (0..self.members.len()).find(|number| self.leads(*number));
            leader.ok_or("none leads")
        })
    }

    /// Waits until all members accept clients.
    ///
    /// # Panics
    ///
    /// A member is not ready in time.
    pub fn wait_until_ready(&self) {
        for (member, address) in self.members.iter().zip(&self.addresses) {
            let connect = || TcpStream::connect((address.as_str(), 2379));
            member.network.run(|| {
                wait_for(&format!("etcd at {address}"), 120, || {
                    connect().map(drop).map_err(|error| error.to_string())
                });
            });
        }
    }

    /// The value of `--store`, which names one of the members first.
    pub fn url(&self, first: usize) -> String {
        let count = self.addresses.len();
        let members = (first..first + count).map(|number| &self.addresses[number % count]);
        let members: Vec<String> = members.map(|address| format!("{address}:2379")).collect();
        format!("etcd://{}", members.join(","))
    }

    /// Starts `etcdctl watch` of the keys with a prefix from a revision on, on a machine of the link. The program
    /// prints the fields of each change, and exits when its member has no leader.
    ///
    /// # Panics
    ///
    /// The program is missing.
    pub fn watch(&self, machine: &Network, prefix: &str, revision: u64) -> BackgroundProgram {
        let mut command = Command::new(tool(CURRENT).join("usr/bin/etcdctl"));
        let endpoints = self.addresses.iter();
        let endpoints: Vec<String> = endpoints
            .map(|address| format!("https://{address}:2379"))
            .collect();
        command
            .arg(format!("--endpoints={}", endpoints.join(",")))
            .arg(format!("--cacert={}", self.file("ca.pem")))
            .arg(format!("--cert={}", self.file("client.pem")))
            .arg(format!("--key={}", self.file("client.key")))
            .args(["watch", "--prefix", prefix, "--write-out=fields"])
            .arg(format!("--rev={revision}"))
            .env_clear()
            .stdin(Stdio::null());
        machine.run(|| BackgroundProgram::start(command))
    }

    /// A file of certificates: `ca.pem`, `client.pem`, `client.key`.
    pub fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Kills a member with SIGKILL.
    ///
    /// # Panics
    /// The member does not run.
    pub fn kill(&mut self, number: usize) {
        self.members[number].kill();
    }

    /// Stops a member with SIGSTOP: its connections stay open, but it sends nothing.
    ///
    /// # Panics
    ///
    /// The member does not run.
    pub fn pause(&self, number: usize) {
        self.members[number].signal(Signal::SIGSTOP);
    }

    /// Continues a paused member.
    ///
    /// # Panics
    ///
    /// The member does not run.
    pub fn resume(&self, number: usize) {
        self.members[number].signal(Signal::SIGCONT);
    }

    /// Starts a member again with its data.
    ///
    /// # Panics
    ///
    /// The member runs.
    pub fn start_again(&mut self, number: usize) {
        self.members[number].start_again();
    }
}

/// A cluster of one member, without TLS, on a separate machine. Its gateway accepts JSON.
pub struct OpenEtcd {
    member: Member,
    address: String,
}

/// The arguments of an etcd of one member without TLS, with its URLs for clients and for other members.
pub(crate) fn of_one_member(data: &Path, client: &str, peer: &str) -> Vec<String> {
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=error".to_owned(),
    ]
}

impl OpenEtcd {
    /// Starts the cluster with further arguments, with its data below `around`.
    ///
    /// # Panics
    ///
    /// The cluster cannot be started.
    pub fn start(lan: &mut Lan, around: &Path, further: &[&str]) -> Self {
        Self::of(CURRENT, lan, &around.join("open-etcd"), further)
    }

    /// Starts a cluster of a version that loses events of watches, with its data in this directory.
    ///
    /// # Panics
    ///
    /// The cluster cannot be started.
    pub fn start_old(lan: &mut Lan, data: &Path) -> Self {
        Self::of(OLD, lan, data, &[])
    }

    fn of(etcd: &str, lan: &mut Lan, data: &Path, further: &[&str]) -> Self {
        let (network, address) = lan.machine();
        let client = format!("http://{address}:2379");
        let peer = format!("http://{address}:2380");
        let mut arguments = of_one_member(data, &client, &peer);
        arguments.extend(further.iter().map(|argument| (*argument).to_owned()));
        let member = Member::of(etcd, network, arguments);
        let etcd = Self { member, address };
        wait_for("etcd", 120, || etcd.call("maintenance/status", &json!({})));
        etcd
    }

    /// The version that the member reports.
    ///
    /// # Panics
    ///
    /// The member does not respond.
    pub fn version(&self) -> String {
        let status = self.call("maintenance/status", &json!({}));
        text(&status.expect("the status of etcd"), "/version").to_owned()
    }

    /// The value of `--store`.
    pub fn url(&self) -> String {
        format!("etcd+http://{}:2379", self.address)
    }

    /// The response to a call of etcd's API.
    ///
    /// # Errors
    ///
    /// The member does not respond, or refuses the call.
    pub fn call(&self, method: &str, request: &Value) -> Result<Value, String> {
        let url = format!("http://{}:2379/v3/{method}", self.address);
        let send = || curl(&["--fail-with-body", "--data", &request.to_string(), &url]);
        let response = self.member.network.run(send)?;
        serde_json::from_str(&response).map_err(|error| format!("{error}: {response}"))
    }

    /// Frees space in a full etcd as docs/high-availability.md describes: compaction, defragmentation, and removal of
    /// the alarm.
    ///
    /// # Panics
    ///
    /// etcd refuses a call.
    pub fn reclaim_space(&self) {
        let ok = |method, request| self.call(method, &request).expect("a response of etcd");
        let status = ok("maintenance/status", json!({}));
        let revision = &status["header"]["revision"];
        ok(
            "kv/compaction",
            json!({"revision": revision, "physical": true}),
        );
        ok("maintenance/defragment", json!({}));
        let alarms = ok("maintenance/alarm", json!({"action": "GET"}));
        let mut disarm = alarms["alarms"][0].clone();
        disarm["action"] = json!("DEACTIVATE");
        ok("maintenance/alarm", disarm);
    }
}

impl Member {
    /// Starts a member with these arguments on a machine.
    ///
    /// # Panics
    /// There is no such program.
    pub(crate) fn start(network: Network, arguments: Vec<String>) -> Self {
        Self::of(CURRENT, network, arguments)
    }

    fn of(etcd: &str, network: Network, arguments: Vec<String>) -> Self {
        let mut member = Self {
            network,
            program: tool(etcd).join("usr/bin/etcd"),
            arguments,
            child: None,
        };
        member.start_again();
        member
    }

    fn start_again(&mut self) {
        assert!(self.child.is_none(), "the member runs");
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = self.network.run(|| command.spawn());
        self.child = Some(child.expect("start etcd"));
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the member runs");
        let pid = i32::try_from(child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("send a signal");
    }

    fn kill(&mut self) {
        let mut child = self.child.take().expect("the member runs");
        child.kill().expect("send SIGKILL");
        child.wait().expect("reap the member");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

fn write_certificates(directory: &Path, addresses: &[String]) {
    let authority = Authority::open_or_create(&directory.join("authority"));
    let authority = authority.expect("make an authority");
    let now = SystemTime::now();
    let addresses = addresses
        .iter()
        .map(|address| address.parse::<IpAddr>().expect("an address"));
    let names = SubjectAltNames::api_server("etcd", addresses);
    let server = authority.server_at(&names, now).expect("a certificate");
    let client = authority.client_at("mainstay", &[], now);
    let client = client.expect("a certificate");
    for (name, text) in [
        ("ca.pem", authority.ca_pem()),
        ("server.pem", server.certificate_pem()),
        ("server.key", server.key_pem()),
        ("client.pem", client.certificate_pem()),
        ("client.key", client.key_pem()),
    ] {
        fs::write(directory.join(name), text).expect("write a certificate");
    }
}
