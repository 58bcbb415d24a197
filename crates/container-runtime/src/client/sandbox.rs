//! The agent's client of one sandbox.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host_kernel::{block_in_place, blocking};

use super::cleanup;
use super::connection::Peer;
use super::session::{Events, Session};
use crate::accounting::Accounting;
use crate::cgroup;
use crate::error::{Result, RuntimeError};
use crate::protocol::{Call, Reply};
use crate::spec::{
    AttachSpec, ContainerSpec, ExecSpec, Resources, SandboxSpec, SandboxState, SandboxStatus, Usage,
};
use crate::state_dir::{self, SandboxFile};

/// Handle of a sandbox. Clones are cheap. A dropped handle does not stop the sandbox.
///
/// Every call fails with [`RuntimeError::SandboxDead`] after the shim has exited, except
/// [`state`](Sandbox::state) and [`destroy`](Sandbox::destroy).
#[derive(Clone, Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: SandboxFile,
    dir: PathBuf,
}

impl Sandbox {
    pub(crate) fn new(file: SandboxFile, dir: PathBuf) -> Sandbox {
        Sandbox {
            inner: Arc::new(Inner { file, dir }),
        }
    }

    /// The id of the sandbox, which is the pod's UID.
    pub fn id(&self) -> &str {
        &self.inner.file.spec.id
    }

    /// The specification that the sandbox was created with.
    pub fn spec(&self) -> &SandboxSpec {
        &self.inner.file.spec
    }

    /// Control group of the pod.
    pub fn cgroup(&self) -> &str {
        &self.inner.file.cgroup
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Path of the pod's network namespace; `None` on the host network.
    ///
    /// Only the shim holds the namespace open: when the shim and the containers have exited, the kernel
    /// removes the namespace with all its links.
    pub fn netns_path(&self) -> Result<Option<PathBuf>> {
        if self.spec().host_network {
            return Ok(None);
        }
        match cleanup::shim_of(self.dir())? {
            Some(pid) => Ok(Some(PathBuf::from(format!("/proc/{pid}/ns/net")))),
            None => Err(self.peer().dead()),
        }
    }

    /// Creates a container: mounts its root and looks up its user. No process runs yet.
    ///
    /// A second call with an equal specification is no error.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<()> {
        super::runtime::check_id("container id", &spec.id)?;
        self.peer().call(Call::Create(Box::new(spec))).await
    }

    /// Starts a created container. Returns when the container's command runs.
    ///
    /// *Errors:* [`RuntimeError::Start`] has the reason why the command could not be executed. The
    /// container is then exited with code 128 and that error.
    pub async fn start(&self, container: &str) -> Result<()> {
        self.peer()
            .call(Call::Start {
                container: container.to_owned(),
            })
            .await
    }

    /// Sends a signal to the container's first process. `SIGKILL` kills all processes of the container. No
    /// error if the first process has already exited.
    ///
    /// `SIGKILL` does not depend on the shim: if the shim does not respond, the shim and the whole control
    /// group of the pod are killed, so that the sandbox is dead.
    pub async fn signal(&self, container: &str, signal: i32) -> Result<()> {
        let call = Call::Signal {
            container: container.to_owned(),
            signal,
        };
        match self.peer().call(call).await {
            Err(error @ RuntimeError::ShimSilent { .. }) if signal == libc::SIGKILL => {
                tracing::warn!(sandbox = self.id(), %error, "the pod is killed without its shim");
                self.blocking(|sandbox| cleanup::kill(sandbox.dir(), sandbox.cgroup()))
                    .await
            }
            other => other,
        }
    }

    /// Changes a running container's limits in place.
    pub async fn update(&self, container: &str, resources: Resources) -> Result<()> {
        let container = Some(container.to_owned());
        self.peer()
            .call(Call::Update {
                container,
                resources,
            })
            .await
    }

    /// Changes the pod's limits in place.
    pub async fn update_pod(&self, resources: Resources) -> Result<()> {
        self.peer()
            .call(Call::Update {
                container: None,
                resources,
            })
            .await
    }

