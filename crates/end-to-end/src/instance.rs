//! One `mainstay up` on a separate data directory, or a server with a node on a separate etcd.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::applications::{busybox, nginx};
use crate::engine::Engine;
use crate::image::Image;
use crate::schema::{self, Violations};
use crate::{Kubectl, Registry, wait_for};

/// Whether this process is a benchmark. The client that checks all objects costs time and memory of the server, so a
/// benchmark runs without this client. Cargo gives benchmarks the argument `--bench`.
fn is_benchmark() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// A running (or stopped, or killed) server with its data directory.
pub struct Instance {
    /// Dropped before the directory.
    engine: Engine,
    directory: tempfile::TempDir,
    program: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
    arguments: Vec<String>,
    child: Option<Child>,
    starts: u32,
    violations: Violations,
}

impl Instance {
    /// Starts a server on a fresh data directory and waits for its `ready` line.
    ///
    /// # Panics
    /// The server does not become ready.
    #[track_caller]
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_prepared(arguments, |_| {})
    }

    /// As [`start`](Self::start), with a copy of the program that can be [replaced](Self::exchange).
    ///
    /// # Panics
    ///
    /// The server does not become ready.
    #[track_caller]
    pub fn start_copy(arguments: &[&str]) -> Self {
        let mut instance = Self::prepared(arguments, |_| {});
        instance.program = instance.directory.path().join("mainstay");
        fs::copy(crate::binary(), &instance.program).expect("copy the program");
        instance.start_again();
        instance
    }

    /// As [`start`](Self::start), after `prepare` has changed the data directory.
    ///
    /// # Panics
    ///
    /// The server does not become ready.
    #[track_caller]
    pub fn start_prepared(arguments: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let mut instance = Self::prepared(arguments, prepare);
        instance.start_again();
        instance
    }

    /// An instance that is not started yet.
    ///
    /// # Panics
    /// The directory cannot be created.
    #[track_caller]
    pub fn prepare(arguments: &[&str]) -> Self {
        Self::prepared(arguments, |_| {})
    }

    #[track_caller]
    fn prepared(arguments: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mainstay-test-")
            .tempdir()
            .expect("make a data directory");
        let data = directory.path().join("data");
        fs::create_dir(&data).expect("make the data directory");
        prepare(&data);
        let engine = Engine::chosen(directory.path(), arguments);
        let arguments = arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect();
        Self {
            engine,
            directory,
            program: crate::binary(),
            environment: Vec::new(),
            arguments,
            child: None,
            starts: 0,
            violations: Violations::default(),
        }
    }

    /// A variable of the environment, for the next starts.
    pub fn set_variable(&mut self, variable: (&'static str, &'static str)) {
        self.environment.push(variable);
    }

    /// Replaces the program by another copy, as a package manager does.
    ///
    /// # Panics
    ///
    /// The program cannot be replaced.
    pub fn exchange(&self) {
        let new = self.program.with_extension("new");
        fs::copy(crate::binary(), &new).expect("copy the program");
        fs::rename(&new, &self.program).expect("exchange the program");
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The client with the administrator's kubeconfig.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.data().join("kubeconfig"))
    }

    /// The process id of the running server.
    ///
    /// # Panics
    /// The server does not run.
    pub fn pid(&self) -> i32 {
        let child = self.child.as_ref().expect("the server runs");
        i32::try_from(child.id()).expect("a pid")
    }

    /// The output of the newest process so far.
    pub fn output(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(self.log()) {
            // Incomplete output is still useful.
            drop(file.read_to_string(&mut text));
        }
        text
    }

    fn log(&self) -> PathBuf {
        self.directory
            .path()
            .join(format!("output-{}", self.starts))
    }

    /// Starts the server on the same data directory.
    ///
    /// # Panics
    /// The server does not become ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.launch();
        self.wait_ready();
    }

    /// Starts the server on its data directory without waiting.
    ///
    /// # Panics
    ///
    /// The program is missing.
    pub fn launch(&mut self) {
        self.spawn();
    }

    /// Waits until the launched server is ready.
    ///
    /// # Panics
    ///
    /// The server does not become ready.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let log = self.log();
        let ready = wait_until(Duration::from_secs(300), || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("mainstay: ready"))
                || self.has_ended()
        });
        let text = self.output();
        assert!(
            ready && text.contains("mainstay: ready"),
            "the server is not ready:\n{text}"
        );
        if !is_benchmark() {
            schema::watch(&self.data().join("kubeconfig"), &self.violations);
        }
    }

    /// Starts the server when it cannot run, and returns its error output.
    ///
    /// # Panics
    ///
    /// The server does not exit by itself with a failure.
    #[track_caller]
    pub fn start_refused(&mut self) -> String {
        self.spawn();
        let mut child = self.child.take().expect("the server was started");
        let status = self.wait_exit(&mut child);
        let output = self.output();
        assert!(!status.success(), "it ran:\n{output}");
        output
    }

    fn spawn(&mut self) {
        self.starts += 1;
        let log = File::create(self.log()).expect("make a log file");
        let errors = log.try_clone().expect("share the log file");
        let child = Command::new(&self.program)
            .envs(self.environment.iter().copied())
            .args(self.engine.role())
            .arg("--data-dir")
            .arg(self.data())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("start mainstay");
        self.child = Some(child);
    }

    fn has_ended(&mut self) -> bool {
        self.child
            .as_mut()
            .is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Sends SIGINT, as Ctrl-C does, and waits for the exit.
    ///
    /// # Panics
    /// The server does not exit within eight minutes.
    #[track_caller]
    pub fn interrupt(&mut self) -> ExitStatus {
        self.stop_with(Signal::SIGINT)
    }

    /// Sends SIGTERM, as service managers do, and waits for the exit.
    ///
    /// # Panics
    /// The server does not exit within eight minutes.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.stop_with(Signal::SIGTERM)
    }

    /// Sends SIGHUP, as the kernel does when the terminal is closed, and waits for the exit.
    ///
    /// # Panics
    /// The server does not exit within eight minutes.
    #[track_caller]
    pub fn hang_up(&mut self) -> ExitStatus {
        self.stop_with(Signal::SIGHUP)
    }

    #[track_caller]
    fn stop_with(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.pid()), signal).expect("send a signal");
        let mut child = self.child.take().expect("the server runs");
        self.wait_exit(&mut child)
    }

    /// Stops the server with `mainstay down` and returns the output of the command.
    ///
    /// # Panics
    ///
    /// The command or the server fails.
    #[track_caller]
    pub fn down(&mut self) -> String {
        let mut child = self.child.take().expect("the server runs");
        // A process exists until its parent waits for it, so the wait must run concurrently with the command.
        let reaped = std::thread::spawn(move || child.wait());
        let mut down = Command::new(&self.program);
        let output = down.arg("down").arg("--data-dir").arg(self.data()).output();
        let output = output.expect("run mainstay down");
        assert!(output.status.success(), "{output:?}");
        let status = reaped.join().expect("wait for the server");
        assert!(status.is_ok_and(|status| status.success()));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn wait_exit(&self, child: &mut Child) -> ExitStatus {
        wait_for("mainstay to exit", 120, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(self.output()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Kills the server with SIGKILL; its containers continue.
    ///
    /// # Panics
    ///
    /// The server does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().expect("send SIGKILL");
        child.wait().expect("reap the server");
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- output of the server:\n{}", self.output());
        }
        if self.child.is_none() || self.has_ended() {
            // The server was killed or has exited; one more run removes its remaining objects in the kernel.
            self.spawn();
            let log = self.log();
            wait_until(Duration::from_secs(300), || {
                fs::read_to_string(&log).is_ok_and(|text| text.contains("mainstay: ready"))
                    || self.has_ended()
            });
        }
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        if kill(pid, Signal::SIGINT).is_err() {
            return;
        }
        let ended = wait_until(Duration::from_secs(480), || {
            !matches!(child.try_wait(), Ok(None))
        });
        if !ended {
            eprintln!(
                "the server did not stop on SIGINT and is killed:\n{}",
                self.output()
            );
            drop(child.kill());
            drop(child.wait());
        }
        let violations = self.violations.lock();
        let violations = violations.unwrap_or_else(PoisonError::into_inner);
        assert!(
            violations.is_empty() || std::thread::panicking(),
            "objects that the published schema refuses: {violations:#?}"
        );
    }
}

/// A server whose pulls of `busybox:1`, `nginx:1` and `nginx:2` use a separate registry.
///
/// # Panics
///
/// The registry or the server does not start.
#[track_caller]
pub fn with_images() -> (Registry, Instance) {
    let images = [
        ("library/busybox", "1", &busybox()),
        ("library/nginx", "1", &nginx("1")),
        ("library/nginx", "2", &nginx("2")),
    ];
    with_mirrors_of(&["docker.io"], &images)
}

/// A server whose pulls from docker.io, and from the hosts that the articles name, use a separate registry with the
/// images.
///
/// # Panics
///
/// The registry or the server does not start.
#[track_caller]
pub fn with_registry_of(images: &[(&str, &str, &Image)]) -> (Registry, Instance) {
    with_mirrors_of(
        &["docker.io", "k8s.gcr.io", "registry.k8s.io", "gcr.io"],
        images,
    )
}

#[track_caller]
fn with_mirrors_of(registries: &[&str], images: &[(&str, &str, &Image)]) -> (Registry, Instance) {
    let registry = Registry::start();
    for (repository, tag, image) in images {
        registry.push(repository, tag, image);
    }
    let mirrors = registry.mirrors(registries);
    let instance = Instance::start_prepared(&[], |data| {
        fs::write(data.join("registries.yaml"), mirrors).expect("write");
    });
    (registry, instance)
}

fn wait_until(limit: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if probe() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
