//! The tasks of workers, and the handling of the exits of workers and other children.

use host_kernel::durable_file::Durability;
use jiff::Timestamp;
use nix::sys::wait::WaitStatus;

use super::connection::Role;
use super::supervisor::{Container, Supervisor, kill};
use crate::cgroup;
use crate::protocol::{Failure, FrameKind, Reply};
use crate::shim::container::log::Log;
use crate::shim::container::process::{Owner, Process, StreamEnds};
use crate::shim::container::worker::{self, ContainerPaths, Worker, WorkerReport};
use crate::spec::{ContainerStatus, Exit, SandboxEvent, StartError, StartErrorKind};
use crate::state_dir;

/// Exit code of a container whose command never ran, as in other runtimes.
const NOT_STARTED: i32 = 128;

/// A worker's task, with its client.
#[derive(Debug)]
pub(crate) enum Job {
    Create {
        container: String,
        connection: u64,
    },
    Start {
        container: String,
        connection: u64,
        ends: StreamEnds,
    },
    Remove {
        container: String,
    },
    Exec {
        connection: u64,
        ends: StreamEnds,
        stdin: bool,
        kill_on_drop: bool,
    },
    Update {
        connection: u64,
    },
    Destroy,
}

impl Supervisor {
    /// Starts a worker. If the start fails, the job fails.
    pub fn start_job(&mut self, job: Job, task: impl FnOnce() -> WorkerReport) {
        match Worker::start(task) {
            Ok(worker) => {
                self.workers.insert(worker.pid, (worker, job));
            }
            Err(error) => {
                let failure = Failure::Internal(format!("start a worker: {error}"));
                self.finish_job(job, WorkerReport::Failed(failure));
            }
        }
    }

    /// Handles the exit of a worker.
    pub fn finish_job(&mut self, job: Job, report: WorkerReport) {
        match job {
            Job::Create {
                container,
                connection,
            } => {
                self.finish_create(&container, connection, report);
            }
            Job::Start {
                container,
                connection,
                ends,
            } => {
                self.finish_start(&container, connection, ends, report);
            }
            Job::Remove { container } => self.finish_remove(&container, report),
            Job::Exec {
                connection,
                ends,
                stdin,
                kill_on_drop,
            } => {
                self.finish_exec(connection, ends, stdin, kill_on_drop, report);
            }
            Job::Update { connection } => self.reply_report(connection, report),
            Job::Destroy => self.finish_destroy(report),
        }
    }

