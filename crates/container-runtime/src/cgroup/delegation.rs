//! The delegation of controllers to child groups, in version 2.

use std::fs;
use std::io;
use std::path::Path;

use host_kernel::mount_table::{self, MountPoint};

use super::creation::{NEEDED, creation_error, lacking};
use super::{join, write};

/// Optional controllers: they are delegated if the kernel has them.
const OTHERS: [&str; 3] = ["cpuset", "io", "hugetlb"];

/// The group for processes that were in the root group of the hierarchy.
const FORMER: &str = "init";

/// Maximum number of attempts to move a group's processes, because new processes may appear during each
/// attempt.
const MOVES_MAX: usize = 100;

/// Ensures that groups can be created below the root.
///
/// In a container, the root is an ordinary group. Such a group may contain processes or delegate
/// controllers, but not both. So the processes are moved into a separate group.
///
/// # Errors
/// Groups cannot be created, or a controller that pods need is missing; the error names the controller.
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

/// Whether the root belongs to another control group namespace, on kernels where the difference matters.
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

/// Moves the processes of the root group into a group below it.
fn make_way(root: &Path) -> io::Result<()> {
    let dir = root.join(FORMER);
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let processes = fs::read_to_string(root.join("cgroup.procs"))?;
    // The id 0 means a process of another process namespace. Writing 0 would move this process.
    for pid in processes.lines().filter(|pid| *pid != "0") {
        let procs = dir.join("cgroup.procs");
        match fs::write(&procs, pid) {
            // The process has exited.
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

/// Creates a group and its parents. The parents delegate their controllers.
pub(crate) fn make(root: &Path, group: &str) -> io::Result<()> {
    let mut dir = root.to_owned();
    for part in group.split('/').filter(|part| !part.is_empty()) {
        pass_on(&dir)?;
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(creation_error(&dir, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Creates a group for child groups, without processes.
pub(crate) fn make_parent(root: &Path, group: &str) -> io::Result<()> {
    make(root, group)?;
    pass_on(&join(root, group))
}

/// Delegates the controllers of a group to its child groups.
fn pass_on(dir: &Path) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    // All controllers are written at once: single controllers could be delegated by a group with processes,
    // which could then never delegate the others.
    write(&file, &NEEDED.map(|name| format!("+{name}")).join(" "))?;
    let controllers = fs::read_to_string(dir.join("cgroup.controllers"))?;
    let names = controllers.split_whitespace();
    for name in names.filter(|name| OTHERS.contains(name)) {
        // If an optional controller cannot be delegated, the error occurs later, when a limit needs it.
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
        let observed = |root: &str, options: &str| {
            let line = format!("41 31 0:38 {root} /c rw shared:1 - cgroup2 cgroup2 {options}\n");
            is_foreign(&mount_table::parse(line.as_bytes()), Path::new("/c"))
        };
        assert!(observed("/../..", "rw,nsdelegate,memory_recursiveprot"));
        assert!(!observed("/../..", "rw"));
        assert!(!observed("/", "rw,nsdelegate"));
        assert!(!observed("/system.slice", "rw,nsdelegate"));
    }
}
