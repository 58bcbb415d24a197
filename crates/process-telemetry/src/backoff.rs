//! Exponential backoff: the delay before the next attempt doubles with each consecutive failure, up to a maximum. A
//! part of each delay is random, so that clients that failed together do not retry together.

use std::time::Duration;

/// The delays of consecutive attempts at the same work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// A backoff without failures. The first delay is `first`; no delay is longer than `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            failures: 0,
        }
    }

    /// Counts a failure and returns the delay before the next attempt, a part of which is random.
    pub fn fail(&mut self) -> Duration {
        self.fail_at(rand::random())
    }

    /// Counts a failure as [`Backoff::fail`] does; `share` (0 to 1) replaces the random number.
    pub fn fail_at(&mut self, share: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        spread(delay(self.first, self.max, self.failures), share)
    }

    /// Counts a success: the next delay is the first delay again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The delay after the given number of consecutive failures; zero if there is no failure.
pub fn delay(first: Duration, max: Duration, failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(max)
}

/// A random delay between half of the given delay and all of it.
pub fn jittered(delay: Duration) -> Duration {
    spread(delay, rand::random())
}

/// Half of the delay, plus the given share (0 to 1) of the other half.
fn spread(delay: Duration, share: f64) -> Duration {
    cov_mark::hit!(findings_2_r33);
    let half = delay / 2;
    half + half.mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(3);

    #[test]
    fn delays_double_up_to_the_maximum_until_a_success() {
        let mut backoff = Backoff::new(FIRST, MAX);
        let delays: Vec<_> = (0..5).map(|_| backoff.fail_at(1.0).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 3000, 3000]);
        backoff.reset();
        assert_eq!(backoff.fail_at(1.0), FIRST);
    }

    /// findings-2 R33
    #[test]
    fn clients_that_fail_together_come_back_at_different_times() {
        cov_mark::check!(findings_2_r33);
        let first = |share| Backoff::new(FIRST, MAX).fail_at(share);
        assert_eq!(first(0.0), FIRST / 2);
        assert_eq!(first(0.5), FIRST / 4 * 3);
        assert_eq!(first(1.0), FIRST);
        let delays: std::collections::BTreeSet<_> =
            (0..100).map(|_| Backoff::new(FIRST, MAX).fail()).collect();
        assert!(delays.len() > 50, "{delays:?}");
        assert!(
            delays
                .iter()
                .all(|delay| (FIRST / 2..=FIRST).contains(delay))
        );
        assert!(jittered(Duration::MAX) >= Duration::MAX / 2);
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