    /// Kills the processes of a container and removes its root and records; its log files stay. A missing
    /// container is no error.
    pub async fn remove(&self, container: &str) -> Result<()> {
        match self
            .peer()
            .call(Call::Remove {
                container: container.to_owned(),
            })
            .await
        {
            Err(RuntimeError::NoSuchContainer { .. }) => Ok(()),
            other => other,
        }
    }

    /// Lets the shim reopen a container's log file after a rotation.
    pub async fn reopen_log(&self, container: &str) -> Result<()> {
        self.peer()
            .call(Call::ReopenLog {
                container: container.to_owned(),
            })
            .await
    }

    /// The state of the sandbox and its containers; for a dead sandbox, the last state that its shim
    /// recorded.
    pub async fn state(&self) -> Result<SandboxState> {
        match self.peer().open(Call::State).await {
            Ok((_, Reply::State(state))) => Ok(*state),
            Ok((_, other)) => Err(self.peer().odd(format!("unexpected answer {other:?}"))),
            Err(RuntimeError::SandboxDead { .. }) => Ok(block_in_place(|| self.last_state())),
            Err(error) => Err(error),
        }
    }

    /// A subscription to all later events. Subscribe before [`state`](Sandbox::state) is read, so that no
    /// event is missed.
    pub async fn events(&self) -> Result<Events> {
        let (stream, _) = self.peer().open(Call::Events).await?;
        Ok(Events::new(stream))
    }

    /// Runs a command in a running container.
    ///
    /// *Errors:* [`RuntimeError::Start`] when the command cannot be executed.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Session> {
        let stdin = spec.stdin;
        let (stream, _) = self.peer().open(Call::Exec(Box::new(spec))).await?;
        Ok(Session::new(stream, stdin))
    }

    /// Connects to the standard streams of a running container.
    pub async fn attach(&self, spec: AttachSpec) -> Result<Session> {
        let stdin = spec.stdin;
        let (stream, _) = self.peer().open(Call::Attach(spec)).await?;
        Ok(Session::new(stream, stdin))
    }

    /// The usage of a container, or of the whole pod if `container` is `None`.
    pub fn usage(&self, container: Option<&str>) -> Result<Usage> {
        let group = self.group_of(container)?;
        cgroup::usage(&group).map_err(RuntimeError::io("read control group", group))
    }

    /// The counters and limits of a container, or of the whole pod.
    pub fn accounting(&self, container: Option<&str>) -> Result<Accounting> {
        let group = self.group_of(container)?;
        cgroup::accounting(&group).map_err(RuntimeError::io("read control group", group))
    }

    /// The control group of a container, or of the pod.
    pub fn group_of(&self, container: Option<&str>) -> Result<String> {
        let Some(container) = container else {
            return Ok(self.cgroup().to_owned());
        };
        super::runtime::check_id("container id", container)?;
        Ok(format!("{}/{container}", self.cgroup()))
    }

    /// Kills all processes of the sandbox, unmounts its mounts and removes its files. Works on living, dead
    /// and incomplete sandboxes, and may be repeated; log files stay.
    pub async fn destroy(&self) -> Result<()> {
        let patience = match self.peer().call(Call::Destroy).await {
            Ok(()) | Err(RuntimeError::SandboxDead { .. }) => cleanup::SHIM_END_MAX,
            Err(error) => {
                tracing::warn!(sandbox = self.id(), %error, "shim does not end, killing it");
                Duration::ZERO
            }
        };
        self.blocking(move |sandbox| cleanup::destroy(sandbox.dir(), sandbox.cgroup(), patience))
            .await
    }

    /// Runs blocking work, such as kills and unmounts, on a thread for blocking work.
    async fn blocking(
        &self,
        work: impl FnOnce(&Sandbox) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let sandbox = self.clone();
        blocking(move || work(&sandbox)).await
    }

    fn last_state(&self) -> SandboxState {
        let containers = state_dir::read_containers(self.dir());
        SandboxState {
            spec: self.spec().clone(),
            status: SandboxStatus::Dead,
            pid: 0,
            created_at: self.inner.file.created_at,
            containers: containers
                .into_iter()
                .map(|state| (state.id.clone(), state))
                .collect(),
        }
    }

    fn peer(&self) -> Peer<'_> {
        Peer {
            id: self.id(),
            dir: self.dir(),
        }
    }
}
