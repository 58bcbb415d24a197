//! Volumes that are directories of an NFS export (`resource_kinds::storage::nfs_class`).
//!
//! The export is mounted for each piece of work, attached nowhere: neither a killed process nor a server
//! that is away leaves a mount. The directory exists before its volume object does.

mod directory;

use std::path::{Path, PathBuf};
use std::time::Duration;

use api_client::guarded_writes::{WriteRefusal, refusal};
use api_client::{Api, PostParams};
use host_kernel::call_with_timeout;
use host_kernel::nfs::{Detached, Export, MountError};
use k8s_openapi::api::core::v1::{
    NFSVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use resource_kinds::reasons::volume as reasons;
use resource_kinds::storage::nfs_class::{NfsClass, OnDelete};
use resource_kinds::storage::volume_size::SizeLimit;

use crate::Provisioner;
use crate::decide;
use crate::error::ProvisionerError as Error;

/// Limit of the time of work on the server; the next attempt continues with the rest.
const WORK_MAX: Duration = Duration::from_secs(120);

/// A server that is away fails the work, which is tried again, where a hard mount would wait for ever.
const FAIL_SOON: &str = "soft,timeo=100,retrans=2";

/// One piece of work on an export.
enum Work {
    Make(PathBuf),
    Remove(PathBuf),
    Archive(PathBuf, String),
}

impl Provisioner {
    /// Makes a directory and its volume object.
    pub(crate) async fn make_directory(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        nfs: &NfsClass,
        name: &str,
    ) -> Result<(), Error> {
        let directory = nfs.directory(claim, name).map_err(Error::Unsupported)?;
        let options = class.mount_options.clone().unwrap_or_default();
        work(nfs, options, name, Work::Make(directory.clone())).await?;
        let made = volume(claim, class, nfs, &directory);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &made).await {
            Ok(_) => {
                let by = &class.provisioner;
                let text = format!("Successfully provisioned volume {name} using {by}");
                let reason = reasons::PROVISIONING_SUCCEEDED;
                self.recorder.normal(claim, reason, text);
                self.show_limit(claim, SizeLimit::Server).await
            }
            Err(error) if refusal(&error) == WriteRefusal::AlreadyExists => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes, archives or leaves the directory of a volume, as its class says. Without the class there
    /// is nobody who allowed to remove files: the directory is archived.
    pub(crate) async fn leave_directory(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let spec = volume.spec.clone().unwrap_or_default();
        let name = volume.metadata.name.clone().unwrap_or_default();
        let class = spec.storage_class_name.as_deref();
        let class = class.and_then(|class| self.classes.get("", class));
        let found = class.as_deref().and_then(NfsClass::of);
        let found = found.transpose().map_err(Error::Unsupported)?;
        let found = found.and_then(|nfs| Some((nfs.directory_of(volume)?, nfs)));
        let (directory, nfs) = match found {
            Some(found) => found,
            None => archived_by_itself(&spec)
                .ok_or_else(|| Error::Unsupported("the volume has no directory".to_owned()))?,
        };
        let on_server = match nfs.on_delete {
            OnDelete::Retain => return Ok(()),
            OnDelete::Delete => Work::Remove(directory),
            OnDelete::Archive => Work::Archive(directory, name.clone()),
        };
        let options = spec.mount_options.unwrap_or_default();
        work(&nfs, options, &name, on_server).await
    }
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
fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    nfs: &NfsClass,
    directory: &Path,
) -> PersistentVolume {
    let mut made = decide::volume(claim, class, "", directory);
    if let Some(spec) = &mut made.spec {
        spec.local = None;
        spec.node_affinity = None;
        spec.nfs = Some(NFSVolumeSource {
            path: nfs.path_of(directory),
            read_only: None,
            server: nfs.server.clone(),
        });
    }
    made
}

async fn work(
    nfs: &NfsClass,
    mut options: Vec<String>,
    volume: &str,
    work: Work,
) -> Result<(), Error> {
    let export = Export {
        server: nfs.server.clone(),
        path: nfs.path.clone(),
    };
    options.push(FAIL_SOON.to_owned());
    let key = format!("provision {volume}");
    let shown = export.to_string();
    let done = call_with_timeout(key, WORK_MAX, move || {
        let mounted = Detached::mount(&export, &options, false)?;
        let root = mounted.root();
        let done = match &work {
            Work::Make(path) => directory::make(root, path),
            Work::Remove(path) => directory::remove(root, path),
            Work::Archive(path, volume) => directory::archive(root, path, volume),
        };
        done.map_err(|source| MountError::Here {
            doing: format!("{export}, write to it"),
            source,
        })
    });
    match done.await {
        Ok(done) => done.map_err(|error| Error::Source(error.to_string())),
        Err(error) => Err(Error::Source(format!("{shown}: {error}"))),
    }
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
        let made = volume(&claim, &class, &nfs, Path::new("shop-data-pvc-c1"));
        let shown = json_tree::to_value(&made).unwrap();
        assert_eq!(
            shown["spec"],
            json!({"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"},
                "claimRef": shown["spec"]["claimRef"], "mountOptions": ["nfsvers=4.1"],
                "nfs": {"path": "/srv/shop-data-pvc-c1", "server": "files"},
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "nfs",
                "volumeMode": "Filesystem"})
        );
        let (directory, above) = archived_by_itself(&made.spec.unwrap()).unwrap();
        assert_eq!(directory, Path::new("shop-data-pvc-c1"));
        assert_eq!(
            (above.path.as_str(), above.on_delete),
            ("/srv", OnDelete::Archive)
        );
    }
}
