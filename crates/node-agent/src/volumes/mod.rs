//! Volumes of a pod on the node: this module mounts, updates and unmounts them.
//!
//! A volume is a path on the node that containers mount. The module never deletes the data of a claim or a
//! hostPath. It deletes only files in the pod's directory, and only after everything below that directory
//! is unmounted.

mod atomic;
pub mod block;
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
mod rbd;
mod release;
pub mod text_file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use host_kernel::blocking;
use host_kernel::{block_in_place, project_quota};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PersistentVolumeSpec, Pod, Volume};
use pod_lifecycle::environment::downward::NodeFacts;
use pod_lifecycle::spec;
use rbd_images::RbdSource;
use resource_kinds::pod_references::claim_of;
use resource_kinds::storage::Driver;
use resource_kinds::storage::volume_replication::VolumeReplication;
use serde::{Deserialize, Serialize};

use crate::api::events::PodEvents;
use crate::api::objects::{ApiObjects, ObjectKind, ObjectName};
use crate::csi_volumes::{CsiVolume, CsiVolumes};
use crate::images::Puller;
use crate::paths::PodDir;
pub use error::{VolumeError, VolumeSetupError};
pub use ownership::fs_group;
pub use payload::ReadObjects;
use payload::{Projector, VolumeFiles};
pub use rbd::keep_growing as keep_images_growing;
pub use release::release;

/// A volume that is ready to be mounted into containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The path of the volume on the node.
    pub path: PathBuf,
    /// The kind of the block volume; `None` for a file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockVolume>,
    /// Whether no container may write to it.
    pub read_only: bool,
    /// Whether the files of the volume have a project quota.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_project: bool,
    /// Whether the files are on a remote machine: while that machine does not respond, each access waits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remote: bool,
    /// The layers of an image volume, the top layer last. If there are layers, `path` is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<PathBuf>,
}

/// The kind of file behind a block volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockVolume {
    Device,
    /// An image file, which is attached to a loop device.
    Image,
}

