//! The shims' program, protected against changes.
//!
//! The first process of a container, and each command in the container, runs the program of the shim until
//! it executes its command. A process of the container can open the shim's program through
//! `/proc/<pid>/exe`, which must not give write access to the node's file (the class of CVE-2019-5736). So
//! shims are executed from a detached, read-only copy of the file's mount. No permission inside a container
//! makes the copy writable, and its pages are shared with the file.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, StatxFlags, fcntl_add_seals};
use rustix::mount::{OpenTreeFlags, open_tree};

use host_kernel::mounts::{self, Attributes};

/// A program that can be executed through [`path`](SealedProgram::path) while the value exists.
#[derive(Debug)]
pub(crate) struct SealedProgram(OwnedFd);

impl SealedProgram {
    /// Seals the program at a path.
    ///
    /// `in_memory` is used on machines that cannot copy a mount: it stores a copy of the file in memory
    /// that all shims share.
    ///
    /// # Errors
    /// Neither method works. The program must not be executed then.
    pub fn open(path: &Path, in_memory: &OnceLock<OwnedFd>) -> io::Result<SealedProgram> {
        match on_read_only_mount(path) {
            Ok(program) => return Ok(SealedProgram(program)),
            Err(error) => tracing::debug!(%error, "no read-only mount for the shim's program"),
        }
        let program = match in_memory.get() {
            Some(program) => program,
            None => {
                let copy = sealed_copy(path)?;
                in_memory.get_or_init(|| copy)
            }
        };
        Ok(SealedProgram(program.try_clone()?))
    }

    /// A path of the program, valid in this process and in processes that it has just forked.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// The identity of a file and its mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    mount: u64,
    device: (u32, u32),
    inode: u64,
}

pub(crate) fn identity(path: &Path) -> io::Result<Identity> {
    let mask = StatxFlags::INO | StatxFlags::MNT_ID;
    let status = rustix::fs::statx(CWD, path, AtFlags::empty(), mask)?;
    Ok(Identity {
        mount: status.stx_mnt_id,
        device: (status.stx_dev_major, status.stx_dev_minor),
        inode: status.stx_ino,
    })
}

/// Opens the file through a detached read-only mount.
fn on_read_only_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&file, "", flags)?;
    let attributes = Attributes {
        set: mounts::READ_ONLY | mounts::NO_SETUID | mounts::NO_DEVICES,
        ..Attributes::default()
    };
    mounts::set_attributes(&tree, &attributes, 0)?;
    Ok(tree)
}

/// A copy of the file in memory. Its content cannot be changed, and its execute permission cannot be
/// removed.
fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = match rustix::fs::memfd_create("mainstay-shim", flags | MemfdFlags::EXEC) {
        // Linux before 6.3 does not have this flag.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("mainstay-shim", flags)?,
        result => result?,
    };
    let mut copy = File::from(memfd);
    io::copy(&mut File::open(path)?, &mut copy)?;
    copy.set_permissions(Permissions::from_mode(0o555))?;
    match fcntl_add_seals(&copy, SealFlags::EXEC) {
        // Linux before 6.3 has no seal for the execute permission.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    let content = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    fcntl_add_seals(&copy, content | SealFlags::SEAL)?;
    cov_mark::hit!(findings_s2);
    // A file that is open for writing cannot be executed, so the file is reopened.
    let name = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(File::open(name)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings S2: the fallback for machines that cannot copy a mount.
    #[test]
    fn a_program_in_memory_runs_and_cannot_be_changed() {
        cov_mark::check!(findings_s2);
        let program = SealedProgram(sealed_copy(Path::new("/usr/bin/true")).unwrap());
        let path = program.path();
        let ended = std::process::Command::new(&path).status().unwrap();
        assert!(ended.success());
        for changed in [
            std::fs::write(&path, "x"),
            File::options()
                .append(true)
                .open(&path)
                .and_then(|file| file.set_len(1)),
        ] {
            assert_eq!(changed.unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
    }
}
