//! Delays between changes of the kernel's table.

use std::time::Instant;

use crate::limits;

/// The end of the delay after the last change; it may be in the past.
pub(crate) struct Rest {
    over: Instant,
}

impl Rest {
    pub(crate) fn new(now: Instant) -> Rest {
        Rest { over: now }
    }

    /// The end of the delay after a change at `now`.
    pub(crate) fn end(&self, now: Instant) -> Instant {
        self.over.max(now + limits::DEBOUNCE)
    }

    pub(crate) fn worked(&mut self, from: Instant, to: Instant) {
        let all_is_owed = to.checked_sub(limits::REST_OWED_MAX).unwrap_or(from);
        let rest = (to - from) * limits::REST_FACTOR;
        self.over = (self.over.max(all_is_owed) + rest).min(to + limits::REST_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The readiness of a pod must be in the rules at once: only concurrent changes are collected.
    #[test]
    fn a_change_after_a_quiet_time_waits_for_no_batch() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut rest = Rest::new(start);
        assert_eq!(rest.end(start), start + limits::DEBOUNCE);
        rest.worked(at(10), at(12));
        assert_eq!(rest.end(at(1_000)), at(1_000) + limits::DEBOUNCE);
    }

    #[test]
    fn the_kernel_rests_when_changes_do_not_end() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut rest = Rest::new(start);
        rest.worked(at(10_000), at(10_040));
        rest.worked(at(10_050), at(10_090));
        assert!(rest.over <= at(10_090), "a Service and its endpoints");
        let mut now = at(10_090);
        for _ in 0..100 {
            let from = rest.over.max(now);
            now = from + Duration::from_millis(40);
            rest.worked(from, now);
        }
        let took = now - at(10_090);
        let worked = Duration::from_millis(40 * 100);
        assert!(took > worked * 3 && took < worked * 4, "{took:?}");
        rest.worked(now, now + Duration::from_secs(60));
        assert_eq!(rest.over, now + Duration::from_secs(60) + limits::REST_MAX);
    }
}
