//! The files for the virtual machine: Debian's kernel, a small initial file system, and a disk. All other
//! files are shared by this machine.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::{self, quiet};

/// Programs that must be installed, with the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("unshare", "util-linux"),
    ("rpc.nfsd", "nfs-kernel-server"),
    ("ceph-mon", "ceph-mon"),
    ("ceph-mgr", "ceph-mgr"),
    ("ceph-osd", "ceph-osd"),
    ("rbd", "ceph-common"),
];

/// The package that depends on the current kernel.
const KERNEL: &str = "linux-image-amd64";

/// The kernel modules for shared files and for a disk.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "9pnet_virtio",
    "9p",
    "overlay",
];

/// Size of the disk, whose file is sparse.
const DISK_BYTES: u64 = 8 << 30;

/// The files for the machine, by their paths on this machine.
#[derive(Default)]
pub struct Image {
    /// The unpacked package of the kernel.
    pub kernel: PathBuf,
    /// The kernel itself.
    pub program: PathBuf,
    /// The initial file system (initramfs) of the machine.
    pub start: PathBuf,
    pub disk: PathBuf,
    /// The tests' scratch directory; it is on the virtual disk, because the shared file system lacks required
    /// features.
    pub scratch: PathBuf,
    /// The lock of the run that uses the files.
    #[expect(dead_code, reason = "held, not read")]
    pub in_use: Option<File>,
}

impl Image {
    /// Creates missing files, and those that change with each run. `script` returns the script that the
    /// machine runs.
    pub fn make(target: &Path, script: impl FnOnce(&Image) -> String) -> Result<Image> {
        if std::env::consts::ARCH != "x86_64" || !setup::is_root() {
            bail!("the virtual machine needs root on x86-64: it shows this machine's files");
        }
        let mut missing = Vec::new();
        setup::install_programs(PROGRAMS, &mut missing);
        if !missing.is_empty() {
            bail!(
                "the virtual machine lacks: {}; install these",
                missing.join(", ")
            );
        }
        let directory = target.join("virtual-machine");
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let in_use = lock(&directory.join("in-use"))?;
        let kernel = directory.join("kernel");
        install_kernel(&directory, &kernel)?;
        let release = release(&kernel)?;
        let image = Image {
            program: kernel.join("boot").join(format!("vmlinuz-{release}")),
            start: directory.join("start.cpio"),
            disk: directory.join("disk"),
            scratch: target.join("tmp"),
            kernel,
            in_use: Some(in_use),
        };
        make_start(&image, &directory.join("start"), &release, &script(&image))?;
        make_disk(&image.disk)?;
        Ok(image)
    }
}

/// Waits for other runs, because each run creates the disk and the initial file system again.
fn lock(path: &Path) -> Result<File> {
    let failed = || format!("lock {}", path.display());
    let file = File::create(path).with_context(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            println!("xtask: waiting for another run of the virtual machine …");
            file.lock().with_context(failed)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
    }
    Ok(file)
}

/// Downloads and unpacks the kernel; it is not installed, so this machine's kernel does not change.
fn install_kernel(directory: &Path, kernel: &Path) -> Result<()> {
    if release(kernel).is_ok() {
        return Ok(());
    }
    let depends = || -> Result<String> {
        let mut apt_cache = Command::new("apt-cache");
        let output = apt_cache.args(["depends", "--important", KERNEL]).output();
        let output = output.context("start apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let package = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let version = package.with_context(|| format!("{KERNEL} is not known here"))?;
        Ok(format!("linux-image-{}", version.trim()))
    };
    let download = |package: &str| {
        let mut download = Command::new("apt-get");
        quiet(download.args(["download", package]).current_dir(directory))
    };
    if depends().and_then(|package| download(&package)).is_err() {
        quiet(Command::new("apt-get").arg("update"))?;
        download(&depends()?)?;
    }
    let package = fs::read_dir(directory)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    let scratch = directory.join("kernel-package");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).context("clear an earlier attempt")?;
    }
    quiet(Command::new("dpkg").arg("-x").arg(&package).arg(&scratch))?;
    fs::remove_file(&package).context("remove the package")?;
    let release = release(&scratch)?;
    // The package would do this during its installation.
    quiet(
        Command::new("busybox")
            .args(["depmod", "-b"])
            .arg(&scratch)
            .arg(release),
    )?;
    fs::rename(&scratch, kernel).context("take the kernel")
}

