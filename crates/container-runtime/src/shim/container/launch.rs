//! The last steps inside the container before the command starts: terminal, limits, working directory,
//! filter, user, capabilities, `execve`.
//!
//! The steps run in a separate process: the first process of a container, after [`init`](super::init) has
//! built the root, or a process that has joined the namespaces of a running container. The process has all
//! capabilities of the shim until the last step. A failure is written to `status` as a [`StartError`]. On
//! success, `execve` closes the pipe.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use host_kernel::descriptors;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::working_directory;
use crate::sealed::{self, Identity};
use crate::shim::confinement::capabilities::{self, Capabilities};
use crate::shim::confinement::{keyring, proc_guard, seccomp};
use crate::spec::{FEWER_VARIABLES, ResolvedUser, StartError, StartErrorKind, TerminalSize};

/// `PATH` if the environment has none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The input of the last steps. It is prepared outside of the container, so that no file of the container
/// is trusted except the command.
#[derive(Clone)]
pub(crate) struct LaunchInput {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub user: ResolvedUser,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    /// System call filters, in the order of their installation.
    pub filters: Vec<Vec<libc::sock_filter>>,
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Paths of `/proc` that the runtime covers in a new container. `None` for a command in a running
    /// container, which has its mounts already.
    pub covered: Option<&'static [&'static str]>,
    /// The identity of the shim's program, which is not allowed as a command.
    pub own_program: Identity,
    /// Socket to which the master end of the terminal is sent; `None` without a terminal.
    pub terminal: Option<RawFd>,
    pub size: Option<TerminalSize>,
    /// Whether the terminal is also mounted at the container's `/dev/console`.
    pub console: bool,
    /// Pipe to which a `StartError` is written.
    pub status: RawFd,
}

impl LaunchInput {
    /// Executes the command. Returns only if the execution fails, after it has reported the reason.
    pub fn run(mut self) {
        let error = match self.prepare() {
            Ok(()) => self.execute(),
            Err(error) => error,
        };
        self.report(&error);
    }

    /// Reports why the command does not start.
    pub fn report(self, error: &StartError) {
        // SAFETY: only this process uses the descriptor, which is closed with it.
        let mut status = unsafe { File::from_raw_fd(self.status) };
        if let Ok(text) = serde_json::to_vec(error) {
            // A failure of this write cannot be reported. The end of the pipe is sufficient.
            status.write_all(&text).ok();
        }
    }

    fn prepare(&mut self) -> Result<(), StartError> {
        hide().map_err(other("hide what the shim has open"))?;
        for (resource, soft, hard) in &self.rlimits {
            set_limit(*resource, *soft, *hard).map_err(other("set resource limits"))?;
        }
        if let Some(socket) = self.terminal {
            self.open_terminal(socket)
                .map_err(other("open a terminal"))?;
        }
        if let Some(covered) = self.covered {
            proc_guard::check_mounted(covered).map_err(|error| StartError {
                kind: StartErrorKind::Mount,
                message: error.to_string(),
            })?;
        }
        keyring::join_new_session().map_err(other("make a session keyring"))?;
        self.enter_cwd()?;
        if self.no_new_privileges {
            nix::sys::prctl::set_no_new_privs()
                .map_err(|errno| other("give up new privileges")(errno.into()))?;
        }
        for filter in &mut self.filters {
            seccomp::install(filter).map_err(other("install the system call filter"))?;
        }
        capabilities::limit_bounding(self.capabilities).map_err(other("drop capabilities"))?;
        self.become_user()
            .map_err(other("change to the container's user"))?;
        capabilities::set_effective(self.capabilities).map_err(other("drop capabilities"))?;
        reset_signals().map_err(other("reset signals"))
    }

    fn enter_cwd(&self) -> Result<(), StartError> {
        let cwd = if self.cwd.is_empty() { "/" } else { &self.cwd };
        working_directory::enter(Path::new("/"), Path::new(cwd))
            .map_err(other(&format!("enter the working directory {cwd}")))
    }

    fn become_user(&self) -> io::Result<()> {
        let groups: Vec<_> = self
            .user
            .groups
            .iter()
            .map(|gid| nix::unistd::Gid::from_raw(*gid))
            .collect();
        nix::unistd::setgroups(&groups)?;
        let gid = nix::unistd::Gid::from_raw(self.user.gid);
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::sys::prctl::set_keepcaps(true)?;
        let uid = nix::unistd::Uid::from_raw(self.user.uid);
        nix::unistd::setresuid(uid, uid, uid)?;
        nix::sys::prctl::set_keepcaps(false)?;
        self.check_user()
    }

