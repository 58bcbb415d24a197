//! The state of the writes of the pod's status: at most one write at a time, with a delay after a failure.

use json_tree::Value;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use pod_lifecycle::{Instant, doubled};

use crate::api::status_writer::{self, StatusWriteResult};
use crate::api::stored_status::StoredStatus;
use crate::limits::{STATUS_RETRY_MAX, STATUS_RETRY_MIN};

pub(super) struct StatusWrites {
    /// The newest status that the API server has stored.
    stored: StoredStatus<PodStatus>,
    state: StatusWrite,
    /// A patch that was written but changed nothing, so it is not written again.
    ineffective: Option<Value>,
    /// Consecutive failed writes.
    failures: u32,
}

#[derive(Debug, PartialEq)]
enum StatusWrite {
    Idle,
    InFlight(Value),
    /// A write has failed; the next write begins at this time or later.
    Delayed(Instant),
}

impl StatusWrites {
    pub(super) fn new(stored: PodStatus) -> Self {
        Self {
            stored: StoredStatus::new(stored),
            state: StatusWrite::Idle,
            ineffective: None,
            failures: 0,
        }
    }

    pub(super) fn stored(&self) -> &PodStatus {
        self.stored.get()
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.state, StatusWrite::InFlight(_))
    }

    /// The end of the delay after a failure.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            StatusWrite::Delayed(until) => Some(until),
            StatusWrite::Idle | StatusWrite::InFlight(_) => None,
        }
    }

    pub(super) fn end_delay(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.state = StatusWrite::Idle;
        }
    }

    /// Begins a write, and returns its patch; `None` if there is nothing to write now.
    pub(super) fn begin(&mut self, desired: &PodStatus) -> Option<Value> {
        if self.state != StatusWrite::Idle {
            return None;
        }
        let difference = status_writer::difference(self.stored.get(), desired);
        let patch = difference.filter(|patch| self.ineffective.as_ref() != Some(patch))?;
        self.state = StatusWrite::InFlight(patch.clone());
        Some(patch)
    }

    /// Completes the write in progress.
    pub(super) fn complete(
        &mut self,
        result: StatusWriteResult,
        desired: &PodStatus,
        now: Instant,
    ) {
        let state = std::mem::replace(&mut self.state, StatusWrite::Idle);
        let StatusWrite::InFlight(patch) = state else {
            self.state = state;
            return;
        };
        match result {
            StatusWriteResult::Done(pod) => {
                let status = pod.status.clone().unwrap_or_default();
                self.stored.record_response(&*pod, status);
                self.failures = 0;
                let difference = status_writer::difference(self.stored.get(), desired);
                self.ineffective = difference.filter(|difference| *difference == patch);
            }
            // The watch will report the deletion, too. Until then, no status is written.
            StatusWriteResult::NotFound => self.ineffective = Some(patch),
            StatusWriteResult::Failed(_) => {
                self.failures += 1;
                let delay = doubled(STATUS_RETRY_MIN, STATUS_RETRY_MAX, self.failures);
                self.state = StatusWrite::Delayed(now + delay);
            }
        }
    }

    /// Records the status of a pod from the watch; `false` if the status is older than a response.
    pub(super) fn record_watched(&mut self, pod: &Pod) -> bool {
        let status = pod.status.clone().unwrap_or_default();
        self.stored.record_watched(pod, status)
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use pod_lifecycle::Moment;

    use super::*;
    use crate::api::status_writer::StatusWriteError;

    fn status(phase: &str) -> PodStatus {
        PodStatus {
            phase: Some(phase.to_owned()),
            ..PodStatus::default()
        }
    }

    fn stored(phase: &str) -> StatusWriteResult {
        StatusWriteResult::Done(Box::new(Pod {
            status: Some(status(phase)),
            ..Pod::default()
        }))
    }

    fn failed() -> StatusWriteResult {
        StatusWriteResult::Failed(StatusWriteError::TimedOut)
    }

    fn now() -> Instant {
        Moment::aligned(jiff::Timestamp::UNIX_EPOCH).instant
    }

    #[tokio::test]
    async fn one_write_at_a_time_has_the_difference_to_the_stored_status() {
        let mut writes = StatusWrites::new(status("Pending"));
        assert_eq!(writes.begin(&status("Pending")), None);
        let patch = writes.begin(&status("Running"));
        assert_eq!(patch, Some(json!({"phase": "Running"})));
        assert!(writes.is_in_flight());
        assert_eq!(writes.begin(&status("Failed")), None);
        writes.complete(stored("Running"), &status("Failed"), now());
        assert_eq!(writes.stored(), &status("Running"));
        let patch = writes.begin(&status("Failed"));
        assert_eq!(patch, Some(json!({"phase": "Failed"})));
    }

    #[tokio::test]
    async fn a_failed_write_is_repeated_after_a_delay_that_grows() {
        let mut writes = StatusWrites::new(status("Pending"));
        let mut due = now();
        for delay in [STATUS_RETRY_MIN, STATUS_RETRY_MIN * 2] {
            assert!(writes.begin(&status("Running")).is_some());
            writes.complete(failed(), &status("Running"), due);
            assert_eq!(writes.due(), Some(due + delay));
            writes.end_delay(due);
            assert_eq!(writes.begin(&status("Running")), None);
            due = due + delay;
            writes.end_delay(due);
            assert_eq!(writes.due(), None);
        }
        assert!(writes.begin(&status("Running")).is_some());
        writes.complete(stored("Running"), &status("Running"), due);
        assert!(writes.begin(&status("Failed")).is_some());
        writes.complete(failed(), &status("Failed"), due);
        assert_eq!(writes.due(), Some(due + STATUS_RETRY_MIN));
    }

    #[tokio::test]
    async fn a_patch_without_an_effect_and_a_patch_of_a_deleted_pod_are_not_repeated() {
        for result in [stored("Pending"), StatusWriteResult::NotFound] {
            let mut writes = StatusWrites::new(status("Pending"));
            assert!(writes.begin(&status("Running")).is_some());
            writes.complete(result, &status("Running"), now());
            assert_eq!(writes.begin(&status("Running")), None);
            assert!(writes.begin(&status("Failed")).is_some());
        }
    }
}
