//! Stops a sandbox when its node's Lease expires.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use host_kernel::deadline::{self, DeadlinePage};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::spec::NodeLease;

/// The phase of the node's Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeasePhase {
    /// The Lease is valid; the next check is at this time.
    Valid(Duration),
    /// The Lease is close to its deadline: containers are asked to stop. The next check is at this time.
    Closing(Duration),
    /// The Lease has expired: all processes must be killed.
    Lapsed,
}

/// The phase of a Lease with the deadline `deadline`.
pub(crate) fn phase(deadline: Duration, warning: Duration, now: Duration) -> LeasePhase {
    let closes = deadline.saturating_sub(warning);
    if now >= deadline {
        LeasePhase::Lapsed
    } else if now >= closes {
        LeasePhase::Closing(deadline)
    } else {
        LeasePhase::Valid(closes)
    }
}

/// Watches the deadline page with an absolute timer.
pub(crate) struct LeaseWatch {
    page: Rc<DeadlinePage>,
    timer: OwnedFd,
    warning: Duration,
    /// The deadline for which containers were already asked to stop.
    warned: Option<Duration>,
}

impl LeaseWatch {
    /// Starts to watch the node's Lease.
    ///
    /// # Errors
    /// The Lease has expired or is close to its deadline, or the page cannot be read.
    pub fn open(lease: &NodeLease) -> io::Result<Self> {
        let page = DeadlinePage::open(&lease.page)?;
        let warning = Duration::from_millis(lease.warning_ms);
        let mut watch = Self::new(Rc::new(page), warning)?;
        match watch.check()? {
            LeasePhase::Lapsed => Err(io::Error::other("it has lapsed")),
            LeasePhase::Closing(_) => Err(io::Error::other("it is not renewed")),
            LeasePhase::Valid(_) => Ok(watch),
        }
    }

    /// Watches a mapped deadline page. The timer is set at the first check.
    ///
    /// # Errors
    /// A timer cannot be created.
    pub fn new(page: Rc<DeadlinePage>, warning: Duration) -> io::Result<Self> {
        Ok(Self {
            page,
            timer: timerfd_create(
                TimerfdClockId::Boottime,
                TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
            )?,
            warning,
            warned: None,
        })
    }

    pub fn page(&self) -> &Rc<DeadlinePage> {
        &self.page
    }

    pub fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Whether containers may start. Before the deadline, running containers are asked to stop, and no
    /// container starts.
    pub fn allows_starts(&self) -> bool {
        let phase = phase(self.page.deadline(), self.warning, deadline::now());
        matches!(phase, LeasePhase::Valid(_))
    }

    /// Reads the page, and sets the timer to the time of the next check.
    pub fn check(&mut self) -> io::Result<LeasePhase> {
        let phase = phase(self.page.deadline(), self.warning, deadline::now());
        if let LeasePhase::Valid(next) | LeasePhase::Closing(next) = phase {
            let it_value = Timespec {
                tv_sec: i64::try_from(next.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: next.subsec_nanos().into(),
            };
            let it_interval = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let at = Itimerspec {
                it_interval,
                it_value,
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &at)?;
        }
        Ok(phase)
    }

    /// Whether the containers must be asked to stop before this deadline: `true` once per deadline.
    pub fn warns(&mut self, deadline: Duration) -> bool {
        self.warned.replace(deadline) != Some(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_closes_before_it_lapses() {
        let secs = Duration::from_secs;
        for (now, expected) in [
            (0, LeasePhase::Valid(secs(30))),
            (29, LeasePhase::Valid(secs(30))),
            (30, LeasePhase::Closing(secs(40))),
            (39, LeasePhase::Closing(secs(40))),
            (40, LeasePhase::Lapsed),
            (100, LeasePhase::Lapsed),
        ] {
            assert_eq!(phase(secs(40), secs(10), secs(now)), expected, "{now}");
        }
        assert_eq!(phase(Duration::ZERO, secs(10), secs(5)), LeasePhase::Lapsed);
    }
}
