//! Workers: short-lived children of the shim that create, start and remove containers and execute commands.
//!
//! The shim itself must stay small and responsive. So mounts, namespaces and removals run in a forked
//! child, which may allocate memory, because a shim has one thread. The child writes its result as one line
//! of JSON and exits. Processes that it has started become children of the shim, because the shim is the
//! sub-reaper.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use host_kernel::descriptors;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{ForkResult, fork};
use serde::{Deserialize, Serialize};

use super::context::ContainerContext;
use super::init;
use super::launch::LaunchInput;
use super::mapped_mounts::{self, MountDepth};
use super::prepare::account;
use super::{devices, root_plan, user_namespace};
use crate::cgroup::{self, ContainerGroup, Hierarchies};
use crate::client::cleanup;
use crate::protocol::Failure;
use crate::sealed;
use crate::shim::confinement::{capabilities, seccomp};
use crate::spec::{ContainerSpec, ExecSpec, ResolvedUser, StartError, StartErrorKind};
use crate::state_dir;

/// The result of a worker's task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerReport {
    /// A container was created.
    Created {
        user: ResolvedUser,
    },
    /// A process runs.
    Running {
        pid: i32,
    },
    /// The removal or change is done.
    Done,
    Failed(Failure),
}

impl WorkerReport {
    fn failed(doing: &str, error: impl std::fmt::Display) -> WorkerReport {
        WorkerReport::Failed(Failure::Internal(format!("{doing}: {error}")))
    }
}

/// A process of the shim that sets up one container.
#[derive(Debug)]
pub(crate) struct Worker {
    pub pid: i32,
    report: File,
}

impl Worker {
    /// Runs `task` in a child process.
    pub fn start(task: impl FnOnce() -> WorkerReport) -> io::Result<Worker> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // SAFETY: this process has one thread, so the child may call any function.
        match unsafe { fork()? } {
            ForkResult::Parent { child } => {
                rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK)?;
                Ok(Worker {
                    pid: child.as_raw(),
                    report: File::from(reader),
                })
            }
            ForkResult::Child => {
                drop(reader);
                let report = task();
                let mut text = serde_json::to_vec(&report).unwrap_or_default();
                text.push(b'\n');
                File::from(writer).write_all(&text).ok();
                // SAFETY: exits at once; no code or buffer of the parent is run or flushed.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// The worker's report. The worker must have exited.
    pub fn report(mut self) -> WorkerReport {
        let mut text = Vec::new();
        // The read ends with "would block" if a process of the container still has the pipe open.
        self.report.read_to_end(&mut text).ok();
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(line).unwrap_or_else(|_| {
            WorkerReport::Failed(Failure::Internal(
                "a worker of the shim was killed".to_owned(),
            ))
        })
    }
}

/// The paths of a container on the node.
#[derive(Clone, Debug)]
pub(crate) struct ContainerPaths {
    /// The state directory of the container.
    pub dir: PathBuf,
    /// The name of the container's control group, for all controllers.
    pub cgroup: String,
}

impl ContainerPaths {
    pub fn root(&self) -> PathBuf {
        self.dir.join(state_dir::BUNDLE).join("rootfs")
    }

    /// Directory of prepared bind mounts: sub-paths, and all mounts if ids are mapped.
    pub fn staged(&self) -> PathBuf {
        self.dir.join("sub-paths")
    }
}

/// Standard streams of a new process: the ends for the process.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Input, output and error; `None` with a terminal.
    pub pipes: Option<[OwnedFd; 3]>,
    /// Socket to which the master end of the terminal is sent.
    pub terminal: Option<OwnedFd>,
}

/// Starts the container's first process, and waits until its command runs.
pub(crate) fn start(
    spec: &ContainerSpec,
    paths: &ContainerPaths,
    around: impl FnOnce(PathBuf, PathBuf) -> ContainerContext,
    streams: Streams,
) -> WorkerReport {
    let around = around(paths.root(), paths.staged());
    match run_container(spec, paths, around, streams) {
        Ok(pid) => WorkerReport::Running { pid },
        Err(error) => WorkerReport::Failed(Failure::Start(error)),
    }
}

fn run_container(
    spec: &ContainerSpec,
    paths: &ContainerPaths,
    mut around: ContainerContext,
    streams: Streams,
) -> Result<i32, StartError> {
    let (status, status_writer) = status_pipe()?;
    let mut launch = launch(spec, &spec.args, paths, &streams)?;
    launch.status = status_writer.as_raw_fd();
    launch.console = true;
    launch.covered = Some(root_plan::masked(spec));
    connect(streams.pipes).map_err(failed("connect the container's streams"))?;
    set_oom_score(spec.oom_score_adj.unwrap_or(0));
    // Processes of the container must not inspect the first process before it has executed the command.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| describe("hide", &errno))?;
    if around.users.is_some() {
        mapped_mounts::leave_the_nodes()
            .and_then(|()| stage_shm(&mut around))
            .and_then(|()| mapped_mounts::open_the_way_to(&paths.dir))
            .map_err(failed("prepare the way to the container's root"))?;
    }
    let nodes = devices::in_dev(spec).map_err(|error| describe("specify", &error))?;
    let rules = devices::rules(spec).map_err(|error| describe("specify", &error))?;
    let plan = root_plan::plan(spec, &around, nodes);
    let group = ContainerGroup::create(&paths.cgroup, &spec.resources, &rules)
        .map_err(failed("make the container's control group"))?;
    let pid = init::start(&around, &plan, group, launch)?;
    drop(status_writer);
    wait_for_exec(status).map(|()| pid)
}

