//! The built-in drivers of volumes.

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::well_known::annotations::PROVISIONED_BY;

/// The provisioner of the class `local`.
pub const LOCAL_PROVISIONER: &str = "mainstay.dev/local";
/// The provisioner of the class `local-cow`.
pub const LOCAL_COW_PROVISIONER: &str = "mainstay.dev/local-cow";
/// The provisioner name in manifests that were written for minikube.
pub const MINIKUBE_PROVISIONER: &str = "k8s.io/minikube-hostpath";

/// The prefix of volume names; the UID of the claim follows.
pub const VOLUME_PREFIX: &str = "pvc-";
/// The finalizer that protects a volume object until its data is removed, also if the object is deleted before its
/// claim (statefulset.md §11.10).
pub const REMOVAL_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// The built-in provisioners of volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Driver {
    /// A directory of the host's own file system.
    Local,
    /// A subvolume of a btrfs pool, with a size limit and snapshots.
    LocalCow,
}

impl Driver {
    /// The driver with this provisioner name; `None` for the provisioner of another program.
    pub fn of_provisioner(name: &str) -> Option<Self> {
        match name {
            LOCAL_PROVISIONER | MINIKUBE_PROVISIONER => Some(Self::Local),
            LOCAL_COW_PROVISIONER => Some(Self::LocalCow),
            _ => None,
        }
    }

    /// The driver that created a volume; `None` if another program created the volume.
    pub fn of_volume(volume: &PersistentVolume) -> Option<Self> {
        let annotations = volume.metadata.annotations.as_ref()?;
        Self::of_provisioner(annotations.get(PROVISIONED_BY)?)
    }

    /// The driver name in snapshot classes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => LOCAL_PROVISIONER,
            Self::LocalCow => LOCAL_COW_PROVISIONER,
        }
    }
}
