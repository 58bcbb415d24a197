//! The delegation of controllers to child groups, in version 2.

use std::fs;
use std::io;
use std::path::Path;

use host_kernel::mount_table::{self, MountPoint};

use super::making::{NEEDED, lacking, not_made};
use super::{join, write};

/// The controllers that are delegated, where the kernel has them.
const OTHERS: [&str; 3] = ["cpuset", "io", "hugetlb"];

/// The group for the processes that were in the root of a container's own groups.
const FORMER: &str = "init";

/// Maximum number of moves of a group's processes: new ones may appear during each move.
const MOVES_MAX: usize = 100;

/// Makes sure that groups can be made below the root.
///
/// In a container the root is a group like any other, which may hold processes or pass on
/// controllers, but not both: the processes get a group of their own.
///
/// # Errors Groups cannot be made, or lack a controller that pods need; the error names it.
pub(crate) fn prepare(root: &Path) -> io::Result<()> {
    if is_foreign(&mount_table::read()?, root) {
        let text = format!(
            "{} shows groups outside of this control group namespace, into which no process may \
             be moved: mount cgroup2 there in the namespace, or use the node's namespace",
            root.display()
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    let has = |needed: &str| controllers.split_whitespace().any(|name| name == needed);
    lacking(has, root)?;
    for _ in 0..MOVES_MAX {
        match pass_on(root) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => make_way(root)?,
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                let text = format!(
                    "{} is read-only: in a container it must be writable, as it is in one that is \
                     privileged and has its own control group namespace",
                    root.display()
                );
                return Err(io::Error::new(error.kind(), text));
            }
            other => return other,
        }
    }
    let text = format!(
        "not all processes can be moved out of {}, for groups to be made below it",
        root.display()
    );
    Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
}

/// Whether the root is not of this control group namespace, where that makes a difference.
fn is_foreign(mounts: &[MountPoint], root: &Path) -> bool {
    let mut mounts = mounts.iter().rev();
    mounts
        .find(|mount| mount.path == root)
        .is_some_and(|mount| {
            let guarded = mount
                .super_options
                .split(',')
                .any(|option| option == "nsdelegate");
            guarded && mount.root.starts_with("/..")
        })
}

/// Moves the processes of the root into a group below it.
fn make_way(root: &Path) -> io::Result<()> {
    let dir = root.join(FORMER);
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let processes = fs::read_to_string(root.join("cgroup.procs"))?;
    // Those of foreign process namespaces are all 0, which would mean this one.
    for pid in processes.lines().filter(|pid| *pid != "0") {
        let procs = dir.join("cgroup.procs");
        match fs::write(&procs, pid) {
            // It has ended.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => {
                let text = format!("move process {pid} to {}: {error}", procs.display());
                return Err(io::Error::new(error.kind(), text));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Makes a group, with those above it, which pass their controllers on to it.
pub(crate) fn make(root: &Path, group: &str) -> io::Result<()> {
    let mut dir = root.to_owned();
    for part in group.split('/').filter(|part| !part.is_empty()) {
        pass_on(&dir)?;
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(not_made(&dir, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes a group for child groups, without processes.
pub(crate) fn make_parent(root: &Path, group: &str) -> io::Result<()> {
    make(root, group)?;
    pass_on(&join(root, group))
}

/// Passes the controllers of a group on to its children.
fn pass_on(dir: &Path) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    // All at once: some alone would be passed on by a group with processes, too, which then takes
    // no others any more.
    write(&file, &NEEDED.map(|name| format!("+{name}")).join(" "))?;
    let controllers = fs::read_to_string(dir.join("cgroup.controllers"))?;
    let names = controllers.split_whitespace();
    for name in names.filter(|name| OTHERS.contains(name)) {
        // One that cannot be passed on is only missing later, when a limit needs it.
        if let Err(error) = write(&file, &format!("+{name}")) {
            tracing::debug!(%error, "a controller is not passed on");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_outside_of_the_namespace_are_told_apart() {
        let seen = |root: &str, options: &str| {
            let line = format!("41 31 0:38 {root} /c rw shared:1 - cgroup2 cgroup2 {options}\n");
            is_foreign(&mount_table::parse(line.as_bytes()), Path::new("/c"))
        };
        assert!(seen("/../..", "rw,nsdelegate,memory_recursiveprot"));
        assert!(!seen("/../..", "rw"));
        assert!(!seen("/", "rw,nsdelegate"));
        assert!(!seen("/system.slice", "rw,nsdelegate"));
    }
}
