//! Volumes for one pod (`ReadWriteOncePod`) without a CSI driver: the node's check, after the scheduler's
//! check.
//!
//! The directory of each pod that uses such a volume has a file with the name of the PersistentVolume. So a
//! new agent can list the users of a volume. The file is created before the volume is prepared, and deleted
//! after the volume is released.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};

use host_kernel::{Interrupted, blocking, tree};
use k8s_openapi::api::core::v1::PersistentVolume;
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;

use crate::paths::PodDir;

/// Serialises the search for users and the record of a new user.
static USERS: Mutex<()> = Mutex::new(());

/// The reason why a pod may not use a volume for one pod.
#[derive(Debug, thiserror::Error)]
pub enum OnePodError {
    /// The text is kubelet's.
    #[error("volume uses the ReadWriteOncePod access mode and is already in use by another pod")]
    InUse,
    #[error("record the user of volume {volume}: {source}")]
    Record { volume: String, source: io::Error },
    #[error(transparent)]
    Metadata(#[from] IncompleteMetadata),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Records the pod as the user of a PersistentVolume, if the volume is for one pod.
pub async fn guard(dir: &PodDir, volume: &PersistentVolume) -> Result<(), OnePodError> {
    let spec = volume.spec.as_ref();
    let modes = spec.and_then(|spec| spec.access_modes.as_deref());
    if modes.unwrap_or_default() != ["ReadWriteOncePod"] {
        return Ok(());
    }
    let name = volume.metadata.object_name()?.to_owned();
    let dir = dir.clone();
    blocking(move || record_user(&dir, &name)).await
}

/// Records the pod as the user of a PersistentVolume.
fn record_user(dir: &PodDir, volume: &str) -> Result<(), OnePodError> {
    let _guard = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_recorded = is_used_elsewhere(dir, volume).and_then(|is_used| match is_used {
        true => Ok(false),
        false => record(dir, volume).map(|()| true),
    });
    match is_recorded {
        Ok(true) => Ok(()),
        Ok(false) => Err(OnePodError::InUse),
        Err(source) => Err(OnePodError::Record {
            volume: volume.to_owned(),
            source,
        }),
    }
}

/// Deletes the records of the volumes that the pod uses.
pub fn release(dir: &PodDir) -> io::Result<()> {
    match tree::remove(&dir.volumes_for_one_pod()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn record(dir: &PodDir, volume: &str) -> io::Result<()> {
    fs::create_dir_all(dir.volumes_for_one_pod())?;
    fs::write(dir.volumes_for_one_pod().join(volume), "")
}

fn is_used_elsewhere(dir: &PodDir, volume: &str) -> io::Result<bool> {
    let Some(pods) = dir.root().parent() else {
        return Ok(false);
    };
    let pods = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        pods => pods?,
    };
    for entry in pods {
        let pod = PodDir::at(entry?.path());
        if pod != *dir && pod.volumes_for_one_pod().join(volume).try_exists()? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_used_by_one_pod_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let pod = |name: &str| PodDir::at(root.path().join("pods").join(name));
        let (first, second) = (pod("first"), pod("second"));
        record_user(&first, "v").unwrap();
        record_user(&first, "v").unwrap();
        assert!(matches!(record_user(&second, "v"), Err(OnePodError::InUse)));
        record_user(&second, "other").unwrap();
        release(&first).unwrap();
        record_user(&second, "v").unwrap();
        release(&second).unwrap();
        release(&second).unwrap();
        record_user(&first, "v").unwrap();
    }
}
