//! Recovery after a restart of the agent: each pod's record on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use container_runtime::Sandbox;
use host_kernel::durable_file::{self, Durability};
use host_kernel::tree;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::{IncompleteMetadata, ObjectKey, Uid};
use pod_lifecycle::{PodIdentity, PodRecord, record};
use serde::{Deserialize, Serialize};

use crate::paths::{PodDir, pods_dir};
use crate::volumes::PreparedVolumes;

/// The stored state of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredPod {
    pub record: PodRecord,
    #[serde(default)]
    pub volumes: PreparedVolumes,
}

/// Stores a pod's record, and with `with_object` also its object.
pub fn store(dir: &PodDir, pod: &Pod, stored: &StoredPod, with_object: bool) -> io::Result<()> {
    fs::create_dir_all(dir.state())?;
    if with_object {
        replace(&dir.object(), &serde_json::to_vec(pod)?)?;
    }
    replace(&dir.record(), &serde_json::to_vec(stored)?)
}

/// Replaces a file atomically: after a power failure, the file has its old or its new content.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    durable_file::replace(path, bytes, 0o600, Durability::Content)
}

/// A pod that a former agent has left.
#[derive(Clone, Debug)]
pub struct RecordedPod {
    pub identity: PodIdentity,
    /// The pod's object as the agent last read it.
    pub pod: Arc<Pod>,
    /// The stored record and volumes.
    pub stored: StoredPod,
    /// A pod that had just arrived, or that was about to be cleaned up, has no record.
    pub has_record: bool,
}

impl RecordedPod {
    /// The pod of a sandbox without a directory, from the labels of the sandbox. A sandbox without labels gets
    /// a name that no pod of the API has, so that the sandbox is removed.
    ///
    /// # Errors
    /// The sandbox has no id.
    pub fn of_sandbox(sandbox: &Sandbox) -> Result<Self, IncompleteMetadata> {
        let label = |key: &str| {
            let value = sandbox.spec().annotations.get(key);
            value.map_or_else(|| sandbox.id(), String::as_str)
        };
        let identity = PodIdentity {
            key: ObjectKey::new(
                label("io.kubernetes.pod.namespace"),
                label("io.kubernetes.pod.name"),
            ),
            uid: sandbox.id().parse()?,
        };
        Ok(Self {
            pod: Arc::new(pod_with_metadata(&identity)),
            identity,
            stored: StoredPod::default(),
            has_record: false,
        })
    }
}

/// A pod with only its identity.
fn pod_with_metadata(identity: &PodIdentity) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(identity.name().to_owned()),
            namespace: Some(identity.namespace().to_owned()),
            uid: Some(identity.uid.to_string()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

/// All pods of a former agent, by UID. An unreadable record is logged and renamed; the pod's state is then
/// read from its sandbox. Directories that belong to no pod are logged and ignored.
pub fn recorded_pods(data_dir: &Path) -> io::Result<BTreeMap<Uid, RecordedPod>> {
    let mut pods = BTreeMap::new();
    let root = pods_dir(data_dir);
    tree::make_private(&root)?;
    for entry in fs::read_dir(&root)? {
        let dir = PodDir::at(entry?.path());
        match read_pod(&dir) {
            Ok(pod) => {
                pods.insert(pod.identity.uid.clone(), pod);
            }
            Err(error) => {
                tracing::warn!(dir = %dir.root().display(), %error, "pod record not read");
            }
        }
    }
    Ok(pods)
}

fn read_pod(dir: &PodDir) -> io::Result<RecordedPod> {
    let identity = identity_of_name(dir).ok_or(io::ErrorKind::NotFound)?;
    let pod = read::<Pod>(&dir.object())?;
    let pod = pod.unwrap_or_else(|| pod_with_metadata(&identity));
    let stored = read::<StoredPod>(&dir.record())?;
    Ok(RecordedPod {
        identity,
        pod: Arc::new(pod),
        has_record: stored.is_some(),
        stored: stored.unwrap_or_else(|| {
            // Volumes may exist without a record, because their preparation begins before the record is
            // written.
            let volumes = record::Volumes::Unknown;
            StoredPod {
                record: PodRecord {
                    volumes,
                    ..PodRecord::default()
                },
                ..StoredPod::default()
            }
        }),
    })
}

/// The content of a file; `None` if the file does not exist or is malformed. A malformed file is renamed,
/// so that an administrator can read it.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            cov_mark::hit!(findings_a13);
            let aside = path.with_extension("unreadable");
            fs::rename(path, &aside)?;
            let (path, aside) = (path.display(), aside.display());
            tracing::error!(%path, %aside, %error, "the record of a pod cannot be read");
            Ok(None)
        }
    }
}

