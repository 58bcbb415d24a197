//! Checks of a pod's local storage against its limits.

use host_kernel::blocking_value;
use pod_lifecycle::resources::local_storage::{self, DiskUsage};

use super::{Worker, tell};
use crate::limits::LOCAL_STORAGE_PERIOD;
use crate::machine::pod_files::PodPaths;
use crate::pods::message::Message;

impl Worker {
    /// Starts the checks of the pod's disk usage, if the pod has limits.
    pub(super) fn watch_storage(&mut self) {
        let limited = self
            .pod
            .spec
            .as_ref()
            .is_some_and(local_storage::is_limited);
        let over = self.removed || self.record.failure.is_some();
        self.storage_due =
            (limited && !over).then(|| self.context.node.clock.instant() + LOCAL_STORAGE_PERIOD);
    }

    /// Starts a measurement of the pod's disk usage.
    pub(super) fn look_at_storage(&mut self) {
        let places = PodPaths::of(&self.pod, &self.record, &self.dir);
        let (figures, clock) = (self.context.disk.clone(), self.context.node.clock);
        let uid = self.pod.metadata.uid.clone().unwrap_or_default();
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let measure = move || figures.measure(&uid, &places, clock);
            match blocking_value(measure).await {
                Ok(taken) => tell(&sender, Message::StorageUsed(taken.files.bytes())).await,
                Err(error) => tracing::error!(%error, "disk usage not read"),
            }
        });
    }

    /// Evicts the pod if it exceeds its limits.
    pub(super) fn storage_used(&mut self, usage: &DiskUsage) {
        let overrun = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| local_storage::overrun(spec, usage));
        if let Some(failure) = overrun {
            self.fail_pod(failure);
        }
        self.watch_storage();
    }
}
