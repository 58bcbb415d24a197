//! Memory that this process has freed and its allocator still holds.

/// Gives it back to the kernel. Takes a few milliseconds for each 100 MiB that are given back; other
/// threads that allocate meanwhile may wait. Does nothing where the C library is not GNU's.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer, and locks what it works on. What is in use is not touched.
    unsafe {
        libc::malloc_trim(0);
    }
}
