//! Checks of a pod's local storage against its limits.

use host_kernel::blocking_value;
use pod_lifecycle::Instant;
use pod_lifecycle::resources::local_storage::{self, DiskUsage};

use super::{Worker, send};
use crate::limits::LOCAL_STORAGE_PERIOD;
use crate::machine::pod_files::PodPaths;
use crate::pods::message::Message;

/// The state of the checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StorageCheck {
    /// The pod has no limits, or it has failed.
    #[default]
    Off,
    Due(Instant),
    InFlight,
}

impl StorageCheck {
    pub(super) fn due(self) -> Option<Instant> {
        match self {
            Self::Due(at) => Some(at),
            Self::Off | Self::InFlight => None,
        }
    }

    /// Begins the check if its time has come, and returns whether it has begun.
    pub(super) fn begin_due(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            *self = Self::InFlight;
        }
        is_due
    }
}

impl Worker {
    /// Schedules the next check of the pod's disk usage, if the pod has limits.
    pub(super) fn schedule_storage_check(&mut self) {
        let spec = self.pod.spec.as_ref();
        let is_limited = spec.is_some_and(local_storage::is_limited);
        self.storage_check = match is_limited && !self.is_removed() && self.record.failure.is_none()
        {
            true => StorageCheck::Due(self.context.node.clock.instant() + LOCAL_STORAGE_PERIOD),
            false => StorageCheck::Off,
        };
    }

    /// Starts a measurement of the pod's disk usage.
    pub(super) fn measure_storage(&mut self) {
        let paths = PodPaths::new(&self.pod, &self.record, &self.dir);
        let (figures, clock) = (self.context.disk.clone(), self.context.node.clock);
        let uid = self.identity.uid.clone();
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let measure = move || figures.measure(uid.as_str(), &paths, clock);
            let usage = blocking_value(measure).await;
            let usage = usage.inspect_err(|error| tracing::error!(%error, "disk usage not read"));
            let usage = usage.ok().map(|measured| measured.files.bytes());
            send(&sender, Message::StorageMeasured(usage)).await;
        });
    }

    /// Evicts the pod if it exceeds its limits. `usage` is `None` if the measurement has failed.
    pub(super) fn check_storage(&mut self, usage: Option<&DiskUsage>) {
        let spec = self.pod.spec.as_ref();
        let overrun = spec
            .zip(usage)
            .and_then(|(spec, usage)| local_storage::overrun(spec, usage));
        if let Some(failure) = overrun {
            self.fail_pod(failure);
        }
        self.schedule_storage_check();
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use pod_lifecycle::Moment;

    use super::*;

    #[test]
    fn a_check_begins_once_at_its_time() {
        let due = Moment::aligned(jiff::Timestamp::UNIX_EPOCH).instant;
        let mut check = StorageCheck::Due(due);
        assert!(!check.begin_due(due + SignedDuration::from_secs(-1)));
        assert_eq!(check.due(), Some(due));
        assert!(check.begin_due(due));
        assert_eq!(check, StorageCheck::InFlight);
        assert!(!check.begin_due(due));
        assert!(!StorageCheck::Off.begin_due(due));
    }
}
