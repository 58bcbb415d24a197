//! Paths of a pod's files.
//!
//! `<data>/pods/<namespace>_<name>_<uid>/<container>/<n>.log` are the logs, as in kubelet; all other files
//! are in `.state` in the directory of the pod. `.state` is not a valid container name.

use std::path::{Path, PathBuf};

use pod_lifecycle::PodIdentity;

/// The directory of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDir {
    root: PathBuf,
}

impl PodDir {
    pub fn new(data_dir: &Path, pod: &PodIdentity) -> Self {
        let name = format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid);
        Self {
            root: pods_dir(data_dir).join(name),
        }
    }

    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of the agent's record of the pod.
    pub fn record(&self) -> PathBuf {
        self.state().join("record.json")
    }

    /// The file with the pod's object as the agent last read it.
    pub fn object(&self) -> PathBuf {
        self.state().join("pod.json")
    }

    /// The Service variables of the pod's containers at their last start.
    pub fn service_variables(&self) -> PathBuf {
        self.state().join("services.json")
    }

    /// The file with the devices that plugins have allocated to the pod.
    pub fn devices(&self) -> PathBuf {
        self.state().join("devices.json")
    }

    /// The file mounted as `/etc/hosts`.
    pub fn hosts(&self) -> PathBuf {
        self.state().join("hosts")
    }

    /// The file mounted as `/etc/hostname`.
    pub fn hostname(&self) -> PathBuf {
        self.state().join("hostname")
    }

    /// The file mounted as `/etc/resolv.conf`.
    pub fn resolv_conf(&self) -> PathBuf {
        self.state().join("resolv.conf")
    }

    /// The directory with all volumes of the pod.
    pub fn volumes(&self) -> PathBuf {
        self.state().join("volumes")
    }

    /// The directory of one volume of the pod.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    /// Directory with the names of the volumes that no other pod may use.
    pub fn volumes_for_one_pod(&self) -> PathBuf {
        self.state().join("volumes-for-one-pod")
    }

    /// The file mounted as a container's termination message.
    pub fn termination_log(&self, container: &str, restart_count: u32) -> PathBuf {
        self.state()
            .join(format!("termination-{container}-{restart_count}"))
    }

    /// Directory of an instance's writable layer.
    pub fn rootfs(&self, runtime_id: &str) -> PathBuf {
        self.state().join("rootfs").join(runtime_id)
    }

    /// Directory of a container's logs.
    pub fn logs(&self, container: &str) -> PathBuf {
        self.root.join(container)
    }

    /// The log file of one instance of a container.
    pub fn log(&self, container: &str, restart_count: u32) -> PathBuf {
        self.logs(container).join(format!("{restart_count}.log"))
    }

    /// Directory of all files except logs.
    pub fn state(&self) -> PathBuf {
        self.root.join(".state")
    }
}

/// The directory with the state of the node's Lease.
pub fn lease_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("node-lease")
}

/// The page with the deadline of pods that stop with the node's Lease. Its clock readings are valid until
/// the next boot.
pub fn deadline_page(data_dir: &Path, boot_id: &str) -> PathBuf {
    lease_dir(data_dir).join(format!("{DEADLINE_PAGE}{boot_id}"))
}

/// The prefix of the names of deadline pages; the boot id follows.
pub const DEADLINE_PAGE: &str = "deadline-";

pub fn pods_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("pods")
}

/// The file with the names of the resources of device plugins.
pub fn device_resources(data_dir: &Path) -> PathBuf {
    data_dir.join("kubelet/device-plugin-resources.json")
}

/// The directory with the records of prepared ResourceClaims.
pub fn device_claims(data_dir: &Path) -> PathBuf {
    data_dir.join("kubelet/device-claims")
}

/// The directory of the seccomp profiles of type `Localhost`.
pub fn seccomp_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("seccomp")
}

/// The runtime's id of an instance inside its sandbox.
pub fn runtime_id(container: &str, restart_count: u32) -> String {
    format!("{container}-{restart_count}")
}
