//! The store as its users see it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::disk::{Disk, LayerError, Record};
use crate::error::{ImportError, PullError, StoreError};
use crate::image::{Image, ImageConfig};
use crate::limits::{CONCURRENT_LAYERS, UnpackLimits};
use crate::pull::{self, PullOptions};
use crate::reference::Reference;
use crate::{import, manifest};

/// All images of a node; cheap to clone.
///
/// Several processes may use one directory: a command that imports is seen at once by the
/// agent that runs.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub disk: Disk,
    pub slots: Semaphore,
    pub gates: Gates,
}

/// One at a time per key; bounded by the number of keys in use.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Gates {
    pub fn gate(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        // The map is whole even if a thread panicked while it held the lock.
        let mut gates = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        Arc::clone(gates.entry(key.to_owned()).or_default())
    }
}

/// The single layer of a built-in image.
#[derive(Clone, Debug)]
pub enum BuiltinLayer {
    /// A tar archive, compressed or not.
    Tar(Vec<u8>),
    /// Files of the node, copied as they are now.
    Files(Vec<BuiltinFile>),
}

/// One file of a built-in image.
#[derive(Clone, Debug)]
pub struct BuiltinFile {
    /// Absolute path in the image.
    pub path: PathBuf,
    /// The node's file to copy.
    pub source: PathBuf,
    /// Permission bits.
    pub mode: u32,
}

/// What a collection has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Layers removed.
    pub layers: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl ImageStore {
    /// Opens a store, making it when missing.
    pub fn open(dir: impl AsRef<Path>) -> Result<ImageStore, StoreError> {
        ImageStore::with_limits(dir, UnpackLimits::default())
    }

    /// Opens a store with other bounds for layers.
    pub fn with_limits(
        dir: impl AsRef<Path>,
        limits: UnpackLimits,
    ) -> Result<ImageStore, StoreError> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(StoreError::io("make", dir))?;
        let dir = fs::canonicalize(dir).map_err(StoreError::io("resolve", dir))?;
        let inner = Inner {
            disk: Disk::open(&dir, limits)?,
            slots: Semaphore::new(CONCURRENT_LAYERS),
            gates: Gates::default(),
        };
        Ok(ImageStore {
            inner: Arc::new(inner),
        })
    }

    /// Finds an image by reference (short forms included), by `name@sha256:…`, or by id
    /// (`sha256:…`). `None` also when a part of it is missing or damaged: pull it again.
    pub fn get(&self, reference: &str) -> Option<Image> {
        let disk = &self.inner.disk;
        let records = || disk.records().into_iter();
        let record = if reference.starts_with("sha256:") {
            let id: Digest = reference.parse().ok()?;
            records().find(|record| record.id == id)?
        } else {
            let reference: Reference = reference.parse().ok()?;
            match reference.digest() {
                None => disk.read_record(&reference.to_string())?,
                Some(digest) => {
                    let wanted = format!("{}@{digest}", reference.name());
                    records().find(|record| record.digests.contains(&wanted))?
                }
            }
        };
        disk.image(&record)
    }

    /// All images, one for each reference, in order.
    pub fn list(&self) -> Vec<Image> {
        let disk = &self.inner.disk;
        disk.records()
            .iter()
            .filter_map(|record| disk.image(record))
            .collect()
    }

    /// Forgets a reference (or all references of an id); tells whether there was one. Layers
    /// stay until [`collect_garbage`](ImageStore::collect_garbage).
    pub fn remove(&self, reference: &str) -> Result<bool, StoreError> {
        let disk = &self.inner.disk;
        let doomed: Vec<String> = if reference.starts_with("sha256:") {
            let records = disk.records().into_iter();
            let same = records.filter(|record| record.id.to_string() == reference);
            same.map(|record| record.reference).collect()
        } else {
            let reference: Reference = reference.parse()?;
            match reference.digest() {
                None => vec![reference.to_string()],
                Some(digest) => {
                    let wanted = format!("{}@{digest}", reference.name());
                    let records = disk.records().into_iter();
                    let same = records.filter(|record| record.digests.contains(&wanted));
                    same.map(|record| record.reference).collect()
                }
            }
        };
        let mut removed = false;
        for reference in doomed {
            removed |= disk.remove_record(&reference)?;
        }
        Ok(removed)
    }

    /// Removes layers that neither an image nor `in_use` (directories of running containers)
    /// needs, and other leftovers. Does nothing while something is being added.
    pub async fn collect_garbage(&self, in_use: &BTreeSet<PathBuf>) -> Result<Freed, StoreError> {
        let (inner, in_use) = (Arc::clone(&self.inner), in_use.clone());
        blocking(move || collect(&inner.disk, &in_use)).await
    }

    /// Makes sure an image is here and unpacked; contents that are here already are not
    /// fetched again.
    pub async fn pull(&self, reference: &str, options: &PullOptions) -> Result<Image, PullError> {
        pull::pull(&self.inner, reference, options).await
    }

    /// Imports an OCI layout directory, OCI archive or docker archive (compressed or not);
    /// gives the references it has added, or ids of images without a name.
    pub async fn import(&self, path: impl AsRef<Path>) -> Result<Vec<String>, ImportError> {
        let (inner, path) = (Arc::clone(&self.inner), path.as_ref().to_owned());
        blocking(move || import::import(&inner.disk, &path)).await
    }

    /// Adds an image that the program brings with it. Cheap when it is here already.
    pub async fn put_builtin(
        &self,
        reference: &str,
        layer: BuiltinLayer,
        config: ImageConfig,
    ) -> Result<Image, ImportError> {
        let reference: Reference = reference.parse().map_err(PullError::from)?;
        let inner = Arc::clone(&self.inner);
        blocking(move || put_builtin(&inner.disk, &reference, &layer, &config)).await
    }
}

