//! The backup of an instance: its objects, keys, configuration and volumes in one file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use certificates::SharedKeys;
use command_output::failed_step::StepContext;
use command_output::output::print_line;
use control_plane::backup_contents::{Objects, Request, Source, Summary};
use data_directory::{Engine, MARKER_FILE, Marker, left_pods, process};
use file_archive::{TreeActivity, Writer};
use jiff::Timestamp;
use json_tree::Value;
use mvcc_store::KeyValue;
use volume_storage::Class;

use crate::error::{BackupError, Result};
use crate::format::{
    FORMAT, FORMAT_WITHOUT_SNAPSHOTS, HEADER, Header, OBJECTS, SnapshotHeader, configuration,
    snapshot_path, volume_path,
};
use crate::write_whole;

/// Certificates that a backup leaves out: a restored server issues them again with the authority's key, for
/// its new host.
const REISSUED: [&str; 2] = ["server.crt", "server.key"];
/// The key prefix of PersistentVolumes in the store.
const VOLUME_KEYS: &str = "/registry/persistentvolumes/";
const CONTENT_KEYS: &str = "/registry/snapshot.storage.k8s.io/volumesnapshotcontents/";
/// Maximum number of changed files in the message.
const NAMED_MAX: usize = 20;

/// The file of a backup, and its contents.
#[derive(Clone, Debug, Default)]
pub struct BackupRequest {
    /// The file, which contains secrets and is readable by its owner only.
    pub file: PathBuf,
    pub data: PathBuf,
    /// The configuration file of the server, if the user named one.
    pub configuration: Option<PathBuf>,
    /// Volumes of the class local are included.
    pub volumes: bool,
    /// Files are copied while pods may write them.
    pub live: bool,
    /// Volume snapshots are included, each in full.
    pub snapshots: bool,
}

/// The volumes of the class local in a backup, by the method of the copy.
#[derive(Debug, Default, PartialEq)]
struct LocalVolumes {
    /// Volumes that are copied from a snapshot, or while no process writes them.
    still: Vec<String>,
    /// Volumes that are copied while pods may write them.
    live: Vec<String>,
    left_out: Vec<String>,
}

impl LocalVolumes {
    /// Chooses the method for all volumes; `frozen` are the volumes with a snapshot.
    ///
    /// # Errors
    /// Files would be copied while pods write them, without --live.
    fn choose(
        all: Vec<String>,
        frozen: &BTreeSet<&str>,
        runs: bool,
        request: &BackupRequest,
    ) -> Result<Self> {
        if !request.volumes {
            return Ok(Self {
                left_out: all,
                ..Self::default()
            });
        }
        let is_still = |volume: &String| !runs || frozen.contains(volume.as_str());
        let (still, live): (Vec<_>, Vec<_>) = all.into_iter().partition(is_still);
        if !live.is_empty() && !request.live {
            return Err(BackupError::LiveVolumes);
        }
        Ok(Self {
            still,
            live,
            left_out: Vec::new(),
        })
    }
}

/// Writes a backup of the instance in the data directory; its server may run.
///
/// # Errors
/// The directory has no instance or no keys, files would be copied while pods write them, or the error of the
/// disk.
pub async fn back_up(request: &BackupRequest) -> Result<()> {
    let data = &request.data;
    let data = std::path::absolute(data).with_context(|| format!("use {}", data.display()))?;
    let Ok(Some(marker)) = Marker::read(&data) else {
        return Err(BackupError::NotMarked(data));
    };
    if marker.engine == Engine::Etcd {
        return Err(BackupError::ObjectsInEtcd(data));
    }
    let runs = process::serving(&data).is_some() || !left_pods::pods(&data).is_empty();
    let target = std::path::absolute(&request.file)
        .with_context(|| format!("write {}", request.file.display()))?;
    let contents = Request {
        local: request.volumes,
    };
    let (mut source, summary) = match process::serving(&data) {
        Some(_) => Source::server(&data, contents)?,
        None => {
            let configuration = request.configuration.clone();
            Source::files(&data, configuration.into_iter().collect(), contents).await?
        }
    };
    let backup = Backup {
        request,
        data: &data,
        marker: &marker,
        runs,
        target: &target,
        summary: &summary,
    };
    let written = backup.write(&mut source);
    // The snapshots are removed even if the file could not be written.
    source.close().await?;
    written
}

