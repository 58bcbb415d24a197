//! Waits for conditions, with the last observed state in the error message.

use std::fmt::Debug;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The factor of all times, because the tests share the machine, and a disk in use can block each write for seconds.
const BUSY_MACHINE: u64 = 4;

/// Calls `read` until its text contains `part`, and returns the text; fails with the last text after `seconds` of an
/// idle machine.
///
/// # Panics
///
/// The time has passed.
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

/// Calls `probe` until it returns `Ok`, and fails with its last `Err` after `seconds` of an idle machine.
///
/// # Panics
///
/// The time has passed.
#[track_caller]
pub fn wait_for<T, E: Debug>(what: &str, seconds: u64, probe: impl FnMut() -> Result<T, E>) -> T {
    wait_for_or_report(what, seconds, probe, String::new)
}

/// As [`wait_for`]; an error message also contains the text of `describe`, which is called only then.
///
/// # Panics
///
/// The time has passed.
#[track_caller]
pub fn wait_for_or_report<T, E: Debug>(
    what: &str,
    seconds: u64,
    mut probe: impl FnMut() -> Result<T, E>,
    describe: impl FnOnce() -> String,
) -> T {
    let seconds = seconds * BUSY_MACHINE;
    let started = Instant::now();
    let deadline = started + Duration::from_secs(seconds);
    loop {
        let begun = Instant::now();
        match probe() {
            Ok(value) => return value,
            Err(error) if Instant::now() >= deadline => {
                panic!(
                    "waited {seconds} s for {what}; last state: {error:#?}\n{}",
                    describe()
                );
            }
            Err(_) => sleep(pause_after(begun.elapsed(), started.elapsed())),
        }
    }
}

/// The time until the next probe: twice the duration of the last probe, or a sixteenth of the time waited so far,
/// between 50 ms and 1 s. A probe that starts a program takes processor time from all other tests: `kubectl get` takes
/// 45 ms.
pub fn pause_after(probe: Duration, waited: Duration) -> Duration {
    let pause = (2 * probe).max(waited / 16);
    pause.clamp(Duration::from_millis(50), Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costly_probes_are_rare() {
        let pause = |probe| pause_after(Duration::from_millis(probe), Duration::ZERO).as_millis();
        assert_eq!([1, 100, 9_000].map(pause), [50, 200, 1_000]);
    }

    #[test]
    fn probes_of_a_long_wait_are_rare() {
        let pause =
            |waited| pause_after(Duration::from_millis(1), Duration::from_secs(waited)).as_millis();
        assert_eq!([0, 8, 40].map(pause), [50, 500, 1_000]);
    }
}
