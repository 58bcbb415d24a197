//! Unused memory that this process holds: in the allocator of the C library and on the stack.

/// Limits the allocator to one arena for each processor, in place of eight: an arena keeps freed memory
/// of its own. Measured with two processors and three pods, 20 MiB of memory in place of 25. To be called
/// before the first thread is started. Does nothing where the C library is not GNU's.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = libc::c_int::try_from(processors.max(2)).unwrap_or(libc::c_int::MAX);
        // SAFETY: takes two integers. It changes a setting of the allocator, which no other thread reads yet.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }
}

/// Returns freed memory to the kernel. Takes a few milliseconds per 100 MiB; other threads that
/// allocate in the meantime may wait. No-op without the GNU C library.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer and locks the arenas that it works on. Memory in use stays.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Pages of the stack that are checked. Nothing else is mapped so close below it: the kernel leaves a gap
/// of a mebibyte.
const STACK_BYTES: usize = 512 << 10;

/// Returns the stack that deeper calls have used before. For the first thread of a process: stacks of others
/// may have neighbours.
pub(crate) fn give_back_stack() {
    // SAFETY: takes an integer.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).unwrap_or(1 << 16);
    let frame = 0u8;
    let here = (&raw const frame).addr();
    // One page stays for this function and its callees.
    let end = (here & !(page - 1)).saturating_sub(page);
    let Some(start) = end.checked_sub(STACK_BYTES) else {
        return;
    };
    // SAFETY: nothing below this function's frame is in use, and the range has no other mapping.
    unsafe {
        let start = std::ptr::without_provenance_mut(start);
        libc::madvise(start, STACK_BYTES, libc::MADV_DONTNEED);
    }
}
