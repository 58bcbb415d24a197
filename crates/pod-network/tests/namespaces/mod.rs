//! Temporary network namespaces for tests (root is required). One is the host, the others are pods, so that
//! the real host does not change.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that exists until the value is dropped.
pub struct Namespace {
    path: PathBuf,
    file: File,
    /// The thread that holds the namespace; `None` if the test did not create the namespace.
    _alive: Option<mpsc::Sender<()>>,
}

impl Namespace {
    /// Creates a namespace with `lo` up.
    pub fn new() -> Namespace {
        let (send, receive) = mpsc::channel();
        let (alive, wait) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let result = unshare(CloneFlags::CLONE_NEWNET);
            let tid = nix::unistd::gettid();
            send.send(result.map(|()| tid)).unwrap();
            // The thread ends when the sender is dropped with the namespace.
            wait.recv().unwrap_err();
        });
        let tid = receive
            .recv()
            .unwrap()
            .expect("making a network namespace needs root");
        let path = PathBuf::from(format!("/proc/{}/task/{tid}/ns/net", std::process::id()));
        let namespace = Namespace {
            file: File::open(&path).unwrap(),
            path,
            _alive: Some(alive),
        };
        namespace.ip("link set lo up");
        // A new namespace inherits the real host's settings.
        let off = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "0");
        namespace.run(off).unwrap();
        namespace
    }

    /// A namespace that another process or mount holds.
    pub fn at(path: &std::path::Path) -> Namespace {
        Namespace {
            file: File::open(path).unwrap(),
            path: path.to_owned(),
            _alive: None,
        }
    }

    /// The path with which other threads enter the namespace.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Runs `work` on a thread in the namespace and returns its result.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs asynchronous work in the namespace, on a new runtime.
    pub fn block_on<F: Future>(&self, work: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(work())
        })
    }

    /// Runs `ip` with the arguments in the namespace, and returns its output.
    pub fn ip(&self, arguments: &str) -> String {
        let run = || {
            Command::new("/usr/sbin/ip")
                .args(arguments.split_whitespace())
                .output()
        };
        let output = self.run(run).unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip {arguments}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// All kernel state that the pod network could leave behind.
    pub fn kernel_state(&self) -> String {
        let parts = [
            "-br link",
            "-o -4 addr",
            "-4 route show table all",
            "-4 neigh",
        ];
        parts.map(|what| self.ip(what)).join("--\n")
    }

    /// Serves TCP in the namespace until the test ends. The response to each connection is `name` and the
    /// client's address.
    pub fn serve(&self, port: u16, name: &str) {
        let listener = self
            .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .unwrap();
        let name = name.to_owned();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else {
                    return;
                };
                let Ok(peer) = connection.peer_addr() else {
                    continue;
                };
                // A disconnected client is no error of the server.
                connection
                    .write_all(format!("{name} {}", peer.ip()).as_bytes())
                    .ok();
            }
        });
    }

    /// Connects from the namespace. Returns the server's name, and the client address that the server has
    /// observed.
    pub fn ask(&self, to: impl Into<SocketAddr>) -> std::io::Result<(String, String)> {
        let to = to.into();
        self.run(move || {
            let mut connection = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            connection.set_read_timeout(Some(Duration::from_secs(240)))?;
            let mut response = String::new();
            connection.read_to_string(&mut response)?;
            let (name, client) = response.split_once(' ').unwrap_or((&response, ""));
            Ok((name.to_owned(), client.to_owned()))
        })
    }
}

/// Connects two namespaces by a veth pair: `a` gets `198.51.100.1/24`, `b` gets `198.51.100.2/24`.
pub fn connect(a: &Namespace, b: &Namespace) {
    let pid = std::process::id();
    let tid = b
        .path
        .components()
        .nth(4)
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap()
        .to_owned();
    a.ip(&format!(
        "link add uplink type veth peer name tmp{}",
        pid % 100_000
    ));
    a.ip(&format!("link set tmp{} netns {tid}", pid % 100_000));
    b.ip(&format!("link set tmp{} name uplink", pid % 100_000));
    for (namespace, address) in [(a, "198.51.100.1/24"), (b, "198.51.100.2/24")] {
        namespace.ip("link set uplink up");
        namespace.ip(&format!("addr add {address} dev uplink"));
    }
}
