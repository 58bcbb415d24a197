//! The sandboxes of a node agent.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use host_kernel::blocking_value;
use host_kernel::keyed_locks::KeyedLocks;
use host_kernel::{block_in_place, tree};
use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::cleanup;
use super::connection::Peer;
use super::orphans;
use super::sandbox::Sandbox;
use crate::cgroup;
use crate::error::{Result, RuntimeError};
use crate::id_range::IdRange;
use crate::protocol::Call;
use crate::sealed::SealedProgram;
use crate::spec::SandboxSpec;
use crate::state_dir::{self, SandboxFile};

/// Maximum length of an id, because the id becomes a file name and a part of a control group's name.
const ID_BYTES_MAX: usize = 128;

/// Maximum time from a shim's lock to its socket; a slower shim is killed.
const SHIM_START_MAX: Duration = Duration::from_secs(5);

/// The directories, the instance and the shim program of a [`Runtime`].
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// The directory with one subdirectory per sandbox. The directory survives a restart of the agent.
    pub state_dir: PathBuf,
    /// Distinguishes the control groups of several data directories on one machine.
    pub instance_id: String,
    /// The program of the shim and its first arguments (`/proc/self/exe`, `shim`).
    pub shim_command: Vec<String>,
    /// The parent control group of all pods; if empty, `/mainstay-<instance_id>`.
    pub cgroup_parent: String,
}

/// Creates sandboxes, and lists the sandboxes of a former process.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: RuntimeOptions,
    // A lock per sandbox id for creation and clean-up. One lock for all sandboxes would be too slow. The
    // number of locks is bounded by the number of sandboxes.
    busy: KeyedLocks<tokio::sync::Mutex<()>>,
    // A copy of the shim's program, on machines that need a copy.
    shim_in_memory: OnceLock<OwnedFd>,
    // Locked from the choice of ids until the file with the ids is written.
    choosing_ids: std::sync::Mutex<()>,
}

impl Runtime {
    /// Opens the state directory, which is created if missing, and checks that control groups for pods can be
    /// made.
    pub fn open(mut options: RuntimeOptions) -> Result<Runtime> {
        if options.shim_command.is_empty() {
            return Err(invalid("shim_command", "is empty"));
        }
        if options.cgroup_parent.is_empty() {
            options.cgroup_parent = format!("/mainstay-{}", options.instance_id);
        }
        let parent = options.cgroup_parent.trim_start_matches('/');
        if parent.is_empty()
            || parent
                .split('/')
                .any(|part| part.is_empty() || part == "..")
        {
            return Err(invalid(
                "cgroup_parent",
                "must be a path below the root group",
            ));
        }
        options.cgroup_parent = format!("/{parent}");
        cgroup::prepare().map_err(RuntimeError::io("prepare", "/sys/fs/cgroup"))?;
        tree::make_private(&options.state_dir.join(state_dir::SANDBOXES))
            .map_err(RuntimeError::io("make", &options.state_dir))?;
        // A shim has another working directory, so every path that it gets must be absolute.
        options.state_dir = fs::canonicalize(&options.state_dir)
            .map_err(RuntimeError::io("resolve", &options.state_dir))?;
        let busy = KeyedLocks::default();
        Ok(Runtime {
            inner: Arc::new(Inner {
                options,
                busy,
                shim_in_memory: OnceLock::new(),
                choosing_ids: std::sync::Mutex::default(),
            }),
        })
    }