/// Runs what blocks away from the executor's own threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Such tasks are never cancelled once begun, so it panicked: pass that on.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn collect(disk: &Disk, in_use: &BTreeSet<PathBuf>) -> Result<Freed, StoreError> {
    let Some(lock) = disk.try_lock_exclusive()? else {
        return Ok(Freed::default());
    };
    let records = disk.records();
    let needed_layers: BTreeSet<&str> = records
        .iter()
        .flat_map(|record| &record.layers)
        .map(Digest::hex)
        .collect();
    let needed_blobs: BTreeSet<&str> = records
        .iter()
        .flat_map(|record| [Some(&record.id), record.manifest.as_ref()])
        .flatten()
        .map(Digest::hex)
        .collect();
    let (layers, blobs) = disk.contents();
    let name = |path: &Path| {
        path.file_name()
            .and_then(|n| n.to_str())
            .unwrap_or("")
            .to_owned()
    };
    let (mut freed, mut doomed) = (Freed::default(), Vec::new());
    for path in layers {
        let name = name(&path);
        let used = in_use.iter().any(|used| used.starts_with(&path));
        if needed_layers.contains(name.as_str()) || used {
            continue;
        }
        let bytes = format!("sha256:{name}")
            .parse()
            .ok()
            .and_then(|d| disk.layer_bytes(&d));
        freed.layers += 1;
        freed.bytes += bytes.unwrap_or(0);
        doomed.push(disk.take_away(&path)?);
    }
    for path in blobs {
        if !needed_blobs.contains(name(&path).as_str()) {
            doomed.push(disk.take_away(&path)?);
        }
    }
    // Others may go on while the files themselves are being removed.
    drop(lock);
    drop(doomed);
    Ok(freed)
}

fn put_builtin(
    disk: &Disk,
    reference: &Reference,
    layer: &BuiltinLayer,
    config: &ImageConfig,
) -> Result<Image, ImportError> {
    let _lock = disk.lock_shared()?;
    let bad = |error: LayerError| import::layer_error(&reference.to_string(), error);
    let (diff_id, size) = match layer {
        BuiltinLayer::Tar(bytes) => {
            let mut plain = crate::digest::Hashing::new(
                crate::compression::decompressed(bytes.as_slice())
                    .map_err(|error| bad(LayerError::Unpack(read(error))))?,
            );
            std::io::copy(&mut plain, &mut std::io::sink())
                .map_err(|error| bad(LayerError::Unpack(read(error))))?;
            let diff_id = plain.finish();
            let size = disk.add_layer(&diff_id, bytes.as_slice()).map_err(bad)?;
            (diff_id, size)
        }
        BuiltinLayer::Files(files) => {
            let diff_id = identity(files)?;
            let size = match disk.layer_bytes(&diff_id) {
                Some(bytes) => bytes,
                None => disk
                    .fill_layer(&diff_id, |dir| copy_files(files, dir))
                    .map_err(bad)?,
            };
            (diff_id, size)
        }
    };
    let configuration = serde_json::json!({
        "architecture": manifest::this_architecture(),
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let id = disk.put_blob(configuration.to_string().as_bytes())?;
    let record = Record {
        reference: reference.to_string(),
        id,
        manifest: None,
        digests: Vec::new(),
        layers: vec![diff_id],
        size,
    };
    if disk.read_record(&record.reference).as_ref() != Some(&record) {
        disk.write_record(&record)?;
    }
    disk.image(&record).ok_or_else(|| {
        ImportError::Image(PullError::BadImage {
            image: record.reference.clone(),
            reason: "it cannot be read back".to_owned(),
        })
    })
}

fn read(error: std::io::Error) -> crate::unpack::UnpackError {
    crate::unpack::UnpackError::Read(error)
}

/// Stands for the digest of a layer made of the node's own files, without reading them.
fn identity(files: &[BuiltinFile]) -> Result<Digest, ImportError> {
    use std::fmt::Write;
    use std::os::unix::fs::MetadataExt;
    let mut text = String::from("built in\n");
    for file in files {
        let failed = |source| ImportError::Read {
            path: file.source.clone(),
            source,
        };
        let meta = fs::metadata(&file.source).map_err(failed)?;
        let (path, source) = (file.path.display(), file.source.display());
        let (size, seconds, nanoseconds) = (meta.size(), meta.mtime(), meta.mtime_nsec());
        let line = writeln!(
            text,
            "{path} {:o} {source} {} {size} {seconds}.{nanoseconds}",
            file.mode,
            meta.ino()
        );
        // Writing to memory does not fail.
        line.ok();
    }
    Ok(Digest::of(text.as_bytes()))
}

fn copy_files(files: &[BuiltinFile], dir: &Path) -> Result<u64, LayerError> {
    let mut bytes = 0;
    for file in files {
        let relative = file.path.strip_prefix("/").unwrap_or(&file.path);
        let target = dir.join(relative);
        let failed = || StoreError::io("write", &target);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(failed())?;
        }
        bytes += fs::copy(&file.source, &target).map_err(failed())?;
        let mode = fs::Permissions::from_mode(file.mode);
        fs::set_permissions(&target, mode).map_err(failed())?;
    }
    Ok(bytes)
}
