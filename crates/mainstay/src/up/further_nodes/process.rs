//! The process of a further node: starts in the node's network namespace, and again after an unexpected end.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use command_output::output::warn;
use host_kernel::durable_file;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sethostname};
use node_agent::OnShutdown;
use process_telemetry::backoff::Backoff;

/// The delay before the first restart; it doubles with each further restart.
const RESTART_FIRST: Duration = Duration::from_secs(1);
/// The longest delay before a restart.
const RESTART_MAX: Duration = Duration::from_secs(60);

/// The command line and the environment of a node's process.
#[derive(Clone, Debug)]
pub struct NodeStart {
    /// The name of the node, and the host name in its process.
    pub name: String,
    pub namespace: PathBuf,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// The file with the token of a node that has to join. The file is removed when all nodes have joined.
    pub token_file: Option<PathBuf>,
    /// The file for the output of the process.
    pub log: PathBuf,
}

/// The process of a node, across its restarts.
pub struct NodeProcess {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: Option<Pid>,
    /// The signal that ends the process; after it there is no restart.
    ending: Option<Signal>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for at most this time; returns whether the process is to end without a restart.
    fn ends_within(&self, time: Duration) -> bool {
        let waits = |state: &mut State| state.ending.is_none();
        let waited = self.changed.wait_timeout_while(self.state(), time, waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.ending.is_some()
    }
}

impl NodeProcess {
    /// Starts the process on a new thread. The process ends with that thread (`PR_SET_PDEATHSIG` refers to
    /// the thread that started it), and so with this program.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn launch(start: NodeStart) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread_state = shared.clone();
        let thread = std::thread::Builder::new().name("node".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = supervise(&start, &thread_state) {
                warn(&format!("mainstay: node {}: {error:#}", start.name));
            }
        });
        let thread = thread.context("start the thread of a node")?;
        Ok(Self { shared, thread })
    }

    /// Sends the signal that ends the process: with its pods, or without.
    pub fn stop(&self, pods: OnShutdown) {
        let signal = match pods {
            OnShutdown::StopPods => Signal::SIGINT,
            OnShutdown::LeavePods => Signal::SIGTERM,
        };
        let mut state = self.shared.state();
        state.ending = Some(signal);
        if let Some(pid) = state.running {
            // The process is not reaped while the lock is held, so the number is not reused.
            kill(pid, signal).ok();
        }
        self.shared.changed.notify_all();
    }

    /// Waits until the process has ended after its signal. Blocks.
    pub fn wait(self) {
        if self.thread.join().is_err() {
            warn("mainstay: the thread that runs a node ended unexpectedly");
        }
    }
}

/// The arguments of the next process: the token is passed only while its file exists.
fn arguments(start: &NodeStart) -> Vec<OsString> {
    let mut arguments = start.arguments.clone();
    if let Some(file) = start.token_file.as_ref().filter(|file| file.exists()) {
        arguments.extend(["--token-file".into(), file.into()]);
    }
    arguments
}

fn supervise(start: &NodeStart, shared: &Shared) -> Result<()> {
    enter_namespaces(start).with_context(|| format!("enter {}", start.namespace.display()))?;
    let mut backoff = Backoff::new(RESTART_FIRST, RESTART_MAX);
    loop {
        let log = open_log(&start.log).with_context(|| format!("write {}", start.log.display()))?;
        let errors = log
            .try_clone()
            .context("duplicate the descriptor of the log")?;
        let child = Command::new(&start.program)
            .args(arguments(start))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C in the terminal goes to this program, which stops the nodes in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", start.program.display()))?;
        let ended = run(child, shared).context("wait for its process")?;
        if shared.ends_within(Duration::ZERO) {
            return Ok(());
        }
        let wait = backoff.fail();
        warn(&format!(
            "mainstay: node {} ended with {ended} and is started again in {wait:.0?}; its log is {}",
            start.name,
            start.log.display()
        ));
        if shared.ends_within(wait) {
            return Ok(());
        }
    }
}

