//! Disk space: the maximum for images, and the minimum that stays free for other data.
//!
//! Before a write, the sizes from a registry or an archive are checked. During the write, the free space of
//! the disk is checked, so that wrong sizes cannot fill the disk.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::stall_detector::Observer;

/// The file system's capacity divided by this number always stays free.
const FLOOR_PART: u64 = 20;
/// Maximum bytes that stay free on a large file system.
const FLOOR_BYTES_MAX: u64 = 1 << 30;

/// The free space is read again after this number of written bytes or files.
const CHECKED_BYTES: u64 = 1 << 20;
const CHECKED_FILES: u64 = 64;

/// Maximum overhead of an archive in addition to its files: headers, names, padding.
const ARCHIVE_OVERHEAD_MAX: u64 = 8 << 30;

/// The space that must stay free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepFree {
    pub bytes: u64,
    pub files: u64,
}

/// The scarce resource of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingSpace {
    Bytes,
    Files,
}

/// The disk does not have enough free space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfSpace {
    /// A directory of the file system.
    pub directory: PathBuf,
    pub lack: MissingSpace,
    /// The minimum amount that is needed.
    pub needed: u64,
    pub available: u64,
    /// The part of the free amount that must stay free.
    pub reserved: u64,
}

impl fmt::Display for OutOfSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |number: u64| match self.lack {
            MissingSpace::Bytes => Bytes(number).to_string(),
            MissingSpace::Files => format!("{number} files"),
        };
        write!(
            f,
            "not enough room on the disk of {}: at least {} more would be needed, {} can be \
             had, and {} have to stay free",
            self.directory.display(),
            amount(self.needed),
            amount(self.available),
            amount(self.reserved)
        )
    }
}

impl std::error::Error for OutOfSpace {}

/// A number of bytes that is printed in a readable unit: `1.5 GiB`.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} bytes", self.0);
        }
        let mut amount = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while amount >= 1023.95 && unit + 1 < UNITS.len() {
            amount /= 1024.0;
            unit += 1;
        }
        let text = format!("{amount:.1}");
        write!(f, "{} {}", text.trim_end_matches(".0"), UNITS[unit])
    }
}

/// The free space and the capacity of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Space {
    bytes: u64,
    bytes_available: u64,
    /// Total inodes; 0 if the file system sets no limit.
    files: u64,
    files_available: u64,
}

impl Space {
    fn read(directory: &Path) -> io::Result<Self> {
        let statistics = rustix::fs::statvfs(directory)?;
        Ok(Self {
            bytes: statistics.f_blocks.saturating_mul(statistics.f_frsize),
            bytes_available: statistics.f_bavail.saturating_mul(statistics.f_frsize),
            files: statistics.f_files,
            files_available: statistics.f_favail,
        })
    }

    /// The space that must always stay free on the file system.
    fn floor(&self) -> KeepFree {
        KeepFree {
            bytes: (self.bytes / FLOOR_PART).min(FLOOR_BYTES_MAX),
            files: self.files / FLOOR_PART,
        }
    }

    /// Checks that a further amount leaves the required space free. *Errors.* The scarce resource, the
    /// available amount, and the amount that must stay free.
    fn fits(&self, bytes: u64, files: u64, keep: KeepFree) -> Result<(), (MissingSpace, u64, u64)> {
        if bytes > self.bytes_available.saturating_sub(keep.bytes) {
            return Err((MissingSpace::Bytes, self.bytes_available, keep.bytes));
        }
        if self.files > 0 && files > self.files_available.saturating_sub(keep.files) {
            return Err((MissingSpace::Files, self.files_available, keep.files));
        }
        Ok(())
    }
}

/// The free space for data that is being written, on the file system of a directory.
#[derive(Clone, Debug)]
pub struct WriteSpace {
    directory: PathBuf,
    keep: Option<KeepFree>,
    /// Bytes that were written since the disk was checked.
    bytes: u64,
    files: u64,
}

impl WriteSpace {
    /// The free space of a file system without the part that must stay free. That part is `keep`, at least
    /// the file system's minimum.
    pub fn new(directory: &Path, keep: KeepFree) -> Self {
        Self {
            directory: directory.to_owned(),
            keep: Some(keep),
            bytes: 0,
            files: 0,
        }
    }

    /// All free space, for data of the program itself.
    pub fn all(directory: &Path) -> Self {
        Self {
            keep: None,
            ..Self::new(directory, KeepFree::default())
        }
    }

    fn reserve_of(&self, space: &Space) -> KeepFree {
        let Some(keep) = self.keep else {
            return KeepFree::default();
        };
        let floor = space.floor();
        KeepFree {
            bytes: keep.bytes.max(floor.bytes),
            files: keep.files.max(floor.files),
        }
    }

    /// Checks that this amount fits now.
    ///
    /// # Errors
    /// The amount does not fit, or the disk cannot be read.
    pub fn check(&self, bytes: u64, files: u64) -> Result<(), SpaceError> {
        let space = Space::read(&self.directory)?;
        let refused = space.fits(bytes, files, self.reserve_of(&space));
        refused.map_err(|(lack, available, reserved)| {
            SpaceError::OutOfSpace(OutOfSpace {
                directory: self.directory.clone(),
                lack,
                needed: match lack {
                    MissingSpace::Bytes => bytes,
                    MissingSpace::Files => files,
                },
                available,
                reserved,
            })
        })
    }

