//! Reads the kernel's mount table, and sets what a mount may do.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::spec::Propagation;

// Of `linux/mount.h`.
pub(crate) const READ_ONLY: u64 = 0x1;
pub(crate) const NO_SETUID: u64 = 0x2;
pub(crate) const NO_DEVICES: u64 = 0x4;
pub(crate) const IDS_MAPPED: u64 = 0x0010_0000;

/// `struct mount_attr` of `linux/mount.h`.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    /// Descriptor of the user namespace whose ids are mapped.
    pub user_namespace: u64,
}

/// Changes the attributes of a mount, with `AT_RECURSIVE` of all below it.
pub(crate) fn set_attributes(
    tree: &OwnedFd,
    attributes: &Attributes,
    flags: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the empty name and the structure, of the size given, live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One line of `mountinfo`, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountPoint {
    /// What of the file system is there.
    pub root: PathBuf,
    pub path: PathBuf,
    pub file_system: String,
    pub super_options: String,
    pub travel: Travel,
}

/// Whether mounts made elsewhere appear here, and those made here elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Travel {
    /// It has peers, which get what is mounted here.
    pub shared: bool,
    /// It has a master, from which it gets what is mounted there.
    pub slave: bool,
}

/// Parses `/proc/<pid>/mountinfo`; lines that are not understood are left out.
pub(crate) fn parse(table: &[u8]) -> Vec<MountPoint> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let path = fields.next()?;
    // Options, then optional fields, which end with a lone dash.
    let mut rest = fields.skip(1);
    let mut travel = Travel::default();
    for field in rest.by_ref().take_while(|field| *field != b"-") {
        travel.shared |= field.starts_with(b"shared:");
        travel.slave |= field.starts_with(b"master:");
    }
    let file_system = String::from_utf8_lossy(rest.next()?).into_owned();
    let super_options = String::from_utf8_lossy(rest.nth(1)?).into_owned();
    Some(MountPoint {
        root: unescape(root),
        path: unescape(path),
        file_system,
        super_options,
        travel,
    })
}

/// The kernel writes space, tab, line feed and backslash as three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |at: usize| {
            let digit = tail.get(at)?.checked_sub(b'0')?;
            (digit < 8).then_some(u32::from(digit))
        };
        match (byte, octal(0), octal(1), octal(2)) {
            (b'\\', Some(a), Some(b), Some(c)) => {
                out.push((a << 6 | b << 3 | c) as u8);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// This process's mounts.
pub(crate) fn all() -> io::Result<Vec<MountPoint>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Makes sure that mounts below a path can travel to a container as it asks, with the texts of
/// containerd: where they cannot, the container would silently not see them.
pub(crate) fn check_propagation(
    table: &[MountPoint],
    path: &Path,
    propagation: Propagation,
) -> Result<(), String> {
    // Of several mounts at one place the last is the one that is seen.
    let mount = table
        .iter()
        .filter(|mount| path.starts_with(&mount.path))
        .max_by_key(|mount| mount.path.as_os_str().len());
    let travel = mount.map(|mount| mount.travel).unwrap_or_default();
    let (possible, wanted) = match propagation {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => (travel.shared || travel.slave, "shared or slave"),
        Propagation::Bidirectional => (travel.shared, "shared"),
    };
    let on = mount
        .map(|mount| mount.path.as_path())
        .unwrap_or(Path::new("/"));
    match possible {
        true => Ok(()),
        false => Err(format!(
            "path {:?} is mounted on {:?} but it is not a {wanted} mount",
            path.display(),
            on.display()
        )),
    }
}

/// Mount points at or below `dir`, outer before inner.
pub(crate) fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    // A mount point in a removed directory has `//deleted` behind its name; it is gone with
    // the last user anyway.
    let inside = |path: &PathBuf| path.starts_with(dir) && !path.as_os_str().is_empty();
    let mut found: Vec<_> = all()?
        .into_iter()
        .map(|mount| mount.path)
        .filter(inside)
        .collect();
    found.sort_by_key(|path| path.as_os_str().as_bytes().len());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_line_with_optional_fields_and_escapes_is_understood() {
        let table = b"36 35 98:0 / /a\\040b\\134 rw shared:1 - cgroup cgroup rw,cpu\nodd\n";
        let expected = MountPoint {
            root: "/".into(),
            path: PathBuf::from("/a b\\"),
            file_system: "cgroup".into(),
            super_options: "rw,cpu".into(),
            travel: Travel {
                shared: true,
                slave: false,
            },
        };
        assert_eq!(parse(table), [expected]);
    }

    /// findings C25
    #[test]
    fn mounts_travel_where_they_can_and_are_refused_where_they_cannot() {
        let table = parse(
            b"1 0 8:1 / / rw - ext4 /dev/a rw\n\
              2 1 8:2 / /shared rw shared:1 - ext4 /dev/b rw\n\
              3 1 8:3 / /slave rw master:1 - ext4 /dev/c rw\n",
        );
        let check = |path: &str, how| check_propagation(&table, Path::new(path), how);
        use Propagation::{Bidirectional, HostToContainer, Private};
        for path in ["/x", "/shared/x", "/slave/x", "/sharedness"] {
            assert_eq!(check(path, Private), Ok(()));
        }
        assert_eq!(check("/shared/x", Bidirectional), Ok(()));
        assert_eq!(check("/shared", HostToContainer), Ok(()));
        assert_eq!(check("/slave/x", HostToContainer), Ok(()));
        assert_eq!(
            check("/slave/x", Bidirectional).unwrap_err(),
            "path \"/slave/x\" is mounted on \"/slave\" but it is not a shared mount"
        );
        assert_eq!(
            check("/sharedness", HostToContainer).unwrap_err(),
            "path \"/sharedness\" is mounted on \"/\" but it is not a shared or slave mount"
        );
    }
}
