//! Creation of control groups, and readable errors of the kernel.

use std::fs;
use std::io;
use std::path::Path;

/// Controllers that pods require.
pub(super) const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// Fails if a required controller is missing. Without the check, limits would be ignored silently.
pub(super) fn lacking(has: impl Fn(&str) -> bool, root: &Path) -> io::Result<()> {
    let lacking: Vec<_> = NEEDED.into_iter().filter(|needed| !has(needed)).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let text = format!(
        "the control groups at {} have no controller for {}: it is disabled on the kernel's \
         command line, or was not delegated",
        root.display(),
        lacking.join(", ")
    );
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

/// Creates the directory of a group and its parents.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir).map_err(|error| creation_error(dir, &error))
}

/// A readable error for a group that the kernel does not create; pure.
pub(super) fn creation_error(dir: &Path, error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EAGAIN) => "the kernel takes no more control groups here: ",
        Some(libc::EROFS) => "control groups are mounted read-only: ",
        _ => "",
    };
    let text = format!("make the control group {}: {why}{error}", dir.display());
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 S36
    #[test]
    fn a_group_that_cannot_be_made_is_told_in_words() {
        let message = |number| {
            let error = io::Error::from_raw_os_error(number);
            creation_error(Path::new("/c/pod1"), &error).to_string()
        };
        let full = "make the control group /c/pod1: the kernel takes no more control groups here: No space left";
        assert!(
            message(libc::ENOSPC).starts_with(full),
            "{}",
            message(libc::ENOSPC)
        );
        assert!(message(libc::EROFS).contains("mounted read-only: Read-only file system"));
        assert!(
            message(libc::EPERM)
                .starts_with("make the control group /c/pod1: Operation not permitted")
        );
        let has = |names: &'static [&str]| move |name: &str| names.contains(&name);
        assert!(lacking(has(&["cpu", "memory", "pids"]), Path::new("/c")).is_ok());
        let lacks = lacking(has(&["cpu", "cpuset"]), Path::new("/c"))
            .unwrap_err()
            .to_string();
        assert!(lacks.contains("no controller for memory, pids"), "{lacks}");
    }
}