    /// Counts a write before it happens.
    ///
    /// # Errors
    /// The write does not fit, or the disk cannot be read.
    pub fn reserve(&mut self, bytes: u64, files: u64) -> Result<(), SpaceError> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.files = self.files.saturating_add(files);
        if self.bytes >= CHECKED_BYTES || self.files >= CHECKED_FILES {
            self.check(self.bytes, self.files)?;
            (self.bytes, self.files) = (0, 0);
        }
        Ok(())
    }

    /// Checks that a file of this length fits. Small files are checked when they are written.
    ///
    /// # Errors
    /// The file does not fit, or the disk cannot be read.
    pub fn check_large(&self, bytes: u64) -> Result<(), SpaceError> {
        if bytes < CHECKED_BYTES {
            return Ok(());
        }
        self.check(bytes, 0)
    }

    /// Copies a reader into a file; returns the length.
    ///
    /// # Errors
    /// The data does not fit, or a read or write fails.
    pub fn copy(&mut self, from: &mut impl Read, to: &mut File) -> Result<u64, SpaceError> {
        let mut buffer = vec![0; 1 << 16];
        let mut written = 0;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(written),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            self.reserve(count as u64, 0)?;
            to.write_all(&buffer[..count])?;
            written += count as u64;
        }
    }

    /// Maximum length of an archive whose files would all fit now.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn archive_bytes_max(&self) -> io::Result<u64> {
        let space = Space::read(&self.directory)?;
        let free = space
            .bytes_available
            .saturating_sub(self.reserve_of(&space).bytes);
        Ok(free.saturating_add(ARCHIVE_OVERHEAD_MAX))
    }
}

#[derive(Debug)]
pub enum SpaceError {
    OutOfSpace(OutOfSpace),
    /// Reading, writing or checking the disk failed.
    Io(io::Error),
}

impl From<io::Error> for SpaceError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An archive of unlimited length, whose reader can be stopped.
pub struct LimitedReader<R> {
    inner: R,
    unread: u64,
    observer: Observer,
}

impl<R: Read> LimitedReader<R> {
    /// Reads at most `bytes_max` bytes.
    pub fn new(inner: R, bytes_max: u64, observer: Observer) -> Self {
        Self {
            inner,
            unread: bytes_max,
            observer,
        }
    }
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.observer.is_cancelled() {
            return Err(io::Error::other("the observer has cancelled"));
        }
        let count = self.inner.read(buffer)?;
        self.unread = self.unread.checked_sub(count as u64).ok_or_else(|| {
            let text = "the archive is larger than the free space of the disk";
            io::Error::new(io::ErrorKind::StorageFull, text)
        })?;
        self.observer.add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stall_detector::PullProgress;

    #[test]
    fn a_share_stays_free_and_of_large_disks_an_amount() {
        let space = |bytes| Space {
            bytes,
            bytes_available: bytes,
            files: 1000,
            files_available: 1000,
        };
        assert_eq!(space(100 << 20).floor().bytes, 5 << 20);
        assert_eq!(space(4 << 40).floor().bytes, 1 << 30);
        assert_eq!(space(1).floor().files, 50);
    }

    #[test]
    fn what_fits_leaves_free_what_is_to_stay_free() {
        let space = Space {
            bytes: 1000,
            bytes_available: 100,
            files: 50,
            files_available: 10,
        };
        let keep = KeepFree {
            bytes: 40,
            files: 4,
        };
        assert_eq!(space.fits(60, 6, keep), Ok(()));
        assert_eq!(space.fits(61, 6, keep), Err((MissingSpace::Bytes, 100, 40)));
        assert_eq!(space.fits(60, 7, keep), Err((MissingSpace::Files, 10, 4)));
        assert_eq!(
            space.fits(u64::MAX, 0, keep),
            Err((MissingSpace::Bytes, 100, 40))
        );
        let unlimited = Space {
            files: 0,
            files_available: 0,
            ..space
        };
        assert_eq!(unlimited.fits(1, 1_000_000, keep), Ok(()));
    }

    #[test]
    fn an_archive_ends_somewhere() {
        let mut bounded = LimitedReader::new(io::repeat(0), 1000, Observer::default());
        let error = io::copy(&mut bounded, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let progress = PullProgress::default();
        let observer = Observer::new(progress.clone());
        let mut bounded = LimitedReader::new(io::repeat(0), u64::MAX, observer.clone());
        assert_eq!(bounded.read(&mut [0; 8]).unwrap(), 8);
        drop(observer.cancel_on_drop());
        bounded.read(&mut [0; 8]).unwrap_err();
        assert_eq!(progress.bytes(), 8);
    }

    #[test]
    fn amounts_are_readable() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1_048_575, "1 MiB"),
            (1610612736, "1.5 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
