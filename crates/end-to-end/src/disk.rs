//! A disk of a test's own, which can be filled, held up and broken.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable for a program that runs all tasks on one thread, which a task that waits for a disk would then hold up for
/// all others.
pub const ONE_THREAD: (&str, &str) = ("TOKIO_WORKER_THREADS", "1");

/// A file system in a file, mounted; unmounted when dropped.
pub struct Disk {
    directory: tempfile::TempDir,
    at: PathBuf,
}

impl Disk {
    /// Makes an ext4 file system of that many MiB and mounts it.
    ///
    /// # Panics
    /// When that fails, for want of root above all.
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

    /// Fills the disk until not more than that many MiB are free.
    ///
    /// # Panics
    /// When it cannot be filled.
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

    /// Takes back what [`fill`](Self::fill) took.
    ///
    /// # Panics
    /// When nothing was filled.
    #[track_caller]
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).expect("remove the file");
    }

    /// Lets all writes wait, as a disk does that does not answer.
    ///
    /// # Panics
    /// When it is held up already.
    #[track_caller]
    pub fn hold_up(&self) {
        run("fsfreeze", &["--freeze", path(&self.at)]);
    }

    /// Lets writes go on.
    ///
    /// # Panics
    /// When they do.
    #[track_caller]
    pub fn let_go(&self) {
        run("fsfreeze", &["--unfreeze", path(&self.at)]);
    }

    /// Lets writes go on, if they do not; what waits for the disk can end then.
    pub fn thaw(&self) {
        let thaw = ["--unfreeze", path(&self.at)];
        // Fails where it is not held up.
        drop(Command::new("fsfreeze").args(thaw).output());
    }

    /// Makes it read-only, or writable again; nobody may be writing.
    ///
    /// # Panics
    /// When somebody is.
    #[track_caller]
    pub fn set_read_only(&self, read_only: bool) {
        let mode = if read_only { "ro" } else { "rw" };
        let options = format!("remount,{mode}");
        run("mount", &["-o", &options, path(&self.at)]);
    }

    /// Breaks it while it is in use: the kernel takes no more writes, as after an error of the device.
    ///
    /// # Panics
    /// When it cannot be broken.
    #[track_caller]
    pub fn fail(&self) {
        run("mount", &["-o", "remount,abort", path(&self.at)]);
    }

    /// Repairs it as an operator does; nobody may be using it.
    ///
    /// # Panics
    /// When somebody is.
    #[track_caller]
    pub fn repair(&self) {
        let image = self.image();
        run("umount", &[path(&self.at)]);
        // The pods of another test may have the failed file system mounted (`kubectl debug node`). A copy is another device
        // for the kernel, so it gets a file system of its own.
        let copy = image.with_extension("copy");
        fs::copy(&image, &copy).expect("copy the disk");
        fs::rename(&copy, &image).expect("replace the disk");
        let checked = Command::new("e2fsck").args(["-fy", path(&image)]).output();
        let checked = checked.expect("start e2fsck");
        // 1: there was something to repair.
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        run("mount", &["-o", "loop", path(&image), path(&self.at)]);
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    fn free_bytes(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(&self.at).expect("look at the disk");
        found.blocks_available() * found.fragment_size()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Held up, nothing could be unmounted.
        self.thaw();
        let unmounted = Command::new("umount").args(["-l", path(&self.at)]).output();
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error}", self.at.display());
        }
        // The mount kept whoever owns the directory from removing it.
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
