//! The pool of the class `local-cow`: a btrfs file system in one file of the host.
//!
//! The size of the file is the sum of the limits of all volumes and snapshots. The file is fully preallocated on the
//! host's disk: a full disk prevents new volumes, and never affects existing volumes. The file is created for the first
//! volume and grows with each further volume.
//!
//! A pool that a killed process has left mounted is adopted; after a reboot the pool is mounted again. The kernel
//! removes the loop device with the mount.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host_kernel::durable_file::{self, Durability};
use host_kernel::loop_device::LoopDevice;
use host_kernel::{btrfs, copy_on_write};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::directories::{failed, make_private};
use crate::error::StorageError as Error;
use crate::pool_image;

/// Overhead of the file system, which does not depend on its contents.
const OVERHEAD: u64 = 768 << 20;
/// Overhead for each byte of the limits of volumes: metadata, and chunks that are not full.
const OVERHEAD_PART: u64 = 16;
/// The unit by which the file grows.
const STEP: u64 = 64 << 20;
/// Space left to the host's disk.
const HOST_RESERVE: u64 = 1 << 30;
/// Maximum height of a removed subtree for which counts stay exact: any.
const EXACT_COUNTS: &str = "8";
/// Maximum number of attempts to unmount a busy file system before it is detached lazily.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// The pool of this node, which may not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    dir: PathBuf,
}

/// The size of the file for volumes and snapshots of `reserved` bytes together.
pub(crate) fn file_size(reserved: u64) -> u64 {
    let needed = reserved
        .saturating_add(reserved / OVERHEAD_PART)
        .saturating_add(OVERHEAD);
    needed.div_ceil(STEP).saturating_mul(STEP)
}

/// The bytes of volumes and snapshots that a file of a size is large enough for.
fn holds(file: u64) -> u64 {
    let usable = (file - file % STEP).saturating_sub(OVERHEAD);
    usable / (OVERHEAD_PART + 1) * OVERHEAD_PART
}

