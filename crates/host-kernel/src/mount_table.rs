//! The mount table of a process, `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One line of `mountinfo`, reduced to the fields in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// The root of the mount within its file system.
    pub root: PathBuf,
    /// The mount point.
    pub path: PathBuf,
    /// Type of the file system, such as `overlay`.
    pub file_system: String,
    /// Options of the file system, such as overlay's layers.
    pub super_options: String,
    /// The propagation of mounts to and from other namespaces.
    pub propagation: MountPropagation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountPropagation {
    /// Whether the mount has peers, which receive the mounts that are created below it.
    pub shared: bool,
    /// Whether the mount has a master, from which it receives mounts.
    pub slave: bool,
}

/// Parses `/proc/<pid>/mountinfo`. Invalid lines are skipped.
pub fn parse(table: &[u8]) -> Vec<MountPoint> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let path = fields.next()?;
    // Options follow, then optional fields up to a single dash.
    let mut rest = fields.skip(1);
    let mut propagation = MountPropagation::default();
    for field in rest.by_ref().take_while(|field| *field != b"-") {
        propagation.shared |= field.starts_with(b"shared:");
        propagation.slave |= field.starts_with(b"master:");
    }
    let file_system = String::from_utf8_lossy(rest.next()?).into_owned();
    let super_options = String::from_utf8_lossy(rest.nth(1)?).into_owned();
    Some(MountPoint {
        root: unescape(root),
        path: unescape(path),
        file_system,
        super_options,
        propagation,
    })
}

/// Decodes a path. The kernel writes space, tab, line feed and backslash as three octal digits.
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

/// Reads the mounts of this process, in the order of mounting.
///
/// # Errors
/// `/proc` cannot be read.
pub fn read() -> io::Result<Vec<MountPoint>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount points at or below a directory, outer mounts first. Several mounts at one mount point are separate
/// entries.
pub fn at_or_below(table: &[MountPoint], directory: &Path) -> Vec<PathBuf> {
    // A mount point in a deleted directory has the suffix `//deleted`. The kernel removes the mount after its last use.
    let inside = |path: &&PathBuf| path.starts_with(directory) && !path.as_os_str().is_empty();
    let mut paths: Vec<PathBuf> = table
        .iter()
        .map(|mount| &mount.path)
        .filter(inside)
        .cloned()
        .collect();
    paths.sort_by_key(|path| path.as_os_str().as_bytes().len());
    paths
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
            propagation: MountPropagation {
                shared: true,
                slave: false,
            },
        };
        assert_eq!(parse(table), [expected]);
    }

    #[test]
    fn mounts_below_a_directory_are_found_outer_before_inner() {
        let table = parse(
            b"36 35 98:0 / /data rw,noatime master:1 - ext4 /dev/a rw\n\
              37 36 98:0 / /data/pods/a\\040b/volumes/x rw - tmpfs tmpfs rw\n\
              38 36 98:0 / /data/pods rw - ext4 /dev/b rw\n\
              39 36 98:0 / /data/podsy/z rw - tmpfs tmpfs rw\n",
        );
        let result = at_or_below(&table, Path::new("/data/pods"));
        let expected = ["/data/pods", "/data/pods/a b/volumes/x"].map(PathBuf::from);
        assert_eq!(result, expected);
    }
}
