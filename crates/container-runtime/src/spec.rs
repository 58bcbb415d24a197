//! The requests of callers and the reports of the runtime: plain data.
//!
//! The types are sent over the shim's socket and stored in its state directory. So each new field has a
//! default, and no field changes its meaning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The specification of a pod's sandbox: the namespaces that its containers share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// Id of the sandbox: the pod's UID. Only letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// Host name inside the pod; ignored with `host_network`.
    pub hostname: String,
    /// Whether the pod uses the node's network namespace and host name.
    pub host_network: bool,
    /// Whether the pod uses the node's IPC namespace.
    pub host_ipc: bool,
    /// Whether the pod uses the node's process namespace.
    pub host_pid: bool,
    /// Whether all containers of the pod share one process namespace.
    pub share_process_namespace: bool,
    /// Whether the pod has a user namespace. Then ids and capabilities of its containers are valid only
    /// there, and the pod must not use namespaces of the node.
    pub own_users: bool,
    /// Kernel parameters of the pod's namespaces (`net.core.somaxconn` → value).
    pub sysctls: BTreeMap<String, String>,
    /// Limits of the pod as a whole, set in the parent group of its containers' control groups.
    pub resources: Resources,
    /// The Lease with which the sandbox stops. All processes of the sandbox then also stop with the shim.
    /// Not possible with `host_pid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<NodeLease>,
    /// Annotations of the caller, such as the pod's name and namespace: stored and returned, never read.
    pub annotations: BTreeMap<String, String>,
}

/// The Lease of a node with which a sandbox stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLease {
    /// The path of the [deadline page](host_kernel::deadline).
    pub page: PathBuf,
    /// Containers are asked to stop this long before the deadline, in milliseconds.
    pub warning_ms: u64,
}

/// A container of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Id in the sandbox, for example `<name>-<attempt>`; never used twice.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// The overlay that becomes the root file system of the container.
    pub rootfs: RootfsSpec,
    /// Entry point and arguments; the entry point is looked up in the container's `PATH`.
    pub args: Vec<String>,
    /// Environment, in order; the last entry of a name is used.
    pub env: Vec<EnvVar>,
    /// Working directory; `/` if empty. Created if the image does not have it.
    pub cwd: String,
    pub user: UserSpec,
    /// Mounts in addition to the default mounts (`/proc`, `/dev`, `/sys`, …), in order.
    pub mounts: Vec<Mount>,
    /// Device nodes in addition to the default nodes.
    pub devices: Vec<Device>,
    /// Limits of CPU, memory, processes and huge pages.
    pub resources: Resources,
    pub security: Security,
    /// Id of a running container of the sandbox whose process namespace this container shares, if the pod
    /// does not share one.
    pub process_target: Option<String>,
    /// Size limit of `/dev/shm` in bytes; 64 MiB if absent.
    pub shm_bytes: Option<u64>,
    /// Resource limits of the first process: the name, such as `RLIMIT_NOFILE`, and the soft and hard
    /// limit. Limits above the node's limits are lowered.
    pub rlimits: BTreeMap<String, (u64, u64)>,
    /// `oom_score_adj` of the first process, limited to the range that the node may set.
    pub oom_score_adj: Option<i32>,
    /// Whether the container has a terminal.
    pub tty: bool,
    /// Whether standard input stays open for [`attach`](crate::Sandbox::attach).
    pub stdin: bool,
    /// Whether standard input closes when the first attached client disconnects.
    pub stdin_once: bool,
    /// The log of the container's output.
    pub log: LogSpec,
    /// Annotations of the caller: stored and returned, never read.
    pub annotations: BTreeMap<String, String>,
}

/// An overlay of read-only layers and one writable directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootfsSpec {
    /// Unpacked layers, the **top layer last** (as in `image_store::Image::layers`).
    pub lowerdirs: Vec<PathBuf>,
    /// The directory that receives the container's writes. Created if missing, removed with the container.
    pub upper_dir: PathBuf,
    /// The work directory of overlayfs, on the file system of `upper_dir`. Created if missing, removed with
    /// the container.
    pub work_dir: PathBuf,
    /// Whether the container's root file system is read-only.
    pub read_only: bool,
}

/// An environment variable of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    pub name: String,
    /// The value, with expanded references.
    pub value: String,
}

