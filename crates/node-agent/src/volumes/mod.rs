//! Volumes of a pod on the node: this module mounts, updates and unmounts them.
//!
//! A volume is a path on the node that containers mount. The module never deletes the data of a claim or a
//! hostPath. It deletes only files in the pod's directory, and only after everything below that directory
//! is unmounted.

mod atomic;
pub mod block;
mod claim;
pub mod device_claims;
mod empty_dir;
mod error;
mod host_path;
mod ignored_options;
mod local_device;
mod mount_points;
mod nfs;
mod one_pod;
mod ownership;
mod payload;
mod prepared;
mod rbd;
mod release;
pub mod text_file;

use std::collections::BTreeSet;
use std::path::PathBuf;

use host_kernel::blocking;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource, Pod, Volume,
};
use pod_lifecycle::environment::downward::NodeFacts;
use pod_lifecycle::spec;
use rbd_images::RbdSource;
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_references::claim_of;

use crate::api::events::PodEvents;
use crate::api::objects::{ApiObjects, ObjectKind, ObjectName};
use crate::csi_volumes::{CsiVolume, CsiVolumes};
use crate::images::Puller;
use crate::paths::PodDir;
use error::VolumeSetupCause;
pub use error::{VolumeError, VolumeSetupError};
use host_path::HostPathError;
pub use ownership::fs_group;
pub use payload::ReadObjects;
use payload::{PayloadError, Projector, VolumeFiles};
pub use prepared::{BlockVolume, Prepared, PreparedVolumes};
pub use rbd::keep_growing as keep_images_growing;
pub use release::release;

/// The context for the preparation and the refresh of volumes.
#[derive(Clone, Copy)]
pub struct VolumeContext<'a> {
    /// Reads ConfigMaps, Secrets, claims and tokens.
    pub api_objects: &'a ApiObjects,
    pub pod: &'a Pod,
    pub dir: &'a PodDir,
    /// Addresses and allocatable resources of the node, for files of the downward API.
    pub facts: &'a NodeFacts,
    /// Pulls the images of `image` volumes.
    pub images: &'a Puller,
    pub csi: &'a CsiVolumes,
    /// Sends events about pulls.
    pub events: &'a PodEvents,
}

/// Prepares all volumes that the pod's containers use, and records the objects that the volumes are built
/// from.
pub async fn prepare(
    context: VolumeContext<'_>,
    read_objects: &mut ReadObjects,
) -> Result<PreparedVolumes, VolumeError> {
    let mut prepared = PreparedVolumes::new();
    for volume in used_volumes(context.pod) {
        let volume_error = |error: VolumeSetupError| VolumeError {
            volume: volume.name.clone(),
            error,
        };
        let prepared_volume = prepare_one(context, volume, read_objects)
            .await
            .map_err(volume_error)?;
        prepared.insert(volume.name.clone(), prepared_volume);
    }
    Ok(prepared)
}

/// Rewrites the files of volumes whose objects have changed, and records the objects.
pub async fn refresh(
    context: VolumeContext<'_>,
    read_objects: &mut ReadObjects,
) -> Result<(), VolumeError> {
    let projector = context.projector();
    for volume in used_volumes(context.pod) {
        let volume_error = |error: PayloadError| VolumeError {
            volume: volume.name.clone(),
            error: error.into(),
        };
        let files = projector
            .project(volume, read_objects)
            .await
            .map_err(volume_error)?;
        if let Some(files) = files {
            write_payload(context, volume, files)
                .await
                .map_err(volume_error)?;
        }
    }
    Ok(())
}

/// The objects that the pod's volumes are built from.
pub fn watched_objects(pod: &Pod) -> BTreeSet<ObjectName> {
    let mut objects = BTreeSet::new();
    let mut add = |kind: ObjectKind, name: &str| {
        objects.insert((kind, name.to_owned()));
    };
    for volume in used_volumes(pod) {
        if let Some(source) = &volume.config_map {
            add(ObjectKind::ConfigMap, &source.name);
        }
        if let Some(name) = volume
            .secret
            .as_ref()
            .and_then(|s| s.secret_name.as_deref())
        {
            add(ObjectKind::Secret, name);
        }
        let sources = volume
            .projected
            .as_ref()
            .and_then(|projected| projected.sources.as_ref());
        for source in sources.into_iter().flatten() {
            if let Some(source) = &source.config_map {
                add(ObjectKind::ConfigMap, &source.name);
            }
            if let Some(source) = &source.secret {
                add(ObjectKind::Secret, &source.name);
            }
        }
    }
    objects
}

