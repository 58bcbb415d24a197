//! The user namespace of a pod: its ids are not the node's, and its privileges are limited to the pod's
//! namespaces.
//!
//! The shim stays a user of the node, because it manages mounts, control groups and logs. Only the creator
//! of namespaces can own them, so a child creates the namespaces, and the shim joins all of them except the
//! user namespace.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Uid, fork, setresgid, setresuid};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::id_range::IdRange;

/// The child's message after it has created the namespaces, and again after it has set them up. Any other
/// message is an error.
const CREATED: &str = "made";
const SET_UP: &str = "set up";

/// An open user namespace.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    handle: File,
    pub ids: IdRange,
}

impl UserNamespace {
    /// Creates a user namespace and the namespaces `kinds`, which it owns and which this process enters.
    /// `set_up` runs in all of them, as their root user.
    pub fn create(
        ids: IdRange,
        kinds: CloneFlags,
        set_up: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<UserNamespace> {
        let (mut ours, theirs) = UnixStream::pair()?;
        // SAFETY: this process has one thread, so the child may call any function.
        let child = match unsafe { fork()? } {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                drop(ours);
                make(theirs, kinds, set_up);
                // SAFETY: exits at once; no code or buffer of the parent is run or flushed.
                unsafe { libc::_exit(0) }
            }
        };
        drop(theirs);
        let joined = (|| {
            expect(&mut ours, CREATED)?;
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{child}/{map}"), ids.map())?;
            }
            say(&mut ours, CREATED)?;
            expect(&mut ours, SET_UP)?;
            let handle = File::open(format!("/proc/{child}/ns/user"))?;
            let process = Pid::from_raw(child.as_raw())
                .ok_or_else(|| io::Error::other("the child has no id"))?;
            setns(pidfd_open(process, PidfdFlags::empty())?.as_fd(), kinds)?;
            Ok(UserNamespace { handle, ids })
        })();
        // The child exits when it reads the end of the pipe.
        drop(ours);
        waitpid(child, None)?;
        joined
    }

    /// Makes this process the root user of the namespace.
    pub fn enter(&self) -> io::Result<()> {
        setns(self.handle.as_fd(), CloneFlags::CLONE_NEWUSER)?;
        become_root()
    }

    /// The open file of the namespace.
    pub fn handle(&self) -> &File {
        &self.handle
    }
}

/// Changes the ids of this process to root of the user namespace that it has just entered, because ids of
/// the node do not exist there.
pub(crate) fn become_root() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// The child's part of [`UserNamespace::create`].
fn make(mut parent: UnixStream, kinds: CloneFlags, set_up: impl FnOnce() -> io::Result<()>) {
    let result = (|| {
        unshare(CloneFlags::CLONE_NEWUSER | kinds)?;
        say(&mut parent, CREATED)?;
        expect(&mut parent, CREATED)?;
        become_root()?;
        set_up()
    })();
    let word = match result {
        Ok(()) => SET_UP.to_owned(),
        Err(error) => error.to_string(),
    };
    // The namespaces exist as long as this process, which waits until the parent has opened them.
    if say(&mut parent, &word).is_ok() {
        parent.read_exact(&mut [0]).ok();
    }
}

/// Sends a message: its length, then its bytes.
fn say(to: &mut UnixStream, word: &str) -> io::Result<()> {
    let bytes = &word.as_bytes()[..word.len().min(usize::from(u8::MAX))];
    to.write_all(&[bytes.len() as u8])?;
    to.write_all(bytes)
}

/// Receives a message, and fails if it is not the expected one.
fn expect(from: &mut UnixStream, expected: &str) -> io::Result<()> {
    let mut length = [0];
    from.read_exact(&mut length)?;
    let mut word = vec![0; usize::from(length[0])];
    from.read_exact(&mut word)?;
    match word == expected.as_bytes() {
        true => Ok(()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&word).into_owned(),
        )),
    }
}
