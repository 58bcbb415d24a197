//! Exponential back-off for container restarts and image pulls.
//!
//! As client-go's `flowcontrol.Backoff`: after the first failure, the delay is zero and the next delay is
//! 10 s. Each further failure doubles the delay up to 300 s. After 600 s without use, the delay is reset.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::limits::{BACKOFF_INITIAL, BACKOFF_MAX, BACKOFF_RESET, RETRY_INITIAL, RETRY_MAX};
use crate::monotonic::Instant;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    entry: Option<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    delay_seconds: i64,
    updated: Instant,
}

impl Backoff {
    /// The delay after a failure at `failed`; `None` if there is no delay.
    pub fn delay(&self, failed: Instant) -> Option<SignedDuration> {
        let entry = self.entry.as_ref()?;
        let expired = failed.since(entry.updated) > BACKOFF_RESET;
        (!expired).then(|| SignedDuration::from_secs(entry.delay_seconds))
    }

    /// The time of the next attempt after a failure at `failed`; `None` if it is not delayed.
    pub fn until(&self, failed: Instant) -> Option<Instant> {
        self.delay(failed).map(|delay| failed + delay)
    }

    /// Records a new attempt at `now`, which follows a failure at `failed`.
    pub fn advance(&mut self, failed: Instant, now: Instant) {
        let delay = match self.delay(failed) {
            Some(delay) => (delay * 2).min(BACKOFF_MAX),
            None => BACKOFF_INITIAL,
        };
        self.entry = Some(Entry {
            delay_seconds: delay.as_secs(),
            updated: now,
        });
    }
}

/// The time of the next attempt of a mount, sandbox or deletion after `failures` consecutive failures. The
/// last failure was at `at`.
pub fn retry_at(at: Instant, failures: u32) -> Instant {
    at + doubled(RETRY_INITIAL, RETRY_MAX, failures)
}

/// The delay after `failures` consecutive failures: `first` after one failure, twice as long after each
/// further failure, at most `max`.
pub fn doubled(first: SignedDuration, max: SignedDuration, failures: u32) -> SignedDuration {
    let factor = 2i32.pow(failures.saturating_sub(1).min(16));
    first.saturating_mul(factor).min(max)
}

/// A duration of whole seconds in Go's format: `10s`, `1m20s`, `5m0s`.
pub fn go_seconds(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Instant {
        Instant::reading(jiff::Timestamp::from_second(1_700_000_000 + seconds).unwrap())
    }

    #[test]
    fn restarts_wait_10_s_doubling_to_300_s() {
        // statefulset.md 12.9
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        let mut clock = 0;
        for _ in 0..8 {
            let wait = backoff.delay(at(clock)).map_or(0, |d| d.as_secs());
            delays.push(wait);
            let failed = at(clock);
            clock += wait;
            backoff.advance(failed, at(clock));
            clock += 1;
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_reset_the_delay() {
        // statefulset.md 12.9
        let mut backoff = Backoff::default();
        backoff.advance(at(0), at(0));
        backoff.advance(at(1), at(11));
        assert_eq!(backoff.delay(at(611)).unwrap().as_secs(), 20);
        assert_eq!(backoff.delay(at(612)), None);
        backoff.advance(at(612), at(612));
        assert_eq!(backoff.delay(at(613)).unwrap().as_secs(), 10);
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3600, "1h0m0s")] {
            assert_eq!(go_seconds(SignedDuration::from_secs(seconds)), text);
        }
    }
}
