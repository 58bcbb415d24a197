//! Deletes the data of an instance and reports the progress, because the deletion can take minutes. Only
//! known parts of the data directory are deleted, and nothing on a mounted file system.

use std::fs;
use std::io;
use std::path::Path;

use command_output::failed_step::{FailedStep, StepContext};
use data_directory::MARKER_FILE;
use data_directory::parts::{DirectoryPart, PartOwner};
use host_kernel::mount_table;

use crate::error::{RemovalError, Result};
use crate::leftovers;

/// Depth of progress messages below a part of the data, such as an image's layers.
const DEPTH: usize = 2;

/// The part of an instance that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionExtent {
    /// The cluster: objects and volumes.
    Cluster,
    /// Everything of the instance.
    All,
}

impl DeletionExtent {
    fn has(self, part: &DirectoryPart) -> bool {
        self == Self::All || part.owner == PartOwner::Cluster
    }
}

/// Receives the progress of a deletion.
pub struct Listener<'a> {
    /// Called with each part before its deletion, and with the number of deleted entries.
    pub say: &'a mut dyn FnMut(&str),
    /// Whether the next report of the number of deleted entries is due.
    pub is_due: &'a mut dyn FnMut() -> bool,
}

/// Deletes the parts of a data directory. Links are deleted, not their targets. A part on a separate disk is
/// emptied, and its directory stays.
///
/// # Errors
/// An entry cannot be deleted, or something is mounted inside a part: the mounted data may not belong to the
/// instance.
pub fn delete_parts(
    data: &Path,
    extent: DeletionExtent,
    listener: &mut Listener<'_>,
) -> Result<()> {
    let table = mount_table::read().context("list the mounts")?;
    let parts = DirectoryPart::ALL.iter().filter(|part| extent.has(part));
    let parts: Vec<&DirectoryPart> = parts.collect();
    for part in &parts {
        let mounted = leftovers::below(&table, &data.join(part.name));
        if let Some(mounted) = mounted.first() {
            return Err(RemovalError::Mounted(mounted.clone()));
        }
    }
    for part in parts {
        delete_part(&data.join(part.name), part.name, listener)?;
    }
    Ok(())
}

fn delete_part(path: &Path, name: &str, listener: &mut Listener<'_>) -> Result<()> {
    let failed = || format!("delete {}", path.display());
    match is_directory(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FailedStep::new(failed(), error).into()),
        Ok(false) => return Ok(fs::remove_file(path).with_context(failed)?),
        Ok(true) => {}
    }
    (listener.say)(name);
    let mut deleted = 0;
    let mut count = || {
        deleted += 1;
        if (listener.is_due)() {
            (listener.say)(&format!("{name}: {deleted} gone"));
        }
    };
    empty(path, DEPTH, &mut count).with_context(failed)?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        result => Ok(result.with_context(failed)?),
    }
}

/// Removes the marker, and the directory if it is empty; returns the remaining entries.
pub fn remove_root(data: &Path) -> Result<Vec<String>> {
    let failed = || format!("delete {}", data.display());
    fs::remove_file(data.join(MARKER_FILE)).with_context(failed)?;
    let names = names(data).with_context(failed)?;
    let mut remaining: Vec<String> = names
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    remaining.sort_unstable();
    if !remaining.is_empty() {
        cov_mark::hit!(findings_r9);
    } else {
        match fs::remove_dir(data) {
            // The directory is a mount point of a separate disk, or a link.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::NotADirectory
                ) => {}
            result => result.with_context(failed)?,
        }
    }
    Ok(remaining)
}

/// The number of volumes; hidden files are not counted.
pub fn volumes(data: &Path) -> usize {
    let directories = ["volumes", "pool/mount/volumes"].map(|name| data.join(name));
    let entries = directories
        .iter()
        .filter_map(|path| fs::read_dir(path).ok());
    entries.flatten().count()
}