    /// Checks the ids of this process. The kernel ignores an id with the value that means "unchanged", so
    /// the ids are read back.
    fn check_user(&self) -> io::Result<()> {
        let user = nix::unistd::getresuid()?;
        let group = nix::unistd::getresgid()?;
        let users = [user.real, user.effective, user.saved].map(|id| id.as_raw());
        let groups = [group.real, group.effective, group.saved].map(|id| id.as_raw());
        let mut actual_groups: Vec<u32> = nix::unistd::getgroups()?
            .into_iter()
            .map(|id| id.as_raw())
            .collect();
        let mut desired_groups = self.user.groups.clone();
        actual_groups.sort_unstable();
        desired_groups.sort_unstable();
        if users == [self.user.uid; 3]
            && groups == [self.user.gid; 3]
            && actual_groups == desired_groups
        {
            return Ok(());
        }
        let (users, groups) = (users[0], groups[0]);
        Err(io::Error::other(format!(
            "it is user {users} and group {groups} with {actual_groups:?} instead"
        )))
    }

    /// Opens a terminal in the container's devpts, so that the name of the terminal is valid inside.
    fn open_terminal(&self, socket: RawFd) -> io::Result<()> {
        let master = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open("/dev/ptmx")?;
        let node = master.metadata()?;
        // The image might contain another file at this path.
        if !node.file_type().is_char_device() || node.rdev() != libc::makedev(5, 2) {
            return Err(io::Error::other("/dev/ptmx is no terminal multiplexer"));
        }
        rustix::pty::unlockpt(&master)?;
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(self.user.uid)), None)?;
        if let Some(size) = self.size {
            set_terminal_size(&slave, size)?;
        }
        if self.console {
            // Few programs need `/dev/console`, and the terminal works without it.
            if let Err(error) = make_console(&slave) {
                tracing::debug!(%error, "no /dev/console");
            }
        }
        send_descriptor(socket, master.as_raw_fd())?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        (0..=2).try_for_each(|stream| descriptors::replace_stream(stream, &slave))
    }

    fn execute(&self) -> StartError {
        let Some(name) = self.args.first() else {
            return StartError {
                kind: StartErrorKind::CommandNotFound,
                message: "no command specified".to_owned(),
            };
        };
        let path = match self.find_command(name) {
            Ok(path) => path,
            Err(error) => return error,
        };
        // The interpreter of a script can still be the shim's program. The program is protected, because it
        // cannot be changed.
        if sealed::identity(&path).is_ok_and(|identity| identity == self.own_program) {
            return StartError {
                kind: StartErrorKind::CommandNotExecutable,
                message: format!("exec: {name:?}: is the container runtime's own program"),
            };
        }
        let strings = |texts: Vec<String>| {
            let strings: Result<Vec<_>, _> = texts.into_iter().map(CString::new).collect();
            strings
        };
        let env = self
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let (Ok(path), Ok(args), Ok(env)) = (
            CString::new(path.as_os_str().as_bytes()),
            strings(self.args.clone()),
            strings(env),
        ) else {
            return StartError {
                kind: StartErrorKind::Other,
                message: "command or environment contains a NUL byte".to_owned(),
            };
        };
        let Err(errno) = nix::unistd::execve(&path, &args, &env);
        let kind = match errno {
            nix::Error::ENOENT => StartErrorKind::CommandNotFound,
            nix::Error::EACCES | nix::Error::ENOEXEC | nix::Error::EPERM => {
                StartErrorKind::CommandNotExecutable
            }
            _ => StartErrorKind::Other,
        };
        let mut reason = errno.desc().to_ascii_lowercase();
        if errno == nix::Error::E2BIG {
            let bytes: usize = args
                .iter()
                .chain(&env)
                .map(|text| text.count_bytes() + 1)
                .sum();
            let (args, env) = (args.len(), env.len());
            reason = format!(
                "{reason}: {args} arguments and {env} variables of {bytes} bytes ({FEWER_VARIABLES})"
            );
        }
        StartError {
            kind,
            message: format!("exec {}: {reason}", path.to_string_lossy()),
        }
    }

    /// Looks up the command with the permissions of the container's user.
    fn find_command(&self, name: &str) -> Result<PathBuf, StartError> {
        if name.contains('/') {
            return match executable(Path::new(name)) {
                Ok(()) => Ok(PathBuf::from(name)),
                Err(errno) => Err(StartError {
                    kind: match errno {
                        nix::Error::ENOENT => StartErrorKind::CommandNotFound,
                        _ => StartErrorKind::CommandNotExecutable,
                    },
                    message: match errno {
                        nix::Error::ENOENT => {
                            format!("exec: {name:?}: stat {name}: no such file or directory")
                        }
                        nix::Error::EISDIR => format!("exec: {name:?}: is a directory"),
                        _ => format!("exec: {name:?}: {}", errno.desc().to_ascii_lowercase()),
                    },
                }),
            };
        }
        let path = self.env.iter().rev().find(|(key, _)| key == "PATH");
        let path = path.map_or(DEFAULT_PATH, |(_, value)| value);
        let mut is_forbidden = false;
        for dir in path
            .split(':')
            .map(|dir| if dir.is_empty() { "." } else { dir })
        {
            let candidate = Path::new(dir).join(name);
            match executable(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(nix::Error::EACCES) => is_forbidden = true,
                Err(_) => {}
            }
        }
        Err(match is_forbidden {
            true => StartError {
                kind: StartErrorKind::CommandNotExecutable,
                message: format!("exec: {name:?}: permission denied"),
            },
            false => StartError {
                kind: StartErrorKind::CommandNotFound,
                message: format!("exec: {name:?}: executable file not found in $PATH"),
            },
        })
    }
}

