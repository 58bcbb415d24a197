//! The time at which a change is written, if changes come in quick succession.
//!
//! A change after a quiet time is written at once. Changes within a window ([`window_of`]) after a write are collected:
//! the state at the end of the window is written, so the newest state is never lost. Upstream has an equivalent window,
//! `--endpoint-updates-batch-period`.

use std::time::Duration;

/// The shortest window of collected changes.
///
/// Proxies and DNS may be late by this time, except for the first change after a quiet time, so the window is short
/// compared with the time after which a client gives up a connection. The window is long compared with the time between
/// two pods of a set that starts: with 80 pods per second one write reports eight pods, and the number of writes no
/// longer grows with the number of pods.
pub const WINDOW: Duration = Duration::from_millis(100);

/// The part of a window that each endpoint of a Service, or each pod of a set, adds beyond the first 250. A plan reads
/// all endpoints or pods, so without this part the cost of one pod would grow with their number.
const WINDOW_OF_PART: Duration = Duration::from_micros(400);

/// The window of a Service with `parts` endpoints, or of a set with `parts` pods: from [`WINDOW`] to one second.
pub fn window_of(parts: usize) -> Duration {
    let parts = u32::try_from(parts).unwrap_or(u32::MAX);
    let by_number = WINDOW_OF_PART.saturating_mul(parts);
    by_number.clamp(WINDOW, ENDPOINTS_WINDOW)
}

/// The window of the Endpoints of a Service, the old form of its slices. Proxies and DNS read the slices. Readers of
/// Endpoints do not watch them, and each write contains all addresses: with 200 pods a write costs as much as four
/// writes of a pod.
pub const ENDPOINTS_WINDOW: Duration = Duration::from_secs(1);

/// The weight of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteUrgency {
    /// No reader acts on the change, and a more urgent change usually follows soon: both are written together, or this
    /// change one window later.
    Minor,
    /// Readers act on the change: after a quiet time the change is written at once.
    Prompt,
    /// Later decisions depend on the change: the change is written at once, also within a window.
    Immediate,
}

/// The time to wait before a change is written; zero if the write is due. `since_write` is the time since the last
/// write to the object, if there was a write; `since_observed` is the time since the first unwritten change was observed.
pub fn delay(
    window: Duration,
    urgency: WriteUrgency,
    since_write: Option<Duration>,
    since_observed: Duration,
) -> Duration {
    let left = |since| window.saturating_sub(since);
    let after_write = since_write.map_or(Duration::ZERO, left);
    match urgency {
        WriteUrgency::Immediate => Duration::ZERO,
        WriteUrgency::Prompt => after_write,
        WriteUrgency::Minor => after_write.max(left(since_observed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn after(urgency: WriteUrgency, since_write: Option<Duration>) -> Duration {
        delay(WINDOW, urgency, since_write, NOW)
    }

    #[test]
    fn the_first_change_after_a_quiet_time_is_written_at_once() {
        assert_eq!(after(WriteUrgency::Prompt, None), Duration::ZERO);
        assert_eq!(after(WriteUrgency::Prompt, Some(WINDOW)), Duration::ZERO);
    }

    #[test]
    fn changes_within_the_window_are_written_at_its_end() {
        let third = WINDOW / 3;
        assert_eq!(after(WriteUrgency::Prompt, Some(third)), WINDOW - third);
        assert_eq!(after(WriteUrgency::Prompt, Some(NOW)), WINDOW);
    }

    #[test]
    fn a_minor_change_waits_one_window_and_no_longer() {
        assert_eq!(after(WriteUrgency::Minor, None), WINDOW);
        let third = WINDOW / 3;
        let wait = |since_write| delay(WINDOW, WriteUrgency::Minor, since_write, third);
        assert_eq!(wait(None), WINDOW - third);
        assert_eq!(wait(Some(NOW)), WINDOW);
        assert_eq!(
            delay(WINDOW, WriteUrgency::Minor, Some(WINDOW), WINDOW),
            Duration::ZERO
        );
    }

    #[test]
    fn large_sets_have_longer_windows() {
        assert_eq!(window_of(0), WINDOW);
        assert_eq!(window_of(250), WINDOW);
        assert_eq!(window_of(1000), WINDOW * 4);
        assert_eq!(window_of(2500), Duration::from_secs(1));
        assert_eq!(window_of(usize::MAX), Duration::from_secs(1));
    }

    #[test]
    fn a_decision_waits_for_nothing() {
        assert_eq!(after(WriteUrgency::Immediate, Some(NOW)), Duration::ZERO);
    }
}
