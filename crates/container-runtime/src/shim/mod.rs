//! The pod's shim: one small process with one thread for each sandbox.
//!
//! [`Runtime`](crate::Runtime) starts the shim. The shim detaches from the agent, creates the pod's
//! namespaces, and serves its socket until a call destroys the sandbox. It must never start a thread,
//! because `fork` relies on a single thread.

mod confinement;
mod container;
mod limits;
mod sandbox;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use host_kernel::descriptors;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, fork, setsid};

use crate::cgroup;
use crate::client::cleanup;
use crate::protocol::SOCKET;
use crate::spec::SandboxSpec;
use crate::state_dir::{READY, SandboxFile};
use container::user_namespace::UserNamespace;
use sandbox::lease::LeaseWatch;
use sandbox::pause::NamespaceInits;
use sandbox::supervisor::Supervisor;

/// Mount point of the pod's shared memory in the sandbox's directory.
const SHM: &str = "shm";

/// Size of the pod's shared memory, as in other container runtimes.
const SHM_BYTES: u64 = 64 << 20;

/// Runs a shim until it exits. `args` are the arguments after `shim` on the command line: the directory of
/// the sandbox.
///
/// Must be called before the process has started any thread or opened any file. Prints `ready`, or an
/// error, on standard output; later errors go to standard error.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!("usage: shim DIR (started by the node agent, not by hand)");
        return ExitCode::from(2);
    };
    // SAFETY: this process has just been started, and has opened nothing.
    if let Err(error) = unsafe { descriptors::close_inherited() } {
        return refuse(&format!("close what the agent has open: {error}"));
    }
    // The agent reaps this process at once, and the child gets another parent. SAFETY: no thread has been
    // started, as the caller guarantees.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(errno) => return refuse(&format!("fork: {errno}")),
    }
    let mut supervisor = match set_up(PathBuf::from(dir)) {
        Ok(supervisor) => supervisor,
        Err(error) => return refuse(&error.to_string()),
    };
    if let Err(error) = say_ready() {
        // The agent died before it could use this sandbox, so everything is removed.
        eprintln!("shim: nobody waits for it: {error}");
        if let Err(error) = cleanup::clear(&supervisor.dir, &supervisor.file.cgroup) {
            eprintln!("shim: {error}");
        }
        return ExitCode::FAILURE;
    }
    match supervisor.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(reason: &str) -> ExitCode {
    println!("{reason}");
    ExitCode::FAILURE
}

/// Reports success to the agent, then closes the pipe to the agent.
fn say_ready() -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}")?;
    stdout.flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    descriptors::replace_stream(libc::STDOUT_FILENO, &null)
}

fn set_up(dir: PathBuf) -> io::Result<Supervisor> {
    setsid()?;
    umask(Mode::from_bits_truncate(0o022));
    std::env::set_current_dir(&dir).map_err(doing("enter the sandbox's directory"))?;
    let Some(lock) = cleanup::lock(&dir).map_err(doing("lock the sandbox"))? else {
        return Err(io::Error::other("another shim holds this sandbox"));
    };
    // The lock is held until the process exits; closing the file would release it.
    std::mem::forget(lock);
    let file = SandboxFile::read(&dir).map_err(doing("read the sandbox's specification"))?;
    nix::sys::prctl::set_name(c"mainstay-shim")?;
    nix::sys::prctl::set_child_subreaper(true)?;
    // The kernel should kill the shim last; containers get separate scores.
    for score in ["-999", "0"] {
        if fs::write("/proc/self/oom_score_adj", score).is_ok() {
            break;
        }
    }
    cgroup::move_self(&file.shim_cgroup).map_err(doing("leave the agent's control group"))?;
    cgroup::create(&file.cgroup, &file.spec.resources).map_err(doing("make the pod's group"))?;
    let lease = file.spec.lease.as_ref().map(LeaseWatch::open).transpose();
    let lease = lease.map_err(doing("watch the node's lease"))?;
    let users = make_namespaces(&file)?;
    if !file.spec.host_ipc {
        let root = users.as_ref().and_then(|users| users.ids.on_node(0));
        mount_shm(&dir.join(SHM), root.unwrap_or(0)).map_err(doing("mount shared memory"))?;
    }
    let signals = block_signals()?;
    let page = lease.as_ref().map(LeaseWatch::page);
    let processes = NamespaceInits::start(&file, users.as_ref(), page)
        .map_err(doing("make a process namespace"))?;
    let listener = listen().map_err(doing("open the socket"))?;
    let users = users.map(Rc::new);
    Ok(Supervisor::new(
        dir, file, listener, signals, processes, users, lease,
    ))
}

fn doing(what: &'static str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Creates the pod's namespaces and enters them, except its user namespace.
fn make_namespaces(file: &SandboxFile) -> io::Result<Option<UserNamespace>> {
    let spec = &file.spec;
    let mut kinds = CloneFlags::empty();
    kinds.set(
        CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS,
        !spec.host_network,
    );
    kinds.set(CloneFlags::CLONE_NEWIPC, !spec.host_ipc);
    match file.ids {
        Some(ids) => UserNamespace::create(ids, kinds, || set_up_namespaces(spec))
            .map(Some)
            .map_err(doing("make namespaces with users of their own")),
        None => {
            unshare(kinds).map_err(|errno| doing("make namespaces")(errno.into()))?;
            set_up_namespaces(spec)?;
            Ok(None)
        }
    }
}

/// Configures the pod's namespaces, as their root user.
fn set_up_namespaces(spec: &SandboxSpec) -> io::Result<()> {
    if !spec.host_network {
        raise_loopback().map_err(doing("raise the loopback interface"))?;
        if !spec.hostname.is_empty() {
            nix::unistd::sethostname(&spec.hostname)?;
        }
    }
    for (name, value) in &spec.sysctls {
        set_sysctl(spec, name, value)
            .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}: {error}")))?;
    }
    Ok(())
}

/// Sets a kernel parameter of the pod's namespaces. The node's parameters cannot be changed.
fn set_sysctl(spec: &SandboxSpec, name: &str, value: &str) -> io::Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let dotted = name.replace('/', ".");
    let own_network = !spec.host_network && dotted.starts_with("net.");
    let own_ipc =
        !spec.host_ipc && (IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue."));
    let legal = !name.contains("..") && !name.starts_with('/');
    if !(legal && (own_network || own_ipc)) {
        return Err(io::Error::other("is not of the pod's own namespaces"));
    }
    // A name with slashes is used unchanged, because the name of an interface may contain dots.
    let path = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    fs::write(Path::new("/proc/sys").join(path), value)
}

fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request names an interface and is valid during the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn mount_shm(target: &Path, root: u32) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let data = format!("mode=1777,size={SHM_BYTES},uid={root},gid={root}");
    mount(
        Some("shm"),
        target,
        Some("tmpfs"),
        flags,
        Some(data.as_str()),
    )?;
    Ok(())
}

/// Exits of children are read through a descriptor. The shim ignores termination signals, because the agent
/// decides about the containers.
fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Opens the socket with a relative name, because the path of the directory may be too long for a socket.
fn listen() -> io::Result<UnixListener> {
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let old = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(SOCKET);
    umask(old);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    // The sync makes the socket's directory entry durable. If it fails, the sandbox only counts as dead
    // after a power failure.
    File::open(".")?.sync_all().ok();
    Ok(listener)
}
