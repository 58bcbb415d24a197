//! The calls of the node agent to the shim.

use std::fs::File;
use std::io;

use host_kernel::durable_file::Durability;
use jiff::Timestamp;

use super::connection::Role;
use super::jobs::Job;
use super::supervisor::{Container, Supervisor, kill};
use crate::cgroup::{self, Holder};
use crate::protocol::{Attached, Call, Failure, FrameKind, Reply, Request, VERSION};
use crate::shim::confinement::capabilities;
use crate::shim::container::context::{self, ContainerContext, PidNamespace};
use crate::shim::container::process::{Owner, StdioSetup, StreamEnds};
use crate::shim::container::worker::{self, Machine, WorkerReport};
use crate::shim::container::{prepare, users};
use crate::spec::{
    AttachSpec, ContainerSpec, ContainerState, ContainerStatus, ExecSpec, ResolvedUser, Resources,
    SandboxState, SandboxStatus,
};
use crate::state_dir;

type CallResult = Result<(), Failure>;

impl Supervisor {
    /// Decodes the request of a connection and starts its work.
    pub fn handle_request(&mut self, id: u64, body: &[u8]) {
        let request: Request = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => {
                let failure = match version_of(body) {
                    Some(version) if version > VERSION => Failure::Version { supported: VERSION },
                    _ => Failure::Invalid {
                        what: "request".into(),
                        reason: error.to_string(),
                    },
                };
                return self.reply(id, &Reply::Failed(failure));
            }
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.role = Role::Waiting;
        }
        if !self.destruction.is_empty() && !matches!(request.call, Call::State | Call::Destroy) {
            let failure = Failure::Internal("the sandbox is being destroyed".to_owned());
            return self.reply(id, &Reply::Failed(failure));
        }
        // Containers have been asked to stop before the deadline of the Lease. A new container would be
        // killed at the deadline.
        if matches!(request.call, Call::Create(_) | Call::Start { .. })
            && !self.lease_allows_starts()
        {
            let reason = "the lease of the node is not renewed: no container starts until it is";
            return self.reply(id, &Reply::Failed(Failure::Internal(reason.to_owned())));
        }
        let result = match request.call {
            Call::State => {
                let state = Reply::State(Box::new(self.state()));
                self.reply(id, &state);
                Ok(())
            }
            Call::Create(spec) => self.create(id, *spec),
            Call::Start { container } => self.start(id, &container),
            Call::Signal { container, signal } => self.signal(id, &container, signal),
            Call::Update {
                container,
                resources,
            } => self.update(id, container, resources),
            Call::Remove { container } => self.remove(id, &container),
            Call::ReopenLog { container } => self.reopen_log(id, &container),
            Call::Exec(spec) => self.exec(id, *spec),
            Call::Attach(spec) => self.attach(id, &spec),
            Call::Events => {
                self.open_stream(id, Role::Events);
                Ok(())
            }
            Call::Destroy => {
                self.destroy(id);
                Ok(())
            }
        };
        if let Err(failure) = result {
            self.reply(id, &Reply::Failed(failure));
        }
    }

    fn state(&self) -> SandboxState {
        let containers = self.containers.iter();
        SandboxState {
            spec: self.file.spec.clone(),
            status: SandboxStatus::Ready,
            pid: std::process::id() as i32,
            created_at: self.file.created_at,
            containers: containers
                .map(|(id, c)| {
                    let state = c.state.clone();
                    let busy = c.busy;
                    (id.clone(), ContainerState { busy, ..state })
                })
                .collect(),
        }
    }

    fn create(&mut self, connection: u64, spec: ContainerSpec) -> CallResult {
        check(&spec)?;
        let id = spec.id.clone();
        let paths = self.container_paths(&id);
        let spec_path = paths.dir.join(state_dir::SPEC_FILE);
        if let Some(container) = self.containers.get(&id) {
            // The agent may have died before it received the response, and repeats the call.
            let recorded: Option<ContainerSpec> = state_dir::read_json(&spec_path).ok();
            return match recorded == Some(spec) && !container.busy {
                true => {
                    self.reply(connection, &Reply::Done);
                    Ok(())
                }
                false => Err(Failure::WrongState(describe(container).to_owned())),
            };
        }
        std::fs::create_dir_all(&paths.dir)
            .and_then(|()| state_dir::write_json(&spec_path, &spec, Durability::Name))
            .map_err(internal("record the container"))?;
        let state = ContainerState {
            id: id.clone(),
            name: spec.name.clone(),
            created_at: Timestamp::now(),
            status: ContainerStatus::Created,
            log_path: spec.log.path.clone(),
            annotations: spec.annotations.clone(),
            user: ResolvedUser::default(),
            busy: false,
        };
        let container = Container {
            state,
            log: spec.log.clone(),
            tty: spec.tty,
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            process: None,
            busy: true,
            removal: Vec::new(),
        };
        self.containers.insert(id.clone(), container);
        let job = Job::Create {
            container: id,
            connection,
        };
        let users = self.users.clone();
        self.start_job(job, move || {
            prepare::create(&spec, &paths, users.as_deref())
        });
        Ok(())
    }

    fn start(&mut self, connection: u64, id: &str) -> CallResult {
        let paths = self.container_paths(id);
        let container = self.container(id)?;
        if container.busy || container.state.status != ContainerStatus::Created {
            return Err(Failure::WrongState(describe(container).to_owned()));
        }
        let spec: ContainerSpec = state_dir::read_json(&paths.dir.join(state_dir::SPEC_FILE))
            .map_err(internal("read the container's specification"))?;
        let pid_namespace = self.pid_namespace(spec.process_target.as_deref())?;
        let user = self.container(id)?.state.user.clone();
        let owner = self.on_node(&user)?;
        let container = self.container(id)?;
        let wiring = StdioSetup {
            tty: container.tty,
            stdin: container.stdin,
            owner,
        };
        let (ends, streams) = StreamEnds::open(wiring).map_err(internal("make streams"))?;
        container.busy = true;
        let (shm, unified) = (self.shm(), self.unified);
        let (cgroup, users) = (paths.cgroup.clone(), self.users.clone());
        let pod_of_node = users.is_none();
        let around = move |root, staged| ContainerContext {
            root,
            cgroup,
            shm,
            pid_namespace,
            staged,
            users,
            unified,
            cgroup_trees: context::cgroup_trees(),
            can_make_nodes: pod_of_node && context::has_users_of_the_machine(),
        };
        let job = Job::Start {
            container: id.to_owned(),
            connection,
            ends,
        };
        self.start_job(job, move || worker::start(&spec, &paths, around, streams));
        Ok(())
    }

    /// The process namespace of a new container: the pod's shared namespace, or the namespace of the target
    /// container, or a new one.
    fn pid_namespace(&self, target: Option<&str>) -> Result<PidNamespace, Failure> {
        let open = |pid: i32| {
            File::open(format!("/proc/{pid}/ns/pid"))
                .map_err(internal("find the process namespace"))
        };
        let of_process = |pid: i32| open(pid).map(PidNamespace::Shared);
        if self.file.spec.host_pid {
            return Ok(PidNamespace::Node);
        }
        if let Some(pid) = self.pause {
            return of_process(pid);
        }
        let Some(target) = target else {
            return match self.warden {
                Some(pid) => open(pid).map(PidNamespace::Nested),
                None => Ok(PidNamespace::Private),
            };
        };
        match self.containers.get(target).map(|c| &c.state.status) {
            Some(ContainerStatus::Running { pid, .. }) => of_process(*pid),
            _ => Err(Failure::WrongState(format!(
                "container {target}, whose processes it is to see, does not run"
            ))),
        }
    }

    fn signal(&mut self, connection: u64, id: &str, signal: i32) -> CallResult {
        let group = self.container_paths(id).cgroup;
        if !(1..=64).contains(&signal) {
            let reason = format!("{signal} is none");
            return Err(Failure::Invalid {
                what: "signal".to_owned(),
                reason,
            });
        }
        let container = self.container(id)?;
        match container.state.status {
            ContainerStatus::Running { pid, .. } => {
                kill(pid, signal);
                if signal == libc::SIGKILL {
                    cgroup::kill_once(&group).map_err(internal("kill the container"))?;
                }
            }
            ContainerStatus::Created => {
                return Err(Failure::WrongState(describe(container).to_owned()));
            }
            ContainerStatus::Exited(_) => {}
        }
        self.reply(connection, &Reply::Done);
        Ok(())
    }

    fn update(
        &mut self,
        connection: u64,
        container: Option<String>,
        resources: Resources,
    ) -> CallResult {
        let (group, holder) = match container {
            Some(id) => {
                self.container(&id)?;
                (self.container_paths(&id).cgroup, Holder::Container)
            }
            None => (self.file.cgroup.clone(), Holder::Pod),
        };
        // Reclaiming memory may take long, so a worker changes the limits.
        self.start_job(Job::Update { connection }, move || {
            match cgroup::update(&group, &resources, holder) {
                Ok(()) => WorkerReport::Done,
                Err(error) => WorkerReport::Failed(Failure::Internal(error.to_string())),
            }
        });
        Ok(())
    }

    fn remove(&mut self, connection: u64, id: &str) -> CallResult {
        let container = self.container(id)?;
        container.removal.push(connection);
        self.continue_removal(id);
        Ok(())
    }

    fn reopen_log(&mut self, connection: u64, id: &str) -> CallResult {
        let process = self.container(id)?.process;
        if let Some(log) = process
            .and_then(|id| self.processes.get_mut(&id))
            .and_then(|p| p.log.as_mut())
        {
            log.reopen().map_err(internal("reopen the log"))?;
        }
        self.reply(connection, &Reply::Done);
        Ok(())
    }

    fn exec(&mut self, connection: u64, spec: ExecSpec) -> CallResult {
        let paths = self.container_paths(&spec.container);
        let container = self.container(&spec.container)?;
        let ContainerStatus::Running { pid, .. } = container.state.status else {
            return Err(Failure::WrongState(describe(container).to_owned()));
        };
        let user = container.state.user.clone();
        let wiring = StdioSetup {
            tty: spec.tty,
            stdin: spec.stdin,
            owner: self.on_node(&user)?,
        };
        let (ends, streams) = StreamEnds::open(wiring).map_err(internal("make streams"))?;
        let (stdin, kill_on_drop) = (spec.stdin, spec.kill_on_drop);
        let machine = Machine {
            unified: self.unified,
            own_users: self.users.is_some(),
        };
        let job = Job::Exec {
            connection,
            ends,
            stdin,
            kill_on_drop,
        };
        self.start_job(job, move || {
            worker::exec(&spec, &paths, pid, streams, machine)
        });
        Ok(())
    }

    fn attach(&mut self, connection: u64, spec: &AttachSpec) -> CallResult {
        let container = self.container(&spec.container)?;
        let Some(process_id) = container.process else {
            return Err(Failure::WrongState(describe(container).to_owned()));
        };
        let Some(process) = self.processes.get_mut(&process_id) else {
            return Err(Failure::Internal(
                "the container's process is unknown".to_owned(),
            ));
        };
        debug_assert!(matches!(process.owner, Owner::Container(_)));
        process.sessions.push(connection);
        if let Some(size) = spec.terminal {
            process.resize(size);
        }
        self.open_stream(
            connection,
            Role::Session {
                process: process_id,
                stdin: spec.stdin,
            },
        );
        if let Some(connection) = self.connections.get_mut(&connection) {
            let at = Timestamp::now();
            connection.push_json(FrameKind::Message, &Attached { at });
            connection.flush().ok();
        }
        Ok(())
    }

    fn destroy(&mut self, connection: u64) {
        self.destruction.push(connection);
        if self.destruction.len() > 1 {
            return;
        }
        let (dir, group) = (self.dir.clone(), self.file.cgroup.clone());
        self.start_job(Job::Destroy, move || worker::destroy(&dir, &group));
    }

    fn open_stream(&mut self, id: u64, role: Role) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.push_json(FrameKind::Message, &Reply::Done);
            connection.role = role;
            connection.flush().ok();
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.get_mut(id).ok_or(Failure::NoSuchContainer)
    }

    /// User and group of a container as ids of the node.
    fn on_node(&self, user: &ResolvedUser) -> Result<(u32, u32), Failure> {
        let Some(users) = &self.users else {
            return Ok((user.uid, user.gid));
        };
        let ids = users.ids.on_node(user.uid).zip(users.ids.on_node(user.gid));
        // The container was created only with valid ids, so this error is internal.
        ids.ok_or_else(|| Failure::Internal("the container's user is none of the pod's".to_owned()))
    }

    fn shm(&self) -> std::path::PathBuf {
        match self.file.spec.host_ipc {
            true => "/dev/shm".into(),
            false => self.dir.join(crate::shim::SHM),
        }
    }
}

