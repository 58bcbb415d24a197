//! Version 2: which controllers groups pass on to those below them.

use std::fs;
use std::io;
use std::path::Path;

use super::{join, write};

/// Controllers that pods cannot do without.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// Controllers that are passed on where there are any.
const WANTED: [&str; 6] = ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"];

/// The group of those who were in the root of a container's own groups.
const FORMER: &str = "init";

/// How often the processes of a group are moved away: each time there may be new ones.
const MOVES_MAX: usize = 100;

/// Makes sure that groups can be made below the root, whoever made the root.
///
/// In a container the root is a group like any other, which may hold processes or pass on
/// controllers, but not both: the processes get a group of their own.
///
/// # Errors
/// Groups cannot be made, or would be without a controller that pods need; says what is missing.
pub(crate) fn prepare(root: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    let lacking: Vec<_> = NEEDED
        .into_iter()
        .filter(|needed| !controllers.split_whitespace().any(|name| name == *needed))
        .collect();
    if !lacking.is_empty() {
        let text = format!(
            "the control groups at {} have no controller for {}: it is disabled on the kernel's \
             command line, or was not delegated",
            root.display(),
            lacking.join(", ")
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
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
    let text = format!("processes do not stop to come into {}", root.display());
    Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
}

/// Moves the processes of the root into a group below it.
fn make_way(root: &Path) -> io::Result<()> {
    let dir = root.join(FORMER);
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let processes = fs::read_to_string(root.join("cgroup.procs"))?;
    for pid in processes.lines() {
        match write(&dir.join("cgroup.procs"), pid) {
            // It has ended.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
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
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes a group that is to hold groups.
pub(crate) fn make_parent(root: &Path, group: &str) -> io::Result<()> {
    make(root, group)?;
    pass_on(&join(root, group))
}

/// Passes the controllers of a group on to its children.
fn pass_on(dir: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers"))?;
    let names = controllers.split_whitespace();
    for name in names.filter(|name| WANTED.contains(name)) {
        // One that cannot be passed on is only missing later, when a limit needs it; the others
        // must not suffer.
        if let Err(error) = write(&dir.join("cgroup.subtree_control"), &format!("+{name}"))
            && NEEDED.contains(&name)
        {
            return Err(error);
        }
    }
    Ok(())
}
