//! Exponential back-off: the delay before the next attempt doubles with each failure in a row, up to a maximum.

use std::time::Duration;

/// The delays of consecutive attempts at the same work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// A back-off without failures. The first delay is `first`; no delay is longer than `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            failures: 0,
        }
    }

    /// Counts a failure and returns the delay before the next attempt.
    pub fn fail(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        delay(self.first, self.max, self.failures)
    }

    /// Counts a success: the next delay is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The delay after this number of failures in a row; zero after none.
pub fn delay(first: Duration, max: Duration, failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(3);

    #[test]
    fn delays_double_up_to_the_maximum_until_a_success() {
        let mut backoff = Backoff::new(FIRST, MAX);
        let delays: Vec<_> = (0..5).map(|_| backoff.fail().as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 3000, 3000]);
        backoff.reset();
        assert_eq!(backoff.fail(), FIRST);
    }

    #[test]
    fn no_number_of_failures_overflows() {
        assert_eq!(delay(FIRST, MAX, 0), Duration::ZERO);
        for failures in [32, 33, 34, u32::MAX] {
            assert_eq!(delay(FIRST, MAX, failures), MAX);
        }
        assert_eq!(delay(Duration::MAX, Duration::MAX, 2), Duration::MAX);
    }
}
