//! The processes of a control group and of its child groups.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use super::killing::processes_in;
use super::{Hierarchies, join};

/// Process ids of a group and of its child groups.
pub(crate) fn processes(group: &str) -> io::Result<Vec<i32>> {
    processes_in(Hierarchies::mounted()?, group)
}

/// Names of the child groups of a group, in all hierarchies.
pub(crate) fn children(group: &str) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for root in Hierarchies::mounted()?.roots() {
        let entries = match fs::read_dir(join(root, group)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let dirs = entries.flatten();
        let dirs = dirs.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        names.extend(dirs.filter_map(|entry| entry.file_name().into_string().ok()));
    }
    Ok(names)
}