    /// Lists all sandboxes, sorted by id: living sandboxes, and dead sandboxes that still need
    /// [`Sandbox::destroy`]. A directory that cannot be read or removed is logged and skipped, so that the
    /// other sandboxes are handled. Processes of sandboxes without records are killed.
    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        for id in block_in_place(|| orphans::ids(&self.inner.options.cgroup_parent))? {
            if let Err(error) = self.sandbox(&id).await {
                tracing::error!(sandbox = id, %error, "sandbox without a record not ended");
            }
        }
        let root = self.inner.options.state_dir.join(state_dir::SANDBOXES);
        let mut sandboxes = Vec::new();
        for id in block_in_place(|| names_in(&root)).map_err(RuntimeError::io("list", &root))? {
            match self.sandbox(&id).await {
                Ok(sandbox) => sandboxes.extend(sandbox),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(id, error, "a sandbox's directory is left as it is");
                }
            }
        }
        sandboxes.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        Ok(sandboxes)
    }

    /// The sandbox with this id; `None` if it does not exist.
    pub async fn sandbox(&self, id: &str) -> Result<Option<Sandbox>> {
        check_id("sandbox id", id)?;
        let dir = self.dir(id);
        match block_in_place(|| SandboxFile::read(&dir)) {
            Ok(file) => Ok(Some(self.handle(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The process that created the directory died before it wrote the first file, or the
                // records are lost.
                self.forget(id).await?;
                Ok(None)
            }
            Err(source) => Err(RuntimeError::io("read", dir.join(state_dir::SANDBOX_FILE))(
                source,
            )),
        }
    }

    /// Creates a sandbox: its shim, its namespaces and its control group.
    ///
    /// A second call with an equal specification returns the living sandbox. A dead sandbox is removed
    /// first, so there are never two shims with one id.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        check_id("sandbox id", &spec.id)?;
        if spec.own_users && (spec.host_network || spec.host_ipc || spec.host_pid) {
            return Err(invalid("own_users", "needs namespaces of the pod's own"));
        }
        if spec.lease.is_some() && spec.host_pid {
            return Err(invalid(
                "lease",
                "needs a process namespace of the pod's own",
            ));
        }
        let gate = self.inner.busy.get(&spec.id);
        let _only = gate.lock().await;
        let dir = self.dir(&spec.id);
        if let Ok(former) = block_in_place(|| SandboxFile::read(&dir)) {
            let same = former.spec == spec;
            let former = self.handle(former);
            match former.is_alive().await {
                Ok(true) if same => return Ok(former),
                Ok(true) => return Err(RuntimeError::SandboxExists { id: spec.id }),
                Ok(false) => former.destroy().await?,
                Err(error) => return Err(error),
            }
        } else {
            // `sandboxes` has killed shims without a control group already. Reading the arguments of all
            // shims here would slow each creation down.
            self.end_strays(&spec.id, orphans::ids_of_groups).await?;
        }
        let options = &self.inner.options;
        let mut file = SandboxFile {
            version: state_dir::VERSION,
            cgroup: orphans::pod_group(&options.cgroup_parent, &spec.id),
            shim_cgroup: orphans::shim_group(&options.cgroup_parent),
            created_at: Timestamp::now(),
            ids: None,
            spec,
        };
        block_in_place(|| match file.spec.own_users {
            true => self.write_with_ids(&dir, &mut file),
            false => write_new(&dir, &file).map_err(RuntimeError::io("make", &dir)),
        })?;
        let sandbox = self.handle(file);
        if let Err(error) = self.start_shim(&dir).await {
            // Only the first error is returned, because the next attempt cleans up again.
            if let Err(second) = sandbox.destroy().await {
                tracing::warn!(sandbox = sandbox.id(), error = %second, "clean-up failed");
            }
            return Err(error);
        }
        Ok(sandbox)
    }

    /// Checks that control groups of pods can be created now; the error names the group. Blocks.
    pub fn check_groups(&self) -> Result<()> {
        let parent = &self.inner.options.cgroup_parent;
        cgroup::probe(parent).map_err(RuntimeError::io("try the control groups in", parent))
    }

    /// Removes the kernel objects of the runtime. All sandboxes must be destroyed before.
    pub async fn close(&self) -> Result<()> {
        let parent = &self.inner.options.cgroup_parent;
        block_in_place(|| cgroup::remove(parent))
            .map_err(RuntimeError::io("remove control group", parent))
    }

    /// Writes a sandbox's file, with ids that no other sandbox has.
    fn write_with_ids(&self, dir: &Path, file: &mut SandboxFile) -> Result<()> {
        let _only = self.inner.choosing_ids.lock();
        let root = self.inner.options.state_dir.join(state_dir::SANDBOXES);
        let mut used_ranges = Vec::new();
        for entry in fs::read_dir(&root).map_err(RuntimeError::io("list", &root))? {
            let path = entry.map_err(RuntimeError::io("list", &root))?.path();
            match SandboxFile::read(&path) {
                Ok(record) => used_ranges.extend(record.ids),
                // A directory without a file belongs to a sandbox that has started no process.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // If the ids in use cannot be read, no ids are assigned.
                Err(error) => return Err(RuntimeError::io("read", path)(error)),
            }
        }
        file.ids = Some(IdRange::lowest_free(&used_ranges).ok_or(RuntimeError::NoIds)?);
        write_new(dir, file).map_err(RuntimeError::io("make", dir))
    }

    async fn start_shim(&self, dir: &Path) -> Result<()> {
        let (program, arguments) = match self.inner.options.shim_command.split_first() {
            Some(command) => command,
            None => return Err(invalid("shim_command", "is empty")),
        };
        let log = block_in_place(|| open_log(dir))
            .map_err(RuntimeError::io("open", dir.join("shim.log")))?;
        // Processes of the pod cannot write to this copy of the program, nor change its mode or owner.
        let sealed =
            block_in_place(|| SealedProgram::open(Path::new(program), &self.inner.shim_in_memory))
                .map_err(RuntimeError::io("seal", program))?;
        // The shim is not killed if this future is dropped: the next call finds the sandbox.
        let mut child = Command::new(sealed.path())
            .arg0(program)
            .args(arguments)
            .arg(dir)
            .current_dir(dir)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(RuntimeError::io("start", program))?;
        // The shim prints `ready`, or an error, and closes its standard output.
        let mut startup_output = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout
                .read_to_string(&mut startup_output)
                .await
                .map_err(RuntimeError::io("start", program))?;
        }
        child
            .wait()
            .await
            .map_err(RuntimeError::io("start", program))?;
        match startup_output.trim() {
            state_dir::READY => Ok(()),
            "" => {
                let log =
                    block_in_place(|| fs::read_to_string(dir.join("shim.log"))).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it ended without a word");
                Err(RuntimeError::ShimStart(last.to_owned()))
            }
            reason => Err(RuntimeError::ShimStart(reason.to_owned())),
        }
    }

    async fn forget(&self, id: &str) -> Result<()> {
        let gate = self.inner.busy.get(id);
        let _only = gate.lock().await;
        if block_in_place(|| SandboxFile::read(&self.dir(id))).is_err() {
            self.end_strays(id, orphans::ids).await?;
        }
        Ok(())
    }

    /// Kills the processes of a sandbox without a record and removes its directory, if the sandbox is in
    /// the list `that_run`.
    async fn end_strays(
        &self,
        id: &str,
        that_run: fn(&str) -> Result<BTreeSet<String>>,
    ) -> Result<()> {
        let (dir, id) = (self.dir(id), id.to_owned());
        let parent = self.inner.options.cgroup_parent.clone();
        let ended = blocking_value(move || {
            // A mount belongs to the sandbox only if the sandbox ran.
            if that_run(&parent)?.contains(&id) {
                orphans::end(&parent, &id)?;
                cleanup::unmount_below(&dir)?;
            }
            cleanup::remove_dir(&dir)
        });
        match ended.await {
            Ok(result) => result,
            Err(error) => Err(RuntimeError::Shim(format!("clean-up did not end: {error}"))),
        }
    }

    fn handle(&self, file: SandboxFile) -> Sandbox {
        let dir = self.dir(&file.spec.id);
        Sandbox::new(file, dir)
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.inner
            .options
            .state_dir
            .join(state_dir::SANDBOXES)
            .join(id)
    }
}

