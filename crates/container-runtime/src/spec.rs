//! The requests of callers and the reports of the runtime: plain data.
//!
//! The same types are sent over the shim's socket and stored in its state directory. So each later field has
//! a default, and no field gets a new meaning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The specification of a pod's sandbox: the namespaces that its containers share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// Identity of the sandbox: the pod's UID. Letters, digits, `-`, `_` and `.` only.
    pub id: String,
    /// Host name inside the pod; ignored with `host_network`.
    pub hostname: String,
    /// Uses the node's network namespace (and host name).
    pub host_network: bool,
    /// Uses the node's IPC namespace.
    pub host_ipc: bool,
    /// Uses the node's process namespace.
    pub host_pid: bool,
    /// One process namespace for all containers of the pod.
    pub share_process_namespace: bool,
    /// Whether it has a user namespace. Then ids and capabilities of its containers are valid only there, and
    /// it must not use the node's namespaces.
    pub own_users: bool,
    /// Kernel parameters of the pod's namespaces (`net.core.somaxconn` → value).
    pub sysctls: BTreeMap<String, String>,
    /// Limits of the pod as a whole (parent of all its containers' control groups).
    pub resources: Resources,
    /// The sandbox ends with the lease of its node, and all its processes end with the shim; not
    /// possible with `host_pid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<NodeLease>,
    /// The caller's own annotations (pod name, namespace, …): stored and returned, never read.
    pub annotations: BTreeMap<String, String>,
}

/// The lease of a node, which a sandbox may end with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLease {
    /// The [deadline page](host_kernel::deadline).
    pub page: PathBuf,
    /// Containers are asked to stop this long before the deadline, in milliseconds.
    pub warning_ms: u64,
}

/// One container of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Identity inside the sandbox, for example `<name>-<attempt>`; never used twice.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// The overlay that becomes the container's `/`.
    pub rootfs: RootfsSpec,
    /// Entry point and arguments; the first is looked up in the container's `PATH`.
    pub args: Vec<String>,
    /// Environment, in order; a later entry of the same name wins.
    pub env: Vec<EnvVar>,
    /// Working directory; empty means `/`. Created when the image lacks it.
    pub cwd: String,
    /// The user to run as.
    pub user: UserSpec,
    /// Mounts on top of the usual ones (`/proc`, `/dev`, `/sys`, …), in order.
    pub mounts: Vec<Mount>,
    /// Device nodes given to the container besides the usual ones.
    pub devices: Vec<Device>,
    /// Limits of CPU, memory, processes and huge pages.
    pub resources: Resources,
    /// Capabilities, seccomp and other restrictions.
    pub security: Security,
    /// Id of a running container of the sandbox whose process namespace this one joins, if the pod
    /// does not share one.
    pub process_target: Option<String>,
    /// Size limit in bytes of `/dev/shm`; the kernel's 64 MiB convention when absent.
    pub shm_bytes: Option<u64>,
    /// Resource limits of the first process (`RLIMIT_NOFILE` → soft, hard). They are lowered to the
    /// node's own limits.
    pub rlimits: BTreeMap<String, (u64, u64)>,
    /// `oom_score_adj` of the first process, limited to the range that the node may set.
    pub oom_score_adj: Option<i32>,
    /// Gives the container a terminal.
    pub tty: bool,
    /// Keeps standard input open for [`attach`](crate::Sandbox::attach).
    pub stdin: bool,
    /// Closes standard input when the first attached client disconnects.
    pub stdin_once: bool,
    /// The file for the container's output.
    pub log: LogSpec,
    /// The caller's own annotations: stored and returned, never read.
    pub annotations: BTreeMap<String, String>,
}

/// An overlay of read-only layers and one writable directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootfsSpec {
    /// Unpacked layers, the **topmost last** (as `image_store::Image::layers` gives them).
    pub lowerdirs: Vec<PathBuf>,
    /// Receives the container's writes. Created if missing, removed with the container.
    pub upper_dir: PathBuf,
    /// Overlayfs' scratch directory, on the same file system as `upper_dir`. Made when
    /// missing, removed with the container.
    pub work_dir: PathBuf,
    /// Whether the container's `/` is read-only.
    pub read_only: bool,
}

/// An environment variable of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Name of the variable.
    pub name: String,
    /// Value, with references already expanded.
    pub value: String,
}

/// Maximum user or group id of a container, as in Kubernetes. For the kernel the largest 32-bit
/// number means "unchanged", which would be the shim's own id: root.
pub const ID_MAX: u32 = i32::MAX as u32;

