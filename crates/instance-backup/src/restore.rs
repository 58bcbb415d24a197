//! The restoration of an instance from a backup.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use command_output::failed_step::StepContext;
use command_output::output::print_line;
use control_plane::backup_contents::records;
use file_archive::ArchiveItem;
use host_kernel::blocking;
use mvcc_store::embedded::import;
use mvcc_store::{Revision, StoreError};
use tar::EntryType;
use volume_storage::{Class, Storage};

use crate::error::{BackupError, Result};
use crate::format::{
    CONFIGURATION, FORMAT, HEADER, Header, OBJECTS, SnapshotHeader, snapshot_path, volume_path,
};
use crate::{REVISIONS_LEFT_OUT, require_empty};

/// The directory for the configuration files of the restored server.
const RESTORED: &str = "restored";

/// Restores a backup into an empty directory, after a check of the whole file.
///
/// # Errors
/// The directory is not empty, the file is incomplete or not a backup, or the error of the disk.
pub async fn restore(file: &Path, data: &Path) -> Result<()> {
    let data = std::path::absolute(data).with_context(|| format!("use {}", data.display()))?;
    require_empty(&data)?;
    let header = check(file)?;
    data_directory::make(&data)?;
    let storage = Storage::open(&data).await.context("open the volumes")?;
    let filled = fill(file, &data, &header, &storage).await;
    storage.close().await.context("close the volumes")?;
    let skipped_snapshots = filled?;
    report(&data, &header, &skipped_snapshots);
    Ok(())
}

/// Checks the whole file; returns the header of the backup.
fn check(file: &Path) -> Result<Header> {
    let mut header = None;
    file_archive::read(file, &mut |item| -> Result<()> {
        if item.path == Path::new(HEADER) {
            let mut text = String::new();
            item.content
                .read_to_string(&mut text)
                .context("read the header")?;
            header = Some(text);
        }
        Ok(())
    })?;
    let text = header.ok_or_else(|| BackupError::NoBackup(file.to_owned()))?;
    let parsed: json_tree::Value = serde_json::from_str(&text).context("read the header")?;
    if parsed["format"].as_u64() > Some(FORMAT.into()) {
        return Err(BackupError::Newer(file.to_owned()));
    }
    Ok(json_tree::from_value(parsed).context("read the header")?)
}

/// Restores all entries; returns the volume snapshots that the file system of the destination does not
/// support.
async fn fill(file: &Path, data: &Path, header: &Header, storage: &Storage) -> Result<Vec<String>> {
    let mut roots = Vec::new();
    let volumes = header
        .pool_volumes
        .iter()
        .map(|(name, bytes)| (Class::LocalCow, name, *bytes));
    let local = header
        .local_volumes
        .iter()
        .map(|name| (Class::Local, name, u64::MAX));
    for (class, volume, bytes) in volumes.chain(local) {
        let path = storage.make_empty(class, volume, bytes).await;
        let path = path.with_context(|| format!("make the volume {volume}"))?;
        roots.push((volume_path(class, volume), path));
    }
    for snapshot in &header.snapshots {
        let (class, name) = (snapshot.class, &snapshot.name);
        let path = storage
            .make_empty(class, &before(name), maximum_bytes(snapshot))
            .await;
        let path = path.with_context(|| format!("make the volume snapshot {name}"))?;
        roots.push((snapshot_path(class, name), path));
    }
    let mut target = Target {
        data: data.to_owned(),
        roots,
        directories: BTreeSet::new(),
        files: BTreeSet::new(),
    };
    let revision = Revision(header.revision.saturating_add(REVISIONS_LEFT_OUT));
    let (file, objects) = (file.to_owned(), header.objects);
    // The engine of the store blocks, and starts threads.
    let target = blocking(move || {
        file_archive::read(&file, &mut |item| match item.path.to_str() {
            Some(HEADER) => Ok(()),
            Some(OBJECTS) => target.import(item.content, objects, revision),
            _ => target.put(item),
        })?;
        Ok::<_, BackupError>(target)
    })
    .await?;
    let mut skipped_snapshots = Vec::new();
    for snapshot in &header.snapshots {
        let (class, name) = (snapshot.class, &snapshot.name);
        let created = storage.turn_into_snapshot(class, &before(name), name).await;
        if !created.with_context(|| format!("make the volume snapshot {name}"))? {
            skipped_snapshots.push(name.clone());
        }
    }
    target.finish()?;
    Ok(skipped_snapshots)
}

/// The name of the temporary volume of which a snapshot is taken.
fn before(snapshot: &str) -> String {
    format!("restored-{snapshot}")
}

/// The maximum size of the temporary volume: this file system may need more space for the same files than the
/// original one.
fn maximum_bytes(snapshot: &SnapshotHeader) -> u64 {
    const MORE: u64 = 64 << 20;
    match snapshot.bytes {
        Some(bytes) => bytes.saturating_mul(2).saturating_add(MORE),
        None => u64::MAX,
    }
}