/// A backup in progress.
struct Backup<'a> {
    request: &'a BackupRequest,
    data: &'a Path,
    marker: &'a Marker,
    /// Whether pods may run.
    runs: bool,
    target: &'a Path,
    summary: &'a Summary,
}

impl Backup<'_> {
    fn write(&self, source: &mut Source) -> Result<()> {
        let header = self.header()?;
        let mut names = Names::default();
        let changed = write_whole(self.target, |file| {
            self.fill(file, &header, source, &mut names)
        })?;
        report(self.target, &header, &names, &changed, self.data);
        Ok(())
    }

    fn header(&self) -> Result<Header> {
        let (data, summary) = (self.data, self.summary);
        let of = |class: Class| {
            summary
                .frozen
                .iter()
                .filter(move |volume| volume.class == class)
        };
        let frozen = of(Class::Local)
            .map(|frozen| frozen.volume.as_str())
            .collect();
        let all = volumes_in(&data.join("volumes"))?;
        let local = LocalVolumes::choose(all, &frozen, self.runs, self.request)?;
        let user_snapshots = summary.snapshots.iter();
        let (snapshots, snapshots_left_out) = match self.request.snapshots {
            true => {
                let included = user_snapshots.map(|snapshot| SnapshotHeader {
                    class: snapshot.class,
                    name: snapshot.name.clone(),
                    bytes: snapshot.bytes,
                });
                (included.collect(), Vec::new())
            }
            false => (
                Vec::new(),
                user_snapshots
                    .map(|snapshot| snapshot.name.clone())
                    .collect(),
            ),
        };
        let local_volumes = local.still.iter().chain(&local.live).cloned();
        Ok(Header {
            format: match snapshots.is_empty() {
                true => FORMAT_WITHOUT_SNAPSHOTS,
                false => FORMAT,
            },
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: Timestamp::now(),
            data_dir: data.to_owned(),
            host: self.marker.host.clone(),
            revision: summary.revision,
            objects: summary.objects,
            pool_volumes: of(Class::LocalCow)
                .map(|frozen| (frozen.volume.clone(), frozen.bytes))
                .collect(),
            local_volumes: local_volumes.collect(),
            left_out: local.left_out,
            live_volumes: local.live,
            snapshots,
            snapshots_left_out,
            configured_by: summary.configured_by.clone(),
        })
    }

    /// Writes all entries; returns the files that changed while they were copied.
    fn fill(
        &self,
        file: File,
        header: &Header,
        source: &mut Source,
        names: &mut Names,
    ) -> Result<Vec<PathBuf>> {
        let (data, summary) = (self.data, self.summary);
        let mut writer = Writer::new(file);
        let text = serde_json::to_string_pretty(header).context("encode the header")?;
        writer.add_text(HEADER, &text)?;
        let mut next = || {
            let pair = source.next_object()?;
            names.note(&pair);
            Ok(pair)
        };
        let mut objects = Objects::new(&mut next, summary.objects);
        writer.add_stream(OBJECTS, summary.bytes, &mut objects)?;
        for name in [
            "registries.yaml",
            "seccomp",
            MARKER_FILE,
            "network/ranges.json",
        ] {
            writer.add_tree(Path::new(name), &data.join(name), TreeActivity::Still)?;
        }
        let certificates = data.join("certificates");
        require_keys(&certificates)?;
        for name in names_in(&certificates)? {
            if !REISSUED.contains(&name.as_str()) && !name.ends_with(".new") {
                let path = Path::new("certificates").join(&name);
                writer.add_tree(&path, &certificates.join(&name), TreeActivity::Still)?;
            }
        }
        for (number, path) in header.configured_by.iter().enumerate() {
            writer.add_tree(&configuration(number, path), path, TreeActivity::Still)?;
        }
        let mut frozen = BTreeSet::new();
        for volume in &summary.frozen {
            let path = volume_path(volume.class, &volume.volume);
            writer.add_tree(&path, &volume.path, TreeActivity::Still)?;
            frozen.insert(path);
        }
        for volume in &header.local_volumes {
            let path = volume_path(Class::Local, volume);
            if !frozen.contains(&path) {
                let state = match header.live_volumes.contains(volume) {
                    true => TreeActivity::Written,
                    false => TreeActivity::Still,
                };
                writer.add_tree(&path, &data.join("volumes").join(volume), state)?;
            }
        }
        if self.request.snapshots {
            for snapshot in &summary.snapshots {
                let path = snapshot_path(snapshot.class, &snapshot.name);
                writer.add_tree(&path, &snapshot.path, TreeActivity::Still)?;
                if !snapshot.path.exists() {
                    return Err(BackupError::SnapshotDeleted(snapshot.name.clone()));
                }
            }
        }
        Ok(writer.finish()?)
    }
}