/// The identity in the name of a pod's directory.
fn identity_of_name(dir: &PodDir) -> Option<PodIdentity> {
    let mut parts = dir.root().file_name()?.to_str()?.split('_');
    let mut part = || parts.next().filter(|part| !part.is_empty());
    let (namespace, name, uid) = (part()?, part()?, part()?);
    Some(PodIdentity {
        key: ObjectKey::new(namespace, name),
        uid: uid.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pod_lifecycle::Instance;

    fn pod() -> Pod {
        json_tree::from_value(json_tree::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}))
        .unwrap()
    }

    fn identity() -> PodIdentity {
        PodIdentity::read(&pod()).unwrap()
    }

    fn stored_pod(sandboxes: u32) -> StoredPod {
        StoredPod {
            record: PodRecord {
                sandbox: record::Sandbox::Ready,
                sandboxes_made: sandboxes,
                ..PodRecord::default()
            },
            volumes: PreparedVolumes::new(),
        }
    }

    #[test]
    fn records_are_kept_and_found() {
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::new(temp.path(), &identity());
        store(&dir, &pod(), &stored_pod(2), true).unwrap();
        let recorded = recorded_pods(temp.path()).unwrap();
        assert_eq!(recorded[&identity().uid].stored, stored_pod(2));
        assert!(recorded[&identity().uid].has_record);
    }

    #[test]
    fn what_was_cut_off_before_or_after_its_record_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::new(temp.path(), &identity());
        fs::create_dir_all(dir.logs("c")).unwrap();
        let by_name = recorded_pods(temp.path())
            .unwrap()
            .remove(&identity().uid)
            .unwrap();
        assert_eq!(by_name.pod.metadata.name.as_deref(), Some("p"));
        assert_eq!(by_name.pod.metadata.namespace.as_deref(), Some("n"));
        assert_eq!(by_name.stored.record.volumes, record::Volumes::Unknown);
        assert!(!by_name.has_record);
        store(&dir, &pod(), &stored_pod(2), true).unwrap();
        fs::remove_file(dir.object()).unwrap();
        assert_eq!(
            recorded_pods(temp.path()).unwrap()[&identity().uid].stored,
            stored_pod(2)
        );
        // A directory that belongs to no pod is left alone.
        let other = pods_dir(temp.path()).join("lost+found");
        fs::create_dir(&other).unwrap();
        assert_eq!(recorded_pods(temp.path()).unwrap().len(), 1);
        assert!(other.is_dir());
    }

    /// findings A13
    #[test]
    fn records_that_cannot_be_read_are_kept_aside_and_their_pod_is_found() {
        cov_mark::check!(findings_a13);
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::new(temp.path(), &identity());
        for file in [dir.record(), dir.object()] {
            store(&dir, &pod(), &stored_pod(2), true).unwrap();
            fs::write(&file, "{").unwrap();
            let recorded = recorded_pods(temp.path())
                .unwrap()
                .remove(&identity().uid)
                .unwrap();
            assert_eq!(recorded.pod.metadata.name.as_deref(), Some("p"));
            assert_eq!(recorded.has_record, file != dir.record());
            let aside = file.with_extension("unreadable");
            assert_eq!(fs::read_to_string(aside).unwrap(), "{");
            assert!(!file.exists());
        }
    }

    /// The record of version 0.1.0 for a running pod: the pod keeps running during an upgrade of
    /// the agent, and the new agent has to know its state.
    #[test]
    fn what_an_earlier_version_remembered_is_understood() {
        let record = include_str!("../../tests/formats/record.json");
        let stored: StoredPod = serde_json::from_str(record).unwrap();
        let containers = &stored.record.containers;
        assert_eq!(stored.record.sandbox, record::Sandbox::Ready);
        assert_eq!(containers["main"].restart_count, 2);
        assert_eq!(
            containers["main"].last_exit.as_ref().map(|exit| exit.code),
            Some(1)
        );
        assert!(matches!(containers["side"].instance, Instance::Running(_)));
        assert!(matches!(&containers["first"].instance, Instance::Exited(exit) if exit.code == 0));
        assert_eq!(stored.volumes.len(), 4);
    }
}
