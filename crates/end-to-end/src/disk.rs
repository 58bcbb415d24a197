//! A test's own disk, which can be filled, blocked and broken.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable for a program that runs all tasks on one thread, so that a task that blocks on a disk would block all
/// tasks.
pub const ONE_THREAD: (&str, &str) = ("TOKIO_WORKER_THREADS", "1");

/// A file system in a file, mounted; unmounted when dropped.
pub struct Disk {
    directory: tempfile::TempDir,
    at: PathBuf,
}

impl Disk {
    /// Creates an ext4 file system of that many MiB and mounts it.
    ///
    /// # Panics
    ///
    /// The mount fails, for instance without root.
    #[track_caller]
    pub fn mount(at: &Path, mib: u64) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let disk = Self {
            directory,
            at: at.to_owned(),
        };
        let image = disk.image();
        let file = File::create(&image).expect("make the disk");
        file.set_len(mib << 20).expect("give the disk its size");
        run("mkfs.ext4", &["-q", "-m", "0", path(&image)]);
        run("mount", &["-o", "loop", path(&image), path(at)]);
        disk
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// Fills the disk until at most that many MiB are free.
    ///
    /// # Panics
    ///
    /// The disk cannot be filled.
    #[track_caller]
    pub fn fill(&self, left_mib: u64) {
        let filler = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .expect("make a file");
        let chunk = vec![1; 64 << 10];
        while self.free_bytes() > left_mib << 20 {
            if (&filler).write_all(&chunk).is_err() {
                break;
            }
        }
        filler.sync_all().expect("sync the file");
    }

    /// Frees the bytes of [`fill`](Self::fill).
    ///
    /// # Panics
    ///
    /// The disk was not filled.
    #[track_caller]
    pub fn reclaim_space(&self) {
        fs::remove_file(self.filler()).expect("remove the file");
    }

    /// Blocks all writes, as a disk that does not respond.
    ///
    /// # Panics
    ///
    /// The disk is blocked already.
    #[track_caller]
    pub fn block_writes(&self) {
        run("fsfreeze", &["--freeze", path(&self.at)]);
    }

    /// Continues the writes.
    ///
    /// # Panics
    ///
    /// The disk is not blocked.
    #[track_caller]
    pub fn unblock_writes(&self) {
        run("fsfreeze", &["--unfreeze", path(&self.at)]);
    }

    /// Continues the writes if they are blocked, so that waiting processes can exit.
    pub fn thaw(&self) {
        let thaw = ["--unfreeze", path(&self.at)];
        // Fails if the disk is not blocked.
        drop(Command::new("fsfreeze").args(thaw).output());
    }

    /// Makes the disk read-only, or writable again; no process may have a file open for writing.
    ///
    /// # Panics
    ///
    /// A process has a file open for writing.
    #[track_caller]
    pub fn set_read_only(&self, read_only: bool) {
        let mode = if read_only { "ro" } else { "rw" };
        let options = format!("remount,{mode}");
        run("mount", &["-o", &options, path(&self.at)]);
    }

    /// Breaks the disk while it is in use: the kernel accepts no more writes, as after a device error.
    ///
    /// # Panics
    ///
    /// The disk cannot be broken.
    #[track_caller]
    pub fn fail(&self) {
        run("mount", &["-o", "remount,abort", path(&self.at)]);
    }

    /// Repairs the disk as an operator would; no process may use it.
    ///
    /// # Panics
    ///
    /// A process uses the disk.
    #[track_caller]
    pub fn repair(&self) {
        let image = self.image();
        run("umount", &[path(&self.at)]);
        // The pods of another test may have the failed file system mounted (`kubectl debug node`). For the kernel a
        // copy is another device, so it gets a separate file system.
        let copy = image.with_extension("copy");
        fs::copy(&image, &copy).expect("copy the disk");
        fs::rename(&copy, &image).expect("replace the disk");
        let checked = Command::new("e2fsck").args(["-fy", path(&image)]).output();
        let checked = checked.expect("start e2fsck");
        // Exit code 1: errors were repaired.
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        run("mount", &["-o", "loop", path(&image), path(&self.at)]);
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    fn free_bytes(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.at).expect("look at the disk");
        stat.blocks_available() * stat.fragment_size()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A blocked file system could not be unmounted.
        self.thaw();
        let unmounted = Command::new("umount").args(["-l", path(&self.at)]).output();
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error}", self.at.display());
        }
        // The mount has prevented the owner of the directory from its removal.
        if let Some(parent) = self.at.parent() {
            drop(fs::remove_dir_all(parent));
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("start {program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}