impl Pool {
    /// The pool in that directory.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("pool.btrfs")
    }

    /// The path at which the pool is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.join("mount")
    }

    /// Whether the pool exists.
    pub fn exists(&self) -> bool {
        self.file().exists()
    }

    /// Mounts the pool if it is not mounted; creates an empty pool if there is no pool.
    pub fn open(&self) -> Result<(), Error> {
        let root = self.root();
        // The file holds all that is in the volumes.
        make_private(&self.dir)?;
        std::fs::create_dir_all(&root).map_err(failed("make", &root))?;
        let is_new = !self.exists();
        if is_new {
            self.require_on_host(file_size(0))?;
            self.create().map_err(failed("make the pool", &self.dir))?;
        }
        if !self.is_mounted()? {
            self.mount().map_err(failed("mount the pool", &self.dir))?;
            tracing::info!(pool = %self.dir.display(), "pool mounted");
        }
        self.prepare(is_new)
            .map_err(failed("prepare the pool", &root))
    }

    /// Makes the file: complete under another name first.
    fn create(&self) -> io::Result<()> {
        let uuid = uuid::Uuid::new_v4().into_bytes();
        let image = pool_image::empty(uuid)?;
        durable_file::replace_with(&self.file(), 0o600, Durability::Name, |file| {
            // On a copy-on-write file system preallocation only lasts without copy-on-write.
            copy_on_write::disable(file);
            for (at, block) in image.chunks(4096).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    file.seek(SeekFrom::Start(at as u64 * 4096))?;
                    file.write_all(block)?;
                }
            }
            set_aside(file, file_size(0))
        })
    }

    fn is_mounted(&self) -> Result<bool, Error> {
        let root = self.root();
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
        match (device(&root), device(&self.dir)) {
            (Ok(inner), Ok(outer)) => Ok(inner != outer),
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            (Err(error), _) | (_, Err(error)) => Err(failed("inspect", &root)(error)),
        }
    }

    fn mount(&self) -> io::Result<()> {
        let device = LoopDevice::over(&self.file())?;
        device.update_size()?;
        mount(
            Some(device.path()),
            &self.root(),
            Some("btrfs"),
            MsFlags::MS_NOATIME,
            // Preallocated blocks are not discarded. Without `ssd`, which is not detected for a
            // loop device, each sync of a file with several writers waits for a tick of the
            // kernel's clock, for others to join.
            Some("nodiscard,ssd"),
        )?;
        Ok(())
    }

    /// The settings of every mounted pool; many are set already.
    fn prepare(&self, is_new: bool) -> io::Result<()> {
        let root = self.root();
        btrfs::fill_device(&root)?;
        btrfs::enable_quota(&root)?;
        if is_new {
            // The first count begins when quotas are enabled. The count takes a short time, because the pool is empty.
            btrfs::wait_for_count(&root)?;
        }
        let counts = btrfs::counts_dir(&root)?;
        // Otherwise counting stops when a large snapshot is removed.
        std::fs::write(counts.join("drop_subtree_threshold"), EXACT_COUNTS).ok();
        count_correctly(&root)
    }

    /// Starts the counts of the file system again if the kernel has stopped them: without counts no volume has a limit.
    pub fn keep_counting(&self) -> Result<(), Error> {
        let root = self.root();
        count_correctly(&root).map_err(failed("count what is in", &root))
    }

    /// Grows the pool for volumes and snapshots with `reserved` bytes in total.
    pub fn ensure_capacity(&self, reserved: u64) -> Result<(), Error> {
        let file = self.file();
        let required = file_size(reserved);
        let file_bytes = std::fs::metadata(&file)
            .map_err(failed("inspect", &file))?
            .len();
        if file_bytes >= required {
            return Ok(());
        }
        self.require_on_host(required - file_bytes)?;
        let grow = || -> io::Result<()> {
            let backing = OpenOptions::new().write(true).open(&file)?;
            set_aside(&backing, required)?;
            backing.sync_all()?;
            let device = LoopDevice::over(&file)?;
            device.update_size()?;
            btrfs::fill_device(&self.root())
        };
        grow().map_err(failed("grow the pool", &file))?;
        tracing::info!(pool = %self.dir.display(), bytes = required, "pool grown");
        Ok(())
    }

    /// The bytes that further volumes can have in addition to the `reserved` bytes. The pool may not exist yet.
    pub fn free_capacity(&self, reserved: u64) -> Result<u64, Error> {
        let file_bytes = std::fs::metadata(self.file()).map_or(0, |file| file.len());
        let free = self.free_on_host()?.saturating_sub(HOST_RESERVE);
        Ok(holds(file_bytes.saturating_add(free)).saturating_sub(reserved))
    }

    /// The free bytes of the host's disk.
    fn free_on_host(&self) -> Result<u64, Error> {
        let directory = match (self.dir.exists(), self.dir.parent()) {
            (false, Some(parent)) => parent,
            _ => &self.dir,
        };
        let statistics = rustix::fs::statvfs(directory)
            .map_err(|error| failed("inspect the disk of", directory)(error.into()))?;
        Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }

    /// Checks that the host's disk has this number of free bytes.
    fn require_on_host(&self, missing: u64) -> Result<(), Error> {
        let free = self.free_on_host()?;
        if free < missing.saturating_add(HOST_RESERVE) {
            return Err(Error::DiskFull {
                missing,
                free,
                reserve: HOST_RESERVE,
            });
        }
        Ok(())
    }

    /// Unmounts the pool and releases its loop device. A pool in use is detached lazily: the kernel unmounts the pool
    /// after its last use.
    pub fn close(&self) -> Result<(), Error> {
        if !self.exists() || !self.is_mounted()? {
            return Ok(());
        }
        let root = self.root();
        for _ in 0..ATTEMPTS {
            match umount2(&root, MntFlags::empty()) {
                Err(nix::errno::Errno::EBUSY) => std::thread::sleep(PAUSE),
                result => {
                    return result.map_err(|error| failed("unmount", &root)(error.into()));
                }
            }
        }
        tracing::warn!(pool = %root.display(), "the pool is in use and is only detached");
        umount2(&root, MntFlags::MNT_DETACH).map_err(|error| failed("detach", &root)(error.into()))
    }

    /// Removes the file of a pool that is not mounted.
    pub fn discard(&self) -> Result<(), Error> {
        let file = self.file();
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &file)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Starts the counts of the file system again if the kernel reports that they are wrong.
fn count_correctly(root: &Path) -> io::Result<()> {
    let wrong = std::fs::read_to_string(btrfs::counts_dir(root)?.join("inconsistent"));
    if wrong.is_ok_and(|text| text.trim() == "1") {
        tracing::warn!(pool = %root.display(), "the counts of the pool are wrong, and are made again");
        btrfs::count_anew(root)?;
    }
    Ok(())
}

/// Sets the size of the file, and allocates all its blocks on the disk.
fn set_aside(file: &File, bytes: u64) -> io::Result<()> {
    let before = file.metadata()?.len();
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    if let Err(error) = fallocate(file, FallocateFlags::empty(), 0, length) {
        // The space allocated before the failure is released.
        file.set_len(before)?;
        return Err(error.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_what_was_promised_and_what_that_needs() {
        assert_eq!(file_size(0), OVERHEAD);
        assert_eq!(file_size(1 << 30), 1856 << 20);
        assert_eq!(file_size((1 << 30) + 1), 1920 << 20);
        assert!(file_size(u64::MAX) >= u64::MAX - STEP);
        for bytes in [0, 1, OVERHEAD, 5 << 30, (5 << 30) + 4711] {
            assert!(file_size(holds(bytes)) <= bytes.max(OVERHEAD), "{bytes}");
        }
        assert!(holds(file_size(1 << 30)) >= (1 << 30));
    }
}
