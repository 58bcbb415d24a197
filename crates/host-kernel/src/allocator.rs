//! The allocators of this program: the allocator of the C library, and mimalloc on the busy threads of a server.
//!
//! With mimalloc, a write of an object takes a quarter less processor time, because threads that free each other's
//! memory do not wait for locks. But each mimalloc thread has separate pages for each block size, so other threads,
//! shims and commands keep the allocator of the C library. A block is always freed by the allocator that allocated it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use libmimalloc_sys as mimalloc;

/// The address space of mimalloc's first arena. If the arena is full, mimalloc takes more from the kernel.
const ARENA_BYTES: usize = 1 << 30;

/// `mi_option_purge_delay` of mimalloc.h: the time after which freed pages go back to the kernel, in milliseconds.
const PURGE_DELAY: libc::c_int = 15;
const PURGE_DELAY_MILLISECONDS: libc::c_long = 100;

/// The largest alignment that every block of mimalloc has without a request for it.
const ALIGN_OF_ANY: usize = size_of::<usize>();

/// Freed memory at the end of an arena of the C library that is not returned to the kernel. It is as large as the
/// largest usual response, a list of 5,000 pods.
#[cfg(target_env = "gnu")]
const FREE_BYTES_MAX: libc::c_int = 16 << 20;

/// The size from which a block of the C library has separate pages, which return to the kernel when the block is freed.
#[cfg(target_env = "gnu")]
const OWN_PAGES_BYTES: libc::c_int = 1 << 20;

/// The address of the arena; 0 if there is no arena.
static ARENA: AtomicUsize = AtomicUsize::new(0);

/// The number of calls of [`give_back`].
static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread allocates with mimalloc.
    static IS_BUSY: Cell<bool> = const { Cell::new(false) };
    /// The number of the last call of [`give_back`] after which this thread has released its freed pages.
    static LAST_RELEASED: Cell<usize> = const { Cell::new(0) };
}

/// The allocator, which a program selects by `#[global_allocator]`.
#[derive(Debug)]
pub struct Allocator;

/// Prepares both allocators for a server. It must be called once, before a second thread is started.
///
/// # Errors
/// The kernel refuses the address space of mimalloc. All threads then keep the allocator of the C library.
pub fn prepare_server() -> io::Result<()> {
    prepare_c_library();
    prepare_mimalloc()
}

/// Must be called by each thread that runs tasks, before it parks. In a prepared server, the thread changes to
/// mimalloc. After a call of [`give_back`], the thread also releases its pages without blocks: only the thread that
/// owns a page detects that other threads have freed all of its blocks.
pub fn before_park() {
    if ARENA.load(Ordering::Relaxed) == 0 {
        return;
    }
    IS_BUSY.set(true);
    let given_back = GIVEN_BACK.load(Ordering::Relaxed);
    if LAST_RELEASED.replace(given_back) != given_back {
        // SAFETY: takes a flag, and frees pages without blocks. They go back to the kernel later.
        unsafe { mimalloc::mi_collect(false) };
    }
}

/// There is one arena for each processor in place of eight, because each arena retains freed memory. With two processors
/// and three pods, the program has 20 MiB of memory in place of 25. The memory of a large response is retained for the
/// next response. With the defaults, the kernel would allocate and clear 3,000 pages for each list of 5,000 pods in
/// protobuf, a quarter of the cost of the list.
fn prepare_c_library() {
    #[cfg(target_env = "gnu")]
    {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = libc::c_int::try_from(processors.max(2)).unwrap_or(libc::c_int::MAX);
        let settings = [
            (libc::M_ARENA_MAX, arenas),
            (libc::M_TRIM_THRESHOLD, FREE_BYTES_MAX),
            (libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES),
        ];
        for (setting, value) in settings {
            // SAFETY: takes two integers. It changes a setting of the allocator, which no other thread reads yet.
            unsafe {
                libc::mallopt(setting, value);
            }
        }
    }
}

/// The arena has no transparent huge pages: an idle server would have 31 MiB of memory in place of 10. The setting is
/// that of the arena, since that of a process is inherited by the programs that it starts.
fn prepare_mimalloc() -> io::Result<()> {
    // SAFETY: a new mapping without access, at an address of the kernel's choice.
    let arena = unsafe {
        libc::mmap(
            ptr::null_mut(),
            ARENA_BYTES,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if arena == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut id = ptr::null_mut();
    // SAFETY: the process has one thread. The mapping is that of above, which nothing else uses. `id` lives during the
    // call. Kernels without huge pages reject the advice and have the same result.
    let is_managed = unsafe {
        libc::madvise(arena, ARENA_BYTES, libc::MADV_NOHUGEPAGE);
        mimalloc::mi_option_set(PURGE_DELAY, PURGE_DELAY_MILLISECONDS);
        mimalloc::mi_manage_os_memory_ex(arena, ARENA_BYTES, false, false, true, -1, false, &mut id)
    };
    if !is_managed {
        // SAFETY: the mapping of above; mimalloc does not use it.
        unsafe { libc::munmap(arena, ARENA_BYTES) };
        return Err(io::Error::from(io::ErrorKind::OutOfMemory));
    }
    ARENA.store(arena.addr(), Ordering::Relaxed);
    Ok(())
}

/// Returns freed memory to the kernel. It takes a few milliseconds per 100 MiB, and other threads that allocate at the
/// same time may wait. The next call returns the pages that threads have released [before they park](before_park).
pub fn give_back() {
    if ARENA.load(Ordering::Relaxed) != 0 {
        GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
        // SAFETY: takes a flag, and frees pages without blocks. It does nothing in a thread that mimalloc does not know.
        unsafe {
            mimalloc::mi_thread_init();
            mimalloc::mi_collect(true);
        }
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer and locks the arenas that it works on. Memory in use stays.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether mimalloc has allocated the block.
fn is_of_mimalloc(block: *mut u8) -> bool {
    let arena = ARENA.load(Ordering::Relaxed);
    if arena == 0 {
        return false;
    }
    // SAFETY: takes any address.
    block.addr().wrapping_sub(arena) < ARENA_BYTES
        || unsafe { mimalloc::mi_is_in_heap_region(block.cast()) }
}

// SAFETY: each block is freed and resized by the allocator that allocated it, with the size and the alignment of its
// allocation. Both keep the contract of `GlobalAlloc`; mimalloc's blocks of any size are aligned to a word.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        unsafe {
            if !IS_BUSY.get() {
                System.alloc(layout)
            } else if layout.align() <= ALIGN_OF_ANY {
                mimalloc::mi_malloc(layout.size()).cast()
            } else {
                mimalloc::mi_malloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        unsafe {
            if !IS_BUSY.get() {
                System.alloc_zeroed(layout)
            } else if layout.align() <= ALIGN_OF_ANY {
                mimalloc::mi_zalloc(layout.size()).cast()
            } else {
                mimalloc::mi_zalloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's block and layout.
        unsafe {
            if is_of_mimalloc(block) {
                mimalloc::mi_free(block.cast());
            } else {
                System.dealloc(block, layout);
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's block and layout.
        unsafe {
            if !is_of_mimalloc(block) {
                System.realloc(block, layout, size)
            } else if layout.align() <= ALIGN_OF_ANY {
                mimalloc::mi_realloc(block.cast(), size).cast()
            } else {
                mimalloc::mi_realloc_aligned(block.cast(), size, layout.align()).cast()
            }
        }
    }
}