/// The emptyDir volumes, which survive a shutdown of the node as they survive a restart of a container.
pub fn empty_dirs(pod: &Pod) -> BTreeSet<String> {
    let volumes = pod.spec.iter().flat_map(|spec| &spec.volumes).flatten();
    let empty_dirs = volumes.filter(|volume| volume.empty_dir.is_some());
    empty_dirs.map(|volume| volume.name.clone()).collect()
}

fn used_volumes(pod: &Pod) -> Vec<&Volume> {
    let Some(pod_spec) = &pod.spec else {
        return Vec::new();
    };
    let ephemeral = spec::ephemeral_containers(pod_spec);
    let used_names: BTreeSet<&str> = spec::containers(pod_spec)
        .map(|(_, container)| container)
        .chain(&ephemeral)
        .flat_map(|container| mount_names(container).chain(device_names(container)))
        .collect();
    let volumes = pod_spec.volumes.iter().flatten();
    volumes
        .filter(|volume| used_names.contains(volume.name.as_str()))
        .collect()
}

fn mount_names(container: &Container) -> impl Iterator<Item = &str> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.map(|mount| mount.name.as_str())
}

fn device_names(container: &Container) -> impl Iterator<Item = &str> {
    let devices = container.volume_devices.iter().flatten();
    devices.map(|device| device.name.as_str())
}

async fn prepare_one(
    context: VolumeContext<'_>,
    volume: &Volume,
    read_objects: &mut ReadObjects,
) -> Result<Prepared, VolumeSetupError> {
    let path = context.dir.volume(&volume.name);
    if let Some(files) = context.projector().project(volume, read_objects).await? {
        write_payload(context, volume, files).await?;
        return Ok(Prepared {
            path,
            read_only: true,
            ..Prepared::default()
        });
    }
    if let Some(source) = &volume.empty_dir {
        return prepare_empty_dir(context, source, path).await;
    }
    if let Some(source) = &volume.host_path {
        return prepare_host_path(context, source).await;
    }
    if let Some(csi_volume) = CsiVolume::inline(context.pod, volume)? {
        return prepare_csi(context, &csi_volume).await;
    }
    if let Some(source) = &volume.nfs {
        let read_only = source.read_only == Some(true);
        return Ok(nfs::prepare(path, source, Vec::new(), read_only).await?);
    }
    if let Some(source) = &volume.rbd {
        let source = RbdSource::inline(source, context.pod.metadata.object_namespace()?);
        let usage = rbd::Usage {
            group: group_change(context.pod),
            ..rbd::Usage::default()
        };
        let (objects, dir) = (context.api_objects, context.dir);
        return rbd::prepare(objects, dir, &volume.name, source, usage).await;
    }
    if let Some(source) = &volume.image {
        return prepare_image(context, source, path).await;
    }
    match claim_of(context.pod.metadata.object_name()?, volume) {
        Some((name, read_only)) => claim::prepare(context, &volume.name, &name, read_only).await,
        None => Err(VolumeSetupCause::Unsupported.into()),
    }
}

async fn prepare_empty_dir(
    context: VolumeContext<'_>,
    source: &EmptyDirVolumeSource,
    path: PathBuf,
) -> Result<Prepared, VolumeSetupError> {
    let spec = context.pod.spec.clone().unwrap_or_default();
    let memory = context.facts.allocatable.get("memory");
    let memory = memory.map_or(0, |quantity| quantity.value());
    let medium = empty_dir::medium(source, &spec, memory)?;
    let (target, gid) = (path.clone(), fs_group(context.pod));
    blocking(move || empty_dir::create(&target, medium, gid)).await?;
    Ok(Prepared {
        path,
        ..Prepared::default()
    })
}

async fn prepare_host_path(
    context: VolumeContext<'_>,
    source: &HostPathVolumeSource,
) -> Result<Prepared, VolumeSetupError> {
    let directory = context.csi.directory().clone();
    let kubelet_path = directory.node_path(source.path.as_ref());
    let is_in_kubelet_dir = kubelet_path.is_some();
    let path = kubelet_path.unwrap_or_else(|| PathBuf::from(&source.path));
    let type_ = source.type_.clone().unwrap_or_default();
    let target = path.clone();
    blocking(move || {
        if is_in_kubelet_dir {
            directory.create().map_err(HostPathError::KubeletDir)?;
        }
        host_path::check(&target, &type_)
    })
    .await?;
    Ok(Prepared {
        path,
        ..Prepared::default()
    })
}

