//! The time at which a change is written, if changes come in quick succession.
//!
//! A change after a quiet time is written at once. Changes within [`WINDOW`] after a write are
//! collected: the state at the end of the window is written, so no last state is lost. Upstream has
//! the same window as `--endpoint-updates-batch-period`.

use std::time::Duration;

/// The window of collected changes. Proxies and DNS may be this late, except for the first change
/// after a quiet time, so it is short against the time in which a client gives up a connection. It
/// is long against the time between two pods of a set that starts: with 80 pods per second a write
/// reports eight of them, and the number of writes no longer grows with the number of pods.
pub const WINDOW: Duration = Duration::from_millis(100);

/// The window of the Endpoints of a Service, the old form of its slices. Proxies and DNS read the
/// slices, so the Endpoints have readers that look once, and each write has all addresses: with 200
/// pods it costs as much as four writes of a pod.
pub const ENDPOINTS_WINDOW: Duration = Duration::from_secs(1);

/// The weight of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteUrgency {
    /// No reader acts on it, and a change with more weight usually follows soon: it is written
    /// together with that one, or one window later.
    Minor,
    /// Readers act on it: it is written at once after a quiet time.
    Prompt,
    /// Later decisions depend on it: it is written at once, also within a window.
    Immediate,
}

/// The time to wait before a change is written; zero if it is due. `since_write` is the time since
/// the last write to the same object, if there was one; `since_seen` is the time since the first
/// change was seen that is not yet written.
pub fn delay(
    window: Duration,
    urgency: WriteUrgency,
    since_write: Option<Duration>,
    since_seen: Duration,
) -> Duration {
    let left = |since| window.saturating_sub(since);
    let after_write = since_write.map_or(Duration::ZERO, left);
    match urgency {
        WriteUrgency::Immediate => Duration::ZERO,
        WriteUrgency::Prompt => after_write,
        WriteUrgency::Minor => after_write.max(left(since_seen)),
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
    fn a_decision_waits_for_nothing() {
        assert_eq!(after(WriteUrgency::Immediate, Some(NOW)), Duration::ZERO);
    }
}
