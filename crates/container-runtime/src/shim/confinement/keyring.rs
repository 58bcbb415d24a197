//! The session keyring of a new process.

use std::io;

// Of `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: libc::c_ulong = 1;
const SET_PERMISSIONS: libc::c_ulong = 5;

/// Whoever has the keyring may do anything with it; others of the same user see that it is there.
const PERMISSIONS: libc::c_ulong = 0x3f01_0000;

/// Gives this process and what it becomes a session keyring that nobody else has: the shim's is the
/// node's. It has no name by which a process of the same user could join it, or could have made it
/// before.
///
/// # Errors
/// The kernel refuses, as when the user has as many keys as it may.
pub(crate) fn make_own() -> io::Result<()> {
    // SAFETY: without a name, the call takes an integer alone.
    let joined = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    if joined < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // A kernel without keys has none to share.
            Some(libc::ENOSYS) => Ok(()),
            _ => Err(error),
        };
    }
    // SAFETY: takes integers, touches no memory.
    let set = unsafe { libc::syscall(libc::SYS_keyctl, SET_PERMISSIONS, joined, PERMISSIONS) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
