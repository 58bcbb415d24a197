//! The usage and the condition of volumes, as their drivers report them. The agent calls the drivers in the
//! background, so that a request for statistics never waits for a driver.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use csi_client::VolumeStats;
use tokio::time::Instant;

/// The age at which statistics are read again (kubelet's default).
const AGE_MAX: Duration = Duration::from_secs(60);

/// The last statistics of a volume.
#[derive(Clone, Copy, Debug)]
struct CachedStats {
    requested: Instant,
    /// `None` if the driver returned an error.
    stats: Option<VolumeStats>,
}

/// The last statistics of all volumes, by their paths on this machine.
#[derive(Debug, Default)]
pub struct VolumeStatsCache(Mutex<BTreeMap<PathBuf, CachedStats>>);

impl VolumeStatsCache {
    fn all(&self) -> MutexGuard<'_, BTreeMap<PathBuf, CachedStats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statistics of a volume, at most about one minute old.
    pub fn get(&self, path: &Path) -> Option<VolumeStats> {
        self.all().get(path)?.stats
    }

    /// Whether the statistics of a volume must be read again.
    pub fn is_due(&self, path: &Path, now: Instant) -> bool {
        let cached = self.all().get(path).copied();
        cached.is_none_or(|cached| now >= cached.requested + AGE_MAX)
    }

    pub fn set(&self, path: PathBuf, requested: Instant, stats: Option<VolumeStats>) {
        self.all().insert(path, CachedStats { requested, stats });
    }

    /// Removes the volumes that are not in use.
    pub fn retain(&self, is_used: impl Fn(&Path) -> bool) {
        self.all().retain(|path, _| is_used(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_again_after_a_minute() {
        let (cache, now) = (VolumeStatsCache::default(), Instant::now());
        let path = Path::new("/v");
        assert!(cache.is_due(path, now));
        cache.set(path.to_owned(), now, Some(VolumeStats::default()));
        assert!(!cache.is_due(path, now) && cache.is_due(path, now + AGE_MAX));
        assert_eq!(cache.get(path), Some(VolumeStats::default()));
        cache.set(path.to_owned(), now, None);
        assert_eq!(cache.get(path), None);
        cache.retain(|_| false);
        assert!(cache.is_due(path, now));
    }
}