/// Mounts the pod's shared memory at a path that the pod's users can reach.
fn stage_shm(around: &mut ContainerContext) -> io::Result<()> {
    let target = around.staged.join("shm");
    mapped_mounts::bind(
        &mapped_mounts::find(&around.shm)?,
        &target,
        MountDepth::One,
        None,
    )?;
    around.shm = target;
    Ok(())
}

/// Properties of the machine and the pod that a command needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Whether control groups have version 2.
    pub unified: bool,
    /// Whether the pod has a user namespace.
    pub own_users: bool,
}

/// Runs a command in a running container.
pub(crate) fn exec(
    exec: &ExecSpec,
    paths: &ContainerPaths,
    container_pid: i32,
    streams: Streams,
    machine: Machine,
) -> WorkerReport {
    let spec: ContainerSpec = match state_dir::read_json(&paths.dir.join(state_dir::SPEC_FILE)) {
        Ok(spec) => spec,
        Err(error) => return WorkerReport::failed("read the container's specification", error),
    };
    match run_exec(exec, &spec, paths, container_pid, streams, machine) {
        Ok(pid) => WorkerReport::Running { pid },
        Err(error) => WorkerReport::Failed(Failure::Start(error)),
    }
}

fn run_exec(
    exec: &ExecSpec,
    spec: &ContainerSpec,
    paths: &ContainerPaths,
    container_pid: i32,
    streams: Streams,
    machine: Machine,
) -> Result<i32, StartError> {
    let (status, status_writer) = status_pipe()?;
    let mut launch = launch(spec, &exec.args, paths, &streams)?;
    launch.env.extend(
        exec.env
            .iter()
            .map(|var| (var.name.clone(), var.value.clone())),
    );
    dedupe_env(&mut launch.env);
    if exec.tty {
        default_env(&mut launch.env, "TERM", "xterm");
    }
    if !exec.cwd.is_empty() {
        launch.cwd = exec.cwd.clone();
    }
    launch.size = exec.terminal;
    launch.status = status_writer.as_raw_fd();
    connect(streams.pipes).map_err(failed("connect the command's streams"))?;
    set_oom_score(spec.oom_score_adj.unwrap_or(0));
    // Processes of the container must not inspect this process before it has executed the command.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| describe("hide", &errno))?;
    cgroup::join_container(&paths.cgroup, container_pid)
        .map_err(failed("join the container's control group"))?;
    let target = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(container_pid)
            .ok_or_else(|| failed("find the container")(io::Error::other("no process")))?,
        rustix::process::PidfdFlags::empty(),
    )
    .map_err(|errno| failed("find the container")(errno.into()))?;
    let mut kinds = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    kinds.set(CloneFlags::CLONE_NEWCGROUP, machine.unified);
    kinds.set(CloneFlags::CLONE_NEWUSER, machine.own_users);
    setns(target.as_fd(), kinds).map_err(|errno| describe("enter the container", &errno))?;
    if machine.own_users {
        user_namespace::become_root().map_err(failed("become the pod's root"))?;
    }
    // SAFETY: this process has one thread. The child is in the process namespace of the container.
    match unsafe { fork() }.map_err(|errno| describe("fork", &errno))? {
        ForkResult::Child => {
            drop(status);
            nix::unistd::setsid().ok();
            launch.run();
            // SAFETY: exits at once.
            unsafe { libc::_exit(128) }
        }
        ForkResult::Parent { child } => {
            drop(status_writer);
            wait_for_exec(status).map(|()| child.as_raw())
        }
    }
}

/// Kills the processes of a container, unmounts its mounts and removes its files.
pub(crate) fn remove(paths: &ContainerPaths, spec: Option<&ContainerSpec>) -> WorkerReport {
    let removed = cgroup::kill(&paths.cgroup)
        .and_then(|()| cgroup::remove(&paths.cgroup))
        .map_err(|error| error.to_string())
        .and_then(|()| cleanup::unmount_below(&paths.dir).map_err(chain));
    if let Err(error) = removed {
        return WorkerReport::failed("remove container", error);
    }
    let recorded = state_dir::read_json::<ContainerSpec>(&paths.dir.join(state_dir::SPEC_FILE));
    let recorded = recorded.ok();
    if let Some(spec) = spec.or(recorded.as_ref()) {
        for path in [&spec.rootfs.upper_dir, &spec.rootfs.work_dir] {
            if path.is_absolute()
                && let Err(error) = cleanup::remove_dir(path)
            {
                return WorkerReport::failed("remove container", chain(error));
            }
        }
    }
    match cleanup::remove_dir(&paths.dir) {
        Ok(()) => WorkerReport::Done,
        Err(error) => WorkerReport::failed("remove container", chain(error)),
    }
}