/// The directories into which entries are restored.
struct Target {
    data: PathBuf,
    /// Volumes: the path in the backup, and the path on this machine.
    roots: Vec<(PathBuf, PathBuf)>,
    /// The directories that this restore created. Entries are written only into these, so that no symbolic
    /// link redirects a write.
    directories: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Target {
    /// The temporary name of the store: no server starts on it before it is complete.
    fn unfinished(&self) -> PathBuf {
        self.data.join("store.unfinished")
    }

    fn import(&self, content: &mut dyn Read, objects: u64, revision: Revision) -> Result<()> {
        let mut reader = io::BufReader::new(content);
        let pairs = (0..objects).map(|_| {
            let pair = records::read(&mut reader);
            pair.map_err(|error| StoreError::Io(format!("read the objects: {error}")))
        });
        Ok(import(&self.unfinished(), revision, pairs).context("write the objects")?)
    }

    fn put(&mut self, item: ArchiveItem<'_>) -> Result<()> {
        let path_text = item.path.clone();
        let Some(to) = self.destination(&item.path) else {
            return Err(BackupError::Misplaced(path_text));
        };
        self.put_at(item, to)
            .map_err(|error| error.at(format!("restore {}", path_text.display())))
    }

    /// The path for an entry; `None` for an entry outside of all known directories.
    fn destination(&self, path: &Path) -> Option<PathBuf> {
        let plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() {
            return None;
        }
        for (inside, root) in &self.roots {
            if let Ok(rest) = path.strip_prefix(inside) {
                return Some(match rest.as_os_str().is_empty() {
                    true => root.clone(),
                    false => root.join(rest),
                });
            }
        }
        if let Ok(name) = path.strip_prefix(CONFIGURATION) {
            return Some(self.data.join(RESTORED).join(name));
        }
        let single_files = [
            "registries.yaml",
            "seccomp",
            "instance",
            "network",
            "certificates",
        ];
        let first = path.components().next()?.as_os_str();
        single_files
            .iter()
            .any(|name| first == *name)
            .then(|| self.data.join(path))
    }

    fn put_at(&mut self, item: ArchiveItem<'_>, to: PathBuf) -> Result<()> {
        self.make_parent(&to)?;
        let mut first = None;
        match item.header.entry_type() {
            EntryType::Directory => {
                if !self.roots.iter().any(|(_, root)| *root == to)
                    && !self.directories.contains(&to)
                {
                    fs::create_dir(&to)?;
                }
                self.directories.insert(to.clone());
            }
            EntryType::Regular => {
                self.files.insert(to.clone());
            }
            EntryType::Link => {
                let named = item.link.as_deref().and_then(|link| self.destination(link));
                first = named.filter(|first| self.files.contains(first));
            }
            _ => {}
        }
        Ok(file_archive::restore_item(item, &to, first.as_deref())?)
    }

    /// Creates missing parent directories in the data directory.
    fn make_parent(&mut self, to: &Path) -> Result<()> {
        let Some(parent) = to.parent() else {
            return Err(BackupError::NoParent);
        };
        let is_root = self.roots.iter().any(|(_, root)| root == to);
        if is_root || parent == self.data || self.directories.contains(parent) {
            return Ok(());
        }
        if parent.parent() != Some(&self.data) {
            return Err(BackupError::OutsideOfRestored(to.to_owned()));
        }
        fs::DirBuilder::new().mode(0o700).create(parent)?;
        self.directories.insert(parent.to_owned());
        Ok(())
    }

    /// Renames the complete store to its final name, as the last step.
    fn finish(&self) -> Result<()> {
        fs::rename(self.unfinished(), self.data.join("store"))
            .context("move the store into the data directory")?;
        let directory = File::open(&self.data).context("sync the data directory")?;
        Ok(rustix::fs::syncfs(&directory).context("sync the data directory")?)
    }
}

fn report(data: &Path, header: &Header, skipped_snapshots: &[String]) {
    print_line(&format!(
        "{}: {} objects, {} volumes, {} volume snapshots, of {} on {}, {}",
        data.display(),
        header.objects,
        header.pool_volumes.len() + header.local_volumes.len(),
        header.snapshots.len() - skipped_snapshots.len(),
        header.data_dir.display(),
        header.host,
        header.made_at
    ));
    if !header.left_out.is_empty() {
        print_line(&format!(
            "NOT restored are these volumes of the class local, which are not in the backup; put their \
             directories into {} before you start:\n  {}",
            data.join("volumes").display(),
            header.left_out.join("\n  ")
        ));
    }
    if !header.live_volumes.is_empty() {
        print_line(&format!(
            "copied while pods could write them, so perhaps not as at one moment, are the volumes\n  {}",
            header.live_volumes.join("\n  ")
        ));
    }
    if !header.snapshots_left_out.is_empty() {
        print_line(&format!(
            "NOT restored are these volume snapshots, which are not in the backup:\n  {}",
            header.snapshots_left_out.join("\n  ")
        ));
    }
    if !skipped_snapshots.is_empty() {
        print_line(&format!(
            "NOT restored are these volume snapshots, because the file system of {} has none:\n  {}",
            data.display(),
            skipped_snapshots.join("\n  ")
        ));
    }
    if !header.configured_by.is_empty() {
        print_line(&format!(
            "the files that it was configured by are in {}; start it with them, and if objects are \
             encrypted with --encryption-provider-config",
            data.join(RESTORED).display()
        ));
    }
    print_line(&format!(
        "start it with: mainstay up --data-dir {}",
        data.display()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            data: "/data".into(),
            roots: vec![("volumes/local/pvc-1".into(), "/data/volumes/pvc-1".into())],
            directories: BTreeSet::new(),
            files: BTreeSet::new(),
        }
    }

    #[test]
    fn entries_have_places_in_the_data_directory() {
        let destination_of = |path: &str| target().destination(Path::new(path));
        assert_eq!(
            destination_of("volumes/local/pvc-1/a/b"),
            Some("/data/volumes/pvc-1/a/b".into())
        );
        assert_eq!(
            destination_of("configuration/0-x"),
            Some("/data/restored/0-x".into())
        );
        assert_eq!(
            destination_of("certificates/ca.key"),
            Some("/data/certificates/ca.key".into())
        );
        for path in [
            "../x",
            "/etc/passwd",
            "store/lock",
            "certificates/../../x",
            "",
            "volumes/local/pvc-2/x",
        ] {
            assert_eq!(destination_of(path), None, "{path}");
        }
    }
}
