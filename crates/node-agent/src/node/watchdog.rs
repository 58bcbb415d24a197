//! The watchdog of the machine, for pods that stop with the node's Lease: a process that waits for a device
//! cannot be killed, so only a reset of the machine stops it.
//!
//! **Goal**: the control plane fences this node a quarter of the Lease's duration after the deadline. At
//! that time, no process of such a pod exists, or the machine has been reset. **Relies on**: the device.
//! **Guarantees**: after the deadline, the device is fed only while no such process exists. If this program
//! was killed or does not run, the device is not fed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use container_runtime::leased_processes_are_there;
use host_kernel::deadline::{self, DeadlineFile, DeadlinePage};
use host_kernel::{tree, watchdog};
use node_lease::LeaseLength;

use crate::machine::machine_info::boot_id;
use crate::paths::{deadline_page, lease_dir};

/// The shortest timeout, because a busy machine must not be reset.
const TIMEOUT_MIN: Duration = Duration::from_secs(3);

/// The reason why the watchdog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// The Lease is too short: the reset would come too late, or a busy machine would be reset.
    #[error("a lease of {}s is too short for a watchdog, which needs one of {}s or more", .0.seconds(), least().as_secs())]
    LeaseTooShort(LeaseLength),
    /// The device cannot be used.
    #[error("use the watchdog {}", .0.display())]
    Device(PathBuf, #[source] io::Error),
    /// The deadline of this node cannot be read.
    #[error("read the deadline of the node's lease")]
    Deadline(#[source] io::Error),
}

/// The shortest duration of a Lease for a node with a watchdog.
fn least() -> Duration {
    TIMEOUT_MIN * 8
}

/// The timeout of the device: half of the time between the deadline and the fence, because the clocks of
/// two machines may run at different rates.
fn timeout(lease: LeaseLength) -> Result<Duration, WatchdogError> {
    match lease.duration() < least() {
        true => Err(WatchdogError::LeaseTooShort(lease)),
        false => Ok(Duration::from_secs((lease.duration() / 8).as_secs())),
    }
}

/// Whether the device is fed. If the processes of the pods cannot be read, the device is not fed after the
/// deadline.
fn may_feed(
    now: Duration,
    deadline: Duration,
    processes_are_there: impl FnOnce() -> io::Result<bool>,
) -> bool {
    now < deadline || processes_are_there().is_ok_and(|are_there| !are_there)
}

/// A device that resets the machine unless it is fed.
trait Device: Send + 'static {
    fn feed(&mut self) -> io::Result<()>;
    fn stop(self) -> io::Result<()>;
}

impl Device for watchdog::Watchdog {
    fn feed(&mut self) -> io::Result<()> {
        self.feed()
    }

    fn stop(self) -> io::Result<()> {
        self.stop()
    }
}

