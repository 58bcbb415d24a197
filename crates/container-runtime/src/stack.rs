//! Unused memory that this process holds on the stack.

/// Pages of the stack that are checked. Nothing else is mapped so close below it: the kernel leaves a gap
/// of a mebibyte.
const STACK_BYTES: usize = 512 << 10;

/// Returns the stack that deeper calls have used before. For the first thread of a process: stacks of others
/// may have neighbours.
pub(crate) fn give_back() {
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
