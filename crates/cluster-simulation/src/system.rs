//! The simulated clock and random bytes of a world, and `fork`.
//!
//! The program that contains this file defines `clock_gettime`, `epoll_wait` and `getrandom`, so that all code of the program
//! (the standard library, all dependencies, the product) gets time and randomness from this file. On a thread without
//! a world they behave like the system's functions. Only this file of the crate has `unsafe`; the product is never
//! linked with this file.

#![expect(unsafe_code, reason = "replaces functions of the C library")]

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use crate::random::next;

/// The initial clock readings of a world: an afternoon in 2026, and an uptime of one hour.
const WALL_START: Duration = Duration::from_secs(1_780_000_000);
const UPTIME_START: Duration = Duration::from_secs(3600);

struct SimulatedSystem {
    running: Cell<bool>,
    elapsed: Cell<Duration>,
    /// The error of the control plane's wall clock, in nanoseconds.
    skew: Cell<i64>,
    random: Cell<u64>,
}

thread_local! {
    static SYSTEM: SimulatedSystem = const {
        SimulatedSystem {
            running: Cell::new(false),
            elapsed: Cell::new(Duration::ZERO),
            skew: Cell::new(0),
            random: Cell::new(0),
        }
    };
}

/// Starts a world on this thread: its clocks advance only with [`advance`] and while the runtime waits, and its random bytes
/// depend on the seed. Must be called before any other code on the thread.
pub fn begin(seed: u64) {
    SYSTEM.with(|system| {
        system.random.set(seed);
        system.running.set(true);
    });
}

/// Advances the clocks.
pub fn advance(time: Duration) {
    SYSTEM.with(|system| system.elapsed.set(system.elapsed.get() + time));
}

/// The reading of the clock since the machine's start.
pub fn uptime() -> Duration {
    SYSTEM.with(|system| UPTIME_START + system.elapsed.get())
}

/// Sets the error of the wall clock; monotonic clocks are unchanged.
pub fn set_skew(nanoseconds: i64) {
    SYSTEM.with(|system| system.skew.set(nanoseconds));
}

/// The reading of a simulated clock; `None` without a world, and for other clocks.
fn simulated(clock: libc::clockid_t) -> Option<Duration> {
    SYSTEM.with(|system| {
        if !system.running.get() {
            return None;
        }
        let elapsed = system.elapsed.get();
        match clock {
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
                let skew = system.skew.get();
                let error = Duration::from_nanos(skew.unsigned_abs());
                let correct = WALL_START + elapsed;
                Some(if skew < 0 {
                    correct - error
                } else {
                    correct + error
                })
            }
            libc::CLOCK_MONOTONIC
            | libc::CLOCK_MONOTONIC_COARSE
            | libc::CLOCK_MONOTONIC_RAW
            | libc::CLOCK_BOOTTIME => Some(UPTIME_START + elapsed),
            _ => None,
        }
    })
}

type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;

/// The C library's `clock_gettime`.
static REAL_CLOCK: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Replaces the C library's function.
///
/// # Safety
///
/// As the C library's function: `time` points to a `timespec`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    if let Some(now) = simulated(clock) {
        let reading = libc::timespec {
            tv_sec: now.as_secs() as libc::time_t,
            tv_nsec: i64::from(now.subsec_nanos()),
        };
        // SAFETY: the caller guarantees that the pointer is valid.
        unsafe { time.write(reading) };
        return 0;
    }
    let mut real = REAL_CLOCK.load(Ordering::Relaxed);
    if real.is_null() {
        // SAFETY: the name is a C string; `dlsym` has no other conditions.
        real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
        if real.is_null() {
            return -1;
        }
        REAL_CLOCK.store(real, Ordering::Relaxed);
    }
    // SAFETY: the C library's symbol of this name has this type.
    let real: ClockGettime = unsafe { std::mem::transmute::<*mut c_void, ClockGettime>(real) };
    // SAFETY: the arguments are those of the caller.
    unsafe { real(clock, time) }
}

/// Replaces the C library's function, with which the runtime waits for the next timer. The wait of a world ends at once, and
/// its clocks have advanced by the time of the wait, unless an event came before.
///
/// # Safety
///
/// As the C library's function: there is room for `max` events at `events`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut libc::epoll_event,
    max: c_int,
    timeout_ms: c_int,
) -> c_int {
    let is_simulated = SYSTEM.with(|system| system.running.get());
    let time = u64::try_from(timeout_ms).ok().filter(|_| is_simulated);
    let real_ms = time.map_or(timeout_ms, |_| 0);
    let no_mask = std::ptr::null::<c_void>();
    // SAFETY: the arguments are those of the caller; without a mask, this is `epoll_wait`.
    let ready = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait,
            epoll,
            events,
            max,
            real_ms,
            no_mask,
            0_usize,
        )
    };
    if let (0, Some(time)) = (ready, time) {
        advance(Duration::from_millis(time));
    }
    ready as c_int
}

/// Replaces the C library's function.
///
/// # Safety
///
/// As the C library's function: there are `len` bytes at `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, len: usize, flags: c_uint) -> isize {
    let filled = SYSTEM.with(|system| {
        if !system.running.get() {
            return false;
        }
        let mut state = system.random.get();
        for at in 0..len {
            let byte = (next(&mut state) >> 32) as u8;
            // SAFETY: the caller guarantees that the buffer has `len` bytes.
            unsafe { buffer.cast::<u8>().add(at).write(byte) };
        }
        system.random.set(state);
        true
    });
    if filled {
        return len as isize;
    }
    // SAFETY: the arguments are those of the caller.
    let done = unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) };
    done as isize
}

/// Runs `work` in a copy of this process, which exits afterwards, and returns the copy's process ID.
///
/// Only for a process with one thread; otherwise the copy could wait without end for a lock without an owner.
pub fn in_copy(work: impl FnOnce()) -> io::Result<nix::unistd::Pid> {
    // SAFETY: this process has one thread, so the copy is complete.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            work();
            // SAFETY: exits the process without running the original's exit handlers.
            unsafe { libc::_exit(0) }
        }
    }
}
