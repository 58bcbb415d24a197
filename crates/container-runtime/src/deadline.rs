//! The deadline page of a node: the time until which pods that may fail over may run.
//!
//! The page is a small file that is mapped into the agent and into the shims of such pods. Its first
//! eight bytes are a reading of `CLOCK_BOOTTIME` in nanoseconds; zero is long ago. Readings of that
//! clock have a meaning until the next boot only, so the file's name should have the boot's id.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Size of the file: its blocks exist, so that a write to the mapped page needs no space.
const PAGE_BYTES: usize = 4096;

/// The node's deadline page, mapped into this process until it is dropped.
#[derive(Debug)]
pub struct DeadlinePage {
    page: NonNull<libc::c_void>,
}

// SAFETY: the page is only used as one atomic number, and stays mapped as long as this lives.
unsafe impl Send for DeadlinePage {}
// SAFETY: as above.
unsafe impl Sync for DeadlinePage {}

impl DeadlinePage {
    /// Opens the page for writing; a new page has a deadline in the past.
    ///
    /// # Errors
    /// The file cannot be made or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if file.metadata()?.len() < PAGE_BYTES as u64 {
            file.write_all(&[0; PAGE_BYTES])?;
        }
        Self::map(&file, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Opens an existing page to read it, and keeps it in memory.
    ///
    /// # Errors
    /// There is no such page, or it cannot be mapped.
    pub(crate) fn open_read_only(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() < PAGE_BYTES as u64 {
            return Err(io::Error::other("it is too short"));
        }
        let mapped = Self::map(&file, libc::PROT_READ)?;
        // SAFETY: the range was just mapped. Where memory may not be locked, the page is read again.
        unsafe { libc::mlock(mapped.page.as_ptr(), PAGE_BYTES) };
        Ok(mapped)
    }

    fn map(file: &File, protection: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new mapping of an open file, at any address.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(page) {
            Some(page) if page.as_ptr() != libc::MAP_FAILED => Ok(Self { page }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn number(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped and aligned, and nobody uses these bytes in another way.
        unsafe { self.page.cast::<AtomicU64>().as_ref() }
    }

    /// The deadline, as a reading of [`now`].
    pub fn deadline(&self) -> Duration {
        Duration::from_nanos(self.number().load(Ordering::Acquire))
    }

    /// Sets the deadline, as a reading of `CLOCK_BOOTTIME`; all processes with the page see it. Waits for a disk that does
    /// not answer: after the kernel has written the page to its disk, the next change is one of the file system.
    pub fn set(&self, deadline: Duration) {
        let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        self.number().store(nanos, Ordering::Release);
    }
}

impl Drop for DeadlinePage {
    fn drop(&mut self) {
        // SAFETY: this is the range that was mapped, and nothing borrows from it any more.
        unsafe { libc::munmap(self.page.as_ptr(), PAGE_BYTES) };
    }
}

/// The reading of the clock of deadlines.
pub fn now() -> Duration {
    let read = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(read.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(read.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_seen_by_others_and_outlives_its_writer() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("page");
        assert!(DeadlinePage::open_read_only(&path).is_err());
        let agent = DeadlinePage::open(&path).unwrap();
        let shim = DeadlinePage::open_read_only(&path).unwrap();
        assert_eq!(shim.deadline(), Duration::ZERO);
        let until = now() + Duration::from_secs(40);
        agent.set(until);
        assert_eq!(shim.deadline(), until);
        drop(agent);
        assert_eq!(DeadlinePage::open(&path).unwrap().deadline(), until);
    }
}