/// Checks a name that becomes a part of paths.
pub(crate) fn check_id(what: &str, id: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(invalid(what, "must have 1 to 128 characters"));
    }
    if !id.chars().all(legal) || id.starts_with('.') {
        return Err(invalid(
            what,
            "may contain letters, digits, `-`, `_`, `.` only",
        ));
    }
    Ok(())
}

fn invalid(what: &str, reason: &str) -> RuntimeError {
    RuntimeError::Invalid {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The names in a directory; names that are not text are skipped.
fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

fn write_new(dir: &Path, file: &SandboxFile) -> io::Result<()> {
    tree::make_private(dir)?;
    file.write(dir)
}

fn open_log(dir: &Path) -> io::Result<File> {
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(dir.join("shim.log"))?;
    log.flush()?;
    Ok(log)
}

impl Sandbox {
    /// Whether the shim runs and responds. Waits for a shim that is starting.
    pub(crate) async fn is_alive(&self) -> Result<bool> {
        let peer = Peer {
            id: self.id(),
            dir: self.dir(),
        };
        let until = Instant::now() + SHIM_START_MAX;
        loop {
            match peer.open(Call::State).await {
                Ok(_) => return Ok(true),
                Err(RuntimeError::SandboxDead { .. }) => {}
                Err(error) => return Err(error),
            }
            // Without a listener, the shim is dead unless a process has the lock.
            if block_in_place(|| cleanup::shim_of(self.dir()))?.is_none() || Instant::now() > until
            {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
