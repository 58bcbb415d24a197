//! The check of mounts over a container's `/proc`.
//!
//! Programs, and the runtime itself, control permissions through files in `/proc`. So no volume may cover
//! these files. The rule is runc's (`checkProcMount`).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use host_kernel::mount_table::{self, MountPoint};
use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags};

use crate::spec::{Mount, MountSource};

const PROC: &str = "/proc";

/// Files that volumes may cover, because LXCFS provides them for each container.
const COVERED_BY_LXCFS: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// File systems that a node has below its `/proc`, which a container may share.
const OF_PROC: &[&str] = &["proc", "binfmt_misc", "autofs"];

/// A mount would hide files of `/proc`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProcDestination {
    #[error("{0:?} cannot be mounted because it is not of type proc")]
    NotProc(PathBuf),
    #[error("{0:?} cannot be mounted because it is inside /proc")]
    InsideProc(PathBuf),
}

/// Checks the mount point of a pod's volume.
///
/// # Errors
/// The mount point is not allowed; a message for users.
pub(crate) fn check_destination(mount: &Mount) -> Result<(), ProcDestination> {
    let destination = normal(&mount.destination);
    if destination == Path::new(PROC) {
        return match &mount.source {
            MountSource::Bind { path, .. } if is_proc(path) => Ok(()),
            _ => Err(ProcDestination::NotProc(destination)),
        };
    }
    match is_guarded(&destination) {
        false => Ok(()),
        true => {
            cov_mark::hit!(findings_s31);
            Err(ProcDestination::InsideProc(destination))
        }
    }
}

fn is_proc(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|facts| facts.f_type == PROC_SUPER_MAGIC)
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

fn is_guarded(path: &Path) -> bool {
    path.starts_with(PROC)
        && !COVERED_BY_LXCFS
            .iter()
            .any(|covered| path == Path::new(covered))
}

/// Checks in the mount table that the `/proc` of this process is the kernel's, because the image or a
/// volume may contain links to it. `own` lists the paths that the runtime itself covers.
///
/// # Errors
/// Another mount covers a part of `/proc`.
pub(crate) fn check_mounted(planned: &[&str]) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let proc = rustix::fs::open(PROC, flags, Mode::empty())?;
    if rustix::fs::fstatfs(&proc)?.f_type != PROC_SUPER_MAGIC {
        return Err(io::Error::other("/proc is not of type proc"));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
    let table = rustix::fs::openat2(&proc, "self/mountinfo", flags, Mode::empty(), resolve)?;
    let mut bytes = Vec::new();
    File::from(table).read_to_end(&mut bytes)?;
    match foreign(&mount_table::parse(&bytes), planned) {
        None => Ok(()),
        Some(mount) => Err(io::Error::other(format!(
            "{:?} cannot be mounted because it is inside /proc",
            mount.path
        ))),
    }
}

/// The first mount over `/proc` that was created neither by the kernel nor by the runtime.
fn foreign<'a>(table: &'a [MountPoint], planned: &[&str]) -> Option<&'a MountPoint> {
    table.iter().find(|mount| {
        let is_planned = planned.iter().any(|path| mount.path == Path::new(path));
        let is_of_proc = OF_PROC.contains(&mount.file_system.as_str());
        is_guarded(&mount.path) && !is_planned && !is_of_proc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(to: &str) -> Mount {
        Mount {
            destination: to.into(),
            source: MountSource::Tmpfs {
                size_bytes: None,
                mode: 0o755,
            },
            read_only: false,
        }
    }

    /// findings S31
    #[test]
    fn volumes_are_not_mounted_over_proc() {
        cov_mark::check!(findings_s31);
        for to in [
            "/proc",
            "/proc/",
            "/proc/self",
            "/proc/sys/kernel",
            "/data/../proc/1",
            "/./proc//scsi",
            "/../proc/kcore",
        ] {
            let refused = check_destination(&volume(to)).unwrap_err().to_string();
            assert!(
                refused.contains("cannot be mounted because it is"),
                "{to}: {refused}"
            );
        }
        for to in [
            "/",
            "/data",
            "/processes",
            "/host/proc",
            "/sys",
            "/proc/../data",
            "/proc/cpuinfo",
        ] {
            assert_eq!(check_destination(&volume(to)), Ok(()), "{to}");
        }
        let of_node = |path: &str| Mount {
            source: MountSource::Bind {
                path: path.into(),
                sub_path: None,
                recursive_read_only: false,
                propagation: Default::default(),
            },
            ..volume("/proc")
        };
        assert_eq!(check_destination(&of_node("/proc")), Ok(()));
        assert!(check_destination(&of_node("/tmp")).is_err());
    }

    #[test]
    fn what_lies_over_proc_in_the_end_is_the_kernels_or_the_runtimes() {
        let table = |lines: &str| mount_table::parse(lines.as_bytes());
        let proc = "1 2 0:1 / /proc rw - proc proc rw\n";
        let guards = "3 1 0:1 /sys /proc/sys ro - proc proc rw\n\
             4 1 0:5 /null /proc/kcore rw - devtmpfs devtmpfs rw\n\
             5 1 0:6 / /proc/scsi ro - tmpfs tmpfs rw\n\
             6 3 0:7 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw\n\
             7 2 0:8 / /processes rw - tmpfs tmpfs rw\n\
             8 1 0:9 /meminfo /proc/meminfo rw - fuse.lxcfs lxcfs rw\n";
        let planned = ["/proc/kcore", "/proc/scsi"];
        assert_eq!(foreign(&table(&format!("{proc}{guards}")), &planned), None);
        for volume in [
            "9 1 0:9 / /proc rw - tmpfs tmpfs rw\n",
            "9 1 0:9 / /proc/self/attr rw - ext4 /dev/sda rw\n",
            "9 1 0:9 / /proc/sys/kernel rw - overlay overlay rw\n",
        ] {
            let table = table(&format!("{proc}{guards}{volume}"));
            assert!(foreign(&table, &planned).is_some(), "{volume}");
        }
    }
}
