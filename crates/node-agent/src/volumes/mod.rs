//! A pod's volumes on the node: made, kept up to date, taken away.
//!
//! A volume is a path on the node that containers mount. Nothing here deletes what a claim or a
//! hostPath holds: only what lies in the pod's own directory, and only after all mounts below it
//! are gone.

mod atomic;
mod empty_dir;
mod host_path;
mod ownership;
mod payload;
pub mod text_file;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeSpec, Pod, Volume};
use nix::mount::{MntFlags, umount2};
use pod_lifecycle::downward::NodeFacts;
use pod_lifecycle::spec;
use serde::{Deserialize, Serialize};

use crate::events::PodEvents;
use crate::images::Puller;
use crate::layout::PodDir;
use crate::sources::{ObjectKind, Sources};
use payload::{Projected, Projector};

/// A volume that is ready to be mounted into containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Its path on the node.
    pub path: PathBuf,
    /// Whether no container may write to it.
    pub read_only: bool,
    /// The layers of the image that it is, the topmost last; then there is nothing at the path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<PathBuf>,
}

/// Volumes by name.
pub type PreparedVolumes = BTreeMap<String, Prepared>;

/// A volume that cannot be had now.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
pub struct VolumeError {
    /// The volume.
    pub volume: String,
    /// Why, as the user reads it.
    pub message: String,
}

/// What preparing and refreshing need.
#[derive(Clone, Copy)]
pub struct VolumeContext<'a> {
    /// Where objects come from.
    pub sources: &'a Sources,
    /// The pod.
    pub pod: &'a Pod,
    /// Its directory.
    pub dir: &'a PodDir,
    /// What the node knows of it.
    pub facts: &'a NodeFacts,
    /// Where images come from.
    pub images: &'a Puller<'a>,
    /// Whom to tell about pulls.
    pub events: &'a PodEvents,
}

/// Makes all volumes that the pod's containers mount. Says also when tokens among them should be
/// made anew.
pub async fn prepare(
    context: VolumeContext<'_>,
) -> Result<(PreparedVolumes, Option<Timestamp>), VolumeError> {
    let mut prepared = PreparedVolumes::new();
    let mut refresh_at: Option<Timestamp> = None;
    for volume in used_volumes(context.pod) {
        let failed = |message: String| VolumeError {
            volume: volume.name.clone(),
            message,
        };
        let one = prepare_one(context, volume, &mut refresh_at)
            .await
            .map_err(failed)?;
        prepared.insert(volume.name.clone(), one);
    }
    Ok((prepared, refresh_at))
}

/// Writes the volumes that are made of objects anew where these have changed.
pub async fn refresh(context: VolumeContext<'_>) -> Result<Option<Timestamp>, VolumeError> {
    let projector = context.projector();
    let mut refresh_at: Option<Timestamp> = None;
    for volume in used_volumes(context.pod) {
        let failed = |message: String| VolumeError {
            volume: volume.name.clone(),
            message,
        };
        if let Some(made) = projector.project(volume).await.map_err(failed)? {
            note(&mut refresh_at, made.refresh_at);
            write_payload(context, volume, made).await.map_err(failed)?;
        }
    }
    Ok(refresh_at)
}

/// The objects that the pod's volumes are made of.
pub fn watched_objects(pod: &Pod) -> BTreeSet<(ObjectKind, String)> {
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

/// Takes away what [`prepare`] made in the pod's directory.
pub fn release(dir: &PodDir) -> io::Result<()> {
    let root = dir.volumes();
    for target in mounts_below(&root)?.into_iter().rev() {
        match umount2(&target, MntFlags::empty()) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(_) => umount2(&target, MntFlags::MNT_DETACH)?,
        }
    }
    if let Some(left) = mounts_below(&root)?.first() {
        let message = format!("{} is still mounted", left.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Mount points at or below `root`, outermost first.
fn mounts_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let root = match fs::canonicalize(root) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(&root))
        .collect();
    found.sort();
    Ok(found)
}

/// Undoes the octal escapes of the kernel's mount table.
fn unescape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

fn used_volumes(pod: &Pod) -> Vec<&Volume> {
    let Some(pod_spec) = &pod.spec else {
        return Vec::new();
    };
    let ephemeral = spec::ephemeral_containers(pod_spec);
    let used: BTreeSet<&str> = spec::containers(pod_spec)
        .map(|(_, container)| container)
        .chain(&ephemeral)
        .flat_map(|container| {
            let mounts = container
                .volume_mounts
                .iter()
                .flatten()
                .map(|mount| &*mount.name);
            mounts.chain(
                container
                    .volume_devices
                    .iter()
                    .flatten()
                    .map(|device| &*device.name),
            )
        })
        .collect();
    let all = pod_spec.volumes.iter().flatten();
    all.filter(|volume| used.contains(volume.name.as_str()))
        .collect()
}

fn note(known: &mut Option<Timestamp>, more: Option<Timestamp>) {
    *known = match (*known, more) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|gid| u32::try_from(gid).ok())
}

