//! Looks at what a pod has written on the node's disk, where that is limited.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pod_lifecycle::local_storage::{self, DiskUsage};
use pod_lifecycle::spec;

use super::message::Message;
use super::{Worker, tell};
use crate::disk_usage;
use crate::layout::runtime_id;
use crate::limits::LOCAL_STORAGE_PERIOD;

impl Worker {
    /// Has the pod's usage looked at from now on, if anything of it is limited.
    pub(super) fn watch_storage(&mut self) {
        let limited = self
            .pod
            .spec
            .as_ref()
            .is_some_and(local_storage::is_limited);
        let over = self.removed || self.record.dismissal.is_some();
        self.storage_due = (limited && !over).then(|| Timestamp::now() + LOCAL_STORAGE_PERIOD);
    }

    /// Begins a look.
    pub(super) fn look_at_storage(&mut self) {
        let Some(pod_spec) = &self.pod.spec else {
            return;
        };
        let containers: Vec<(String, [PathBuf; 2])> = spec::containers(pod_spec)
            .filter_map(|(_, container)| {
                let name = &container.name;
                let known = self.record.containers.get(name)?;
                let layer = self.dir.rootfs(&runtime_id(name, known.restart_count));
                Some((name.clone(), [layer, self.dir.logs(name)]))
            })
            .collect();
        let volumes: Vec<(String, PathBuf)> = local_storage::disk_volume_names(pod_spec)
            .map(|name| (name.to_owned(), self.dir.volume(name)))
            .collect();
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let looked = tokio::task::spawn_blocking(move || DiskUsage {
                containers: containers
                    .into_iter()
                    .map(|(name, dirs)| (name, dirs.iter().map(|dir| size_of(dir)).sum()))
                    .collect(),
                volumes: volumes
                    .into_iter()
                    .map(|(name, dir)| (name, size_of(&dir)))
                    .collect(),
            });
            match looked.await {
                Ok(usage) => tell(&sender, Message::StorageUsed(usage)).await,
                Err(error) => tracing::error!(%error, "disk usage not read"),
            }
        });
    }

    /// Drives the pod out if it has written more than it may.
    pub(super) fn storage_used(&mut self, usage: &DiskUsage) {
        let overrun = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| local_storage::overrun(spec, usage));
        if let Some(dismissal) = overrun
            && self.record.dismissal.is_none()
        {
            self.events
                .warning(&dismissal.reason, dismissal.message.clone());
            self.record.dismissal = Some(dismissal);
        }
        self.watch_storage();
    }
}

/// What a directory takes on its disk. What goes while it is looked at takes nothing.
fn size_of(dir: &Path) -> i64 {
    let bytes = disk_usage::of(dir).unwrap_or(0);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_count_once_and_links_do_not_lead_away() {
        let temp = tempfile::tempdir().unwrap();
        let empty = size_of(temp.path());
        fs::write(temp.path().join("a"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(temp.path().join("a"), temp.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("root")).unwrap();
        let used = size_of(temp.path()) - empty;
        assert!(((1 << 20)..(3 << 19)).contains(&used), "{used}");
        assert_eq!(size_of(Path::new("/no/such/place")), 0);
    }
}
