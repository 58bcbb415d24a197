//! The kubelet's directory: its path for drivers, and its path on this machine.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use host_kernel::mount_table;
use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};

/// The directory in the manifests of all drivers.
const DRIVER_DIR: &str = "/var/lib/kubelet";
const STAGES: &str = "plugins/kubernetes.io/csi";
const VOLUME_DATA: &str = "vol_data.json";

/// The kubelet's directory of one data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletDir {
    root: PathBuf,
}

/// A path relative to the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletPath(PathBuf);

impl KubeletDir {
    /// The kubelet's directory of the server with this data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            root: data_dir.join("kubelet"),
        }
    }

    /// The path on this machine for a path in a pod's manifest or from a driver; `None` for paths outside
    /// of the directory.
    pub fn node_path(&self, path: &Path) -> Option<PathBuf> {
        let relative_path = path.strip_prefix(DRIVER_DIR).ok()?;
        let stays_inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        let is_inside = relative_path.components().all(stays_inside);
        is_inside.then(|| self.root.join(relative_path))
    }

    /// Whether a path of this machine is in the directory.
    pub fn contains(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }

    /// The directory with the registration sockets of drivers.
    pub fn registry(&self) -> PathBuf {
        self.root.join("plugins_registry")
    }

    /// The directory with the sockets of device plugins and of their registration.
    pub fn device_plugins(&self) -> PathBuf {
        self.root.join("device-plugins")
    }

    pub fn at(&self, path: &KubeletPath) -> PathBuf {
        self.root.join(&path.0)
    }

    /// Creates the directory and its subdirectories. The directory becomes a shared mount, unless the file
    /// system around it is shared already. So all pods that mount a part of the directory have the mounts
    /// below it. The directory is mounted before anything is mounted in it, and only once: a second mount
    /// would hide the mounts below.
    ///
    /// # Errors
    /// An error of the disk or the kernel.
    pub fn create(&self) -> io::Result<()> {
        static CREATION: Mutex<()> = Mutex::new(());
        let _guard = CREATION.lock().unwrap_or_else(PoisonError::into_inner);
        for part in ["plugins_registry", "plugins", "pods", "device-plugins"] {
            fs::create_dir_all(self.root.join(part))?;
        }
        let real = fs::canonicalize(&self.root)?;
        let mounts = mount_table::read()?;
        let enclosing_mount = mounts
            .iter()
            .filter(|mount| real.starts_with(&mount.path))
            .max_by_key(|mount| mount.path.components().count());
        if enclosing_mount.is_some_and(|mount| mount.propagation.shared) {
            return Ok(());
        }
        let no_text: Option<&str> = None;
        if enclosing_mount.is_none_or(|mount| mount.path != real) {
            mount(Some(&real), &real, no_text, MsFlags::MS_BIND, no_text)?;
        }
        mount(no_text, &real, no_text, MsFlags::MS_SHARED, no_text)?;
        Ok(())
    }

    /// Removes the mount of [`KubeletDir::create`], if nothing is mounted below it.
    ///
    /// # Errors
    /// An error of the kernel.
    pub fn unmount(&self) -> io::Result<()> {
        let Ok(real) = fs::canonicalize(&self.root) else {
            return Ok(());
        };
        let mounts = mount_table::at_or_below(&mount_table::read()?, &real);
        match mounts.as_slice() {
            [mount] if *mount == real => Ok(nix::mount::umount2(
                &real,
                nix::mount::MntFlags::UMOUNT_NOFOLLOW,
            )?),
            _ => Ok(()),
        }
    }

    /// Directories with the records of publications; a directory without a pod is empty.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn publication_records(&self) -> io::Result<Vec<PathBuf>> {
        let mut records = Vec::new();
        for pod in entries(&self.root.join("pods"))? {
            for volume in entries(&pod.join("volumes/kubernetes.io~csi"))? {
                records.push(volume.join(VOLUME_DATA));
            }
        }
        records.retain(|path| path.is_file());
        Ok(records)
    }

    /// The records of staged volumes.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn stage_records(&self) -> io::Result<Vec<PathBuf>> {
        let mut records = Vec::new();
        for driver in entries(&self.root.join(STAGES))? {
            for volume in entries(&driver)? {
                records.push(volume.join(VOLUME_DATA));
            }
        }
        records.retain(|path| path.is_file());
        Ok(records)
    }
}

impl KubeletPath {
    /// The path in calls of drivers.
    pub fn for_driver(&self) -> String {
        Path::new(DRIVER_DIR)
            .join(&self.0)
            .to_string_lossy()
            .into_owned()
    }

    /// The directory in which a volume with a file system is staged.
    pub fn stage(driver: &str, handle: &str) -> Self {
        Self::stage_dir(driver, handle).join("globalmount")
    }

    /// The directory in which a block volume is staged.
    pub fn block_stage(volume: &str) -> Self {
        Self(Path::new(STAGES).join("volumeDevices/staging").join(volume))
    }

    /// The path at which a volume is mounted for a pod.
    pub fn publication(pod: &str, volume: &str) -> Self {
        Self::publication_dir(pod, volume).join("mount")
    }

    /// The path of a block volume's device for a pod.
    pub fn block_publication(pod: &str, volume: &str) -> Self {
        let publications = Path::new(STAGES).join("volumeDevices/publish");
        Self(publications.join(volume).join(pod))
    }

    /// The record of a staged volume.
    pub fn stage_record(driver: &str, handle: &str) -> Self {
        Self::stage_dir(driver, handle).join(VOLUME_DATA)
    }

    /// The path of the record (`vol_data.json`) of a published volume.
    pub fn publication_record(pod: &str, volume: &str) -> Self {
        Self::publication_dir(pod, volume).join(VOLUME_DATA)
    }

    fn stage_dir(driver: &str, handle: &str) -> Self {
        let hash = hex(&Sha256::digest(handle));
        Self(Path::new(STAGES).join(driver).join(hash))
    }

    fn publication_dir(pod: &str, volume: &str) -> Self {
        let pod = Path::new("pods").join(pod);
        Self(pod.join("volumes/kubernetes.io~csi").join(volume))
    }

    fn join(&self, part: &str) -> Self {
        Self(self.0.join(part))
    }
}

/// The bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_kubelets_and_stay_below_its_directory() {
        let dir = KubeletDir::new(Path::new("/data"));
        let stage = KubeletPath::stage("d.example.com", "v");
        let hash = "4c94485e0c21ae6c41ce1dfe7b6bfaceea5ab68e40a2476f50208e526f506080";
        let below = format!("plugins/kubernetes.io/csi/d.example.com/{hash}/globalmount");
        assert_eq!(stage.for_driver(), format!("/var/lib/kubelet/{below}"));
        assert_eq!(dir.at(&stage), Path::new("/data/kubelet").join(below));
        assert_eq!(
            KubeletPath::publication("uid", "pv").for_driver(),
            "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/pv/mount"
        );
        let real = |path: &str| dir.node_path(Path::new(path));
        assert_eq!(
            real("/var/lib/kubelet/plugins/a/csi.sock"),
            Some("/data/kubelet/plugins/a/csi.sock".into())
        );
        assert_eq!(real("/var/lib/kubelet/../../etc/x"), None);
        assert_eq!(real("/var/lib/kubelets"), None);
        assert_eq!(real("/etc"), None);
    }
}