/// The running watchdog, which is stopped when the value is dropped. If the program is killed, the machine
/// is reset.
#[derive(Debug)]
pub struct Watchdog {
    feeding: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Watchdog {
    /// Opens the device and starts to feed it. The device may still run, because a former agent was killed.
    ///
    /// # Errors
    /// Fails if the Lease is too short, or if the device or the files in the data directory cannot be used.
    pub fn start(path: &Path, data_dir: &Path, lease: LeaseLength) -> Result<Self, WatchdogError> {
        let timeout = timeout(lease)?;
        let open_page = || {
            tree::make_private(&lease_dir(data_dir))?;
            let path = deadline_page(data_dir, &boot_id());
            DeadlineFile::open(&path)?;
            DeadlinePage::open(&path)
        };
        let page = open_page().map_err(WatchdogError::Deadline)?;
        let device = watchdog::Watchdog::open(path, timeout);
        let device = device.map_err(|source| WatchdogError::Device(path.to_owned(), source))?;
        let data_dir = data_dir.to_owned();
        let rule = move || {
            let processes = || leased_processes_are_there(&data_dir);
            may_feed(deadline::now(), page.deadline(), processes)
        };
        let started = Self::feed(device, timeout / 4, rule);
        started.map_err(|source| WatchdogError::Device(path.to_owned(), source))
    }

    /// Feeds the device on a separate thread while [`may_feed`] allows it.
    fn feed(
        mut device: impl Device,
        period: Duration,
        mut may_feed: impl FnMut() -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let keep = move || {
            let mut was_fed = true;
            loop {
                let is_fed = may_feed();
                if is_fed && let Err(error) = device.feed() {
                    tracing::error!(%error, "the watchdog is not fed");
                }
                if was_fed && !is_fed {
                    tracing::error!(
                        "the node's lease has ended, and processes of pods that end with it are left: the \
                         watchdog resets the machine"
                    );
                }
                was_fed = is_fed;
                if stopped.recv_timeout(period) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            if let Err(error) = device.stop() {
                tracing::error!(%error, "the watchdog does not stop");
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned());
        let thread = thread.spawn(keep)?;
        Ok(Self {
            feeding: Some((stop, thread)),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.feeding.take() {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("the watchdog's thread has ended by a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// docs/node-failure.md: as long as a process cannot be killed, the device is not fed, and the machine
    /// is reset before the fence.
    #[test]
    fn after_the_deadline_processes_of_pods_leave_it_unfed() {
        let present = || Ok(true);
        let absent = || Ok(false);
        let unknown = || Err(io::Error::other("the disk does not answer"));
        let deadline = SECOND * 40;
        assert!(may_feed(SECOND * 39, deadline, present));
        assert!(may_feed(SECOND * 39, deadline, unknown));
        assert!(!may_feed(deadline, deadline, present));
        assert!(!may_feed(deadline, deadline, unknown));
        assert!(may_feed(deadline, deadline, absent));
        // After a reboot, before the first Lease.
        assert!(may_feed(SECOND, Duration::ZERO, absent));
    }

    /// The last feeding is before the deadline. The fence is at five quarters of the Lease's duration, by a
    /// clock that may be 5 % faster.
    #[test]
    fn the_reset_is_before_the_fence() {
        for seconds in 12..=40 {
            let lease = LeaseLength::from_seconds(seconds).unwrap();
            match timeout(lease) {
                Ok(timeout) => {
                    assert!(timeout >= TIMEOUT_MIN);
                    let fence = lease.duration() * 5 / 4;
                    assert!(
                        (lease.duration() + timeout) * 105 / 100 < fence,
                        "{seconds}"
                    );
                }
                Err(error) => {
                    assert!(seconds < 24, "{error}");
                    let text = format!("a lease of {seconds}s is too short");
                    assert!(error.to_string().starts_with(&text), "{error}");
                }
            }
        }
    }

    #[derive(Clone, Default)]
    struct Fake {
        fed: Arc<Mutex<usize>>,
        is_stopped: Arc<AtomicBool>,
    }

    impl Device for Fake {
        fn feed(&mut self) -> io::Result<()> {
            *self.fed.lock().unwrap() += 1;
            Ok(())
        }

        fn stop(self) -> io::Result<()> {
            self.is_stopped.store(true, Ordering::SeqCst);
            Ok(())
        }
    }

    #[test]
    fn it_is_fed_as_the_rule_says_and_stopped_at_the_end() {
        let fake = Fake::default();
        let may = Arc::new(AtomicBool::new(true));
        let (sender, results) = channel();
        let rule = {
            let may = may.clone();
            move || {
                let may_feed = may.load(Ordering::SeqCst);
                sender.send(may_feed).unwrap();
                may_feed
            }
        };
        let period = Duration::from_millis(1);
        let watchdog = Watchdog::feed(fake.clone(), period, rule).unwrap();
        results.iter().find(|may_feed| *may_feed).unwrap();
        may.store(false, Ordering::SeqCst);
        results.iter().find(|may_feed| !may_feed).unwrap();
        let fed = *fake.fed.lock().unwrap();
        assert!(fed > 0);
        for _ in 0..20 {
            assert!(!results.recv().unwrap());
        }
        assert_eq!(*fake.fed.lock().unwrap(), fed);
        assert!(!fake.is_stopped.load(Ordering::SeqCst));
        drop(watchdog);
        assert!(fake.is_stopped.load(Ordering::SeqCst));
    }
}
