//! The user namespace of a pod: its ids are not the node's, and its privileges are limited to its
//! own namespaces.
//!
//! The shim itself stays a user of the node: mounts, cgroups and logs are its work. So a child
//! creates the namespaces, because only their creator can own them, and the shim joins all of them
//! except the user namespace.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Uid, fork, setresgid, setresuid};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::id_range::IdRange;

/// The child's message after creating the namespaces, and after setting them up. Any other message
/// is an error.
const MADE: &str = "made";
const SET_UP: &str = "set up";

/// A user namespace, held open.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    handle: File,
    pub ids: IdRange,
}

impl UserNamespace {
    /// Makes a user namespace and, owned by it, namespaces of other `kinds`, which this process
    /// enters. `set_up` runs in all of them, as their root.
    pub fn create(
        ids: IdRange,
        kinds: CloneFlags,
        set_up: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<UserNamespace> {
        let (mut ours, theirs) = UnixStream::pair()?;
        // SAFETY: this process has one thread, so the child has no restrictions after the fork.
        let child = match unsafe { fork()? } {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                drop(ours);
                make(theirs, kinds, set_up);
                // SAFETY: ends the child at once; nothing of the parent's is run or flushed.
                unsafe { libc::_exit(0) }
            }
        };
        drop(theirs);
        let joined = (|| {
            expect(&mut ours, MADE)?;
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{child}/{map}"), ids.map())?;
            }
            say(&mut ours, MADE)?;
            expect(&mut ours, SET_UP)?;
            let handle = File::open(format!("/proc/{child}/ns/user"))?;
            let process = Pid::from_raw(child.as_raw())
                .ok_or_else(|| io::Error::other("the child has no id"))?;
            setns(pidfd_open(process, PidfdFlags::empty())?.as_fd(), kinds)?;
            Ok(UserNamespace { handle, ids })
        })();
        // The child ends when it reads the end of the pipe.
        drop(ours);
        waitpid(child, None)?;
        joined
    }

    /// Makes this process root of the namespace.
    pub fn enter(&self) -> io::Result<()> {
        setns(self.handle.as_fd(), CloneFlags::CLONE_NEWUSER)?;
        become_root()
    }

    /// The file descriptor of the namespace.
    pub fn handle(&self) -> &File {
        &self.handle
    }
}

/// Takes the ids of root in a user namespace that was just entered: the ids of the node do not exist there.
pub(crate) fn become_root() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// The child's part.
fn make(mut parent: UnixStream, kinds: CloneFlags, set_up: impl FnOnce() -> io::Result<()>) {
    let made = (|| {
        unshare(CloneFlags::CLONE_NEWUSER | kinds)?;
        say(&mut parent, MADE)?;
        expect(&mut parent, MADE)?;
        become_root()?;
        set_up()
    })();
    let word = match made {
        Ok(()) => SET_UP.to_owned(),
        Err(error) => error.to_string(),
    };
    // The namespaces live with this process until the parent has them: it waits for the end.
    if say(&mut parent, &word).is_ok() {
        parent.read_exact(&mut [0]).ok();
    }
}

/// Sends a word: its length, its bytes.
fn say(to: &mut UnixStream, word: &str) -> io::Result<()> {
    let bytes = &word.as_bytes()[..word.len().min(usize::from(u8::MAX))];
    to.write_all(&[bytes.len() as u8])?;
    to.write_all(bytes)
}

/// Takes a word, which should be the expected one.
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
