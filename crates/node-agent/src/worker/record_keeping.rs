//! The pod's record on disk. Work with an effect starts after its record is stored: an agent that reads an
//! older record would start the work again, with old restart counts.

use host_kernel::block_in_place;
use pod_lifecycle::{Instant, LifecycleAction, doubled};

use super::Worker;
use crate::limits::{RECORD_RETRY_MAX, RECORD_RETRY_MIN};
use crate::pods::recovery::{self, StoredPod};

/// The state of the pod's record on disk.
#[derive(Debug, Default)]
pub(super) struct RecordWrites {
    /// The record and the object on disk; `None` if the object has changed since, or was never stored.
    stored: Option<StoredPod>,
    state: RecordWrite,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RecordWrite {
    #[default]
    Working,
    /// A write has failed; the next attempt is at the time `until` or later.
    Delayed { failures: u32, until: Instant },
    /// The delay after a failure is over.
    Retry { failures: u32 },
}

impl RecordWrites {
    pub(super) fn is_delayed(&self) -> bool {
        self.due().is_some()
    }

    /// The end of the delay after a failure.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            RecordWrite::Delayed { until, .. } => Some(until),
            RecordWrite::Working | RecordWrite::Retry { .. } => None,
        }
    }

    pub(super) fn end_delay(&mut self, now: Instant) {
        if let RecordWrite::Delayed { failures, until } = self.state
            && until <= now
        {
            self.state = RecordWrite::Retry { failures };
        }
    }

    /// Requests that the object is stored, too, with the next record.
    pub(super) fn object_changed(&mut self) {
        self.stored = None;
    }

    fn complete(&mut self, stored: StoredPod) {
        self.stored = Some(stored);
        self.state = RecordWrite::Working;
    }

    fn fail(&mut self, now: Instant) {
        let failures = 1 + match self.state {
            RecordWrite::Working => 0,
            RecordWrite::Delayed { failures, .. } | RecordWrite::Retry { failures } => failures,
        };
        let until = now + doubled(RECORD_RETRY_MIN, RECORD_RETRY_MAX, failures);
        self.state = RecordWrite::Delayed { failures, until };
    }
}

impl Worker {
    /// Starts work after its record is stored; `false` if the record cannot be stored. Then no work has
    /// started, and the pod waits for the next attempt.
    pub(super) fn begin_work(&mut self, actions: Vec<LifecycleAction>) -> bool {
        if self.record_writes.is_delayed() {
            return false;
        }
        let before = self.record.clone();
        for action in actions {
            self.perform(action);
        }
        let is_stored = self.persist();
        if is_stored {
            self.tasks.start_delayed();
        } else {
            self.record = before;
            self.tasks.drop_delayed();
        }
        is_stored
    }

    /// Stores the state for the next agent; does nothing during the delay after a failure. Returns whether
    /// the state is stored.
    pub(super) fn persist(&mut self) -> bool {
        let state = StoredPod {
            record: self.record.durable(),
            volumes: self.volumes.clone(),
        };
        if self.record_writes.stored.as_ref() == Some(&state) {
            return true;
        }
        if self.record_writes.is_delayed() {
            return false;
        }
        let with_object = self.record_writes.stored.is_none();
        match block_in_place(|| recovery::store(&self.dir, &self.pod, &state, with_object)) {
            Ok(()) => {
                self.record_writes.complete(state);
                self.context.monitor.record_stored();
                true
            }
            Err(error) => {
                self.record_writes.fail(self.context.node.clock.instant());
                tracing::error!(pod = self.name(), %error, "pod record not stored");
                let message = format!(
                    "The node cannot store the record of the pod, and starts nothing of it until it can: {error}"
                );
                self.events.warning("FailedStorePodRecord", message);
                self.context.monitor.record_not_stored(&error);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pod_lifecycle::Moment;

    use super::*;

    #[test]
    fn an_attempt_after_a_failure_waits_for_a_delay_that_grows() {
        let mut writes = RecordWrites::default();
        let mut now = Moment::aligned(jiff::Timestamp::UNIX_EPOCH).instant;
        for delay in [RECORD_RETRY_MIN, RECORD_RETRY_MIN * 2] {
            writes.fail(now);
            assert_eq!(writes.due(), Some(now + delay));
            writes.end_delay(now);
            assert!(writes.is_delayed());
            now = now + delay;
            writes.end_delay(now);
            assert!(!writes.is_delayed());
        }
        writes.complete(StoredPod::default());
        assert_eq!(writes.state, RecordWrite::Working);
        writes.fail(now);
        assert_eq!(writes.due(), Some(now + RECORD_RETRY_MIN));
    }

    #[test]
    fn a_changed_object_is_stored_with_an_unchanged_record() {
        let mut writes = RecordWrites::default();
        writes.complete(StoredPod::default());
        assert_eq!(writes.stored, Some(StoredPod::default()));
        writes.object_changed();
        assert_eq!(writes.stored, None);
    }
}