/// Mounts the opened terminal at `/dev/console`, independent of the present target of its name
/// (CVE-2025-52565).
fn make_console(terminal: &OwnedFd) -> io::Result<()> {
    let console = OpenOptions::new()
        .create(true)
        .append(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY)
        .open("/dev/console")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(terminal, "", flags)?;
    let by_descriptors =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&tree, "", &console, "", by_descriptors)?)
}

fn executable(path: &Path) -> nix::Result<()> {
    let metadata = nix::sys::stat::stat(path)?;
    if metadata.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(nix::Error::EISDIR);
    }
    // `access` allows root everything, but a file without an execute bit cannot be executed.
    let bits = fs::Permissions::from_mode(metadata.st_mode).mode();
    if bits & 0o111 == 0 {
        return Err(nix::Error::EACCES);
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)
}

fn other(doing: &str) -> impl FnOnce(io::Error) -> StartError {
    let doing = doing.to_owned();
    move |error| StartError {
        kind: StartErrorKind::Other,
        message: format!("{doing}: {error}"),
    }
}

/// Sets a limit, or the nearest limit that this process is allowed to set.
fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let requested = libc::rlimit {
        rlim_cur: soft.min(hard),
        rlim_max: hard,
    };
    // SAFETY: the structure is valid during the call.
    if unsafe { libc::setrlimit(resource as _, &raw const requested) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(error);
    }
    let mut current = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is valid during the call, which writes it.
    if unsafe { libc::getrlimit(resource as _, &raw mut current) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let hard = hard.min(current.rlim_max);
    let allowed = libc::rlimit {
        rlim_cur: soft.min(hard),
        rlim_max: hard,
    };
    // SAFETY: the structure is valid during the call.
    match unsafe { libc::setrlimit(resource as _, &raw const allowed) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Protects this process from the container: processes of the container can neither inspect nor trace it,
/// and the command inherits only the standard streams.
fn hide() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    descriptors::keep_from_children()
}

/// Resets the signal settings of the shim, which the command would inherit.
fn reset_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default action runs no handler.
        unsafe { nix::sys::signal::sigaction(signal, &default)? };
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Sets the window size of a terminal (`TIOCSWINSZ`).
pub(crate) fn set_terminal_size<F: std::os::fd::AsFd>(
    terminal: F,
    size: TerminalSize,
) -> io::Result<()> {
    let size = rustix::termios::Winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

fn send_descriptor(socket: RawFd, descriptor: RawFd) -> io::Result<()> {
    let descriptors = [descriptor];
    let message = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(
        socket,
        &[IoSlice::new(b"t")],
        &message,
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

/// Receives the descriptor that [`LaunchInput`] has sent; `None` if it sent none.
pub(crate) fn receive_descriptor(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut vectors = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message =
        nix::sys::socket::recvmsg::<()>(socket.as_raw_fd(), &mut vectors, Some(&mut space), flags)
            .ok()?;
    for control in message.cmsgs().ok()? {
        if let nix::sys::socket::ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just created these descriptors for this process.
            return descriptors
                .first()
                .map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    None
}
