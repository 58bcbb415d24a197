//! The shim's event loop, which also reaps child processes.
//!
//! Each iteration computes the set of awaited events from the state, so no registration can be missing.
//! Timers are used only while a client is stuck, and once after the last event, when free memory is
//! returned to the kernel: an idle shim sleeps.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use host_kernel::allocator;
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::connection::{Connection, Role};
use super::jobs::Job;
use super::lease::{LeasePhase, LeaseWatch};
use super::pause::NamespaceInits;
use crate::cgroup;
use crate::protocol::FrameKind;
use crate::shim::container::log::Stream;
use crate::shim::container::process::{Output, Owner, Process};
use crate::shim::container::user_namespace::UserNamespace;
use crate::shim::container::worker::Worker;
use crate::shim::limits::{CONNECTIONS_MAX, EARLY_EXITS_MAX, STUCK_CLIENT_MS};
use crate::spec::{ContainerState, LogSpec, SandboxEvent};
use crate::stack;
use crate::state_dir::SandboxFile;

/// Maximum bytes that are read from the outputs of a process after its exit.
const LAST_BYTES_MAX: usize = 1 << 20;

/// The shim's state of a container.
#[derive(Debug)]
pub(crate) struct Container {
    pub state: ContainerState,
    pub log: LogSpec,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    /// The first process of the container; `None` if it has exited.
    pub process: Option<u64>,
    /// Whether a worker creates, starts or removes the container.
    pub busy: bool,
    /// The clients that wait for the removal of the container; not empty during the removal.
    pub removal: Vec<u64>,
}

/// The state of a shim.
pub(crate) struct Supervisor {
    pub dir: PathBuf,
    pub file: SandboxFile,
    pub unified: bool,
    pub pause: Option<i32>,
    /// The first process of the namespace below which the containers' namespaces are.
    pub warden: Option<i32>,
    lease: Option<LeaseWatch>,
    /// The pod's user namespace; `None` if the pod has none.
    pub users: Option<Rc<UserNamespace>>,
    pub containers: BTreeMap<String, Container>,
    pub processes: BTreeMap<u64, Process>,
    pub connections: BTreeMap<u64, Connection>,
    pub workers: BTreeMap<i32, (Worker, Job)>,
    /// Exits of processes whose workers have not reported yet.
    pub early_exits: BTreeMap<i32, WaitStatus>,
    /// The clients that wait for the destruction; not empty after it has started.
    pub destruction: Vec<u64>,
    pub finished: bool,
    /// Whether free memory was returned and no event has occurred since.
    rested: bool,
    listener: UnixListener,
    signals: SignalFd,
    last_id: u64,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Listener,
    Signals,
    Lease,
    Connection(u64),
    /// A client has disconnected while its input cannot be delivered.
    HangUp(u64),
    Output(u64, Stream),
    Input(u64),
}

