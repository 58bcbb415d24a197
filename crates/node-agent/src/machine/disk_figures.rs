//! The disk usage of pods at the last measurement of their files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pod_lifecycle::Moment;

use super::pod_files::{PodFiles, PodPaths};
use crate::clock::Clock;

/// The files of a pod, and the time of their measurement.
#[derive(Debug)]
pub struct MeasuredFiles {
    pub at: Moment,
    pub files: PodFiles,
}

/// The newest measurement of each pod, by its UID.
#[derive(Debug, Default)]
pub struct DiskFigures {
    by_pod: Mutex<BTreeMap<String, Arc<MeasuredFiles>>>,
}

impl DiskFigures {
    /// Measures all files of a pod and stores their sizes. Blocks.
    pub fn measure(&self, uid: &str, paths: &PodPaths, clock: Clock) -> Arc<MeasuredFiles> {
        let files = paths.measure();
        let at = clock.now();
        let measured = Arc::new(MeasuredFiles { at, files });
        self.by_pod().insert(uid.to_owned(), measured.clone());
        measured
    }

    /// The last measurement of a pod; `None` until its files were measured.
    pub fn of_pod(&self, uid: &str) -> Option<Arc<MeasuredFiles>> {
        self.by_pod().get(uid).cloned()
    }

    /// Removes the measurements of all pods except `uids`.
    pub fn keep(&self, uids: &BTreeSet<&str>) {
        self.by_pod().retain(|uid, _| uids.contains(&**uid));
    }

    fn by_pod(&self) -> MutexGuard<'_, BTreeMap<String, Arc<MeasuredFiles>>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