/// The users' names for volumes and snapshots; incomplete if objects are encrypted.
#[derive(Debug, Default, PartialEq)]
struct Names {
    /// `namespace/name` of the claims, by volume.
    claims: BTreeMap<String, String>,
    /// VolumeSnapshots, by the snapshot's name on disk.
    snapshots: BTreeMap<String, String>,
}

impl Names {
    fn note(&mut self, pair: &KeyValue) {
        let is_volume = pair.key.starts_with(VOLUME_KEYS.as_bytes());
        if !is_volume && !pair.key.starts_with(CONTENT_KEYS.as_bytes()) {
            return;
        }
        let object: Value = serde_json::from_slice(&pair.value).unwrap_or_default();
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let user = |of: &str| {
            let part = |name: &str| text(&format!("/spec/{of}/{name}"));
            Some(format!("{}/{}", part("namespace")?, part("name")?))
        };
        if is_volume {
            let named = text("/metadata/name").map(str::to_owned);
            self.claims.extend(named.zip(user("claimRef")));
        } else {
            // NODE/SNAPSHOT.
            let handle = text("/status/snapshotHandle").and_then(|handle| handle.split_once('/'));
            let named = handle.map(|(_, name)| name.to_owned());
            self.snapshots.extend(named.zip(user("volumeSnapshotRef")));
        }
    }

    fn volume(&self, volume: &str) -> String {
        match self.claims.get(volume) {
            Some(claim) => format!("  {volume} of claim {claim}"),
            None => format!("  {volume}"),
        }
    }

    fn snapshot(&self, snapshot: &str) -> String {
        match self.snapshots.get(snapshot) {
            Some(user) => format!("  {snapshot} of VolumeSnapshot {user}"),
            None => format!("  {snapshot}"),
        }
    }
}

/// Refuses a backup without the keys of the cluster: it could replace a backup with keys.
fn require_keys(certificates: &Path) -> Result<()> {
    let missing = SharedKeys::missing(certificates).context("read the keys of the cluster")?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(BackupError::NoKeys {
        certificates: certificates.to_owned(),
        missing,
    })
}

