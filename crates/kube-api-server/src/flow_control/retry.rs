//! The `Retry-After` of refused requests: it grows with the number of refusals of a priority level, as
//! upstream.

use std::collections::VecDeque;

/// The maximum `Retry-After`, in seconds.
const SECONDS_MAX: u64 = 32;
/// Number of refusals in a second from which the delay is doubled.
const REFUSALS_PER_SECOND: u64 = 3;

/// The recent refusals of a level.
#[derive(Debug)]
pub(super) struct Refusals {
    /// Seconds and their refusals, the oldest first.
    seconds: VecDeque<(u64, u64)>,
    advice: u64,
    doubled: Option<u64>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            seconds: VecDeque::new(),
            advice: 1,
            doubled: None,
        }
    }
}

impl Refusals {
    /// Counts a refusal in the second `now`; returns the `Retry-After` in seconds.
    pub(super) fn count(&mut self, now: u64) -> u64 {
        match self.seconds.back_mut() {
            Some((second, count)) if *second >= now => *count += 1,
            _ => {
                self.change_advice(now);
                self.seconds.push_back((now, 1));
            }
        }
        self.advice
    }

    /// Doubles the delay after many refusals within the delay, and reduces the delay by one second after few
    /// refusals.
    fn change_advice(&mut self, now: u64) {
        let since = |second: u64| now.saturating_sub(second);
        self.seconds
            .retain(|(second, _)| since(*second) <= SECONDS_MAX);
        let recent = self.seconds.iter();
        let recent = recent.filter(|(second, _)| since(*second) <= self.advice);
        let refusals: u64 = recent.map(|(_, count)| count).sum();
        let may_double = self.doubled.is_none_or(|at| since(at) >= self.advice);
        if may_double && refusals >= REFUSALS_PER_SECOND * self.advice {
            self.advice = (self.advice * 2).min(SECONDS_MAX);
            self.doubled = Some(now);
        } else if refusals < self.advice {
            self.advice = (self.advice - 1).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings C55: with more refusals, clients get longer retry delays.
    #[test]
    fn the_advice_follows_the_refusals() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.count(100), 1);
        assert_eq!(refusals.count(101), 1, "one in a second is few");
        for _ in 0..40 {
            assert_eq!(refusals.count(102), 1, "of a second that is not over");
        }
        assert_eq!(refusals.count(103), 2);
        assert_eq!(
            refusals.count(104),
            2,
            "it stays for the time that it covers"
        );
        assert_eq!(refusals.count(105), 2);
        for second in 106..300 {
            for _ in 0..200 {
                refusals.count(second);
            }
        }
        assert_eq!(refusals.count(300), SECONDS_MAX);
        assert!(refusals.seconds.len() <= 34, "{refusals:?}");
        // The delay is reduced by one second for each second that has a refusal.
        let mut last = SECONDS_MAX;
        for second in 400..431 {
            let advice = refusals.count(second);
            assert!(advice == last || advice + 1 == last);
            last = advice;
        }
        assert!(last < SECONDS_MAX);
        for second in 0..40 {
            last = refusals.count(1000 + second * 100);
        }
        assert_eq!(last, 1);
    }
}