impl Supervisor {
    pub fn new(
        dir: PathBuf,
        file: SandboxFile,
        listener: UnixListener,
        signals: SignalFd,
        processes: NamespaceInits,
        users: Option<Rc<UserNamespace>>,
        lease: Option<LeaseWatch>,
    ) -> Supervisor {
        Supervisor {
            dir,
            file,
            unified: crate::shim::container::worker::is_unified(),
            pause: processes.pause,
            warden: processes.warden,
            lease,
            users,
            containers: BTreeMap::new(),
            processes: BTreeMap::new(),
            connections: BTreeMap::new(),
            workers: BTreeMap::new(),
            early_exits: BTreeMap::new(),
            destruction: Vec::new(),
            finished: false,
            rested: false,
            listener,
            signals,
            last_id: 0,
        }
    }

    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Serves until the sandbox is destroyed.
    pub fn run(&mut self) -> io::Result<()> {
        while !(self.finished && self.connections.is_empty()) {
            for source in self.wait()? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Signals => {
                        // Processes may have stopped with the Lease.
                        if self.destruction.is_empty() {
                            self.check_lease()?;
                        }
                        self.reap()?;
                    }
                    Source::Lease => self.check_lease()?,
                    Source::Connection(id) => self.serve(id),
                    Source::HangUp(id) => self.hang_up(id),
                    Source::Output(id, stream) => self.forward(id, stream),
                    Source::Input(id) => {
                        if let Some(process) = self.processes.get_mut(&id) {
                            process.write_input();
                        }
                    }
                }
            }
            self.drop_finished_connections();
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<Vec<Source>> {
        let mut sources = Vec::new();
        let mut polled = Vec::new();
        let mut add = |source, fd: BorrowedFd<'_>, flags| {
            sources.push(source);
            // SAFETY: every descriptor belongs to `self`, which outlives the poll below.
            polled.push(PollFd::new(
                unsafe { BorrowedFd::borrow_raw(raw(fd)) },
                flags,
            ));
        };
        add(Source::Signals, self.signals.as_fd(), PollFlags::POLLIN);
        if let Some(lease) = &self.lease {
            add(Source::Lease, lease.timer(), PollFlags::POLLIN);
        }
        if self.connections.len() < CONNECTIONS_MAX && !self.finished {
            add(Source::Listener, self.listener.as_fd(), PollFlags::POLLIN);
        }
        for (id, connection) in &self.connections {
            if connection.hung_up && !self.may_read(connection) {
                continue;
            }
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, self.may_read(connection));
            flags.set(PollFlags::POLLOUT, connection.wants_to_write());
            add(Source::Connection(*id), connection.fd(), flags);
        }
        for (id, process) in &self.processes {
            let full = |id: &u64| self.connections.get(id).is_some_and(Connection::is_full);
            let is_delayed = process.sessions.iter().any(full);
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(fd) = &process.ends.outputs[stream as usize]
                    && !is_delayed
                {
                    add(Source::Output(*id, stream), fd.as_fd(), PollFlags::POLLIN);
                }
            }
            if let Some(fd) = &process.ends.stdin
                && process.has_input()
            {
                add(Source::Input(*id), fd.as_fd(), PollFlags::POLLOUT);
            }
        }
        let stuck = self
            .connections
            .values()
            .any(|connection| connection.stuck_since.is_some());
        let timeout = if stuck || !self.rested {
            PollTimeout::from(1000u16)
        } else {
            PollTimeout::NONE
        };
        match poll(&mut polled, timeout) {
            Ok(0) if !self.rested => {
                allocator::give_back();
                stack::give_back();
                self.rested = true;
            }
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => self.rested = false,
            Err(errno) => return Err(errno.into()),
        }
        let occurred = polled
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::POLLIN));
        let ready = sources
            .into_iter()
            .zip(occurred)
            .filter(|(_, flags)| !flags.is_empty());
        Ok(ready
            .map(|(source, flags)| self.hang_up_or(source, flags))
            .collect())
    }

    /// Replaces the event of a disconnected client. An unread end of file is reported repeatedly: it must
    /// be handled, or the loop would spin.
    fn hang_up_or(&self, source: Source, flags: PollFlags) -> Source {
        match source {
            Source::Connection(id)
                if flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)
                    && !self.connections.get(&id).is_some_and(|c| self.may_read(c)) =>
            {
                Source::HangUp(id)
            }
            other => other,
        }
    }

    /// Whether a client may be read: the input queue of its process has free space.
    fn may_read(&self, connection: &Connection) -> bool {
        match connection.role {
            Role::Session { process, .. } => self
                .processes
                .get(&process)
                .is_none_or(Process::wants_input),
            Role::New | Role::Waiting | Role::Events | Role::Closing => true,
        }
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept()
            && let Ok(connection) = Connection::new(stream)
        {
            let id = self.next_id();
            self.connections.insert(id, connection);
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(may_read) = self.connections.get(&id).map(|c| self.may_read(c)) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let reads = connection.flush().is_ok();
        let alive = match may_read {
            true => connection.fill(),
            false => Ok(true),
        };
        let mut alive = alive.unwrap_or(false);
        if !reads {
            self.forget_reader(id);
        }
        while let Some(connection) = self.connections.get_mut(&id) {
            match connection.next_frame() {
                Ok(Some((kind, body))) => self.handle_frame(id, kind, &body),
                Ok(None) => break,
                Err(_) => {
                    alive = false;
                    break;
                }
            }
        }
        if !alive {
            self.disconnect(id);
        }
    }

    fn handle_frame(&mut self, id: u64, kind: FrameKind, body: &[u8]) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        match (connection.role, kind) {
            (Role::New, FrameKind::Message) => self.handle_request(id, body),
            (
                Role::Session {
                    process: target,
                    stdin: true,
                },
                FrameKind::Stdin,
            ) => {
                let Some(process) = self.processes.get(&target) else {
                    return;
                };
                let ends = body.is_empty() && self.closes_input(&process.owner, false);
                let Some(process) = self.processes.get_mut(&target) else {
                    return;
                };
                match ends {
                    true => process.end_input(),
                    false => process.push_input(body),
                }
            }
            (Role::Session { process, .. }, FrameKind::Resize) => {
                if let Some(process) = self.processes.get(&process)
                    && let Ok(size) = serde_json::from_slice(body)
                {
                    process.resize(size);
                }
            }
            // Other frames belong to newer versions, or have no meaning here.
            _ => {}
        }
    }

    /// Whether the end of a client's input closes the input of the process.
    fn closes_input(&self, owner: &Owner, has_left: bool) -> bool {
        match owner {
            Owner::Command { .. } => !has_left,
            Owner::Container(id) => self
                .containers
                .get(id)
                .is_some_and(|container| container.stdin_once),
        }
    }

    /// Handles a disconnected client whose process has a full input queue: data that the client has sent is
    /// read when the process continues to read.
    fn hang_up(&mut self, id: u64) {
        let waits = match self.connections.get(&id).map(|connection| connection.role) {
            Some(Role::Session {
                process,
                stdin: true,
            }) => {
                let process = self.processes.get(&process);
                process.is_some_and(Process::takes_input_later)
            }
            _ => false,
        };
        match waits {
            true => self.forget_reader(id),
            false => self.disconnect(id),
        }
    }

    /// Stops sending to a client that has closed its connection.
    fn forget_reader(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.stop_sending();
        if let Role::Session { process, .. } = connection.role
            && let Some(process) = self.processes.get_mut(&process)
        {
            process.sessions.retain(|session| *session != id);
        }
    }

    /// Removes a client that has disconnected.
    pub fn disconnect(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        let Role::Session {
            process: process_id,
            stdin,
        } = connection.role
        else {
            return;
        };
        let Some(process) = self.processes.get_mut(&process_id) else {
            return;
        };
        process.sessions.retain(|session| *session != id);
        match process.owner.clone() {
            // The process stays in the table until it is reaped.
            Owner::Command { kill_on_drop: true } => {
                process.ends = Default::default();
                kill(process.pid, libc::SIGKILL);
            }
            Owner::Command { .. } => process.hang_up(),
            owner => {
                if stdin
                    && self.closes_input(&owner, true)
                    && let Some(process) = self.processes.get_mut(&process_id)
                {
                    process.end_input();
                }
            }
        }
    }

    fn drop_finished_connections(&mut self) {
        let limit = Duration::from_millis(STUCK_CLIENT_MS);
        let done: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                let is_flushed = connection.role == Role::Closing && !connection.wants_to_write();
                let stuck = |since: std::time::Instant| since.elapsed() > limit;
                // A command may wait for its client; a container and the shim must not wait.
                let must_not_wait = match connection.role {
                    Role::Session { process, .. } => !matches!(
                        self.processes.get(&process).map(|process| &process.owner),
                        Some(Owner::Command { .. })
                    ),
                    _ => true,
                };
                let must_not_wait = must_not_wait || connection.hung_up;
                is_flushed || must_not_wait && connection.stuck_since.is_some_and(stuck)
            })
            .map(|(id, _)| *id)
            .collect();
        done.into_iter().for_each(|id| self.disconnect(id));
    }

    /// Forwards output to the log and the clients. Returns the number of bytes; 0 if there was no output.
    fn forward_once(&mut self, id: u64, stream: Stream) -> usize {
        let Some(process) = self.processes.get_mut(&id) else {
            return 0;
        };
        let kind = match stream {
            Stream::Stdout => FrameKind::Stdout,
            Stream::Stderr => FrameKind::Stderr,
        };
        let data = match process.read(stream) {
            Output::Data(data) => data,
            Output::Empty => return 0,
            Output::End => Vec::new(),
        };
        if let Some(log) = &mut process.log {
            match data.is_empty() {
                true => log.finish(stream, Timestamp::now()),
                false => log.write(stream, &data, Timestamp::now()),
            }
        }
        for session in process.sessions.clone() {
            if let Some(connection) = self.connections.get_mut(&session) {
                connection.push(kind, &data);
                // A broken connection is detected at the next poll.
                connection.flush().ok();
            }
        }
        data.len()
    }

    fn forward(&mut self, id: u64, stream: Stream) {
        self.forward_once(id, stream);
    }

    /// Reads the rest of an exited process's output.
    pub fn drain(&mut self, id: u64) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut bytes = 0;
            while bytes < LAST_BYTES_MAX {
                match self.forward_once(id, stream) {
                    0 => break,
                    count => bytes += count,
                }
            }
            if let Some(log) = self
                .processes
                .get_mut(&id)
                .and_then(|process| process.log.as_mut())
            {
                log.finish(stream, Timestamp::now());
            }
        }
    }

    /// Whether the node's Lease allows that containers start.
    pub fn lease_allows_starts(&self) -> bool {
        self.lease.as_ref().is_none_or(LeaseWatch::allows_starts)
    }

    /// Stops the processes of a pod that may fail over before the node's Lease expires.
    fn check_lease(&mut self) -> io::Result<()> {
        let Some(lease) = &mut self.lease else {
            return Ok(());
        };
        match lease.check()? {
            LeasePhase::Valid(_) => {}
            LeasePhase::Closing(deadline) => {
                if lease.warns(deadline) {
                    eprintln!("shim: the node's lease is not renewed: containers are stopped");
                    for process in self.processes.values() {
                        kill(process.pid, libc::SIGTERM);
                    }
                }
            }
            LeasePhase::Lapsed => {
                // When the shim exits, the kernel kills all remaining processes.
                if let Err(error) = cgroup::kill(&self.file.cgroup) {
                    eprintln!("shim: kill the pod: {error}");
                }
                return Err(io::Error::other("the node's lease has lapsed"));
            }
        }
        Ok(())
    }

    /// Handles every child that has exited.
    ///
    /// # Errors
    /// The pod's process namespace has ended: no process can start in it any more.
    fn reap(&mut self) -> io::Result<()> {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(status) => status,
            };
            let Some(pid) = status.pid().map(nix::unistd::Pid::as_raw) else {
                continue;
            };
            if let Some((worker, job)) = self.workers.remove(&pid) {
                self.finish_job(job, worker.report());
            } else if let Some(id) = self.process_of(pid) {
                self.finish_process(id, status);
            } else if self.lease.is_some() && self.is_first(pid) && self.destruction.is_empty() {
                // The namespace ended with the Lease, which may have been renewed since.
                return Err(io::Error::other("the pod's process namespace has ended"));
            } else if !self.workers.is_empty() && self.early_exits.len() < EARLY_EXITS_MAX {
                self.early_exits.insert(pid, status);
            }
        }
        if self.workers.is_empty() {
            self.early_exits.clear();
        }
        Ok(())
    }

    /// Whether the process namespace of the pod ends when this process exits.
    fn is_first(&self, pid: i32) -> bool {
        [self.pause, self.warden].contains(&Some(pid))
    }

    fn process_of(&self, pid: i32) -> Option<u64> {
        let mut processes = self.processes.iter();
        processes
            .find(|(_, process)| process.pid == pid)
            .map(|(id, _)| *id)
    }

    /// Sends an event to all listeners.
    pub fn announce(&mut self, event: &SandboxEvent) {
        for connection in self.connections.values_mut() {
            if connection.role == Role::Events {
                connection.push_json(FrameKind::Message, event);
                // A broken connection is detected at the next poll.
                connection.flush().ok();
            }
        }
    }
}

fn raw(fd: BorrowedFd<'_>) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(&fd)
}

/// Sends a signal to a child. The id cannot belong to another process, because the child is not reaped yet.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: takes two integers. A process that has exited meanwhile is no error.
    unsafe { libc::kill(pid, signal) };
}
