//! Records of staged and published volumes: kubelet's `vol_data.json`, with the paths of the calls.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host_kernel::durable_file::{Durability, replace};
use object_model::Uid;
use serde::{Deserialize, Serialize};

use super::directory::{KubeletDir, KubeletPath};
use super::request::VolumeId;

/// A failed write of a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("remove {}: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

/// The record of a volume that may be staged or published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeData {
    /// Name of the CSI driver.
    pub driver_name: String,
    /// The volume's id at the driver.
    pub volume_handle: String,
    /// The path in the call to the driver.
    pub path: String,
    /// The name of the PersistentVolume, or the name of an inline volume in its pod; empty for a staged
    /// volume.
    #[serde(
        default,
        rename = "specVolID",
        skip_serializing_if = "String::is_empty"
    )]
    pub volume: String,
    /// For a staged volume, the last pod that used it; `None` if that pod is deleted.
    #[serde(default, rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod: Option<Uid>,
    /// Whether the volume was attached to the node before it was staged or published.
    #[serde(default)]
    pub is_attached: bool,
}

impl VolumeData {
    /// The driver and the volume's id at the driver.
    pub fn id(&self) -> VolumeId {
        VolumeId {
            driver: self.driver_name.clone(),
            handle: self.volume_handle.clone(),
        }
    }
}

/// All records of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeRecords {
    pub stages: Vec<VolumeData>,
    pub publications: Vec<VolumeData>,
}

impl VolumeRecords {
    /// Reads all records. A record that cannot be read is skipped with a warning: a power failure cut it
    /// before the call was sent.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn read(dir: &KubeletDir) -> io::Result<Self> {
        Ok(Self {
            stages: read_all(&dir.stage_records()?)?,
            publications: read_all(&dir.publication_records()?)?,
        })
    }

    /// The records of staged volumes, then of published volumes.
    pub fn all(&self) -> impl Iterator<Item = &VolumeData> {
        self.stages.iter().chain(&self.publications)
    }

    /// The volumes that are published for a pod, or that were staged for it.
    pub fn of_pod(&self, pod: &Uid) -> BTreeSet<VolumeId> {
        let of_pod = self.all().filter(|data| data.pod.as_ref() == Some(pod));
        of_pod.map(VolumeData::id).collect()
    }

    /// The records of one volume.
    pub fn of_volume(&self, id: &VolumeId) -> Self {
        let is_of =
            |data: &&VolumeData| data.driver_name == id.driver && data.volume_handle == id.handle;
        Self {
            stages: self.stages.iter().filter(is_of).cloned().collect(),
            publications: self.publications.iter().filter(is_of).cloned().collect(),
        }
    }
}

fn read_all(paths: &[PathBuf]) -> io::Result<Vec<VolumeData>> {
    let mut records = Vec::new();
    for path in paths {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        match serde_json::from_str(&text) {
            Ok(data) => records.push(data),
            Err(error) => {
                let path = path.display().to_string();
                tracing::warn!(path, %error, "a volume's record is malformed");
            }
        }
    }
    Ok(records)
}

/// Writes a record durably, because the call follows.
///
/// # Errors
/// An error of the disk.
pub fn write(dir: &KubeletDir, record: &KubeletPath, data: &VolumeData) -> Result<(), RecordError> {
    let path = dir.at(record);
    let write_error = |source: io::Error| RecordError::Write {
        path: path.clone(),
        source,
    };
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(write_error)?;
    let text = serde_json::to_vec(data).map_err(|error| write_error(error.into()))?;
    replace(&path, &text, 0o600, Durability::Name).map_err(write_error)
}