fn names_in(directory: &Path) -> Result<Vec<String>> {
    let doing = || format!("read {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.with_context(doing)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.with_context(doing)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// The volumes in a directory, without those that are being created or removed.
fn volumes_in(directory: &Path) -> Result<Vec<String>> {
    let mut names = names_in(directory)?;
    names.retain(|name| !name.starts_with('.'));
    Ok(names)
}

fn report(target: &Path, header: &Header, names: &Names, changed: &[PathBuf], data: &Path) {
    print_line(&format!(
        "{}: {} objects at revision {}",
        target.display(),
        header.objects,
        header.revision
    ));
    let volumes = header.pool_volumes.keys().chain(&header.local_volumes);
    let included: Vec<String> = volumes
        .map(|volume| match header.live_volumes.contains(volume) {
            true => format!(
                "{} (copied while pods could write it)",
                names.volume(volume)
            ),
            false => names.volume(volume),
        })
        .collect();
    if !included.is_empty() {
        print_line(&format!("volumes in it:\n{}", included.join("\n")));
    }
    if !changed.is_empty() {
        let mut lines: Vec<String> = changed
            .iter()
            .take(NAMED_MAX)
            .map(|path| format!("  {}", path.display()))
            .collect();
        if changed.len() > NAMED_MAX {
            lines.push(format!("  and {} more", changed.len() - NAMED_MAX));
        }
        print_line(&format!(
            "NOT as they were at one moment are these files, which changed while they were copied:\n{}",
            lines.join("\n")
        ));
    }
    let snapshot = |name: &str| names.snapshot(name);
    let included: Vec<String> = header.snapshots.iter().map(|s| snapshot(&s.name)).collect();
    if !included.is_empty() {
        print_line(&format!("volume snapshots in it:\n{}", included.join("\n")));
    }
    if !header.left_out.is_empty() {
        let left_out = header.left_out.iter().map(|volume| names.volume(volume));
        print_line(&format!(
            "NOT in it are the volumes of the class local; back up their directories in {}, or copy \
             them with --volumes:\n{}",
            data.join("volumes").display(),
            left_out.collect::<Vec<_>>().join("\n")
        ));
    }
    if !header.snapshots_left_out.is_empty() {
        let left_out = header.snapshots_left_out.iter().map(|name| snapshot(name));
        print_line(&format!(
            "NOT in it are these volume snapshots; copy them with --snapshots:\n{}",
            left_out.collect::<Vec<_>>().join("\n")
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use json_tree::json;
    use mvcc_store::Revision;

    use super::*;

    fn request(flags: &[&str]) -> BackupRequest {
        BackupRequest {
            volumes: flags.contains(&"--volumes"),
            live: flags.contains(&"--live"),
            ..BackupRequest::default()
        }
    }

    // findings-2 R31
    #[test]
    fn a_backup_without_the_keys_does_not_replace_one_that_has_them() {
        let directory = tempfile::tempdir().unwrap();
        let certificates = directory.path().join("certificates");
        let refused = || require_keys(&certificates).unwrap_err().to_string();
        assert!(refused().contains("no ca.crt, ca.key, service-accounts.key."));
        SharedKeys::generate()
            .unwrap()
            .install(&certificates)
            .unwrap();
        require_keys(&certificates).unwrap();
        fs::remove_file(certificates.join("ca.key")).unwrap();
        assert!(refused().contains("no ca.key."));
    }

    /// findings U10: files that pods may write are copied on an explicit word alone.
    #[test]
    fn what_pods_may_write_is_copied_on_request() {
        let all = || vec!["a".to_owned(), "b".to_owned()];
        let choose = |flags: &[&str], runs: bool| {
            LocalVolumes::choose(all(), &BTreeSet::from(["b"]), runs, &request(flags))
        };
        let chosen = |flags: &[&str], runs: bool| {
            let volumes = choose(flags, runs).unwrap();
            (volumes.still, volumes.live, volumes.left_out)
        };
        let none = Vec::new;
        assert_eq!(chosen(&[], true), (none(), none(), all()));
        assert_eq!(chosen(&["--volumes"], false), (all(), none(), none()));
        let error = choose(&["--volumes"], true).unwrap_err().to_string();
        assert!(error.contains("say --live"), "{error}");
        let (still, live_volumes) = (vec!["b".to_owned()], vec!["a".to_owned()]);
        let live = chosen(&["--volumes", "--live"], true);
        assert_eq!(live, (still, live_volumes, none()));
        let live = ["--volumes", "--live"];
        assert_eq!(chosen(&live, false), (all(), none(), none()));
    }

    #[test]
    fn volumes_and_snapshots_are_called_as_users_know_them() {
        let mut names = Names::default();
        let mut note = |key: String, object: Value| {
            names.note(&KeyValue {
                key: Arc::from(key.as_bytes()),
                value: Bytes::from(object.to_string()),
                create_revision: Revision(1),
                mod_revision: Revision(1),
                lease: None,
                omittable: mvcc_store::Omittable::UNKNOWN,
            });
        };
        note(
            format!("{VOLUME_KEYS}pvc-1"),
            json!({"metadata": {"name": "pvc-1"},
                "spec": {"claimRef": {"namespace": "a", "name": "data-0"}}}),
        );
        note(
            format!("{CONTENT_KEYS}content-1"),
            json!({"spec": {"volumeSnapshotRef": {"namespace": "a", "name": "monday"}},
                "status": {"snapshotHandle": "node/snapshot-1"}}),
        );
        note("/registry/pods/a/b".to_owned(), json!({}));
        assert_eq!(names.volume("pvc-1"), "  pvc-1 of claim a/data-0");
        assert_eq!(names.volume("pvc-2"), "  pvc-2");
        assert_eq!(
            names.snapshot("snapshot-1"),
            "  snapshot-1 of VolumeSnapshot a/monday"
        );
    }
}
