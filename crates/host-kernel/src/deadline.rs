//! The deadline page of a node: the time at which pods that may fail over must stop.
//!
//! The page is a small file. The agent writes it, and the shims of such pods map it into memory. Its first eight bytes
//! are a reading of `CLOCK_BOOTTIME` in nanoseconds; zero is far in the past. The next eight bytes are a checksum,
//! because a reader may see a write partially. The readings of the clock are valid until the next boot only, so the
//! name of the file should contain the boot id.
//!
//! The agent does not map the page. On a write to a mapped page, the kernel waits for the disk of the file and holds
//! the lock on the memory of the whole process meanwhile (before Linux 6.4). It also kills the process if the disk has
//! failed or is full.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::copy_on_write;

/// Size of the file. All its blocks are allocated, so a later write needs no space.
const PAGE_BYTES: usize = 4096;
/// Maximum number of reads of a page with a wrong checksum, and the time between two reads. A write usually ends after
/// a moment, unless its thread is interrupted. The page of an older agent has no checksum.
const READS_MAX: u32 = 50;
const READ_RETRY: Duration = Duration::from_millis(1);
/// An odd number, so that different deadlines have different checksums.
const CHECK: u64 = 0x9E37_79B9_7F4A_7C15;

/// The deadline page of a node, as its agent uses it.
#[derive(Debug)]
pub struct DeadlineFile {
    file: File,
}

impl DeadlineFile {
    /// Opens the page. A new page has a deadline in the past.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if file.metadata()?.len() < PAGE_BYTES as u64 {
            copy_on_write::disable(&file);
            file.write_all_at(&[0; PAGE_BYTES], 0)?;
        }
        Ok(Self { file })
    }

    /// Sets the deadline, a reading of [`now`], which all processes with the page see. Blocks while the disk does not
    /// respond.
    ///
    /// # Errors
    /// The disk has failed, or is full.
    pub fn set(&self, deadline: Duration) -> io::Result<()> {
        let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        let words = [nanos, check(nanos)].map(u64::to_ne_bytes);
        self.file.write_all_at(words.as_flattened(), 0)
    }
}

fn check(nanos: u64) -> u64 {
    nanos.wrapping_mul(CHECK)
}

/// The deadline page of a node, mapped into this process until the value is dropped.
#[derive(Debug)]
pub struct DeadlinePage {
    page: NonNull<libc::c_void>,
}

// SAFETY: the page is only read, as atomic numbers, and stays mapped as long as this lives.
unsafe impl Send for DeadlinePage {}
// SAFETY: as above.
unsafe impl Sync for DeadlinePage {}

impl DeadlinePage {
    /// Maps an existing page, and locks it in memory.
    ///
    /// # Errors
    /// The page does not exist, or cannot be mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() < PAGE_BYTES as u64 {
            return Err(io::Error::other("it is too short"));
        }
        // SAFETY: a new mapping of an open file, at any address.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        let page = match NonNull::new(page) {
            Some(page) if page.as_ptr() != libc::MAP_FAILED => page,
            _ => return Err(io::Error::last_os_error()),
        };
        // SAFETY: the range was just mapped. Where memory may not be locked, the page is read again.
        unsafe { libc::mlock(page.as_ptr(), PAGE_BYTES) };
        Ok(Self { page })
    }

    /// The deadline and its checksum.
    fn words(&self) -> [u64; 2] {
        // SAFETY: the page is mapped and aligned, and nobody uses these bytes in another way in this process.
        let words = unsafe { self.page.cast::<[AtomicU64; 2]>().as_ref() };
        [0, 1].map(|word: usize| words[word].load(Ordering::Acquire))
    }

    /// The deadline, as a reading of [`now`].
    pub fn deadline(&self) -> Duration {
        let mut words = self.words();
        for _ in 0..READS_MAX {
            if words[1] == check(words[0]) {
                break;
            }
            sleep(READ_RETRY);
            words = self.words();
        }
        Duration::from_nanos(words[0])
    }
}

impl Drop for DeadlinePage {
    fn drop(&mut self) {
        // SAFETY: this is the range that was mapped, and nothing borrows from it any more.
        unsafe { libc::munmap(self.page.as_ptr(), PAGE_BYTES) };
    }
}

/// A reading of the clock of deadlines.
pub fn now() -> Duration {
    let read = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(read.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(read.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new page, as its agent and a shim use it.
    fn page() -> (DeadlineFile, DeadlinePage) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("page");
        let agent = DeadlineFile::open(&path).unwrap();
        (agent, DeadlinePage::open(&path).unwrap())
    }

    #[test]
    fn a_deadline_is_seen_by_others_and_outlives_its_writer() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("page");
        assert!(DeadlinePage::open(&path).is_err());
        let agent = DeadlineFile::open(&path).unwrap();
        let shim = DeadlinePage::open(&path).unwrap();
        assert_eq!(shim.deadline(), Duration::ZERO);
        let until = now() + Duration::from_secs(40);
        agent.set(until).unwrap();
        assert_eq!(shim.deadline(), until);
        drop(agent);
        DeadlineFile::open(&path).unwrap();
        assert_eq!(shim.deadline(), until);
    }

    #[test]
    fn a_deadline_that_is_written_in_part_is_read_again() {
        let (agent, shim) = page();
        let [first, second] = [1_u64, 1 << 40].map(Duration::from_nanos);
        agent.set(first).unwrap();
        // Half of the number is that of the second deadline.
        agent
            .file
            .write_all_at(&[0, 0, 0, 0, 0, 1, 0, 0], 0)
            .unwrap();
        let read = std::thread::scope(|threads| {
            let read = threads.spawn(|| shim.deadline());
            agent.set(second).unwrap();
            read.join().unwrap()
        });
        assert_eq!(read, second);
    }

    #[test]
    fn the_page_of_an_agent_without_checks_is_believed() {
        let (agent, shim) = page();
        agent.set(Duration::from_secs(1)).unwrap();
        let later = Duration::from_secs(2);
        let nanos = u64::try_from(later.as_nanos()).unwrap();
        agent.file.write_all_at(&nanos.to_ne_bytes(), 0).unwrap();
        assert_eq!(shim.deadline(), later);
    }
}
