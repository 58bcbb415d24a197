//! The session keyring of a new process.

use std::io;

// Values of `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: libc::c_ulong = 1;
const SET_PERMISSIONS: libc::c_ulong = 5;

/// The owner of the keyring has all permissions; other processes of its user can only view the keyring.
const PERMISSIONS: libc::c_ulong = 0x3f01_0000;

/// Gives this process and its children a new session keyring, because the shim's keyring belongs to the
/// node. The keyring is anonymous, so no process of the user can join it, or can have created it before.
///
/// # Errors
/// The kernel rejects the call, for instance because the user has its maximum number of keys.
pub(crate) fn join_new_session() -> io::Result<()> {
    // SAFETY: without a name, the call takes only an integer.
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
            // A kernel without key support has no keyring that could be shared.
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
