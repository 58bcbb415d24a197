//! Waiting for something to become true, with what was last seen in the failure.

use std::fmt::Debug;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Calls `probe` until it answers `Ok`, and fails with its last `Err` after `seconds`.
///
/// # Panics
/// When the time is over.
#[track_caller]
pub fn wait_for<T, E: Debug>(
    what: &str,
    seconds: u64,
    mut probe: impl FnMut() -> Result<T, E>,
) -> T {
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
