//! Volumes of claims: each kind of PersistentVolume has a function.

use std::path::PathBuf;

use host_kernel::blocking;
use host_kernel::{block_in_place, project_quota};
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NFSVolumeSource, PersistentVolumeSpec, Pod, RBDPersistentVolumeSource,
};
use pod_lifecycle::spec;
use rbd_images::RbdSource;
use resource_kinds::MetadataIdentity;
use resource_kinds::storage::Driver;
use resource_kinds::storage::volume_replication::VolumeReplication;

use super::error::{VolumeModeMismatch, VolumeSetupCause, VolumeSetupError};
use super::prepared::{BlockVolume, Prepared};
use super::{
    VolumeContext, block, device_names, fs_group, group_change, ignored_options, local_device,
    mount_names, nfs, one_pod, only_on_mismatch, ownership, prepare_csi, rbd,
};
use crate::api::objects::BoundClaim;
use crate::csi_volumes::CsiVolume;

/// The use of a claim by a volume of a pod.
#[derive(Clone, Copy)]
struct ClaimUse<'a> {
    /// The volume's name in the pod's specification.
    volume: &'a str,
    bound: &'a BoundClaim,
    spec: &'a PersistentVolumeSpec,
    read_only: bool,
}

impl ClaimUse<'_> {
    fn is_block(self) -> bool {
        self.spec.volume_mode.as_deref() == Some("Block")
    }

    fn mount_options(self) -> Vec<String> {
        self.spec.mount_options.clone().unwrap_or_default()
    }
}

/// Prepares the volume of a claim.
pub(super) async fn prepare(
    context: VolumeContext<'_>,
    volume: &str,
    claim: &str,
    read_only: bool,
) -> Result<Prepared, VolumeSetupError> {
    let namespace = context.pod.metadata.object_namespace()?;
    let bound = context.api_objects.bound_claim(namespace, claim).await?;
    let spec = bound.volume.spec.clone().unwrap_or_default();
    let claim_use = ClaimUse {
        volume,
        bound: &bound,
        spec: &spec,
        read_only,
    };
    check_primary(context.pod, &bound)?;
    check_use(context.pod, volume, claim_use.is_block())?;
    if let Some(csi_volume) = CsiVolume::of_volume(&bound.volume, read_only)? {
        return prepare_csi_claim(context, claim_use, &csi_volume).await;
    }
    one_pod::guard(context.dir, &bound.volume).await?;
    if let Some(source) = &spec.nfs {
        return prepare_nfs(context, claim_use, source).await;
    }
    if let Some(source) = &spec.rbd {
        return prepare_rbd(context, claim_use, source).await;
    }
    let path = claim_path(&spec)?;
    match (claim_use.is_block(), &spec.local) {
        (true, _) => prepare_block(context, claim_use, path).await,
        (false, Some(local)) if block_in_place(|| local_device::is_device(&path)) => {
            prepare_local_device(context, claim_use, local, path).await
        }
        (false, _) => prepare_directory(context, claim_use, path).await,
    }
}

/// Checks that the node may use a replicated volume. The PersistentVolume was just read from the API, so a
/// former primary node starts no pod with an old version of the volume.
fn check_primary(pod: &Pod, bound: &BoundClaim) -> Result<(), VolumeSetupCause> {
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    let refusal = VolumeReplication::of(&bound.volume)
        .and_then(|replication| replication.refusal(node.unwrap_or_default()));
    match refusal {
        Some(reason) => Err(VolumeSetupCause::NotPrimary(reason)),
        None => Ok(()),
    }
}

async fn prepare_csi_claim(
    context: VolumeContext<'_>,
    claim_use: ClaimUse<'_>,
    csi_volume: &CsiVolume,
) -> Result<Prepared, VolumeSetupError> {
    let prepared = prepare_csi(context, csi_volume).await?;
    let (objects, pod) = (context.api_objects, context.pod);
    let expanded = context
        .csi
        .expand(objects, pod, claim_use.bound, csi_volume, context.events);
    expanded.await.map_err(|error| VolumeSetupError {
        block: claim_use.is_block(),
        cause: error.into(),
    })?;
    Ok(prepared)
}

async fn prepare_nfs(
    context: VolumeContext<'_>,
    claim_use: ClaimUse<'_>,
    source: &NFSVolumeSource,
) -> Result<Prepared, VolumeSetupError> {
    let read_only = claim_use.read_only || source.read_only == Some(true);
    let target = context.dir.volume(claim_use.volume);
    Ok(nfs::prepare(target, source, claim_use.mount_options(), read_only).await?)
}

async fn prepare_rbd(
    context: VolumeContext<'_>,
    claim_use: ClaimUse<'_>,
    source: &RBDPersistentVolumeSource,
) -> Result<Prepared, VolumeSetupError> {
    let source = RbdSource::of_volume(source, context.pod.metadata.object_namespace()?);
    let usage = rbd::Usage {
        is_block: claim_use.is_block(),
        is_shared: is_shared(claim_use.spec, claim_use.is_block()),
        options: claim_use.mount_options(),
        read_only: claim_use.read_only,
        group: group_change(context.pod).filter(|_| !claim_use.read_only),
    };
    let (objects, dir) = (context.api_objects, context.dir);
    rbd::prepare(objects, dir, claim_use.volume, source, usage).await
}

