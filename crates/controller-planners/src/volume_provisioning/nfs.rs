//! Volumes that are directories of an NFS export (`resource_kinds::storage::nfs_class`).

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    NFSVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use object_model::IncompleteMetadata;
use resource_kinds::storage::nfs_class::{NfsClass, NfsClassError, OnDelete};

use super::local;

/// The directory of a volume, and the export above it. Without a class nobody has allowed to remove files:
/// the directory is archived. `None` for a volume without a directory.
///
/// # Errors
/// The class is not valid.
pub fn directory_to_leave(
    volume: &PersistentVolume,
    class: Option<&StorageClass>,
) -> Result<Option<(PathBuf, NfsClass)>, NfsClassError> {
    let nfs = class.and_then(NfsClass::of).transpose()?;
    let of_class = nfs.and_then(|nfs| Some((nfs.directory_of(volume)?, nfs)));
    let spec = volume.spec.as_ref();
    Ok(of_class.or_else(|| spec.and_then(archived_by_itself)))
}

/// The export above a volume's directory.
fn archived_by_itself(spec: &PersistentVolumeSpec) -> Option<(PathBuf, NfsClass)> {
    let source = spec.nfs.as_ref()?;
    let path = Path::new(&source.path);
    let nfs = NfsClass {
        server: source.server.clone(),
        path: path.parent()?.to_string_lossy().into_owned(),
        path_pattern: None,
        on_delete: OnDelete::Archive,
    };
    Some((PathBuf::from(path.file_name()?), nfs))
}

/// The volume object for a claim.
pub fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    nfs: &NfsClass,
    directory: &Path,
) -> Result<PersistentVolume, IncompleteMetadata> {
    let mut created = local::volume(claim, class, "", directory)?;
    if let Some(spec) = &mut created.spec {
        spec.local = None;
        spec.node_affinity = None;
        spec.nfs = Some(NFSVolumeSource {
            path: nfs.path_of(directory),
            read_only: None,
            server: nfs.server.clone(),
        });
    }
    Ok(created)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn the_volume_is_on_the_server_and_on_every_node() {
        let claim: PersistentVolumeClaim = json_tree::from_value(json!({
            "metadata": {"name": "data", "namespace": "shop", "uid": "c1"},
            "spec": {"accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Gi"}}}}))
        .unwrap();
        let class: StorageClass = json_tree::from_value(json!({
            "metadata": {"name": "nfs"}, "provisioner": "mainstay.dev/nfs",
            "reclaimPolicy": "Retain", "mountOptions": ["nfsvers=4.1"],
            "parameters": {"server": "files", "path": "/srv"}}))
        .unwrap();
        let nfs = NfsClass::of(&class).unwrap().unwrap();
        let on_server = volume(&claim, &class, &nfs, Path::new("shop-data-pvc-c1")).unwrap();
        let encoded = json_tree::to_value(&on_server).unwrap();
        assert_eq!(
            encoded["spec"],
            json!({"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"},
                "claimRef": encoded["spec"]["claimRef"], "mountOptions": ["nfsvers=4.1"],
                "nfs": {"path": "/srv/shop-data-pvc-c1", "server": "files"},
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "nfs",
                "volumeMode": "Filesystem"})
        );
        let (directory, above) = archived_by_itself(&on_server.spec.unwrap()).unwrap();
        assert_eq!(directory, Path::new("shop-data-pvc-c1"));
        assert_eq!(
            (above.path.as_str(), above.on_delete),
            ("/srv", OnDelete::Archive)
        );
    }
}