async fn prepare_one(
    context: VolumeContext<'_>,
    volume: &Volume,
    refresh_at: &mut Option<Timestamp>,
) -> Result<Prepared, String> {
    let own = || Prepared {
        path: context.dir.volume(&volume.name),
        ..Prepared::default()
    };
    if let Some(made) = context.projector().project(volume).await? {
        note(refresh_at, made.refresh_at);
        write_payload(context, volume, made).await?;
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
        let path = PathBuf::from(&source.path);
        let type_ = source.type_.clone().unwrap_or_default();
        let checked = path.clone();
        blocking(move || host_path::check(&checked, &type_)).await?;
        return Ok(Prepared {
            path,
            ..Prepared::default()
        });
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
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some((source.claim_name.clone(), source.read_only == Some(true))),
        (None, Some(_)) => {
            let pod = context.pod.metadata.name.as_deref().unwrap_or_default();
            Some((format!("{pod}-{}", volume.name), false))
        }
        (None, None) => None,
    };
    match claim {
        Some((name, read_only)) => prepare_claim(context, &name, read_only).await,
        None => Err("this type of volume is not supported on this node".to_owned()),
    }
}

async fn prepare_claim(
    context: VolumeContext<'_>,
    name: &str,
    read_only: bool,
) -> Result<Prepared, String> {
    let namespace = context
        .pod
        .metadata
        .namespace
        .as_deref()
        .unwrap_or_default();
    let spec = context.sources.volume_of_claim(namespace, name).await?;
    let path = claim_path(&spec)?;
    let context_of = context
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let policy = context_of.and_then(|context| context.fs_group_change_policy.as_deref());
    let on_mismatch = policy == Some("OnRootMismatch");
    let group = fs_group(context.pod).filter(|_| !read_only && spec.local.is_some());
    let checked = path.clone();
    blocking(move || {
        if !checked.exists() {
            return Err(format!("path \"{}\" does not exist", checked.display()));
        }
        let Some(gid) = group else { return Ok(()) };
        let done = ownership::give_to_group(&checked, gid, on_mismatch);
        done.map_err(|error| format!("apply fsGroup: {error}"))
    })
    .await?;
    Ok(Prepared {
        path,
        read_only,
        ..Prepared::default()
    })
}

fn claim_path(spec: &PersistentVolumeSpec) -> Result<PathBuf, String> {
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("block volumes are not supported on this node".to_owned());
    }
    match (&spec.local, &spec.host_path) {
        (Some(local), _) => Ok(PathBuf::from(&local.path)),
        (None, Some(host)) => Ok(PathBuf::from(&host.path)),
        (None, None) => Err("this type of volume is not supported on this node".to_owned()),
    }
}

async fn write_payload(
    context: VolumeContext<'_>,
    volume: &Volume,
    made: Projected,
) -> Result<(), String> {
    let (path, gid) = (context.dir.volume(&volume.name), fs_group(context.pod));
    blocking(move || {
        let done = atomic::write(&path, &made.files, gid, Timestamp::now());
        done.map(|_| ())
            .map_err(|error| format!("write files: {error}"))
    })
    .await
}

impl<'a> VolumeContext<'a> {
    fn projector(self) -> Projector<'a> {
        Projector {
            sources: self.sources,
            pod: self.pod,
            facts: self.facts,
        }
    }
}

/// Runs file system work where waiting harms nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(format!("interrupted: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_mount_table_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/plain"), "/plain");
    }

    #[test]
    fn only_mounted_volumes_are_used_and_their_objects_watched() {
        // statefulset.md 12.13
        let pod: Pod = serde_json::from_value(serde_json::json!({
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