/// Removes the entries of a directory, one at a time.
fn empty(directory: &Path, depth: usize, count: &mut dyn FnMut()) -> io::Result<()> {
    for name in names(directory)? {
        let path = directory.join(name);
        let is_directory = is_directory(&path)?;
        if is_directory && depth > 1 {
            empty(&path, depth - 1, count)?;
            fs::remove_dir(&path)?;
            continue;
        }
        if is_directory {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
        count();
    }
    Ok(())
}

fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory)?;
    entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect()
}

fn is_directory(path: &Path) -> io::Result<bool> {
    Ok(fs::symlink_metadata(path)?.is_dir())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn progress(data: &Path, extent: DeletionExtent, due: bool) -> (Vec<String>, Result<()>) {
        let mut progress = Vec::new();
        let mut listener = Listener {
            say: &mut |text| progress.push(text.to_owned()),
            is_due: &mut || due,
        };
        let result = delete_parts(data, extent, &mut listener);
        (progress, result)
    }

    fn instance() -> tempfile::TempDir {
        let around = tempfile::tempdir().unwrap();
        let data = around.path().join("data");
        for path in ["volumes/a/deep/er", "volumes/b", "images/layers/x", "store"] {
            fs::create_dir_all(data.join(path)).unwrap();
            fs::write(data.join(path).join("file"), "text").unwrap();
        }
        for file in [
            "kubeconfig",
            "images/images.json",
            "registries.yaml",
            "server-token",
            MARKER_FILE,
        ] {
            fs::write(data.join(file), "text").unwrap();
        }
        fs::create_dir(around.path().join("kept")).unwrap();
        fs::write(around.path().join("kept/file"), "text").unwrap();
        symlink("../kept", data.join("seccomp")).unwrap();
        symlink("../../../kept", data.join("volumes/b/link")).unwrap();
        around
    }

    fn names_in(data: &Path) -> Vec<String> {
        let mut names: Vec<String> = names(data)
            .unwrap()
            .iter()
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn each_part_is_named_and_the_store_goes_first() {
        let around = instance();
        let data = around.path().join("data");
        let (texts, result) = progress(&data, DeletionExtent::All, false);
        result.unwrap();
        assert_eq!(texts, ["store", "volumes", "images"]);
        assert_eq!(remove_root(&data).unwrap(), Vec::<String>::new());
        assert!(!data.exists());
        assert!(around.path().join("kept/file").exists());
    }

    /// Findings R9: the volumes are deleted; imported images and the user's files stay.
    #[test]
    fn images_registries_and_the_server_token_survive_the_cluster() {
        let around = instance();
        let data = around.path().join("data");
        let (texts, result) = progress(&data, DeletionExtent::Cluster, false);
        result.unwrap();
        assert_eq!(texts, ["store", "volumes"]);
        assert_eq!(
            names_in(&data),
            [
                "images",
                MARKER_FILE,
                "registries.yaml",
                "seccomp",
                "server-token"
            ]
        );
    }

    /// Findings R9: foreign entries stay, and are listed.
    #[test]
    fn what_is_not_ours_stays() {
        cov_mark::check!(findings_r9);
        let around = instance();
        let data = around.path().join("data");
        fs::create_dir(data.join("holiday-photos")).unwrap();
        progress(&data, DeletionExtent::All, false).1.unwrap();
        assert_eq!(remove_root(&data).unwrap(), ["holiday-photos"]);
        assert_eq!(names_in(&data), ["holiday-photos"]);
    }

    #[test]
    fn what_has_gone_is_counted() {
        let around = instance();
        let (texts, result) = progress(&around.path().join("data"), DeletionExtent::All, true);
        result.unwrap();
        let images = texts.iter().filter(|text| text.starts_with("images"));
        let images: Vec<&String> = images.collect();
        assert_eq!(images, ["images", "images: 1 gone", "images: 2 gone"]);
    }
}