/// Maximum user or group id of a container, as in Kubernetes. The kernel treats the largest 32-bit number
/// as "unchanged", so the process would keep the shim's id: root.
pub const ID_MAX: u32 = i32::MAX as u32;

/// The user of the process. No id is greater than [`ID_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserSpec {
    /// The image's `USER`: empty, `uid`, `name`, `uid:gid` or `name:group`. Names are looked up in
    /// `/etc/passwd` and `/etc/group` of the image.
    pub name: String,
    /// `runAsUser`; has priority over `name`.
    pub uid: Option<u32>,
    /// `runAsGroup`; has priority over the group of `name` and of the image's `/etc/passwd`.
    pub gid: Option<u32>,
    /// Group ids of `fsGroup` and `supplementalGroups`.
    pub supplementary_groups: Vec<u32>,
    /// Whether the groups that the image's `/etc/group` lists for the user are left out
    /// (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
}

/// A file or directory that is mounted into the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; created if missing.
    pub destination: PathBuf,
    pub source: MountSource,
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
        /// A path below `path` (`subPath`). The resolution never leaves `path`, even through symbolic links
        /// in the volume. Created as a directory if missing.
        #[serde(default)]
        sub_path: Option<PathBuf>,
        /// Whether submounts become read-only, too, if the mount is read-only.
        #[serde(default)]
        recursive_read_only: bool,
        /// The propagation of later mounts between node and container.
        #[serde(default)]
        propagation: Propagation,
    },
    /// The files of an image; read-only and not executable.
    Layers {
        /// Unpacked layers, the **top layer last**.
        lowerdirs: Vec<PathBuf>,
        /// A path in the layers, as with `Bind`; the path must exist.
        #[serde(default)]
        sub_path: Option<PathBuf>,
    },
    /// A file system in memory.
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
    /// `Bidirectional`; only for privileged containers, which the caller checks.
    Bidirectional,
}

/// A device node of the node in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Any combination of `r`, `w`, `m`.
    pub access: String,
    /// Permission bits in the container; if absent, those on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// The owner in the container; if absent, the owner on the node.
    #[serde(default)]
    pub uid: Option<u32>,
    /// The group in the container; if absent, the group on the node.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// Limits of a pod or a container. An absent value sets no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Weight as in version 1 of control groups (1024 per processor); converted for version 2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period.
    pub cpu_quota_us: Option<i64>,
    /// The period in microseconds; 100000 if absent.
    pub cpu_period_us: Option<u64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<i64>,
    /// Maximum number of processes and threads.
    pub pids: Option<i64>,
    /// Maximum bytes of huge pages, by the name of the page size in control groups (`2MB`, `1GB`).
    pub huge_pages: BTreeMap<String, i64>,
}

/// Capabilities, seccomp filter and other restrictions of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Whether the container has all capabilities and devices, and no masked paths.
    pub privileged: bool,
    /// Capabilities that are added to the default set, with or without the prefix `CAP_`; `ALL` means all.
    pub capabilities_add: Vec<String>,
    /// Capabilities that are removed from the default set and the additions. `ALL` keeps capabilities that
    /// are added by name.
    pub capabilities_drop: Vec<String>,
    /// Whether `no_new_privs` is set (`allowPrivilegeEscalation: false`).
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// Whether no paths in `/proc` are covered (`procMount: Unmasked`).
    pub unmasked_proc: bool,
    /// Whether files must stay in the quota project of their volume; privileged containers are not
    /// restricted.
    pub keeps_projects: bool,
}

/// System call filter of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// No filter: the Kubernetes default.
    #[default]
    Unconfined,
    /// The default profile of the runtime: rejects calls that containers do not need.
    RuntimeDefault,
    /// The profile in a file of the node, as JSON.
    Localhost(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// The log file in CRI format; its directory is created if missing. Without a path, the output is
    /// discarded. Rotated files are `<path>.1` (newest) to `<path>.<files_max - 1>`.
    pub path: Option<PathBuf>,
    /// A file is rotated before it exceeds this size, in bytes.
    pub file_bytes_max: u64,
    /// Number of files, including the current file.
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
    pub container: String,
    /// The command and its arguments; the command is looked up in the container's `PATH`.
    pub args: Vec<String>,
    /// Variables that are added to the container's environment.
    pub env: Vec<EnvVar>,
    /// Working directory; if empty, the container's.
    pub cwd: String,
    /// Whether the command has a terminal; then all its output is standard output.
    pub tty: bool,
    /// Whether the session sends standard input.
    pub stdin: bool,
    /// Initial size of the terminal.
    pub terminal: Option<TerminalSize>,
    /// Whether the command is killed if the session is dropped (probes, hooks). Otherwise only its streams
    /// close, and its terminal hangs up.
    pub kill_on_drop: bool,
}

