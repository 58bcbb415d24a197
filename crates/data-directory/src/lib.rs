//! The data directory of an instance: its marker, its parts, and the check that it is complete.
//!
//! A marker file at the root contains the instance's id, and the store contains the id, too. Therefore a directory
//! without a marker is never deleted, a missing store (a disk that is not mounted) is never silently replaced by an
//! empty store, and a directory that was moved keeps its names in the kernel.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod binding;
pub mod left_pods;
mod marker;
mod ownership;
pub mod parts;
pub mod private_file;
pub mod process;
pub mod store_record;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub use binding::{KEY as INSTANCE_RECORD, bind};
use marker::MarkerError;
pub use marker::{Engine, FILE as MARKER_FILE, Marker, Role, kernel_name};
use parts::DirectoryPart;

/// The part with the data directories of further nodes.
pub const FURTHER_NODES: &str = "nodes";
/// The part with the network namespaces of further nodes.
pub const NAMESPACES: &str = "namespaces";

/// Creates the data directory. Other users may enter it, but cannot read its parts, which contain pods' Secrets, logs
/// and files of other users. Containers reach their files through mounts.
///
/// # Errors
/// Another user could replace the keys in the directory; errors of the disk.
pub fn make(path: &Path) -> Result<()> {
    ownership::check(path)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .and_then(|()| close_parts(path))
        .with_context(|| format!("make the data directory {}", path.display()))?;
    // If all users may create directories in the parent, another user may have created it first.
    ownership::check(path)
}

/// Creates a directory in a data directory with access for its owner only.
///
/// # Errors
/// Errors of the disk.
pub fn make_private(path: &Path) -> Result<()> {
    let mut directory = fs::DirBuilder::new();
    cov_mark::hit!(findings_2_s43);
    directory.recursive(true).mode(0o700);
    let result = directory.create(path);
    // An earlier version created it with access for other users.
    result
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("make {}", path.display()))
}

