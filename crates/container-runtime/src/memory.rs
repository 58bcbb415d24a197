//! Memory that this process has freed and its allocator still holds.

/// Returns freed memory to the kernel. Takes a few milliseconds per 100 MiB; other threads that
/// allocate in the meantime may wait. No-op without the GNU C library.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer, and locks what it works on. What is in use is not touched.
    unsafe {
        libc::malloc_trim(0);
    }
}