/// Kills the whole pod and removes everything except the sandbox's directory.
pub(crate) fn destroy(dir: &Path, group: &str) -> WorkerReport {
    match cleanup::clear(dir, group) {
        Ok(()) => WorkerReport::Done,
        Err(error) => WorkerReport::failed("destroy sandbox", chain(error)),
    }
}

fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn launch(
    spec: &ContainerSpec,
    args: &[String],
    paths: &ContainerPaths,
    streams: &Streams,
) -> Result<LaunchInput, StartError> {
    let account = account(spec, paths)?;
    let invalid = |message| StartError {
        kind: StartErrorKind::Other,
        message,
    };
    let capabilities =
        capabilities::capabilities(&spec.security).map_err(|error| invalid(error.to_string()))?;
    let filters = seccomp::programs(&spec.security, capabilities)
        .map_err(|error| invalid(error.to_string()))?;
    let mut env: Vec<_> = spec
        .env
        .iter()
        .map(|var| (var.name.clone(), var.value.clone()))
        .collect();
    dedupe_env(&mut env);
    default_env(&mut env, "PATH", super::launch::DEFAULT_PATH);
    default_env(&mut env, "HOME", &account.home);
    if spec.tty {
        default_env(&mut env, "TERM", "xterm");
    }
    Ok(LaunchInput {
        args: args.to_vec(),
        env,
        cwd: spec.cwd.clone(),
        user: account.user,
        capabilities,
        no_new_privileges: spec.security.no_new_privileges,
        filters,
        rlimits: crate::shim::limits::rlimits(&spec.rlimits)
            .map_err(|error| invalid(error.to_string()))?,
        covered: None,
        own_program: sealed::identity(Path::new("/proc/self/exe"))
            .map_err(failed("find the shim's program"))?,
        terminal: streams.terminal.as_ref().map(AsRawFd::as_raw_fd),
        size: None,
        console: false,
        status: -1,
    })
}

/// Keeps the last value of each name, at the position of the name's first value.
fn dedupe_env(env: &mut Vec<(String, String)>) {
    let mut indexes: HashMap<String, usize> = HashMap::with_capacity(env.len());
    let mut unique: Vec<(String, String)> = Vec::with_capacity(env.len());
    for (name, value) in env.drain(..) {
        match indexes.get(&name) {
            Some(index) => unique[*index].1 = value,
            None => {
                indexes.insert(name.clone(), unique.len());
                unique.push((name, value));
            }
        }
    }
    *env = unique;
}

fn default_env(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !env.iter().any(|(existing, _)| existing == name) {
        env.push((name.to_owned(), value.to_owned()));
    }
}

fn status_pipe() -> Result<(OwnedFd, OwnedFd), StartError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| failed("make a pipe")(errno.into()))
}

/// Waits until `execve` has closed the pipe, or until an error was written to it.
fn wait_for_exec(status: OwnedFd) -> Result<(), StartError> {
    let mut text = Vec::new();
    File::from(status)
        .read_to_end(&mut text)
        .map_err(failed("wait for the command"))?;
    if text.is_empty() {
        return Ok(());
    }
    Err(
        serde_json::from_slice(&text).unwrap_or_else(|_| StartError {
            kind: StartErrorKind::Other,
            message: String::from_utf8_lossy(&text).into_owned(),
        }),
    )
}

/// Makes the pipes the standard streams of this process, which the container inherits.
fn connect(pipes: Option<[OwnedFd; 3]>) -> io::Result<()> {
    let Some(pipes) = pipes else { return Ok(()) };
    let mut pipes = (0..).zip(&pipes);
    pipes.try_for_each(|(stream, pipe)| descriptors::replace_stream(stream, pipe))
}

/// Sets the OOM score adjustment, or the lowest value that this process is allowed to set.
fn set_oom_score(score: i32) {
    for score in [score, score.max(0)] {
        if fs::write("/proc/self/oom_score_adj", score.to_string()).is_ok() {
            return;
        }
    }
}

fn failed(doing: &str) -> impl FnOnce(io::Error) -> StartError {
    let doing = doing.to_owned();
    move |error| StartError {
        kind: StartErrorKind::Other,
        message: format!("{doing}: {error}"),
    }
}

fn describe(doing: &str, error: &dyn std::error::Error) -> StartError {
    StartError {
        kind: StartErrorKind::Other,
        message: format!("{doing}: {}", chain(error)),
    }
}

/// Whether control groups have version 2.
pub(crate) fn is_unified() -> bool {
    matches!(Hierarchies::mounted(), Ok(Hierarchies::Unified(_)))
}

/// A pair of sockets over which the process sends its terminal to the shim.
pub(crate) fn terminal_socket() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    // SAFETY: the descriptors were just created, and no other value owns them.
    unsafe {
        Ok((
            OwnedFd::from_raw_fd(ours.into_raw_fd()),
            OwnedFd::from_raw_fd(theirs.into_raw_fd()),
        ))
    }
}
