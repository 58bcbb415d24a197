//! The minimum speed of a registry, and the progress of a download.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The minimum speed of a registry. A slower download is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinimumSpeed {
    /// The duration of a window.
    pub window: Duration,
    /// The minimum number of bytes per window.
    pub bytes_min: u64,
}

impl Default for MinimumSpeed {
    /// Slower than any usable connection. The window is containerd's (`image_pull_progress_timeout`), which
    /// requires one byte.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(300),
            bytes_min: 256 << 10,
        }
    }
}

/// A download that was slower than the minimum speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSlow {
    /// The bytes received in the window.
    pub bytes: u64,
    /// The minimum speed that it was below.
    pub minimum_speed: MinimumSpeed,
}

/// Measures the speed of one download in consecutive windows.
#[derive(Debug)]
pub struct StallDetector {
    minimum_speed: MinimumSpeed,
    began: Instant,
    bytes: u64,
}

impl StallDetector {
    /// Starts the first window at `now`.
    pub fn new(minimum_speed: MinimumSpeed, now: Instant) -> Self {
        Self {
            minimum_speed,
            began: now,
            bytes: 0,
        }
    }

    /// The end of the present window.
    pub fn end(&self) -> Instant {
        self.began + self.minimum_speed.window
    }

    /// Adds bytes that were received in the present window.
    pub fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Starts the next window if the present one has ended.
    ///
    /// # Errors
    /// The window had too few bytes.
    pub fn check(&mut self, now: Instant) -> Result<(), TooSlow> {
        if now < self.end() {
            return Ok(());
        }
        if self.bytes < self.minimum_speed.bytes_min {
            return Err(TooSlow {
                bytes: self.bytes,
                minimum_speed: self.minimum_speed,
            });
        }
        *self = Self::new(self.minimum_speed, now);
        Ok(())
    }
}

/// The progress of a pull: downloaded and unpacked bytes. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct PullProgress(Arc<AtomicU64>);

impl PullProgress {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds downloaded or unpacked bytes.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The observer of a read: it counts the progress, and may cancel the read.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    progress: PullProgress,
    cancellation: CancellationToken,
}

impl Observer {
    pub fn new(progress: PullProgress) -> Self {
        Self {
            progress,
            cancellation: CancellationToken::new(),
        }
    }

    /// Cancels the read when the returned guard is dropped.
    pub fn cancel_on_drop(&self) -> DropGuard {
        self.cancellation.clone().drop_guard()
    }

    /// Whether the read is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// Adds read bytes to the progress.
    pub fn add(&self, bytes: u64) {
        self.progress.add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_has_to_bring_enough() {
        let minimum_speed = MinimumSpeed {
            window: Duration::from_secs(10),
            bytes_min: 100,
        };
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut stall_detector = StallDetector::new(minimum_speed, begin);
        stall_detector.add(99);
        assert_eq!(stall_detector.check(at(9)), Ok(()));
        assert_eq!(
            stall_detector.check(at(10)),
            Err(TooSlow {
                bytes: 99,
                minimum_speed
            })
        );
        stall_detector.add(1);
        assert_eq!(stall_detector.check(at(10)), Ok(()));
        // Bytes of earlier windows do not count.
        assert_eq!(stall_detector.end(), at(20));
        stall_detector.add(7);
        assert_eq!(
            stall_detector.check(at(20)),
            Err(TooSlow {
                bytes: 7,
                minimum_speed
            })
        );
    }
}
