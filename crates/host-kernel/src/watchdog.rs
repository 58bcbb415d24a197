//! The watchdog of the machine: a device that resets the machine if nothing is written to it within its timeout (the
//! kernel's `Documentation/watchdog/watchdog-api.rst`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// The byte that allows the device to stop when it is closed (magic close).
const STOP: &[u8] = b"V";

/// The ioctl calls (`linux/watchdog.h`).
mod call {
    nix::ioctl_readwrite!(set_timeout, b'W', 6, nix::libc::c_int);
}

/// An open, running watchdog. It keeps running if the value is dropped without [`Watchdog::stop`].
#[derive(Debug)]
pub struct Watchdog {
    device: File,
}

impl Watchdog {
    /// Opens the device and sets its timeout in whole seconds.
    ///
    /// # Errors
    /// The device does not exist, another program uses it, it is not a watchdog, or it does not support such a short
    /// timeout. In the last case the device is stopped again.
    pub fn open(path: &Path, timeout: Duration) -> io::Result<Self> {
        let device = OpenOptions::new().write(true).open(path)?;
        let watchdog = Self { device };
        let requested_seconds = timeout.as_secs().try_into().unwrap_or(libc::c_int::MAX);
        match watchdog.set_timeout(requested_seconds) {
            Ok(set) if set <= requested_seconds => Ok(watchdog),
            Ok(set) => {
                watchdog.stop()?;
                let cause = format!("its timeout cannot be {requested_seconds}s, only {set}s");
                Err(io::Error::new(io::ErrorKind::Unsupported, cause))
            }
            Err(error) => {
                watchdog.stop()?;
                let cause = format!("its timeout cannot be set: {error}");
                Err(io::Error::new(error.kind(), cause))
            }
        }
    }

    fn set_timeout(&self, seconds: libc::c_int) -> io::Result<libc::c_int> {
        let mut timeout = seconds;
        // SAFETY: the call reads and writes this number, and keeps nothing.
        unsafe { call::set_timeout(self.device.as_raw_fd(), &mut timeout) }?;
        Ok(timeout)
    }

    /// Restarts the timeout.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn feed(&mut self) -> io::Result<()> {
        self.device.write_all(b"\0")
    }

    /// Stops the watchdog. If the kernel does not allow a stop (`nowayout`), it resets the machine after the timeout.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn stop(mut self) -> io::Result<()> {
        self.device.write_all(STOP)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_no_watchdog_is_refused_and_stopped() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("watchdog");
        fs::write(&path, "").unwrap();
        let refused = Watchdog::open(&path, Duration::from_secs(5)).unwrap_err();
        assert!(refused.to_string().contains("cannot be set"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"V");
    }

    #[test]
    fn the_last_byte_says_whether_it_goes_on() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("watchdog");
        let open = || Watchdog {
            device: File::create(&path).unwrap(),
        };
        let mut killed = open();
        killed.feed().unwrap();
        drop(killed);
        assert_eq!(fs::read(&path).unwrap(), b"\0");
        let mut stopped = open();
        stopped.feed().unwrap();
        stopped.stop().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"\0V");
    }
}