/// The release of an unpacked kernel.
fn release(kernel: &Path) -> Result<String> {
    let modules = kernel.join("lib/modules");
    let mut entries =
        fs::read_dir(&modules).with_context(|| format!("list {}", modules.display()))?;
    let entry = entries.next().context("the kernel has no modules")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Creates the initial file system: busybox, modules, scripts.
fn make_start(image: &Image, directory: &Path, release: &str, script: &str) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).context("clear an earlier attempt")?;
    }
    for sub in ["bin", "modules"] {
        fs::create_dir_all(directory.join(sub)).context("make the first file system")?;
    }
    let copy = |from: &Path, to: &str| {
        fs::copy(from, directory.join(to)).with_context(|| format!("copy {}", from.display()))
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let busybox = std::env::split_paths(&path)
        .map(|directory| directory.join("busybox"))
        .find(|path| path.is_file())
        .context("busybox is not on the path")?;
    copy(&busybox, "bin/busybox")?;
    let modules = image.kernel.join("lib/modules").join(release);
    let needs = fs::read_to_string(modules.join("modules.dep")).context("read modules.dep")?;
    let mut order = String::new();
    for module in load_order(&needs, MODULES)? {
        let name = module.rsplit('/').next().unwrap_or(module);
        copy(&modules.join(module), &format!("modules/{name}"))?;
        order += &format!("{name}\n");
    }
    fs::write(directory.join("modules/order"), order).context("write the modules' order")?;
    fs::write(directory.join("run.sh"), script).context("write the script")?;
    let start = directory.join("init");
    fs::write(&start, include_str!("start.sh")).context("write the first program")?;
    let mut executable = Command::new("chmod");
    quiet(executable.arg("755").arg(&start))?;
    let archive = File::create(&image.start).context("make the archive")?;
    let mut pack = Command::new("sh");
    pack.args(["-c", "find . | busybox cpio -o -H newc"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(archive)
        .stderr(Stdio::null());
    let status = pack.status().context("start busybox")?;
    if !status.success() {
        bail!("the archive cannot be packed: {status}");
    }
    Ok(())
}

/// The files of modules in load order, each after its dependencies. `needs` is `modules.dep`: lines with a
/// file and its dependencies.
fn load_order<'a>(needs: &'a str, modules: &[&str]) -> Result<Vec<&'a str>> {
    let lines = needs.lines().filter_map(|line| line.split_once(':'));
    let needs: BTreeMap<&str, Vec<&str>> = lines
        .map(|(file, others)| (file, others.split_whitespace().collect()))
        .collect();
    fn add<'a>(file: &'a str, needs: &BTreeMap<&'a str, Vec<&'a str>>, order: &mut Vec<&'a str>) {
        if order.contains(&file) {
            return;
        }
        for other in needs.get(file).into_iter().flatten() {
            add(other, needs, order);
        }
        order.push(file);
    }
    let mut order = Vec::new();
    for name in modules {
        // The file may be compressed.
        let ending = format!("/{name}.ko");
        let file = needs.keys().find(|file| file.contains(&ending));
        let file = file.with_context(|| format!("the kernel has no module {name}"))?;
        add(file, &needs, &mut order);
    }
    Ok(order)
}

/// Makes an empty disk.
fn make_disk(disk: &Path) -> Result<()> {
    let file = File::create(disk).context("make the disk")?;
    file.set_len(DISK_BYTES).context("make the disk")?;
    let mut format = Command::new("/usr/sbin/mke2fs");
    quiet(format.args(["-q", "-F", "-t", "ext4"]).arg(disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_after_those_that_they_need() {
        let needs = "kernel/a/one.ko: kernel/b/two.ko kernel/c/three.ko\n\
            kernel/b/two.ko: kernel/c/three.ko\nkernel/c/three.ko:\nkernel/d/bone.ko:\n";
        let order = load_order(needs, &["one", "three"]).unwrap();
        assert_eq!(
            order,
            ["kernel/c/three.ko", "kernel/b/two.ko", "kernel/a/one.ko"]
        );
        assert!(load_order(needs, &["four"]).is_err());
    }
}