/// Opens the log of a node for its owner only; earlier versions let all users read it.
fn open_log(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).append(true).mode(0o600);
    let log = options.custom_flags(durable_file::no_link()).open(path)?;
    log.set_permissions(Permissions::from_mode(0o600))?;
    Ok(log)
}

/// Moves this thread, and so its child processes, to the namespaces of the node.
fn enter_namespaces(start: &NodeStart) -> io::Result<()> {
    setns(File::open(&start.namespace)?, CloneFlags::CLONE_NEWNET)?;
    unshare(CloneFlags::CLONE_NEWUTS)?;
    Ok(sethostname(&start.name)?)
}

/// Waits for the end of a process, which may receive a signal meanwhile.
fn run(mut child: Child, shared: &Shared) -> io::Result<std::process::ExitStatus> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let pid = Pid::from_raw(pid);
    {
        let mut state = shared.state();
        state.running = Some(pid);
        if let Some(signal) = state.ending {
            kill(pid, signal).ok();
        }
    }
    // The process stays a zombie, and its number in use, until the lock is acquired.
    let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    while let Err(error) = nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags) {
        if error != nix::errno::Errno::EINTR {
            return Err(error.into());
        }
    }
    shared.state().running = None;
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 S43
    #[test]
    fn a_log_is_its_owners_alone_and_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let (log, link) = (directory.path().join("log"), directory.path().join("link"));
        std::fs::write(&log, "before").unwrap();
        std::fs::set_permissions(&log, Permissions::from_mode(0o644)).unwrap();
        for path in [&log, &directory.path().join("new")] {
            open_log(path).unwrap();
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "before");
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert!(open_log(&link).is_err());
    }

    fn start(directory: &std::path::Path, script: &str) -> NodeStart {
        NodeStart {
            name: "node-b".to_owned(),
            namespace: "/proc/thread-self/ns/net".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            token_file: None,
            log: directory.join("log"),
        }
    }

    fn wait_for(log: &std::path::Path, text: &str) {
        while !std::fs::read_to_string(log).is_ok_and(|result| result.contains(text)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_process_is_told_to_end_with_its_pods_or_without() {
        for (pods, signal) in [
            (OnShutdown::StopPods, "INT"),
            (OnShutdown::LeavePods, "TERM"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let script = "for s in INT TERM; do trap \"echo got $s; exit 0\" $s; done; hostname; \
                          echo ready; while :; do sleep 0.02; done";
            let process = NodeProcess::launch(start(directory.path(), script)).unwrap();
            let log = directory.path().join("log");
            wait_for(&log, "ready");
            process.stop(pods);
            process.wait();
            let text = std::fs::read_to_string(&log).unwrap();
            assert_eq!(text, format!("node-b\nready\ngot {signal}\n"));
        }
    }

    #[test]
    fn a_process_that_ends_by_itself_is_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let script = "echo started; test -e again || { touch again; exit 3; }; exec sleep 1000";
        let mut start = start(directory.path(), script);
        start.arguments[1] = format!("cd {}; {script}", directory.path().display()).into();
        let process = NodeProcess::launch(start).unwrap();
        wait_for(&directory.path().join("log"), "started\nstarted");
        process.stop(OnShutdown::LeavePods);
        process.wait();
    }

    /// The token is removed when all nodes have joined.
    #[test]
    fn a_node_that_has_joined_starts_again_without_its_token() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, "").unwrap();
        let script =
            "echo got $1; test -z \"$1\" || { rm $1; exit 3; }; echo none; exec sleep 1000";
        let mut start = start(directory.path(), script);
        start.token_file = Some(token.clone());
        let process = NodeProcess::launch(start).unwrap();
        let both = format!("got {}\ngot\nnone", token.display());
        wait_for(&directory.path().join("log"), &both);
        process.stop(OnShutdown::LeavePods);
        process.wait();
    }

    #[test]
    fn an_end_during_the_wait_for_a_restart_is_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let process = NodeProcess::launch(start(directory.path(), "echo once; exit 3")).unwrap();
        wait_for(&directory.path().join("log"), "once");
        process.stop(OnShutdown::StopPods);
        process.wait();
    }
}
