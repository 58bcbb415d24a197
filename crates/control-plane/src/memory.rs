//! Returns freed memory to the machine.
//!
//! The allocator keeps freed memory for later use. After the deletion of many objects this is most of the
//! process's memory, which the pods could use.

use std::sync::Arc;
use std::time::Duration;

use host_kernel::{allocator, blocking, blocking_value};
use mvcc_store::Store;
use tokio_util::sync::CancellationToken;

/// Interval of the checks.
const INTERVAL: Duration = Duration::from_secs(30);
/// Minimum difference in bytes for which memory is returned: a smaller gain is not worth the work.
const WORTH: u64 = 8 << 20;

/// The values of the previous checks.
#[derive(Debug, Default)]
struct MemoryMarks {
    /// Maximum size of the stored objects since memory was last returned, in bytes.
    stored_max: u64,
    /// The memory of the process after memory was last returned, in bytes.
    resident: u64,
}

impl MemoryMarks {
    /// Whether memory should be returned: the store has become smaller, or the process has become larger.
    fn is_due(&mut self, stored: u64, resident: u64) -> bool {
        self.stored_max = self.stored_max.max(stored);
        if self.stored_max - stored >= WORTH {
            cov_mark::hit!(findings_r23);
            return true;
        }
        resident.saturating_sub(self.resident) >= WORTH
    }

    fn after_release(stored: u64, resident: u64) -> Self {
        Self {
            stored_max: stored,
            resident,
        }
    }
}

/// Returns freed memory periodically until `stop`.
pub async fn keep_small(store: Arc<dyn Store>, stop: CancellationToken) {
    let mut marks = MemoryMarks::default();
    let mut again = false;
    let next = || stop.run_until_cancelled(tokio::time::sleep(INTERVAL));
    while next().await.is_some() {
        // Deleted objects stay in the history of the store for minutes.
        let occupancy = store.occupancy();
        let stored = occupancy.live_bytes + occupancy.history_bytes;
        let Some(resident) = resident().await else {
            continue;
        };
        let is_due = marks.is_due(stored, resident);
        // Some threads return their pages only at the second attempt.
        if !is_due && !again {
            continue;
        }
        again = is_due;
        if let Err(error) = blocking_value(allocator::give_back).await {
            tracing::warn!(%error, "memory is not given back");
        }
        let now = self::resident().await.unwrap_or(resident);
        tracing::debug!(before = resident, after = now, "memory given back");
        marks = MemoryMarks::after_release(stored, now);
    }
}

/// The anonymous memory of this process, in bytes.
async fn resident() -> Option<u64> {
    let read = blocking(|| std::fs::read_to_string("/proc/self/status"));
    anonymous(&read.await.ok()?)
}

/// The anonymous memory in the text of `/proc/PID/status`, in bytes.
fn anonymous(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings R23: the measured value is the memory that the process itself allocated, without code and mapped files.
    #[test]
    fn the_kernels_form_is_read() {
        let text = "Name:\tmainstay\nVmRSS:\t   56320 kB\nRssAnon:\t   20480 kB\nThreads:\t4\n";
        assert_eq!(anonymous(text), Some(20480 * 1024));
        assert_eq!(anonymous("Name:\tkthreadd\n"), None);
    }

    /// findings R23: memory is given back after much was freed, and not again and again.
    #[test]
    fn memory_is_given_back_when_much_was_freed() {
        cov_mark::check!(findings_r23);
        const MIB: u64 = 1 << 20;
        let mut marks = MemoryMarks::after_release(10 * MIB, 50 * MIB);
        assert!(!marks.is_due(10 * MIB, 50 * MIB));
        assert!(!marks.is_due(14 * MIB, 57 * MIB));
        // The store and the process grew by much: the memory is checked once.
        assert!(marks.is_due(110 * MIB, 160 * MIB));
        marks = MemoryMarks::after_release(110 * MIB, 160 * MIB);
        assert!(!marks.is_due(110 * MIB, 160 * MIB));
        assert!(marks.is_due(10 * MIB, 160 * MIB));
        marks = MemoryMarks::after_release(10 * MIB, 51 * MIB);
        assert!(!marks.is_due(10 * MIB, 52 * MIB));
    }
}