    fn finish_create(&mut self, id: &str, connection: u64, report: WorkerReport) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.busy = false;
        match report {
            WorkerReport::Created { user } => {
                container.state.user = user;
                let saved = self.save(id, Durability::PageCache);
                self.reply_report(connection, saved);
            }
            other => {
                let waiting = std::mem::take(&mut container.removal);
                self.containers.remove(id);
                self.reply_report(connection, other);
                waiting
                    .into_iter()
                    .for_each(|id| self.reply(id, &Reply::Done));
                return;
            }
        }
        self.continue_removal(id);
    }

    fn finish_start(
        &mut self,
        id: &str,
        connection: u64,
        mut ends: StreamEnds,
        report: WorkerReport,
    ) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.busy = false;
        let now = Timestamp::now();
        match report {
            WorkerReport::Running { pid } => {
                ends.receive_terminal(container.stdin);
                container.state.status = ContainerStatus::Running {
                    pid,
                    started_at: now,
                };
                let log = Log::open(container.log.clone());
                if let Err(error) = &log {
                    eprintln!("container {id}: open its log: {error}");
                }
                let process_id = self.next_id();
                let process = Process::new(Owner::Container(id.to_owned()), pid, ends, log.ok());
                self.processes.insert(process_id, process);
                if let Some(container) = self.containers.get_mut(id) {
                    container.process = Some(process_id);
                }
                let saved = self.save(id, Durability::PageCache);
                let container = id.to_owned();
                self.announce(&SandboxEvent::Started {
                    container,
                    pid,
                    at: now,
                });
                self.reply_report(connection, saved);
                if let Some(status) = self.early_exits.remove(&pid) {
                    self.finish_process(process_id, status);
                }
            }
            other => {
                let start_error = match &other {
                    WorkerReport::Failed(Failure::Start(error)) => error.clone(),
                    WorkerReport::Failed(Failure::Internal(message)) => StartError {
                        kind: StartErrorKind::Other,
                        message: message.clone(),
                    },
                    other => StartError {
                        kind: StartErrorKind::Other,
                        message: format!("unexpected report {other:?}"),
                    },
                };
                let exit = Exit {
                    code: NOT_STARTED,
                    signal: None,
                    oom_killed: false,
                    started_at: None,
                    finished_at: now,
                    start_error: Some(start_error.clone()),
                };
                self.end_container(id, exit);
                self.reply(connection, &Reply::Failed(Failure::Start(start_error)));
            }
        }
    }

    fn finish_exec(
        &mut self,
        connection_id: u64,
        mut ends: StreamEnds,
        stdin: bool,
        kill_on_drop: bool,
        report: WorkerReport,
    ) {
        let WorkerReport::Running { pid } = report else {
            return self.reply_report(connection_id, report);
        };
        ends.receive_terminal(stdin);
        let id = self.next_id();
        let mut process = Process::new(Owner::Command { kill_on_drop }, pid, ends, None);
        match self.connections.get_mut(&connection_id) {
            Some(connection) => {
                connection.push_json(FrameKind::Message, &Reply::Done);
                connection.role = Role::Session { process: id, stdin };
                connection.flush().ok();
                process.sessions.push(connection_id);
            }
            None => {
                // The client disconnected while the command was being started.
                process.ends = StreamEnds::default();
                if kill_on_drop {
                    kill(pid, libc::SIGKILL);
                }
            }
        }
        self.processes.insert(id, process);
        if let Some(status) = self.early_exits.remove(&pid) {
            self.finish_process(id, status);
        }
    }

    /// Handles the exit of a container's first process, or of a command.
    pub fn finish_process(&mut self, id: u64, status: WaitStatus) {
        self.drain(id);
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        let (code, signal) = match status {
            WaitStatus::Exited(_, code) => (code, None),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
            _ => (255, None),
        };
        if let Owner::Container(container) = &process.owner {
            let started_at = match self.containers.get(container).map(|c| &c.state.status) {
                Some(ContainerStatus::Running { started_at, .. }) => Some(*started_at),
                _ => None,
            };
            let group = self.container_paths(container).cgroup;
            let oom_killed = cgroup::oom_kills(&group) > 0;
            // If the container has its own process namespace, no process is left; otherwise there may be
            // processes to kill.
            if let Err(error) = cgroup::kill_once(&group) {
                eprintln!("container {container}: kill what is left: {error}");
            }
            let finished_at = Timestamp::now();
            let exit = Exit {
                code,
                signal,
                oom_killed,
                started_at,
                finished_at,
                start_error: None,
            };
            self.end_container(container, exit);
        }
        for session in process.sessions {
            if let Some(connection) = self.connections.get_mut(&session) {
                connection.push_json(FrameKind::Exit, &code);
                connection.role = Role::Closing;
                connection.flush().ok();
            }
        }
    }

    fn end_container(&mut self, id: &str, exit: Exit) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.process = None;
        container.state.status = ContainerStatus::Exited(exit.clone());
        if let WorkerReport::Failed(failure) = self.save(id, Durability::Name) {
            eprintln!("container {id}: record its exit: {failure:?}");
        }
        if exit.oom_killed {
            self.announce(&SandboxEvent::OutOfMemory {
                container: id.to_owned(),
            });
        }
        self.announce(&SandboxEvent::Exited {
            container: id.to_owned(),
            exit,
        });
        self.continue_removal(id);
    }

    /// Starts the removal of a container, if it is requested and possible.
    pub fn continue_removal(&mut self, id: &str) {
        let paths = self.container_paths(id);
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.removal.is_empty() || container.busy {
            return;
        }
        if let ContainerStatus::Running { pid, .. } = container.state.status {
            // The removal continues when the process has been reaped.
            kill(pid, libc::SIGKILL);
            return;
        }
        container.busy = true;
        let job = Job::Remove {
            container: id.to_owned(),
        };
        self.start_job(job, move || worker::remove(&paths, None));
    }

    fn finish_remove(&mut self, id: &str, report: WorkerReport) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.busy = false;
        let waiting = std::mem::take(&mut container.removal);
        let reply = match report {
            WorkerReport::Failed(failure) => Reply::Failed(failure),
            _ => {
                self.containers.remove(id);
                Reply::Done
            }
        };
        waiting
            .into_iter()
            .for_each(|connection| self.reply(connection, &reply));
    }

    fn finish_destroy(&mut self, report: WorkerReport) {
        let reply = match report {
            WorkerReport::Failed(failure) => Reply::Failed(failure),
            _ => {
                self.finished = true;
                Reply::Done
            }
        };
        for connection in std::mem::take(&mut self.destruction) {
            self.reply(connection, &reply);
        }
        if self.finished {
            // Event streams and sessions end with the sandbox.
            for connection in self.connections.values_mut() {
                connection.role = Role::Closing;
            }
        }
    }

    /// Sends the response to a call and closes the connection.
    pub fn reply(&mut self, id: u64, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.push_json(FrameKind::Message, reply);
            connection.role = Role::Closing;
            connection.flush().ok();
        }
    }

    fn reply_report(&mut self, id: u64, report: WorkerReport) {
        match report {
            WorkerReport::Failed(failure) => self.reply(id, &Reply::Failed(failure)),
            _ => self.reply(id, &Reply::Done),
        }
    }

    fn save(&self, id: &str, durability: Durability) -> WorkerReport {
        let Some(Container { state, .. }) = self.containers.get(id) else {
            return WorkerReport::Done;
        };
        let path = self.container_paths(id).dir.join(state_dir::STATE_FILE);
        match state_dir::write_json(&path, state, durability) {
            Ok(()) => WorkerReport::Done,
            Err(error) => WorkerReport::Failed(Failure::Internal(format!(
                "record the container's state: {error}"
            ))),
        }
    }

    /// The paths of a container.
    pub fn container_paths(&self, id: &str) -> ContainerPaths {
        ContainerPaths {
            dir: self.dir.join(state_dir::CONTAINERS).join(id),
            cgroup: format!("{}/{id}", self.file.cgroup),
        }
    }
}
