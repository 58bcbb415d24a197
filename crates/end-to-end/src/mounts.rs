//! Mount namespaces of tests.

use std::env;

use host_kernel::mount_table;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Gives this thread, and the processes that it starts, a separate mount namespace, to which later mounts of the machine are
/// propagated as the machine defines.
///
/// A new namespace has a copy of each mount, and a copy keeps a file system and its loop device in use. So the mounts of other
/// tests, which are in the directory of temporary files, are removed from the namespace.
///
/// # Panics
///
/// The kernel refuses; root is needed.
pub fn separate() {
    unshare(CloneFlags::CLONE_NEWNS).expect("make a mount namespace");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).expect("separate the mounts");
    let temporary = env::temp_dir();
    let own = env::current_dir().expect("the working directory");
    let table = mount_table::read().expect("the mounts of this thread");
    let inner_first = mount_table::at_or_below(&table, &temporary)
        .into_iter()
        .rev();
    for path in inner_first.filter(|path| *path != temporary && !own.starts_with(path)) {
        // The path of a mount in a deleted directory does not exist.
        umount2(&path, MntFlags::MNT_DETACH).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    #[test]
    fn mounts_of_other_tests_are_not_in_the_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let tmpfs = Some("tmpfs");
        mount(
            tmpfs,
            directory.path(),
            tmpfs,
            MsFlags::empty(),
            Some("size=64k"),
        )
        .unwrap();
        fs::write(&file, "").unwrap();
        let exists = thread::scope(|scope| {
            let inside = || {
                separate();
                file.exists()
            };
            scope.spawn(inside).join().unwrap()
        });
        assert!(file.exists() && !exists);
        umount2(directory.path(), MntFlags::empty()).unwrap();
    }
}
