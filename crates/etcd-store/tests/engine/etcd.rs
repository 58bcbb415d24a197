//! Real etcd servers on loopback ports, with data directories of their own.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use etcd_store::{EtcdOptions, EtcdStore};
use mvcc_store::Limits;
use nix::{
    sys::signal::{Signal, kill},
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};
use std::sync::Arc;

/// Longest time for a start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(240);

/// The program that `cargo xtask setup` unpacked.
fn program() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let program = target.join("end-to-end-tools/etcd/usr/bin/etcd");
    assert!(
        program.is_file(),
        "no {}: run `cargo xtask setup`",
        program.display()
    );
    program
}

/// The loopback address of this process' members. Connections to it come from 127.0.0.1, so that none
/// takes one of its ports while a member is away.
pub fn own_address() -> Ipv4Addr {
    // A process id has 22 bits (proc_sys_kernel(5)).
    let [_, a, b, c] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (a & 63), b, c)
}

/// A port of that address that no other member has.
fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(2379);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Files for TLS: of the authority, and of a server's or client's certificate.
pub struct Files {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// One member.
pub struct Member {
    child: Option<Child>,
    arguments: Vec<String>,
    pub client_url: String,
}

impl Member {
    fn start(&mut self) {
        let child = Command::new(program())
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn pid(&self) -> Pid {
        let child = self.child.as_ref().unwrap();
        Pid::from_raw(i32::try_from(child.id()).unwrap())
    }

    /// Stops it with SIGSTOP: its connections stay open, and nothing comes. A busy machine stops its threads a
    /// moment after the signal, which is awaited.
    pub fn pause(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        let stopped = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(self.pid(), Signal::SIGSTOP));
    }

    /// Lets it continue after a pause.
    pub fn resume(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// The sum of its metrics whose lines begin so.
    pub fn metric(&self, begin: &str) -> f64 {
        let mut stream = TcpStream::connect(self.client_url.trim_start_matches("http://")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(begin));
        let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
        values.sum()
    }

    /// Removes its data after a kill.
    pub fn wipe(&self) {
        let data = self
            .arguments
            .iter()
            .find_map(|argument| argument.strip_prefix("--data-dir="));
        std::fs::remove_dir_all(data.unwrap()).unwrap();
    }

    /// Starts it again after a kill, on its data.
    pub fn restart(&mut self) {
        assert!(self.child.is_none());
        self.start();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster; it ends when it is dropped.
pub struct Cluster {
    pub members: Vec<Member>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts so many members. Without `tls`, everybody may connect.
    pub fn start(count: usize, tls: Option<&Files>) -> Self {
        Self::with(count, tls, &[])
    }

    /// Starts so many members with further arguments.
    pub fn with(count: usize, tls: Option<&Files>, further: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = own_address();
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (next_port(), next_port())).collect();
        let peer = |port: u16| format!("http://{address}:{port}");
        let initial: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(number, (_, port))| format!("m{number}={}", peer(*port)))
            .collect();
        let initial = initial.join(",");
        let members = ports
            .iter()
            .enumerate()
            .map(|(number, (client, own_peer))| {
                let client_url = format!("{scheme}://{address}:{client}");
                let mut arguments = vec![
                    format!("--name=m{number}"),
                    format!(
                        "--data-dir={}",
                        dir.path().join(number.to_string()).display()
                    ),
                    format!("--listen-client-urls={client_url}"),
                    format!("--advertise-client-urls={client_url}"),
                    format!("--listen-peer-urls={}", peer(*own_peer)),
                    format!("--initial-advertise-peer-urls={}", peer(*own_peer)),
                    format!("--initial-cluster={initial}"),
                    "--initial-cluster-state=new".to_owned(),
                    "--log-level=error".to_owned(),
                    // Members are killed, not machines.
                    "--unsafe-no-fsync".to_owned(),
                ];
                arguments.extend(further.iter().map(|argument| (*argument).to_owned()));
                if let Some(files) = tls {
                    arguments.extend([
                        "--client-cert-auth".to_owned(),
                        // It is a client of its own member, and would need another certificate.
                        "--enable-grpc-gateway=false".to_owned(),
                        format!("--trusted-ca-file={}", files.ca.display()),
                        format!("--cert-file={}", files.certificate.display()),
                        format!("--key-file={}", files.key.display()),
                    ]);
                }
                let mut member = Member {
                    child: None,
                    arguments,
                    client_url,
                };
                member.start();
                member
            });
        Self {
            members: members.collect(),
            _dir: dir,
        }
    }

    /// The addresses of all members, beginning with one of them.
    pub fn urls_from(&self, first: usize) -> Vec<String> {
        let count = self.members.len();
        let members = (first..first + count).map(|number| &self.members[number % count]);
        members.map(|member| member.client_url.clone()).collect()
    }

    /// A store over the cluster, that uses the member first.
    pub async fn store(&self, first: usize) -> Arc<EtcdStore> {
        connect(&EtcdOptions {
            limits: limits(),
            ..EtcdOptions::new(self.urls_from(first))
        })
        .await
    }
}

/// Short enough that tests need not wait long for progress marks.
pub fn limits() -> Limits {
    Limits {
        progress_interval: Duration::from_millis(20),
        watcher_commits_max: crate::suite::WATCHER_COMMITS_MAX,
        ..Limits::default()
    }
}

/// Connects as soon as etcd is ready.
pub async fn connect(options: &EtcdOptions) -> Arc<EtcdStore> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match EtcdStore::connect(options).await {
            Ok(store) => return store,
            Err(error) if Instant::now() > deadline => panic!("{error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
