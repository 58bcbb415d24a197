//! `local` volumes that are block devices with a file system: formatted if they are blank, and mounted for
//! the pod (kubelet's `SafeFormatAndMount`).
//!
//! A device whose content is not blank, or unknown, is never formatted.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use host_kernel::Interrupted;
use host_kernel::mount_options::{self, OptionRefusal};

use super::mount_points::mounts_below;

/// The file system of volumes that name no file system; kubelet's default.
const FILE_SYSTEM: &str = "ext4";

/// The exit code of `blkid` for a blank device.
const BLANK: i32 = 2;

/// The reason why a device is not mounted, or its file system does not grow.
#[derive(Debug, thiserror::Error)]
pub enum LocalDeviceError {
    #[error("\"{0}\" is no file system")]
    FileSystemName(String),
    #[error(transparent)]
    Options(#[from] OptionRefusal),
    #[error("make {}: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("read the mounts: {0}")]
    Mounts(io::Error),
    #[error("cannot mount unformatted disk {} as it is read-only", .0.display())]
    Unformatted(PathBuf),
    #[error("{} has no file system", .0.display())]
    NoFileSystem(PathBuf),
    #[error("the file system {file_system} of {} does not grow in use", device.display())]
    NotGrowable {
        file_system: String,
        device: PathBuf,
    },
    #[error("{} has a table of partitions ({table})", device.display())]
    Partitions { device: PathBuf, table: String },
    #[error("what is on {} cannot be told: blkid: {status}", device.display())]
    UnknownContent { device: PathBuf, status: ExitStatus },
    #[error("{program} {}: {status}: {stderr}", device.display())]
    Program {
        program: String,
        device: PathBuf,
        status: ExitStatus,
        stderr: String,
    },
    #[error("{0} is not installed on the node, and the device needs it")]
    NotInstalled(String),
    #[error("run {program}: {source}")]
    Run { program: String, source: io::Error },
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Whether a path leads to a block device.
pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Mounts a device at `target`, which is created. Does nothing if the device is mounted there. A blank
/// device is formatted first, unless it is read-only.
pub fn mount_at(
    device: &Path,
    target: &Path,
    file_system: Option<&str>,
    options: &[String],
    read_only: bool,
) -> Result<(), LocalDeviceError> {
    let desired_file_system = file_system.filter(|name| !name.is_empty());
    let desired_file_system = desired_file_system.unwrap_or(FILE_SYSTEM);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !desired_file_system.chars().all(is_plain) || desired_file_system.starts_with('-') {
        return Err(LocalDeviceError::FileSystemName(
            desired_file_system.to_owned(),
        ));
    }
    mount_options::check(options)?;
    fs::create_dir_all(target).map_err(|source| LocalDeviceError::Create {
        path: target.to_owned(),
        source,
    })?;
    let mounted = mounts_below(target).map_err(LocalDeviceError::Mounts)?;
    if !mounted.is_empty() {
        return Ok(());
    }
    let file_system = match existing_file_system(device)? {
        Some(existing) => existing,
        None if read_only => return Err(LocalDeviceError::Unformatted(device.to_owned())),
        None => {
            format(device, desired_file_system)?;
            desired_file_system.to_owned()
        }
    };
    // The program `mount` separates options of the kernel from options of the file system.
    let mut all_options = vec!["defaults".to_owned()];
    all_options.extend_from_slice(options);
    // The last option has priority, so `ro` overrides `rw`.
    all_options.extend(read_only.then(|| "ro".to_owned()));
    let mut command = Command::new("mount");
    command.args(["-t", &file_system, "-o", &all_options.join(",")]);
    let output = run("mount", command.arg(device).arg(target))?;
    check_exit(output, &format!("mount -t {file_system}"), device)
}

/// Grows the mounted file system to the size of its device. May be repeated.
pub fn grow(device: &Path, target: &Path) -> Result<(), LocalDeviceError> {
    let file_system = existing_file_system(device)?
        .ok_or_else(|| LocalDeviceError::NoFileSystem(device.to_owned()))?;
    let (program, arguments, operand): (_, &[&str], _) = match &*file_system {
        "ext2" | "ext3" | "ext4" => ("resize2fs", &[], device),
        "xfs" => ("xfs_growfs", &[], target),
        "btrfs" => ("btrfs", &["filesystem", "resize", "max"], target),
        unsupported => {
            return Err(LocalDeviceError::NotGrowable {
                file_system: unsupported.to_owned(),
                device: device.to_owned(),
            });
        }
    };
    let output = run(program, Command::new(program).args(arguments).arg(operand))?;
    check_exit(output, program, device)
}

fn check_exit(output: Output, program: &str, device: &Path) -> Result<(), LocalDeviceError> {
    match output.status.success() {
        true => Ok(()),
        false => Err(LocalDeviceError::Program {
            program: program.to_owned(),
            device: device.to_owned(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// The file system on a device; `None` for a blank device.
fn existing_file_system(device: &Path) -> Result<Option<String>, LocalDeviceError> {
    let output = run(
        "blkid",
        Command::new("blkid")
            .args(["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export"])
            .arg(device),
    )?;
    if output.status.code() == Some(BLANK) {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |key: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(key).map(str::to_owned))
    };
    match (value("TYPE="), value("PTTYPE="), output.status.success()) {
        (Some(file_system), _, true) => Ok(Some(file_system)),
        (None, Some(table), true) => Err(LocalDeviceError::Partitions {
            device: device.to_owned(),
            table,
        }),
        _ => Err(LocalDeviceError::UnknownContent {
            device: device.to_owned(),
            status: output.status,
        }),
    }
}

fn format(device: &Path, file_system: &str) -> Result<(), LocalDeviceError> {
    let program = format!("mkfs.{file_system}");
    let mut command = Command::new(&program);
    // No blocks are reserved for root, and a device without partitions is allowed: kubelet's options.
    if matches!(file_system, "ext2" | "ext3" | "ext4") {
        command.args(["-F", "-m0"]);
    }
    cov_mark::hit!(findings_c11);
    tracing::info!(device = %device.display(), file_system, "a blank device is formatted");
    check_exit(run(&program, command.arg(device))?, &program, device)
}

fn run(program: &str, command: &mut Command) -> Result<Output, LocalDeviceError> {
    command.output().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LocalDeviceError::NotInstalled(program.to_owned()),
        _ => LocalDeviceError::Run {
            program: program.to_owned(),
            source,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use host_kernel::loop_device::LoopDevice;

    use super::super::release::release;
    use super::*;
    use crate::paths::PodDir;

    fn device(dir: &Path, name: &str) -> (PathBuf, LoopDevice) {
        let image = dir.join(name);
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let device = LoopDevice::over(&image).unwrap();
        (device.path().to_owned(), device)
    }

    /// findings C11; needs root, as the agent does
    #[test]
    fn a_blank_device_is_formatted_once_and_keeps_its_files() {
        cov_mark::check!(findings_c11);
        let temp = tempfile::tempdir().unwrap();
        let (path, _open) = device(temp.path(), "image");
        assert!(is_device(&path) && !is_device(temp.path()));
        let dir = PodDir::at(temp.path().join("pod"));
        let target = dir.volume("data");
        let blank = mount_at(&path, &target, None, &[], true).unwrap_err();
        assert!(blank.to_string().contains("unformatted"), "{blank}");
        for round in 0..2 {
            for _ in 0..2 {
                mount_at(&path, &target, None, &[], false).unwrap();
            }
            assert_eq!(target.join("file").exists(), round == 1);
            fs::write(target.join("file"), "kept").unwrap();
            release(&dir, &BTreeSet::new()).unwrap();
            assert!(!target.exists());
        }
    }

    /// Whether the process has the capability `CAP_SYS_RESOURCE`, which ext4 requires to grow. Root in a
    /// container may lack the capability.
    fn has_sys_resource() -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let mut lines = status.lines();
        let mask = lines.find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 24) != 0
    }

    /// statefulset.md §11.13
    #[test]
    fn a_file_system_grows_while_it_is_used() {
        let supported_file_systems = fs::read_to_string("/proc/filesystems").unwrap();
        let rows = [("ext4", 16 << 20), ("xfs", 320 << 20)];
        let can = |name: &str| {
            supported_file_systems.contains(name) && (name != "ext4" || has_sys_resource())
        };
        for (file_system, size) in rows.into_iter().filter(|(name, _)| can(name)) {
            let temp = tempfile::tempdir().unwrap();
            let image = temp.path().join("image");
            let file = fs::File::create(&image).unwrap();
            file.set_len(size).unwrap();
            let device = LoopDevice::over(&image).unwrap();
            let dir = PodDir::at(temp.path().join("pod"));
            let target = dir.volume("data");
            mount_at(device.path(), &target, Some(file_system), &[], false).unwrap();
            fs::write(target.join("file"), "kept").unwrap();
            let blocks = || rustix::fs::statvfs(&target).unwrap().f_blocks;
            let before = blocks();
            file.set_len(2 * size).unwrap();
            device.update_size().unwrap();
            for _ in 0..2 {
                grow(device.path(), &target).unwrap();
                assert!(blocks() > before + before / 2, "{file_system}");
            }
            assert_eq!(fs::read(target.join("file")).unwrap(), b"kept");
            release(&dir, &BTreeSet::new()).unwrap();
        }
    }

    /// findings C11
    #[test]
    fn a_device_that_is_not_blank_is_not_formatted() {
        let temp = tempfile::tempdir().unwrap();
        let (path, _open) = device(temp.path(), "image");
        // The signature of a swap area, for pages of 4096 bytes.
        let mut head = vec![0; 4096];
        (head[1024], head[1028]) = (1, 100);
        head[4086..].copy_from_slice(b"SWAPSPACE2");
        fs::write(temp.path().join("head"), &head).unwrap();
        let mut device = fs::OpenOptions::new().write(true).open(&path).unwrap();
        io::Write::write_all(&mut device, &head).unwrap();
        device.sync_all().unwrap();
        let target = temp.path().join("target");
        let error = mount_at(&path, &target, None, &[], false).unwrap_err();
        assert!(error.to_string().contains("swap"), "{error}");
        for bad in ["../x", "-v", "a b"] {
            assert!(mount_at(&path, &target, Some(bad), &[], false).is_err());
        }
        let (path, _open) = self::device(temp.path(), "other");
        let error = mount_at(&path, &target, Some("nosuch"), &[], false).unwrap_err();
        assert!(
            error.to_string().contains("mkfs.nosuch is not installed"),
            "{error}"
        );
    }

    /// Options that try to mount another path are rejected or have no effect.
    #[test]
    fn mount_options_select_no_other_path() {
        let temp = tempfile::tempdir().unwrap();
        let (path, _open) = device(temp.path(), "image");
        let dir = PodDir::at(temp.path().join("pod"));
        let target = dir.volume("data");
        let elsewhere = format!("src={}", temp.path().display());
        let rejected_options: &[(&[&str], &str)] = &[
            (&["bind"], "mount option \"bind\" is not for a volume"),
            (
                &["noatime,remount"],
                "mount option \"remount\" is not for a volume",
            ),
            (
                &["x-mount.mkdir"],
                "mount option \"x-mount.mkdir\" is not for a volume",
            ),
            (&["loop"], "mount option \"loop\" is not for a volume"),
            (&["noauto", &elsewhere], "is not for a volume"),
            (&["a\0b"], "has a control character"),
            (&["a=\"", "b=\"c,bind,d\""], "has a quote without an end"),
            // `mount` treats these words as one option, which the kernel rejects.
            (&["--bind"], "mount -t ext4 "),
            (&["x, -v /"], "mount -t ext4 "),
            (&["noauto --move"], "mount -t ext4 "),
            (
                &["context=system_u:object_r:nosuch_t:s0,nosuch"],
                "mount -t ext4 ",
            ),
        ];
        for (options, words) in rejected_options {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            let error = mount_at(&path, &target, None, &options, false).unwrap_err();
            assert!(error.to_string().contains(words), "{options:?}: {error}");
            assert!(mounts_below(temp.path()).unwrap().is_empty(), "{options:?}");
        }
        let many_options = vec!["noatime"; 400];
        let accepted_options: &[&[&str]] = &[
            &["suid", "dev", "exec"],
            &["_netdev", "nofail", "defaults"],
            &["nosuid,nodev"],
            &many_options,
        ];
        for options in accepted_options {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            mount_at(&path, &target, None, &options, false).unwrap();
            let mounted = mounts_below(temp.path()).unwrap();
            assert_eq!(mounted, std::slice::from_ref(&target), "{options:?}");
            release(&dir, &BTreeSet::new()).unwrap();
        }
        // A read-only volume stays read-only.
        mount_at(&path, &target, None, &["rw".to_owned()], true).unwrap();
        let flags = rustix::fs::statvfs(&target).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        release(&dir, &BTreeSet::new()).unwrap();
    }
}