async fn prepare_image(
    context: VolumeContext<'_>,
    source: &ImageVolumeSource,
    path: PathBuf,
) -> Result<Prepared, VolumeSetupError> {
    let name = source.reference.as_deref().unwrap_or_default();
    let policy = source.pull_policy.as_deref();
    let image = context
        .images
        .ensure(context.pod, name, policy, context.events);
    let image = image.await.map_err(|trouble| VolumeSetupCause::Image {
        reason: trouble.reason,
        message: trouble.message,
    })?;
    Ok(Prepared {
        path,
        read_only: true,
        layers: image.layers,
        ..Prepared::default()
    })
}

async fn prepare_csi(
    context: VolumeContext<'_>,
    volume: &CsiVolume,
) -> Result<Prepared, VolumeSetupError> {
    let (csi, pod) = (context.csi, context.pod);
    let published = csi.publish(context.api_objects, pod, volume, fs_group(pod));
    let published = published.await.map_err(|error| VolumeSetupError {
        block: volume.is_block,
        cause: error.into(),
    })?;
    let (path, on_mismatch_only) = (published.path, only_on_mismatch(pod));
    let (target, is_block) = (path.clone(), volume.is_block);
    blocking(move || match (is_block, published.group) {
        (true, _) => Ok(block::check_device(&target)?),
        (false, Some(gid)) => ownership::give_to_group(&target, gid, on_mismatch_only)
            .map_err(VolumeSetupCause::FsGroup),
        (false, None) => Ok(()),
    })
    .await?;
    Ok(Prepared {
        path,
        block: is_block.then_some(BlockVolume::Device),
        read_only: volume.read_only,
        ..Prepared::default()
    })
}

/// The change of the group of a volume's files; `None` if the pod has no `fsGroup`.
fn group_change(pod: &Pod) -> Option<rbd::GroupChange> {
    fs_group(pod).map(|gid| rbd::GroupChange {
        gid,
        on_mismatch_only: only_on_mismatch(pod),
    })
}

/// Whether the files of a volume keep their group if the volume's root has the group already
/// (`fsGroupChangePolicy`).
fn only_on_mismatch(pod: &Pod) -> bool {
    let context = pod.spec.as_ref();
    let context = context.and_then(|spec| spec.security_context.as_ref());
    let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
    policy == Some("OnRootMismatch")
}

async fn write_payload(
    context: VolumeContext<'_>,
    volume: &Volume,
    files: VolumeFiles,
) -> Result<(), PayloadError> {
    let (path, gid) = (context.dir.volume(&volume.name), fs_group(context.pod));
    blocking(move || {
        let result = atomic::write(&path, files.payload(), gid, Timestamp::now());
        result.map(|_| ()).map_err(PayloadError::Write)
    })
    .await
}

impl<'a> VolumeContext<'a> {
    fn projector(self) -> Projector<'a> {
        Projector {
            api_objects: self.api_objects,
            pod: self.pod,
            facts: self.facts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounted_volumes_are_used_and_their_objects_watched() {
        // statefulset.md 12.13
        let pod: Pod = json_tree::from_value(json_tree::json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {
                "containers": [{"name": "c", "volumeMounts": [
                    {"name": "conf", "mountPath": "/c"}, {"name": "all", "mountPath": "/a"}]}],
                "volumes": [
                    {"name": "conf", "configMap": {"name": "m"}},
                    {"name": "unused", "secret": {"secretName": "s0"}},
                    {"name": "all", "projected": {"sources": [
                        {"secret": {"name": "s1"}}, {"configMap": {"name": "m"}}]}}]
            }
        }))
        .unwrap();
        let names: Vec<&str> = used_volumes(&pod).iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["conf", "all"]);
        let watched = watched_objects(&pod);
        let expected = [
            (ObjectKind::ConfigMap, "m".to_owned()),
            (ObjectKind::Secret, "s1".to_owned()),
        ];
        assert_eq!(watched, expected.into());
    }
}
