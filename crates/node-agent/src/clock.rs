//! The node's clocks: the wall clock for users, and a monotonic clock for everything else. No other module
//! of the agent reads a clock for a decision.
//!
//! The monotonic clock is the kernel's boot clock (`CLOCK_BOOTTIME`, which continues while the machine is
//! suspended), plus the time of the boot. A file stores the time of the boot with the boot id. So the next
//! agent can use the readings in the pods' records, even if the wall clock was set in between. After a
//! reboot, only the wall clock has the elapsed time. The monotonic clock never goes back behind its last
//! stored reading.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host_kernel::durable_file::{self, Durability};
use jiff::{SignedDuration, Timestamp};
use pod_lifecycle::{Instant, Moment};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Longest sleep between two reads of the clock: timers of the program stop while the machine is suspended,
/// but this clock continues.
const SLEEP_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The monotonic clock's reading at boot.
    origin: Instant,
}

/// The content of the clock's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredClock {
    boot_id: String,
    origin: Instant,
    /// A reading of the clock shortly before the file was written.
    latest: Instant,
}

impl Clock {
    /// The clock of the node with this data directory; `boot_id` is the boot id of the machine.
    ///
    /// # Errors
    /// Fails if the clock's file cannot be read or written.
    pub fn open(data_dir: &Path, boot_id: &str) -> io::Result<Self> {
        let stored = match fs::read(file(data_dir)) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(|error| tracing::warn!(%error, "the node's clock starts again"))
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let clock = Self {
            origin: origin(stored.as_ref(), boot_id, since_boot(), Timestamp::now()),
        };
        clock.store(data_dir, boot_id)?;
        Ok(clock)
    }

    /// A clock that is not stored on disk.
    #[cfg(test)]
    pub fn unstored() -> Self {
        Self {
            origin: origin(None, "", since_boot(), Timestamp::now()),
        }
    }

    /// Stores the clock's present reading for the time after a reboot.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn store(&self, data_dir: &Path, boot_id: &str) -> io::Result<()> {
        let stored = StoredClock {
            boot_id: boot_id.to_owned(),
            origin: self.origin,
            latest: self.instant(),
        };
        let text = serde_json::to_vec(&stored)?;
        durable_file::replace(&file(data_dir), &text, 0o644, Durability::PageCache)
    }

    pub fn now(&self) -> Moment {
        Moment {
            wall: Timestamp::now(),
            instant: self.instant(),
        }
    }

    pub fn instant(&self) -> Instant {
        self.origin + since_boot()
    }

    /// Waits until the monotonic clock has reached `due`.
    pub async fn sleep_until(&self, due: Instant) {
        loop {
            let remaining = due.since(self.instant());
            let Ok(remaining) = Duration::try_from(remaining) else {
                return;
            };
            if remaining.is_zero() {
                return;
            }
            tokio::time::sleep(remaining.min(SLEEP_MAX)).await;
        }
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("node-clock.json")
}

fn since_boot() -> SignedDuration {
    let time = clock_gettime(ClockId::Boottime);
    let nanos = i32::try_from(time.tv_nsec).unwrap_or_default();
    SignedDuration::new(time.tv_sec, nanos)
}

/// The monotonic clock's reading at boot.
fn origin(
    stored: Option<&StoredClock>,
    boot_id: &str,
    since_boot: SignedDuration,
    wall: Timestamp,
) -> Instant {
    let now = Instant::reading(wall);
    match stored {
        Some(stored) if stored.boot_id == boot_id && !boot_id.is_empty() => {
            cov_mark::hit!(findings_r4);
            stored.origin
        }
        Some(stored) => now.max(stored.latest) + -since_boot,
        None => now + -since_boot,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    // findings R4
    #[test]
    fn readings_survive_the_agent_and_the_wall_clock() {
        cov_mark::check!(findings_r4);
        let up = SignedDuration::from_secs;
        let first = origin(None, "a", up(100), at(10_000));
        assert_eq!(first + up(100), Instant::reading(at(10_000)));
        let stored = StoredClock {
            boot_id: "a".to_owned(),
            origin: first,
            latest: first + up(150),
        };
        // After a restart without a reboot, a change of the wall clock has no effect.
        for wall in [5_000, 10_100, 90_000] {
            assert_eq!(origin(Some(&stored), "a", up(200), at(wall)), first);
        }
        // After a reboot, the wall clock has the elapsed time, but the monotonic clock does not go back.
        for (wall, expected) in [(20_000, 20_000), (5_000, 10_050)] {
            let origin = origin(Some(&stored), "b", up(3), at(wall));
            assert_eq!(origin + up(3), Instant::reading(at(expected)));
        }
    }

    #[test]
    fn the_clock_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let first = Clock::open(temp.path(), "a").unwrap();
        let second = Clock::open(temp.path(), "a").unwrap();
        assert_eq!(first.origin, second.origin);
        fs::write(file(temp.path()), "{").unwrap();
        Clock::open(temp.path(), "a").unwrap();
    }

    #[tokio::test]
    async fn what_is_due_is_not_waited_for() {
        let clock = Clock::unstored();
        let due = clock.instant();
        clock.sleep_until(due).await;
        clock.sleep_until(Instant::EARLIEST).await;
    }
}