fn describe(container: &Container) -> &'static str {
    match &container.state.status {
        ContainerStatus::Created if container.busy => "being created or started",
        ContainerStatus::Created => "created",
        ContainerStatus::Running { .. } => "running",
        ContainerStatus::Exited(_) => "exited",
    }
}

fn check(spec: &ContainerSpec) -> CallResult {
    let invalid = |what: &str, reason: String| {
        Err(Failure::Invalid {
            what: what.to_owned(),
            reason,
        })
    };
    let paths = spec
        .rootfs
        .lowerdirs
        .iter()
        .chain([&spec.rootfs.upper_dir, &spec.rootfs.work_dir]);
    if let Some(path) = paths.into_iter().find(|path| !path.is_absolute()) {
        return invalid("rootfs", format!("{} is not absolute", path.display()));
    }
    if let Some(mount) = spec
        .mounts
        .iter()
        .find(|mount| !mount.destination.is_absolute())
    {
        return invalid(
            "mounts",
            format!("{} is not absolute", mount.destination.display()),
        );
    }
    if spec
        .env
        .iter()
        .any(|var| var.name.is_empty() || var.name.contains(['=', '\0']))
    {
        return invalid("env", "a name is empty or contains `=`".to_owned());
    }
    let user = &spec.user;
    let ids = user.uid.iter().chain(&user.gid);
    if let Err(error) = users::check_ids(ids.chain(&user.supplementary_groups)) {
        return invalid("user", error.to_string());
    }
    if let Err(error) = capabilities::capabilities(&spec.security) {
        return invalid("security.capabilities", error.to_string());
    }
    crate::shim::limits::rlimits(&spec.rlimits)
        .map(|_| ())
        .or_else(|error| invalid("rlimits", error.to_string()))
}

fn internal(doing: &str) -> impl FnOnce(io::Error) -> Failure {
    let doing = doing.to_owned();
    move |error| Failure::Internal(format!("{doing}: {error}"))
}

fn version_of(body: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    serde_json::from_slice::<Versioned>(body)
        .ok()
        .map(|request| request.version)
}