/// The prepared volumes of a pod, by name.
pub type PreparedVolumes = BTreeMap<String, Prepared>;

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
        let failed = |error: VolumeSetupError| VolumeError {
            volume: volume.name.clone(),
            error,
        };
        let one = prepare_one(context, volume, read_objects)
            .await
            .map_err(failed)?;
        prepared.insert(volume.name.clone(), one);
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
        let failed = |message: String| VolumeError {
            volume: volume.name.clone(),
            error: message.into(),
        };
        let files = projector
            .project(volume, read_objects)
            .await
            .map_err(failed)?;
        if let Some(files) = files {
            write_payload(context, volume, files)
                .await
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// The objects that the pod's volumes are built from.
pub fn watched_objects(pod: &Pod) -> BTreeSet<ObjectName> {
    let mut found = BTreeSet::new();
    let mut add = |kind: ObjectKind, name: &str| {
        found.insert((kind, name.to_owned()));
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
    found
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
    let used: BTreeSet<&str> = spec::containers(pod_spec)
        .map(|(_, container)| container)
        .chain(&ephemeral)
        .flat_map(|container| mount_names(container).chain(device_names(container)))
        .collect();
    let all = pod_spec.volumes.iter().flatten();
    all.filter(|volume| used.contains(volume.name.as_str()))
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
    let own = || Prepared {
        path: context.dir.volume(&volume.name),
        ..Prepared::default()
    };
    if let Some(files) = context.projector().project(volume, read_objects).await? {
        write_payload(context, volume, files).await?;
        return Ok(Prepared {
            read_only: true,
            ..own()
        });
    }
    if let Some(source) = &volume.empty_dir {
        let spec = context.pod.spec.clone().unwrap_or_default();
        let memory = context.facts.allocatable.get("memory");
        let memory = memory.map_or(0, |quantity| quantity.value());
        let medium = empty_dir::medium(source, &spec, memory)?;
        let (path, gid) = (own().path, fs_group(context.pod));
        blocking(move || empty_dir::make(&path, medium, gid)).await?;
        return Ok(own());
    }
    if let Some(source) = &volume.host_path {
        let directory = context.csi.directory().clone();
        let of_drivers = directory.real(source.path.as_ref());
        let is_of_drivers = of_drivers.is_some();
        let path = of_drivers.unwrap_or_else(|| PathBuf::from(&source.path));
        let type_ = source.type_.clone().unwrap_or_default();
        let checked = path.clone();
        blocking(move || {
            if is_of_drivers {
                let made = directory.make();
                made.map_err(|error| format!("make the drivers' directory: {error}"))?;
            }
            host_path::check(&checked, &type_)
        })
        .await?;
        return Ok(Prepared {
            path,
            ..Prepared::default()
        });
    }
    if let Some(wanted) = CsiVolume::inline(context.pod, volume) {
        return prepare_csi(context, &wanted).await;
    }
    if let Some(source) = &volume.nfs {
        let read_only = source.read_only == Some(true);
        return Ok(nfs::prepare(own().path, source, Vec::new(), read_only).await?);
    }
    if let Some(source) = &volume.rbd {
        let namespace = context.pod.metadata.namespace.as_deref();
        let source = RbdSource::inline(source, namespace.unwrap_or_default());
        let usage = rbd::Usage {
            group: fs_group(context.pod).map(|gid| (gid, only_on_mismatch(context.pod))),
            ..rbd::Usage::default()
        };
        let (objects, dir) = (context.api_objects, context.dir);
        return rbd::prepare(objects, dir, &volume.name, source, usage).await;
    }
    if let Some(source) = &volume.image {
        let name = source.reference.as_deref().unwrap_or_default();
        let policy = source.pull_policy.as_deref();
        let found = context
            .images
            .ensure(context.pod, name, policy, context.events);
        let image = found
            .await
            .map_err(|trouble| format!("{}: {}", trouble.reason, trouble.message))?;
        return Ok(Prepared {
            read_only: true,
            layers: image.layers,
            ..own()
        });
    }
    let pod = context.pod.metadata.name.as_deref().unwrap_or_default();
    match claim_of(pod, volume) {
        Some((name, read_only)) => prepare_claim(context, &volume.name, &name, read_only).await,
        None => Err("this type of volume is not supported on this node"
            .to_owned()
            .into()),
    }
}

async fn prepare_claim(
    context: VolumeContext<'_>,
    volume: &str,
    claim: &str,
    read_only: bool,
) -> Result<Prepared, VolumeSetupError> {
    let namespace = context
        .pod
        .metadata
        .namespace
        .as_deref()
        .unwrap_or_default();
    let bound = context.api_objects.bound_claim(namespace, claim).await?;
    let found = &bound.volume;
    let spec = found.spec.clone().unwrap_or_default();
    // The PersistentVolume was just read from the API, so a former primary node starts no pod with an old
    // version of the volume.
    let node = context.pod.spec.as_ref();
    let node = node.and_then(|spec| spec.node_name.as_deref());
    let replicated = VolumeReplication::of(found);
    let refusal = replicated.and_then(|record| record.refusal(node.unwrap_or_default()));
    if let Some(why) = refusal {
        return Err(why.into());
    }
    let block = spec.volume_mode.as_deref() == Some("Block");
    check_use(context.pod, volume, block)?;
    if let Some(wanted) = CsiVolume::of_volume(found, read_only) {
        let prepared = prepare_csi(context, &wanted).await?;
        let (objects, pod) = (context.api_objects, context.pod);
        let grown = context
            .csi
            .expand(objects, pod, &bound, &wanted, context.events);
        grown
            .await
            .map_err(|message| VolumeSetupError { block, message })?;
        return Ok(prepared);
    }
    one_pod::guard(context.dir, found).await?;
    if let Some(source) = &spec.nfs {
        let options = spec.mount_options.clone().unwrap_or_default();
        let read_only = read_only || source.read_only == Some(true);
        return Ok(nfs::prepare(context.dir.volume(volume), source, options, read_only).await?);
    }
    if let Some(source) = &spec.rbd {
        let source = RbdSource::of_volume(source, namespace);
        let group = fs_group(context.pod).filter(|_| !read_only);
        let usage = rbd::Usage {
            is_block: block,
            is_shared: is_shared(&spec, block),
            options: spec.mount_options.clone().unwrap_or_default(),
            read_only,
            group: group.map(|gid| (gid, only_on_mismatch(context.pod))),
        };
        return rbd::prepare(context.api_objects, context.dir, volume, source, usage).await;
    }
    let path = claim_path(&spec)?;
    if block {
        let kind = match Driver::of_volume(found) {
            Some(_) => BlockVolume::Image,
            None => BlockVolume::Device,
        };
        let (dir, volume, at) = (context.dir.clone(), volume.to_owned(), path.clone());
        let done = blocking(move || match kind {
            BlockVolume::Image => block::attach(&dir, &volume, &at)
                .map_err(|error| format!("attach {}: {error}", at.display())),
            BlockVolume::Device => block::check_device(&at),
        });
        done.await.map_err(|message| VolumeSetupError {
            block: true,
            message,
        })?;
        return Ok(Prepared {
            path,
            block: Some(kind),
            read_only,
            ..Prepared::default()
        });
    }
    let on_mismatch = only_on_mismatch(context.pod);
    let group = fs_group(context.pod).filter(|_| !read_only && spec.local.is_some());
    let path = match &spec.local {
        Some(local) if block_in_place(|| local_device::is_device(&path)) => {
            let target = context.dir.volume(volume);
            let (device, at, name) = (path, target.clone(), local.fs_type.clone());
            let options = spec.mount_options.clone().unwrap_or_default();
            blocking(move || {
                local_device::mount_at(&device, &at, name.as_deref(), &options, read_only)
            })
            .await?;
            target
        }
        _ => path,
    };
    let (checked, ours) = (path.clone(), Driver::of_volume(found).is_some());
    let in_project = blocking(move || {
        if !checked.exists() {
            return Err(format!("path \"{}\" does not exist", checked.display()));
        }
        if let Some(gid) = group {
            ownership::give_to_group(&checked, gid, on_mismatch)
                .map_err(|error| format!("apply fsGroup: {error}"))?;
        }
        let project = match ours {
            true => project_quota::project(&checked),
            false => Ok(None),
        };
        project
            .map(|project| project.is_some())
            .map_err(|error| format!("read the project id of {}: {error}", checked.display()))
    })
    .await?;
    ignored_options::tell(context.events, found, path != context.dir.volume(volume));
    Ok(Prepared {
        path,
        read_only,
        in_project,
        ..Prepared::default()
    })
}

async fn prepare_csi(
    context: VolumeContext<'_>,
    wanted: &CsiVolume,
) -> Result<Prepared, VolumeSetupError> {
    let (csi, pod) = (context.csi, context.pod);
    let published = csi.publish(context.api_objects, pod, wanted, fs_group(pod));
    let published = published.await.map_err(|message| VolumeSetupError {
        block: wanted.is_block,
        message,
    })?;
    let (path, on_mismatch) = (published.path, only_on_mismatch(pod));
    let (at, is_block) = (path.clone(), wanted.is_block);
    blocking(move || match (is_block, published.group) {
        (true, _) => block::check_device(&at),
        (false, Some(gid)) => ownership::give_to_group(&at, gid, on_mismatch)
            .map_err(|error| format!("apply fsGroup: {error}")),
        (false, None) => Ok(()),
    })
    .await?;
    Ok(Prepared {
        path,
        block: is_block.then_some(BlockVolume::Device),
        read_only: wanted.read_only,
        ..Prepared::default()
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

/// Whether several nodes may use a volume at one time: all of them only read, or the volume is a block
/// device whose users coordinate their writes.
fn is_shared(spec: &PersistentVolumeSpec, block: bool) -> bool {
    let modes = spec.access_modes.clone().unwrap_or_default();
    let has = |mode: &str| modes.iter().any(|has| has == mode);
    modes == ["ReadOnlyMany"] || (block && has("ReadWriteMany"))
}

/// Checks that containers use a block volume as a device, and a file system volume as a mount.
fn check_use(pod: &Pod, volume: &str, block: bool) -> Result<(), String> {
    let Some(pod_spec) = &pod.spec else {
        return Ok(());
    };
    let ephemeral = spec::ephemeral_containers(pod_spec);
    let mut all = spec::containers(pod_spec)
        .map(|(_, container)| container)
        .chain(&ephemeral);
    let wrong = all.any(|container| match block {
        true => mount_names(container).any(|name| name == volume),
        false => device_names(container).any(|name| name == volume),
    });
    match (wrong, block) {
        (false, _) => Ok(()),
        (true, true) => Err(format!(
            "volume {volume} has volumeMode Block, but is specified in volumeMounts"
        )),
        (true, false) => Err(format!(
            "volume {volume} has volumeMode Filesystem, but is specified in volumeDevices"
        )),
    }
}

fn claim_path(spec: &PersistentVolumeSpec) -> Result<PathBuf, String> {
    match (&spec.local, &spec.host_path) {
        (Some(local), _) => Ok(PathBuf::from(&local.path)),
        (None, Some(host)) => Ok(PathBuf::from(&host.path)),
        (None, None) => Err("this type of volume is not supported on this node".to_owned()),
    }
}

async fn write_payload(
    context: VolumeContext<'_>,
    volume: &Volume,
    files: VolumeFiles,
) -> Result<(), String> {
    let (path, gid) = (context.dir.volume(&volume.name), fs_group(context.pod));
    blocking(move || {
        let done = atomic::write(&path, files.payload(), gid, Timestamp::now());
        done.map(|_| ())
            .map_err(|error| format!("write files: {error}"))
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
    fn a_device_is_not_mounted_and_a_directory_is_no_device() {
        let pod: Pod = json_tree::from_value(json_tree::json!({"spec": {"containers": [
            {"name": "c", "volumeMounts": [{"name": "files", "mountPath": "/c"}],
                "volumeDevices": [{"name": "raw", "devicePath": "/dev/raw"}]}]}}))
        .unwrap();
        assert_eq!(check_use(&pod, "files", false), Ok(()));
        assert_eq!(check_use(&pod, "raw", true), Ok(()));
        assert_eq!(
            check_use(&pod, "files", true).unwrap_err(),
            "volume files has volumeMode Block, but is specified in volumeMounts"
        );
        assert_eq!(
            check_use(&pod, "raw", false).unwrap_err(),
            "volume raw has volumeMode Filesystem, but is specified in volumeDevices"
        );
    }

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