/// The user of the process. No id is greater than [`ID_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserSpec {
    /// The image's `USER`: empty, `uid`, `name`, `uid:gid` or `name:group`. Names are looked
    /// up in the image's own `/etc/passwd` and `/etc/group`.
    pub name: String,
    /// `runAsUser`: takes precedence over `name`.
    pub uid: Option<u32>,
    /// `runAsGroup`: takes precedence over the group of `name` or of the image's `/etc/passwd`.
    pub gid: Option<u32>,
    /// Group ids of `fsGroup` and `supplementalGroups`.
    pub supplementary_groups: Vec<u32>,
    /// Leaves out the groups that the image's `/etc/group` lists for the user
    /// (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
}

/// A file or directory that is mounted into the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container; made when missing.
    pub destination: PathBuf,
    /// The file, directory or file system to mount.
    pub source: MountSource,
    /// Whether the mount is read-only; false by default.
    #[serde(default)]
    pub read_only: bool,
}

/// The file, directory or file system behind a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A file or directory of the node.
    Bind {
        /// The path on the node.
        path: PathBuf,
        /// A path below `path` (`subPath`), resolved without ever leaving `path`, whatever symbolic
        /// links the volume contains. Created as a directory if missing.
        #[serde(default)]
        sub_path: Option<PathBuf>,
        /// With `read_only`: submounts become read-only too.
        #[serde(default)]
        recursive_read_only: bool,
        /// The propagation of later mounts between node and container.
        #[serde(default)]
        propagation: Propagation,
    },
    /// The files of an image, read-only, none of which can be executed.
    Layers {
        /// Unpacked layers, the **topmost last**.
        lowerdirs: Vec<PathBuf>,
        /// A path in them, as with `Bind`; it must exist.
        #[serde(default)]
        sub_path: Option<PathBuf>,
    },
    /// Memory.
    Tmpfs {
        /// Size limit in bytes.
        #[serde(default)]
        size_bytes: Option<u64>,
        /// Permission bits.
        #[serde(default = "tmpfs_mode")]
        mode: u32,
    },
}

fn tmpfs_mode() -> u32 {
    0o1777
}

/// Mount propagation as Kubernetes names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// No propagation (`None`).
    #[default]
    Private,
    HostToContainer,
    /// `Bidirectional`; privileged containers only, the caller checks.
    Bidirectional,
}

/// A device node of the node made available in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path of the device on the node.
    pub host_path: PathBuf,
    /// Path of the device node in the container.
    pub container_path: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub access: String,
    /// Its owner in the container; if absent, the owner on the node.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Its group in the container; if absent, the group on the node.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// Limits of a pod or a container. Absent means: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Weight as cgroup v1 counts it (1024 per CPU); converted for v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period.
    pub cpu_quota_us: Option<i64>,
    /// The period in microseconds; 100000 when absent.
    pub cpu_period_us: Option<u64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<i64>,
    /// Number of processes and threads.
    pub pids: Option<i64>,
    /// Bytes of huge pages by their size as control groups name it (`2MB`, `1GB`).
    pub huge_pages: BTreeMap<String, i64>,
}

/// Capabilities, seccomp filter and other restrictions of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// All capabilities and devices, and no masked paths.
    pub privileged: bool,
    /// Capabilities added to the default set, with or without `CAP_`; `ALL` means all.
    pub capabilities_add: Vec<String>,
    /// Capabilities removed from the default set and the additions; `ALL` keeps those that are
    /// added by name.
    pub capabilities_drop: Vec<String>,
    /// Whether `no_new_privs` is set (`allowPrivilegeEscalation: false`).
    pub no_new_privileges: bool,
    /// The seccomp filter of system calls.
    pub seccomp: Seccomp,
    /// Whether `/proc` has no covered paths (`procMount: Unmasked`).
    pub unmasked_proc: bool,
    /// Whether files must stay in the volume's project; privileged containers are not restricted.
    pub keeps_projects: bool,
}

/// System call filter of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// No filter: the Kubernetes default.
    #[default]
    Unconfined,
    /// The runtime's profile: refuses calls that containers have no use for.
    RuntimeDefault,
    /// The profile in a file of the node, as JSON.
    Localhost(PathBuf),
}

/// The location and size of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// The log file, in CRI format; its directory is made when missing. `None` discards.
    /// Rotated files are `<path>.1` (newest) to `<path>.<files_max - 1>`.
    pub path: Option<PathBuf>,
    /// A file is rotated before it outgrows this many bytes.
    pub file_bytes_max: u64,
    /// Number of files, the current one included.
    pub files_max: u32,
}

impl Default for LogSpec {
    fn default() -> Self {
        // The kubelet's defaults: containerLogMaxSize 10Mi, containerLogMaxFiles 5.
        LogSpec {
            path: None,
            file_bytes_max: 10 << 20,
            files_max: 5,
        }
    }
}

