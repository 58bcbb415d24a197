//! The state of the refreshes of the files in the pod's volumes.

use pod_lifecycle::Instant;

use crate::pods::message::RefreshResult;

#[derive(Debug, Default)]
pub(super) struct VolumeRefresh {
    /// The time of the next refresh. A request during a refresh is retained, because the refresh may have read
    /// the objects before their change.
    due: Option<Instant>,
    state: RefreshState,
}

#[derive(Debug)]
enum RefreshState {
    /// The result of the last refresh; before the first refresh, `Succeeded`.
    Idle(RefreshResult),
    InFlight,
}

impl Default for RefreshState {
    fn default() -> Self {
        Self::Idle(RefreshResult::Succeeded)
    }
}

impl VolumeRefresh {
    /// Requests a refresh at the time `at` or earlier.
    pub(super) fn request(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn cancel_request(&mut self) {
        self.due = None;
    }

    /// The time of the next refresh; `None` during a refresh.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            RefreshState::Idle(_) => self.due,
            RefreshState::InFlight => None,
        }
    }

    /// Removes the request if its time has come, and returns whether the refresh is to begin.
    pub(super) fn remove_due(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            self.due = None;
        }
        is_due
    }

    /// Begins a refresh, and returns the result of the last refresh; `None` if a refresh is in progress.
    pub(super) fn begin(&mut self) -> Option<RefreshResult> {
        match std::mem::replace(&mut self.state, RefreshState::InFlight) {
            RefreshState::Idle(last) => Some(last),
            RefreshState::InFlight => None,
        }
    }

    pub(super) fn complete(&mut self, result: RefreshResult) {
        self.state = RefreshState::Idle(result);
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use pod_lifecycle::Moment;

    use super::*;

    fn at(second: i64) -> Instant {
        Moment::aligned(jiff::Timestamp::UNIX_EPOCH).instant + SignedDuration::from_secs(second)
    }

    #[test]
    fn the_earliest_request_counts() {
        let mut refresh = VolumeRefresh::default();
        assert_eq!(refresh.due(), None);
        for second in [20, 10, 30] {
            refresh.request(at(second));
        }
        assert_eq!(refresh.due(), Some(at(10)));
        assert!(!refresh.remove_due(at(9)));
        assert!(refresh.remove_due(at(10)));
        assert!(!refresh.remove_due(at(10)));
        refresh.request(at(10));
        refresh.cancel_request();
        assert_eq!(refresh.due(), None);
    }

    #[test]
    fn a_request_during_a_refresh_waits_for_its_end() {
        let mut refresh = VolumeRefresh::default();
        assert_eq!(refresh.begin(), Some(RefreshResult::Succeeded));
        assert_eq!(refresh.begin(), None);
        refresh.request(at(1));
        assert_eq!(refresh.due(), None);
        assert!(!refresh.remove_due(at(2)));
        refresh.complete(RefreshResult::Failed);
        assert!(refresh.remove_due(at(2)));
        assert_eq!(refresh.begin(), Some(RefreshResult::Failed));
    }
}