/// Prepares a block volume: a device of the node, or an image of the provisioner.
async fn prepare_block(
    context: VolumeContext<'_>,
    claim_use: ClaimUse<'_>,
    path: PathBuf,
) -> Result<Prepared, VolumeSetupError> {
    let kind = match Driver::of_volume(&claim_use.bound.volume) {
        Some(_) => BlockVolume::Image,
        None => BlockVolume::Device,
    };
    let (dir, volume) = (context.dir.clone(), claim_use.volume.to_owned());
    let file = path.clone();
    let checked = blocking(move || match kind {
        BlockVolume::Image => {
            block::attach(&dir, &volume, &file).map_err(|source| VolumeSetupCause::Attach {
                image: file,
                source,
            })
        }
        BlockVolume::Device => Ok(block::check_device(&file)?),
    });
    checked.await.map_err(VolumeSetupError::of_block)?;
    Ok(Prepared {
        path,
        block: Some(kind),
        read_only: claim_use.read_only,
        ..Prepared::default()
    })
}

/// Mounts a device of the node with a file system.
async fn prepare_local_device(
    context: VolumeContext<'_>,
    claim_use: ClaimUse<'_>,
    local: &LocalVolumeSource,
    device: PathBuf,
) -> Result<Prepared, VolumeSetupError> {
    let target = context.dir.volume(claim_use.volume);
    let (mount_point, file_system) = (target.clone(), local.fs_type.clone());
    let (options, read_only) = (claim_use.mount_options(), claim_use.read_only);
    blocking(move || {
        let file_system = file_system.as_deref();
        local_device::mount_at(&device, &mount_point, file_system, &options, read_only)
    })
    .await?;
    prepare_files(context, claim_use, target).await
}

/// Prepares a directory of the node.
async fn prepare_directory(
    context: VolumeContext<'_>,
    claim_use: ClaimUse<'_>,
    path: PathBuf,
) -> Result<Prepared, VolumeSetupError> {
    let prepared = prepare_files(context, claim_use, path).await?;
    ignored_options::warn(context.events, &claim_use.bound.volume);
    Ok(prepared)
}

/// Applies `fsGroup` to the files at `path`, and reads whether they have a project quota.
async fn prepare_files(
    context: VolumeContext<'_>,
    claim_use: ClaimUse<'_>,
    path: PathBuf,
) -> Result<Prepared, VolumeSetupError> {
    let on_mismatch_only = only_on_mismatch(context.pod);
    let has_group = !claim_use.read_only && claim_use.spec.local.is_some();
    let group = fs_group(context.pod).filter(|_| has_group);
    let is_provisioned = Driver::of_volume(&claim_use.bound.volume).is_some();
    let target = path.clone();
    let in_project = blocking(move || {
        if !target.exists() {
            return Err(VolumeSetupCause::PathNotFound(target));
        }
        if let Some(gid) = group {
            ownership::give_to_group(&target, gid, on_mismatch_only)
                .map_err(VolumeSetupCause::FsGroup)?;
        }
        let project = match is_provisioned {
            true => project_quota::project(&target),
            false => Ok(None),
        };
        match project {
            Ok(project) => Ok(project.is_some()),
            Err(source) => Err(VolumeSetupCause::ProjectId {
                path: target,
                source,
            }),
        }
    })
    .await?;
    Ok(Prepared {
        path,
        read_only: claim_use.read_only,
        in_project,
        ..Prepared::default()
    })
}

/// Whether several nodes may use a volume at one time: all of them only read, or the volume is a block
/// device whose users coordinate their writes.
fn is_shared(spec: &PersistentVolumeSpec, block: bool) -> bool {
    let modes = spec.access_modes.clone().unwrap_or_default();
    let has_mode = |name: &str| modes.iter().any(|mode| mode == name);
    modes == ["ReadOnlyMany"] || (block && has_mode("ReadWriteMany"))
}

/// Checks that containers use a block volume as a device, and a file system volume as a mount.
fn check_use(pod: &Pod, volume: &str, block: bool) -> Result<(), VolumeModeMismatch> {
    let Some(pod_spec) = &pod.spec else {
        return Ok(());
    };
    let ephemeral = spec::ephemeral_containers(pod_spec);
    let mut containers = spec::containers(pod_spec)
        .map(|(_, container)| container)
        .chain(&ephemeral);
    let is_misused = containers.any(|container| match block {
        true => mount_names(container).any(|name| name == volume),
        false => device_names(container).any(|name| name == volume),
    });
    match (is_misused, block) {
        (false, _) => Ok(()),
        (true, true) => Err(VolumeModeMismatch::MountOfBlock(volume.to_owned())),
        (true, false) => Err(VolumeModeMismatch::DeviceOfFilesystem(volume.to_owned())),
    }
}

fn claim_path(spec: &PersistentVolumeSpec) -> Result<PathBuf, VolumeSetupCause> {
    match (&spec.local, &spec.host_path) {
        (Some(local), _) => Ok(PathBuf::from(&local.path)),
        (None, Some(host)) => Ok(PathBuf::from(&host.path)),
        (None, None) => Err(VolumeSetupCause::Unsupported),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_not_mounted_and_a_directory_is_no_device() {
        let pod: Pod = json_tree::from_value(json_tree::json!({"spec": {"containers": [
            {"name": "c", "volumeMounts": [{"name": "files", "mountPath": "/c"}],
                "volumeDevices": [{"name": "raw", "devicePath": "/dev/raw"}]}]}}))
        .unwrap();
        assert_eq!(check_use(&pod, "files", false), Ok(()));
        assert_eq!(check_use(&pod, "raw", true), Ok(()));
        assert_eq!(
            check_use(&pod, "files", true).unwrap_err().to_string(),
            "volume files has volumeMode Block, but is specified in volumeMounts"
        );
        assert_eq!(
            check_use(&pod, "raw", false).unwrap_err().to_string(),
            "volume raw has volumeMode Filesystem, but is specified in volumeDevices"
        );
    }
}