/// Removes the path of a call, then the record of the call. If something is still mounted at the path, both
/// stay.
///
/// # Errors
/// An error of the disk.
pub fn remove(
    dir: &KubeletDir,
    record: &KubeletPath,
    data: &VolumeData,
) -> Result<(), RecordError> {
    let unless_absent = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    if let Some(path) = dir.node_path(Path::new(&data.path)) {
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let result = unless_absent(match is_dir {
            true => fs::remove_dir(&path),
            false => fs::remove_file(&path),
        });
        if let Err(source) = result {
            return Err(RecordError::Remove { path, source });
        }
        // The parent directory of a device, which is empty after the last pod.
        if let Some(parent) = path.parent().filter(|_| data.pod.is_some()) {
            fs::remove_dir(parent).ok();
        }
    }
    let path = dir.at(record);
    if let Err(source) = unless_absent(fs::remove_file(&path)) {
        return Err(RecordError::Remove { path, source });
    }
    // The empty parent directories, up to the directory of the pod.
    let mut parents = path.ancestors().skip(1).take(4);
    while parents
        .next()
        .is_some_and(|dir| fs::remove_dir(dir).is_ok())
    {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_device_goes_with_its_last_pod() {
        let temp = tempfile::tempdir().unwrap();
        let dir = KubeletDir::new(temp.path());
        let device = |pod: &str| KubeletPath::block_publication(pod, "pv");
        let data = |pod: &str| VolumeData {
            path: device(pod).for_driver(),
            pod: Some(pod.parse().unwrap()),
            ..VolumeData::default()
        };
        let parent = dir.at(&device("u")).parent().unwrap().to_owned();
        fs::create_dir_all(&parent).unwrap();
        for pod in ["u", "v"] {
            let record = KubeletPath::publication_record(pod, "pv");
            write(&dir, &record, &data(pod)).unwrap();
            fs::write(dir.at(&device(pod)), "").unwrap();
        }
        for (pod, remains) in [("u", true), ("v", false)] {
            let record = KubeletPath::publication_record(pod, "pv");
            remove(&dir, &record, &data(pod)).unwrap();
            assert_eq!(parent.exists(), remains);
        }
    }

    #[test]
    fn records_are_listed_until_they_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = KubeletDir::new(temp.path());
        assert_eq!(VolumeRecords::read(&dir).unwrap(), VolumeRecords::default());
        let data = VolumeData {
            driver_name: "d".to_owned(),
            volume_handle: "h".to_owned(),
            path: KubeletPath::stage("d", "h").for_driver(),
            ..VolumeData::default()
        };
        let pod_data = VolumeData {
            path: KubeletPath::publication("u", "pv").for_driver(),
            volume: "pv".to_owned(),
            pod: Some("u".parse().unwrap()),
            ..data.clone()
        };
        write(&dir, &KubeletPath::stage_record("d", "h"), &data).unwrap();
        let record = KubeletPath::publication_record("u", "pv");
        write(&dir, &record, &pod_data).unwrap();
        fs::create_dir(dir.at(&KubeletPath::publication("u", "pv"))).unwrap();
        let cut = dir.at(&KubeletPath::publication_record("u", "other"));
        fs::create_dir_all(cut.parent().unwrap()).unwrap();
        fs::write(cut, "{").unwrap();
        let records = VolumeRecords::read(&dir).unwrap();
        assert_eq!(records.stages, [data]);
        assert_eq!(records.publications, std::slice::from_ref(&pod_data));
        let absent_volume = VolumeId {
            driver: "d".to_owned(),
            handle: "other".to_owned(),
        };
        assert_eq!(records.of_volume(&absent_volume), VolumeRecords::default());
        // A file at the path of the mount prevents the removal of the record.
        let file = dir.at(&KubeletPath::publication("u", "pv")).join("file");
        fs::write(&file, "x").unwrap();
        assert!(remove(&dir, &record, &pod_data).is_err());
        assert_eq!(VolumeRecords::read(&dir).unwrap(), records);
        fs::remove_file(file).unwrap();
        for _ in 0..2 {
            remove(&dir, &record, &pod_data).unwrap();
        }
        assert!(VolumeRecords::read(&dir).unwrap().publications.is_empty());
    }
}
