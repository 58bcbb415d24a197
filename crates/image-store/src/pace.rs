//! The minimum speed of a registry, and the progress of a download.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How fast a registry has to be: a download that brings less in a window is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long a window is.
    pub window: Duration,
    /// What has to come in each, in bytes.
    pub bytes_min: u64,
}

impl Default for Pace {
    /// Less than any line has on which somebody would wait for an image. The window is
    /// containerd's (`image_pull_progress_timeout`), which wants one byte.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(300),
            bytes_min: 256 << 10,
        }
    }
}

/// It brought less than it had to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSlow {
    /// What came in the window, in bytes.
    pub bytes: u64,
    /// What was wanted.
    pub pace: Pace,
}

/// Measures one download, window by window.
#[derive(Debug)]
pub struct Meter {
    pace: Pace,
    began: Instant,
    bytes: u64,
}

impl Meter {
    /// The first window begins now.
    pub fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            began: now,
            bytes: 0,
        }
    }

    /// When the window ends.
    pub fn end(&self) -> Instant {
        self.began + self.pace.window
    }

    /// Notes what came.
    pub fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Begins the next window when this one is over.
    ///
    /// # Errors
    /// When it brought too little.
    pub fn check(&mut self, now: Instant) -> Result<(), TooSlow> {
        if now < self.end() {
            return Ok(());
        }
        if self.bytes < self.pace.bytes_min {
            return Err(TooSlow {
                bytes: self.bytes,
                pace: self.pace,
            });
        }
        *self = Self::new(self.pace, now);
        Ok(())
    }
}

/// How far a pull has come: bytes that were downloaded, and those that were unpacked. Clones share
/// the count.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that it went on.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Who waits for something to be read: sees how far it has come, and may go.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    progress: Progress,
    gone: CancellationToken,
}

impl Observer {
    /// One who sees the progress there.
    pub fn of(progress: Progress) -> Self {
        Self {
            progress,
            gone: CancellationToken::new(),
        }
    }

    /// Lets the observer go when the guard is dropped.
    pub fn go_on_drop(&self) -> DropGuard {
        self.gone.clone().drop_guard()
    }

    /// Whether nobody waits any more.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Notes that it went on.
    pub fn see(&self, bytes: u64) {
        self.progress.add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_has_to_bring_enough() {
        let pace = Pace {
            window: Duration::from_secs(10),
            bytes_min: 100,
        };
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut meter = Meter::new(pace, begin);
        meter.add(99);
        assert_eq!(meter.check(at(9)), Ok(()));
        assert_eq!(meter.check(at(10)), Err(TooSlow { bytes: 99, pace }));
        meter.add(1);
        assert_eq!(meter.check(at(10)), Ok(()));
        // What came before does not count again.
        assert_eq!(meter.end(), at(20));
        meter.add(7);
        assert_eq!(meter.check(at(20)), Err(TooSlow { bytes: 7, pace }));
    }
}
