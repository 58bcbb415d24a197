//! The pod's record on disk. Work with an effect starts after its record is stored: an agent that reads an
//! older record would start the work again, with old restart counts.

use host_kernel::block_in_place;
use pod_lifecycle::{LifecycleAction, doubled};

use super::Worker;
use crate::limits::{RECORD_RETRY_MAX, RECORD_RETRY_MIN};
use crate::pods::recovery::{self, StoredPod};

impl Worker {
    /// Starts work after its record is stored; `false` if the record cannot be stored. Then no work has
    /// started, and the pod waits for the next attempt.
    pub(super) fn begin_work(&mut self, actions: Vec<LifecycleAction>) -> bool {
        if self.record_due.is_some() {
            return false;
        }
        let before = self.record.clone();
        for action in actions {
            self.perform(action);
        }
        let stored = self.persist();
        if stored {
            self.tasks.release();
        } else {
            self.record = before;
            self.tasks.drop_held();
        }
        stored
    }

    /// Stores the state for the next agent; does nothing during the delay after a failure. Returns whether
    /// the state is stored.
    pub(super) fn persist(&mut self) -> bool {
        let now = StoredPod {
            record: self.record.durable(),
            volumes: self.volumes.clone(),
        };
        if self.stored.as_ref() == Some(&now) {
            return true;
        }
        if self.record_due.is_some() {
            return false;
        }
        let is_new = self.stored.is_none();
        match block_in_place(|| recovery::store(&self.dir, &self.pod, &now, is_new)) {
            Ok(()) => {
                self.stored = Some(now);
                self.record_failures = 0;
                self.context.monitor.record_stored();
                true
            }
            Err(error) => {
                self.record_failures += 1;
                let delay = doubled(RECORD_RETRY_MIN, RECORD_RETRY_MAX, self.record_failures);
                self.record_due = Some(self.context.node.clock.instant() + delay);
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