/// Restricts the parts to their owner, because earlier versions gave access to other users. Other entries of the
/// directory are not changed.
fn close_parts(data: &Path) -> io::Result<()> {
    for part in &DirectoryPart::ALL {
        let path = data.join(part.name);
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if is_directory {
            cov_mark::hit!(findings_s6);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

/// The state of a data directory before any change.
#[derive(Debug)]
struct DirectoryState {
    marker: Option<Marker>,
    has_store: bool,
    /// Nonempty parts that only a cluster creates.
    traces: Vec<&'static str>,
}

impl DirectoryState {
    fn read(data: &Path) -> Result<Self> {
        let marker = match Marker::read(data) {
            Ok(marker) => marker,
            Err(error) => return Err(explain(data, error)),
        };
        let mut traces = Vec::new();
        for part in DirectoryPart::ALL.iter().filter(|part| part.is_trace) {
            let path = data.join(part.name);
            if is_filled(&path).with_context(|| format!("inspect {}", path.display()))? {
                traces.push(part.name);
            }
        }
        Ok(Self {
            marker,
            has_store: data.join("store/data").exists(),
            traces,
        })
    }

    /// Refuses the engine if the objects of the cluster are in the other engine.
    fn check_engine(&self, data: &Path, engine: Engine) -> Result<()> {
        let data = data.display();
        let marked = self.marker.as_ref().filter(|marker| marker.cluster);
        match (engine, marked.map(|marker| marker.engine)) {
            (Engine::Etcd, _) if self.has_store => bail!(
                "{data} has a store of its own, which `--store etcd://…` would not use: start \
                 without --store, or choose another --data-dir for a server of the etcd"
            ),
            (Engine::Embedded, Some(Engine::Etcd)) => bail!(
                "the objects of the cluster in {data} are in etcd: start `mainstay server` with \
                 --store etcd://…, or choose another --data-dir"
            ),
            _ => Ok(()),
        }
    }

    /// The evidence that a missing store existed.
    fn vanished(&self, engine: Engine) -> Option<String> {
        if self.has_store {
            return None;
        }
        match &self.marker {
            Some(marker) if marker.role == Role::Node || marker.engine == Engine::Etcd => None,
            None if engine == Engine::Etcd => None,
            Some(marker) if marker.cluster => Some(format!("the file {}", MARKER_FILE)),
            _ if self.traces.is_empty() => None,
            _ => Some(self.traces.join(", ")),
        }
    }
}

fn explain(data: &Path, error: MarkerError) -> anyhow::Error {
    let path = data.join(MARKER_FILE);
    match error {
        MarkerError::Io(error) => {
            anyhow::Error::new(error).context(format!("read {}", path.display()))
        }
        MarkerError::Newer => anyhow::anyhow!(
            "{} was written by a newer version of mainstay; start that version",
            path.display()
        ),
        MarkerError::Damaged => anyhow::anyhow!(
            "{} is damaged; restore it from a backup, or remove it: the next start makes a new one",
            path.display()
        ),
    }
}

fn is_filled(path: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result?,
    };
    for entry in entries {
        // A new file system that is mounted there contains this directory.
        if entry?.file_name() != "lost+found" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The marker for a start on the directory: the existing marker, updated to its location, or a new marker. Nothing is
/// written yet.
///
/// # Errors
/// The directory belongs to another role, its objects are in another engine, the store is missing, or the marker
/// cannot be read.
pub fn claim(
    data: &Path,
    host: &str,
    (role, engine): (Role, Engine),
    instances: &Path,
) -> Result<Claim> {
    let state = DirectoryState::read(data)?;
    if let Some(marker) = &state.marker {
        marker.check_role(data, role)?;
    }
    state.check_engine(data, engine)?;
    if let Some(evidence) = state.vanished(engine) {
        cov_mark::hit!(findings_r5);
        bail!(
            "the store of the cluster in {data} is missing: {store} does not exist (found: {evidence}). \
             Is a disk not mounted? Put the store back, or restore a backup into another directory \
             (`mainstay restore`). To delete the remaining data and start with an empty cluster: \
             `mainstay down --volumes --data-dir {data}`",
            data = data.display(),
            store = data.join("store").display(),
        );
    }
    let used_names = names_of_others(data, instances);
    let is_new = state.marker.is_none();
    let mut marker = match state.marker {
        Some(marker) => marker,
        None => Marker::new(data, host, &used_names),
    };
    marker.role = role;
    marker.engine = engine;
    let before = (marker.path.clone(), marker.host.clone());
    let has_moved = marker.path != data;
    if has_moved && !is_copy(&marker) {
        cov_mark::hit!(findings_r17);
    } else if has_moved {
        // The original and the copy may run at the same time, so the copy needs other names in the kernel.
        marker.kernel_name = kernel_name(data, &used_names);
    }
    Ok(Claim {
        marker,
        is_new,
        before,
    })
}

/// A data directory that is about to be used.
#[derive(Debug)]
pub struct Claim {
    /// The existing or the new marker.
    pub marker: Marker,
    /// Whether the directory had no marker.
    pub is_new: bool,
    /// The previous path and host of the data; empty if unknown.
    pub before: (PathBuf, String),
}

impl Claim {
    /// Writes the marker of an instance with a cluster, with its present location.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn settle(&mut self, data: &Path, host: &str) -> Result<()> {
        self.marker.cluster = true;
        self.marker.path = data.to_owned();
        self.marker.host = host.to_owned();
        self.marker.write(data)
    }
}

/// Whether the directory at the path in the marker still exists and has an equal marker.
fn is_copy(marker: &Marker) -> bool {
    let original = Marker::read(&marker.path).ok().flatten();
    original.is_some_and(|original| original.instance == marker.instance)
}

/// The kernel names of the machine's other instances.
fn names_of_others(data: &Path, instances: &Path) -> BTreeSet<String> {
    let list = fs::read_to_string(instances).unwrap_or_default();
    let directories = directories(&list).into_iter().filter(|path| path != data);
    directories
        .map(|path| match Marker::read(&path) {
            Ok(Some(marker)) => marker.kernel_name,
            _ => kernel_name(&path, &BTreeSet::new()),
        })
        .collect()
}

/// The data directories in the machine's list of instances. Each line of the list is a path of a file in a data
/// directory.
pub fn directories(list: &str) -> Vec<PathBuf> {
    let of = |line: &str| Some(Path::new(line).parent()?.parent()?.to_owned());
    list.lines().filter_map(of).collect()
}

/// The data directories of the further nodes of `up --nodes`, in order.
pub fn further_nodes(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join(FURTHER_NODES)).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.retain(|path| path.is_dir());
    paths.sort_unstable();
    paths
}

/// Whether the error means that a disk is full.
pub fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(kind, Some(StorageFull | QuotaExceeded))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(parts: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for part in parts {
            fs::create_dir_all(directory.path().join(part)).unwrap();
        }
        directory
    }

    fn claimed(data: &Path) -> Result<Claim> {
        claim(
            data,
            "host",
            (Role::Up, Engine::Embedded),
            Path::new("/nonexistent"),
        )
    }

    /// findings S6
    #[test]
    fn directories_in_the_data_directory_are_closed_to_others() {
        cov_mark::check!(findings_s6);
        let around = tempfile::tempdir().unwrap();
        let data = around.path().join("data");
        fs::create_dir_all(data.join("pods")).unwrap();
        fs::set_permissions(data.join("pods"), fs::Permissions::from_mode(0o755)).unwrap();
        make(&data).unwrap();
        let mode = fs::metadata(data.join("pods"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700);
        // Entries of other programs are not changed.
        fs::create_dir(data.join("mine")).unwrap();
        fs::set_permissions(data.join("mine"), fs::Permissions::from_mode(0o755)).unwrap();
        make(&data).unwrap();
        let metadata = fs::metadata(data.join("mine")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
    }

    // findings-2 S43
    #[test]
    fn the_directories_of_further_nodes_are_their_owners_alone() {
        cov_mark::check!(findings_2_s43);
        let around = tempfile::tempdir().unwrap();
        let nodes = around.path().join("nodes");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        make_private(&nodes.join("2")).unwrap();
        assert_eq!((mode(&nodes), mode(&nodes.join("2"))), (0o700, 0o700));
        fs::set_permissions(&nodes, fs::Permissions::from_mode(0o755)).unwrap();
        make_private(&nodes).unwrap();
        assert_eq!(mode(&nodes), 0o700);
    }

    /// Findings R5: any remains of a cluster prove that a store existed.
    #[test]
    fn a_store_that_has_vanished_is_not_replaced() {
        cov_mark::check!(findings_r5);
        for part in [
            "volumes/pvc-1",
            "pods/a_b_c",
            "certificates/ca.key",
            "pool/x",
        ] {
            let state = directory(&[part]);
            let error = claimed(state.path()).unwrap_err().to_string();
            let (name, _) = part.split_once('/').unwrap();
            assert!(error.contains(&format!("found: {name}")), "{error}");
            assert!(error.contains("not mounted"), "{error}");
        }
        let marked = directory(&[]);
        let mut marker = claimed(marked.path()).unwrap().marker;
        marker.cluster = true;
        marker.write(marked.path()).unwrap();
        let error = claimed(marked.path()).unwrap_err().to_string();
        assert!(error.contains("the file instance"), "{error}");
    }

    /// The objects of a cluster are in one engine; with the other engine an empty cluster would start.
    #[test]
    fn a_cluster_stays_with_its_engine() {
        let with = |data: &Path, engine| {
            claim(
                data,
                "host",
                (Role::Server, engine),
                Path::new("/nonexistent"),
            )
        };
        let local = directory(&["store"]);
        fs::write(local.path().join("store/data"), "").unwrap();
        let refused = with(local.path(), Engine::Etcd).unwrap_err().to_string();
        assert!(refused.contains("a store of its own"), "{refused}");
        with(local.path(), Engine::Embedded).unwrap();
        // A server with an etcd needs no files, and an administrator may have added certificates.
        let of_etcd = directory(&["certificates"]);
        fs::write(of_etcd.path().join("certificates/ca.pem"), "").unwrap();
        let mut claimed = with(of_etcd.path(), Engine::Etcd).unwrap();
        claimed.settle(of_etcd.path(), "host").unwrap();
        with(of_etcd.path(), Engine::Etcd).unwrap();
        let refused = with(of_etcd.path(), Engine::Embedded).unwrap_err();
        assert!(refused.to_string().contains("are in etcd"), "{refused}");
        // A cluster whose store is missing cannot continue with etcd.
        let vanished = directory(&["store"]);
        fs::write(vanished.path().join("store/data"), "").unwrap();
        let mut claimed = with(vanished.path(), Engine::Embedded).unwrap();
        claimed.settle(vanished.path(), "host").unwrap();
        fs::remove_file(vanished.path().join("store/data")).unwrap();
        let refused = with(vanished.path(), Engine::Etcd).unwrap_err();
        assert!(refused.to_string().contains("is missing"), "{refused}");
    }

    #[test]
    fn what_no_cluster_leaves_is_no_trace() {
        let state = directory(&["images/layers", "seccomp/x", "volumes", "pods/lost+found"]);
        fs::write(state.path().join("registries.yaml"), "").unwrap();
        let claim = claimed(state.path()).unwrap();
        assert!(claim.is_new);
    }

    /// Findings R17: a moved directory keeps its kernel name, so that the remains of a killed process belong to it; a
    /// copy gets another kernel name.
    #[test]
    fn a_moved_directory_keeps_its_names_and_a_copy_does_not() {
        cov_mark::check!(findings_r17);
        let around = tempfile::tempdir().unwrap();
        let path = |name: &str| around.path().join(name);
        fs::create_dir(path("one")).unwrap();
        let marker = claimed(&path("one")).unwrap().marker;
        marker.write(&path("one")).unwrap();
        fs::rename(path("one"), path("two")).unwrap();
        let moved = claimed(&path("two")).unwrap();
        assert_eq!(moved.marker.kernel_name, marker.kernel_name);
        assert_eq!(moved.before, (path("one"), "host".to_owned()));

        fs::create_dir(path("one")).unwrap();
        marker.write(&path("one")).unwrap();
        let copy = claimed(&path("two")).unwrap();
        assert_ne!(copy.marker.kernel_name, marker.kernel_name);
        assert_eq!(copy.marker.instance, marker.instance);
    }

    #[test]
    fn no_two_instances_have_one_name() {
        let around = tempfile::tempdir().unwrap();
        let path = |name: &str| around.path().join(name);
        fs::create_dir_all(path("moved/network")).unwrap();
        let first = kernel_name(&path("here"), &BTreeSet::new());
        let mut moved = Marker::new(&path("here"), "host", &BTreeSet::new());
        moved.path = path("moved");
        moved.write(&path("moved")).unwrap();
        let list = path("moved/network/ranges.json");
        fs::write(path("list"), format!("{}\n", list.display())).unwrap();
        let role = (Role::Up, Engine::Embedded);
        let claim = claim(&path("here"), "host", role, &path("list")).unwrap();
        assert_eq!(moved.kernel_name, first);
        assert_ne!(claim.marker.kernel_name, first);
    }
}
