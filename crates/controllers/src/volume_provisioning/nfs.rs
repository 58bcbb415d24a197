//! Volumes that are directories of an NFS export (`resource_kinds::storage::nfs_class`).
//!
//! The directory exists before its volume object does.

use controller_planners::volume_provisioning::nfs::{directory_to_leave, volume};
use host_kernel::nfs::Export;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube_api_client::guarded_writes::{WriteRefusal, refusal};
use kube_api_client::{Api, PostParams};
use resource_kinds::MetadataIdentity;
use resource_kinds::reasons::volume as reasons;
use resource_kinds::storage::nfs_class::{NfsClass, OnDelete};
use resource_kinds::storage::volume_size::SizeLimit;
use volume_storage::nfs_directories::{ExportWork, work_on_export};

use super::Provisioner;
use super::error::ProvisionerError as Error;

impl Provisioner {
    /// Makes a directory and its volume object.
    pub(crate) async fn make_directory(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        nfs: &NfsClass,
        name: &str,
    ) -> Result<(), Error> {
        let directory = nfs
            .directory(claim, name)
            .map_err(|error| Error::Unsupported(error.to_string()))?;
        let options = class.mount_options.clone().unwrap_or_default();
        let work = ExportWork::Make(directory.clone());
        work_on_export(export_of(nfs), options, name, work).await?;
        let persistent_volume = volume(claim, class, nfs, &directory)?;
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &persistent_volume).await {
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

    /// Removes, archives or retains the directory of a volume, by the parameters of its class.
    pub(crate) async fn leave_directory(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let spec = volume.spec.clone().unwrap_or_default();
        let name = volume.metadata.object_name()?.to_owned();
        let class = spec.storage_class_name.as_deref();
        let class = class.and_then(|class| self.classes.get("", class));
        let to_leave = directory_to_leave(volume, class.as_deref());
        let (directory, nfs) = to_leave
            .map_err(|error| Error::Unsupported(error.to_string()))?
            .ok_or_else(|| Error::Unsupported("the volume has no directory".to_owned()))?;
        let work = match nfs.on_delete {
            OnDelete::Retain => return Ok(()),
            OnDelete::Delete => ExportWork::Remove(directory),
            OnDelete::Archive => ExportWork::Archive {
                directory,
                volume: name.clone(),
            },
        };
        let options = spec.mount_options.unwrap_or_default();
        Ok(work_on_export(export_of(&nfs), options, &name, work).await?)
    }
}

fn export_of(nfs: &NfsClass) -> Export {
    Export {
        server: nfs.server.clone(),
        path: nfs.path.clone(),
    }
}