/// A command to run in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Id of a running container of the sandbox.
    pub container: String,
    /// Command and arguments; looked up in the container's `PATH`.
    pub args: Vec<String>,
    /// Variables that are added to the container's environment.
    pub env: Vec<EnvVar>,
    /// Working directory; the container's own when empty.
    pub cwd: String,
    /// Gives the command a terminal; all its output is then standard output.
    pub tty: bool,
    /// Whether the session sends standard input.
    pub stdin: bool,
    /// First size of the terminal.
    pub terminal: Option<TerminalSize>,
    /// Kills the command when the session is dropped (probes, hooks). Otherwise it only loses its
    /// streams, and its terminal hangs up.
    pub kill_on_drop: bool,
}

/// Connection to a running container's own streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachSpec {
    /// Id of a running container of the sandbox.
    pub container: String,
    /// Connects standard input (only useful when the container was created with `stdin`).
    pub stdin: bool,
    /// First size of the terminal.
    pub terminal: Option<TerminalSize>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// The number of columns.
    pub width: u16,
    /// The number of rows.
    pub height: u16,
}

/// The state of a sandbox and of its containers at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    /// The specification that it was created with.
    pub spec: SandboxSpec,
    /// Whether its shim process is alive.
    pub status: SandboxStatus,
    /// The shim's process id (the former one when dead).
    pub pid: i32,
    /// The time at which it was created.
    pub created_at: Timestamp,
    /// Its containers, by their id.
    pub containers: BTreeMap<String, ContainerState>,
}

/// Whether a sandbox can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxStatus {
    /// The shim process answers.
    Ready,
    /// Its shim has ended; only [`destroy`](crate::Sandbox::destroy) is left to do.
    Dead,
}

/// The state of a container at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its id, unique in the sandbox.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// The time at which it was created.
    pub created_at: Timestamp,
    /// Created, running or exited.
    pub status: ContainerStatus,
    /// Its log file; `None` if it has no log.
    pub log_path: Option<PathBuf>,
    /// The caller's annotations from its specification.
    pub annotations: BTreeMap<String, String>,
    /// Its user, after a lookup of names in the image.
    pub user: ResolvedUser,
    /// Whether its shim creates, starts or removes it at the moment. Shims of 0.1.0 do not report this.
    #[serde(default)]
    pub busy: bool,
}

/// Numeric identity of a container's first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// The stage of a container's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerStatus {
    /// Made, not started.
    Created,
    /// The first process is alive.
    Running {
        /// Process id on the node.
        pid: i32,
        /// The start time.
        started_at: Timestamp,
    },
    /// Its first process has ended, or could not be started.
    Exited(Exit),
}

/// The exit of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + signal when a signal ended it, 128 when it never started.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed it, or one of its processes, because memory ran out.
    pub oom_killed: bool,
    /// Its start time; absent if it never ran.
    pub started_at: Option<Timestamp>,
    /// The time at which it ended.
    pub finished_at: Timestamp,
    /// The error of its start (`StartError` in Kubernetes' status).
    pub start_error: Option<StartError>,
}

/// The advice for a process with too large an environment, which is the most likely cause.
pub(crate) const FEWER_VARIABLES: &str =
    "in a namespace with many Services, enableServiceLinks: false leaves their variables out";

/// The error of a process that could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// The kind of the error, which decides the exit code.
    pub kind: StartErrorKind,
    /// The whole message, as users know it (`exec: "foo": executable file not found in $PATH`).
    pub message: String,
}

/// The kinds of [`StartError`] that callers treat differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartErrorKind {
    /// No such executable in the container.
    CommandNotFound,
    /// It is there, but may not or cannot be executed.
    CommandNotExecutable,
    /// The user or group does not exist in the image.
    UserNotFound,
    /// A mount's source is missing or cannot be mounted.
    Mount,
    /// A path in a volume that is missing, leads out of it, or cannot be made.
    SubPath,
    /// Any other error.
    Other,
}

/// A change that a sandbox reports to its event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxEvent {
    /// A container's first process began to run.
    Started {
        /// Container id.
        container: String,
        /// Process id on the node.
        pid: i32,
        /// The time.
        at: Timestamp,
    },
    /// A container ended.
    Exited {
        /// Container id.
        container: String,
        exit: Exit,
    },
    /// The kernel killed a process of the container because memory ran out.
    OutOfMemory {
        /// Container id.
        container: String,
    },
    /// The shim has ended (destroyed or killed); the last event.
    Gone,
}

/// The usage of a container or pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time used since start, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes, with page cache that cannot be reclaimed at once.
    pub working_set_bytes: u64,
    /// All memory in bytes, with all page cache.
    pub memory_bytes: u64,
    /// Memory in bytes that is not file-backed: anonymous memory, with its part of the swap cache.
    pub rss_bytes: u64,
    /// The number of processes and threads.
    pub pids: u64,
}
