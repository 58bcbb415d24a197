//! Members of etcd, and a cluster of three, each on a machine of its own, with TLS on both sides.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use certificates::{Authority, SubjectAltNames};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lan::Lan;
use crate::{Network, tool, wait_for};

/// One member, which ends with this value.
pub(crate) struct Member {
    network: Network,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// The cluster, which ends with this value.
pub struct Etcd {
    members: Vec<Member>,
    addresses: Vec<String>,
    directory: PathBuf,
}

impl Etcd {
    /// Starts the members on machines of the link, with their data below `around`.
    ///
    /// # Panics
    /// When they cannot be started.
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
                "--client-cert-auth".to_owned(),
                format!("--trusted-ca-file={}", file("ca.pem")),
                format!("--cert-file={}", file("server.pem")),
                format!("--key-file={}", file("server.key")),
                "--log-level=error".to_owned(),
                // It is a client of its own member, and would need another certificate.
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

    /// Waits until all members take clients.
    ///
    /// # Panics
    /// When one does not.
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

    /// A file of certificates: `ca.pem`, `client.pem`, `client.key`.
    pub fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Kills a member with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self, number: usize) {
        self.members[number].kill();
    }

    /// Stops a member with SIGSTOP: its connections stay open, and nothing comes.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self, number: usize) {
        self.members[number].signal(Signal::SIGSTOP);
    }

    /// Lets a paused member go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self, number: usize) {
        self.members[number].signal(Signal::SIGCONT);
    }

    /// Starts a member again on its data.
    ///
    /// # Panics
    /// When it runs.
    pub fn start_again(&mut self, number: usize) {
        self.members[number].start_again();
    }
}

impl Member {
    /// Starts a member with these arguments on a machine.
    ///
    /// # Panics
    /// When there is no such program.
    pub(crate) fn start(network: Network, arguments: Vec<String>) -> Self {
        let mut member = Self {
            network,
            arguments,
            child: None,
        };
        member.start_again();
        member
    }

    fn start_again(&mut self) {
        assert!(self.child.is_none(), "the member runs");
        let mut command = Command::new(tool("etcd").join("usr/bin/etcd"));
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