/// A connection to the standard streams of a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachSpec {
    pub container: String,
    /// Whether standard input is connected (only useful if the container was created with `stdin`).
    pub stdin: bool,
    /// Initial size of the terminal.
    pub terminal: Option<TerminalSize>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// The state of a sandbox and of its containers at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    /// The specification of the sandbox.
    pub spec: SandboxSpec,
    /// Whether the shim is alive.
    pub status: SandboxStatus,
    /// The process id of the shim; of a dead sandbox, the former process id.
    pub pid: i32,
    pub created_at: Timestamp,
    /// The containers, by id.
    pub containers: BTreeMap<String, ContainerState>,
}

/// Whether a sandbox can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxStatus {
    /// The shim responds.
    Ready,
    /// The shim has exited; only [`destroy`](crate::Sandbox::destroy) is possible.
    Dead,
}

/// The state of a container at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Id, unique in the sandbox.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    pub created_at: Timestamp,
    pub status: ContainerStatus,
    /// The log file; `None` if the container has no log.
    pub log_path: Option<PathBuf>,
    /// The caller's annotations from the specification.
    pub annotations: BTreeMap<String, String>,
    /// The user of the first process, with names resolved.
    pub user: ResolvedUser,
    /// Whether the shim currently creates, starts or removes the container. Shims of version 0.1.0 do not
    /// report this field.
    #[serde(default)]
    pub busy: bool,
}

/// The numeric ids of a container's first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
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
    /// The container is created, but not started.
    Created,
    /// The first process is alive.
    Running {
        /// Process id on the node.
        pid: i32,
        started_at: Timestamp,
    },
    /// The first process has exited, or could not be started.
    Exited(Exit),
}

/// The exit of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + signal if a signal killed the process, 128 if the command never ran.
    pub code: i32,
    /// The signal that killed the process.
    pub signal: Option<i32>,
    /// Whether the kernel killed it, or one of its processes, because memory ran out.
    pub oom_killed: bool,
    /// The start time; absent if the command never ran.
    pub started_at: Option<Timestamp>,
    /// The exit time.
    pub finished_at: Timestamp,
    /// The error of the start (`StartError` in the pod's status).
    pub start_error: Option<StartError>,
}

/// Advice for a process whose environment is too large, with the most likely cause.
pub(crate) const FEWER_VARIABLES: &str =
    "in a namespace with many Services, enableServiceLinks: false leaves their variables out";

/// The error of a process that could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// The kind of the error, which decides the exit code.
    pub kind: StartErrorKind,
    /// The complete message for users (`exec: "foo": executable file not found in $PATH`).
    pub message: String,
}

/// The kinds of [`StartError`] that callers treat differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartErrorKind {
    /// The container has no such executable.
    CommandNotFound,
    /// The command exists, but may not or cannot be executed.
    CommandNotExecutable,
    /// The user or group does not exist in the image.
    UserNotFound,
    /// A mount's source is missing or cannot be mounted.
    Mount,
    /// A path in a volume is missing, leaves the volume, or cannot be created.
    SubPath,
    /// Any other error.
    Other,
}

/// A change that a sandbox reports to its event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxEvent {
    /// The first process of a container has started.
    Started {
        container: String,
        /// Process id on the node.
        pid: i32,
        /// The start time.
        at: Timestamp,
    },
    /// A container has exited.
    Exited { container: String, exit: Exit },
    /// The kernel killed a process of the container because memory ran out.
    OutOfMemory { container: String },
    /// The shim has exited. This event is the last.
    Gone,
}

/// The usage of a container or pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time used since the start, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes, with page cache that cannot be reclaimed at once.
    pub working_set_bytes: u64,
    /// All memory in bytes, including the page cache.
    pub memory_bytes: u64,
    /// Memory in bytes that is not file-backed: anonymous memory, including its part of the swap cache.
    pub rss_bytes: u64,
    /// The number of processes and threads.
    pub pids: u64,
}
