//! Unused memory in the stack of this process.

/// Bytes of the stack that are checked. No other mapping is that close below the stack, because the kernel
/// leaves a gap of one mebibyte.
const STACK_BYTES: usize = 512 << 10;

/// Releases unused stack memory to the kernel after deeper calls have returned. Only for the first thread of a process,
/// because other mappings may be directly below the stacks of other threads.
pub(crate) fn give_back() {
    // SAFETY: takes an integer.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).unwrap_or(1 << 16);
    let frame = 0u8;
    let here = (&raw const frame).addr();
    // One page stays for this function and the functions that it calls.
    let end = (here & !(page - 1)).saturating_sub(page);
    let Some(start) = end.checked_sub(STACK_BYTES) else {
        return;
    };
    // SAFETY: no memory below this function's frame is in use, and the range has no other mapping.
    unsafe {
        let start = std::ptr::without_provenance_mut(start);
        libc::madvise(start, STACK_BYTES, libc::MADV_DONTNEED);
    }
}
