//! Inherited file descriptors, which this process did not open itself.
//!
//! The parent process may have left files open: a shell, a service manager, a build. A container must not inherit such
//! descriptors.

use std::io;
use std::os::fd::{AsFd, RawFd};

use nix::errno::Errno;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

/// The first descriptor that is not a standard stream.
const FIRST: libc::c_uint = 3;

/// Sets close-on-exec on every descriptor except the standard streams. The descriptors stay open in this process,
/// because its command line may name one of them (`up -f /dev/fd/63`).
///
/// # Errors
/// The kernel does not support the call (Linux before 5.11).
pub fn keep_from_children() -> io::Result<()> {
    cov_mark::hit!(findings_s16);
    close_range(libc::CLOSE_RANGE_CLOEXEC)
}

/// Replaces a standard stream of this process by an open file.
///
/// # Errors
/// The stream is not a standard stream.
pub fn replace_stream(stream: RawFd, file: impl AsFd) -> io::Result<()> {
    match stream {
        libc::STDIN_FILENO => dup2_stdin(file)?,
        libc::STDOUT_FILENO => dup2_stdout(file)?,
        libc::STDERR_FILENO => dup2_stderr(file)?,
        _ => return Err(Errno::EBADF.into()),
    }
    Ok(())
}

/// Closes every descriptor except the standard streams.
///
/// # Safety
/// No part of this process owns any other descriptor.
pub unsafe fn close_inherited() -> io::Result<()> {
    close_range(0)
}

fn close_range(flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes integers and touches no memory; the caller is responsible for the closed descriptors.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            flags as libc::c_int,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    /// findings S16
    #[test]
    fn what_was_left_open_reaches_no_child() {
        cov_mark::check!(findings_s16);
        let left_open = File::open("/").unwrap();
        rustix::io::fcntl_setfd(&left_open, rustix::io::FdFlags::empty()).unwrap();
        let name = format!("/proc/self/fd/{}", left_open.as_raw_fd());
        let reaches_a_child = || {
            let child = std::process::Command::new("/usr/bin/test")
                .args(["-e", &name])
                .status();
            child.unwrap().success()
        };
        assert!(reaches_a_child());
        keep_from_children().unwrap();
        assert!(!reaches_a_child());
    }
}
