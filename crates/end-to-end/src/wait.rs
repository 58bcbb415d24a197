//! Waiting for something to become true, with what was last seen in the failure.

use std::fmt::Debug;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The factor of all times: the tests share the machine with each other, and a disk that others use
/// can stop each write for seconds.
const BUSY_MACHINE: u64 = 4;

/// Calls `read` until it answers with a text that contains `part`, and returns that; fails with the
/// last text after `seconds` of an idle machine.
///
/// # Panics
/// When the time is over.
#[track_caller]
pub fn wait_for_text(part: &str, seconds: u64, mut read: impl FnMut() -> String) -> String {
    wait_for(part, seconds, || {
        let text = read();
        if text.contains(part) {
            Ok(text)
        } else {
            Err(text)
        }
    })
}

/// Calls `probe` until it answers `Ok`, and fails with its last `Err` after `seconds` of an idle
/// machine.
///
/// # Panics
/// When the time is over.
#[track_caller]
pub fn wait_for<T, E: Debug>(
    what: &str,
    seconds: u64,
    mut probe: impl FnMut() -> Result<T, E>,
) -> T {
    let seconds = seconds * BUSY_MACHINE;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => {
                panic!("waited {seconds} s for {what}; last seen: {seen:#?}");
            }
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}
