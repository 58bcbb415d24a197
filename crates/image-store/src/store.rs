//! The store: the images with their names; layers are added and removed here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyed_locks::KeyedLocks;
use mount_table::MountPoint;
use rustix::fs::FlockOperation;

use crate::digest::{Digest, HashingReader};
use crate::disk_space::{LimitedReader, OutOfSpace, SpaceError, WriteSpace};
use crate::index::{Image, ImageRecord, Index};
use crate::layer_sync::sync_layer;
use crate::reference::{InvalidReference, normalize};
use crate::stall_detector::Observer;
use crate::unpack::{UnpackError, unpack};

/// The error of the image store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A layer was removed before the image had its name: it must be added again.
    #[error("layer {layer} was removed while its image was being added")]
    LayerCleared {
        /// The layer's digest, without its algorithm.
        layer: String,
    },
    /// The name is malformed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// No image of that name.
    #[error("image {reference:?} not found")]
    NotFound {
        /// The full name.
        reference: String,
    },
    /// A container uses the image.
    #[error("image {reference:?} is in use by a container")]
    InUse {
        /// The full name.
        reference: String,
    },
    /// The unpacked data does not match its digest.
    #[error("layer does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch {
        /// Promised by the image's configuration.
        expected: String,
        /// The actual digest.
        actual: String,
    },
    /// A layer cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The data does not fit.
    #[error(transparent)]
    OutOfSpace(#[from] OutOfSpace),
    /// The disk failed.
    #[error("{action} {path}")]
    Io {
        /// The failed operation.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        action,
        path: path.clone(),
        source,
    }
}

pub(crate) fn room_error(action: &'static str, path: &Path) -> impl Fn(SpaceError) -> StoreError {
    let failed = io_error(action, path);
    move |error| match error {
        SpaceError::OutOfSpace(error) => error.into(),
        SpaceError::Io(error) => failed(error),
    }
}

impl StoreError {
    /// The missing disk space, if that is the cause.
    pub fn no_room(&self) -> Option<&OutOfSpace> {
        match self {
            Self::OutOfSpace(source) | Self::Unpack(UnpackError::OutOfSpace { source, .. }) => {
                Some(source)
            }
            _ => None,
        }
    }
}

/// A directory of images. Clones share it.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(crate) directory: PathBuf,
    /// One pull at a time per name.
    pub(crate) pulls: Arc<KeyedLocks<tokio::sync::Mutex<()>>>,
}

/// The directory's mode.
const DIRECTORY_MODE: u32 = 0o700;

impl ImageStore {
    /// Opens a store, making the directory if it is not there.
    ///
    /// # Errors
    /// The directory cannot be created or read.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = directory.into();
        fs::create_dir_all(&directory).map_err(io_error("make", &directory))?;
        // Layers have programs that run as another user, and devices: not for users of the host.
        let private = fs::Permissions::from_mode(DIRECTORY_MODE);
        fs::set_permissions(&directory, private).map_err(io_error("protect", &directory))?;
        for part in ["layers", "temporary"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).map_err(io_error("make", &path))?;
        }
        let pulls = Arc::default();
        let store = Self { directory, pulls };
        store.index()?;
        store.clear_abandoned()?;
        Ok(store)
    }

    /// The root directory of the store.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The image of that name (completed as Docker does) or id, if it is present.
    ///
    /// # Errors
    /// The name is malformed or the disk fails.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, StoreError> {
        let index = self.index()?;
        let found = index.look_up(reference)?;
        let found = found.filter(|(digest, record)| self.is_whole(digest, record));
        Ok(found.map(|(digest, record)| self.image(&index, digest, record)))
    }

    /// Whether all layers of an image exist: a user may have deleted them by hand.
    fn is_whole(&self, digest: &str, record: &ImageRecord) -> bool {
        let missing = record.layers.iter().find(|layer| !self.has_layer(layer));
        if let Some(layer) = missing {
            tracing::warn!(
                digest,
                layer,
                "an image lacks a layer, and has to be had again"
            );
        }
        missing.is_none()
    }

    pub(crate) fn has_layer(&self, hex: &str) -> bool {
        let place = self.layer(hex);
        place.join("size").is_file() && place.join("fs").is_dir()
    }

    /// All images, by digest.
    ///
    /// # Errors
    /// The disk fails.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let index = self.index()?;
        let images = index.images.iter();
        Ok(images
            .map(|(digest, record)| self.image(&index, digest, record))
            .collect())
    }

    /// Removes a name; the image is removed with its last name, unless a container uses it.
    ///
    /// # Errors
    /// There is no such name, the image is in use, or the disk fails.
    pub fn remove(&self, reference: &str) -> Result<(), StoreError> {
        let reference = normalize(reference)?;
        let lock = self.lock()?;
        let mut index = self.index()?;
        let Some((digest, record)) = index.find(&reference) else {
            return Err(StoreError::NotFound { reference });
        };
        let last_name = index.names_of(digest).len() == 1;
        if last_name && self.is_mounted(&record.layers)? {
            return Err(StoreError::InUse { reference });
        }
        index.remove(&reference);
        self.write_index(&index)?;
        drop(lock);
        self.drop_unused_layers()
    }

    /// Whether the image of that name is built-in with that fingerprint.
    ///
    /// # Errors
    /// The name is malformed or the disk fails.
    pub fn has_builtin(&self, reference: &str, fingerprint: &str) -> Result<bool, StoreError> {
        let index = self.index()?;
        let found = index
            .find(&normalize(reference)?)
            .filter(|(digest, record)| self.is_whole(digest, record))
            .map(|(_, record)| record.fingerprint.clone());
        Ok(found.flatten().as_deref() == Some(fingerprint))
    }

    /// The image of that full name, if it was made here.
    pub(crate) fn builtin(&self, reference: &str) -> Option<Image> {
        let index = self.index().ok()?;
        let (digest, record) = index.find(reference)?;
        record.fingerprint.as_ref()?;
        Some(self.image(&index, digest, record))
    }

    /// Unpacks a layer unless it is there. Returns its size as unpacked, in bytes.
    pub(crate) fn add_layer(
        &self,
        archive: impl Read,
        diff_id: &Digest,
        room: WriteSpace,
        observer: Observer,
    ) -> Result<u64, StoreError> {
        if let Some(size) = self.layer_size(diff_id) {
            return Ok(size);
        }
        let length_max = room.archive_bytes_max();
        let length_max = length_max.map_err(io_error("inspect the disk of", &self.directory))?;
        let reader = HashingReader::new(LimitedReader::new(archive, length_max, observer));
        self.unpack_layer(reader, room, |reader| {
            let actual = reader
                .finish()
                .map_err(io_error("read the layer of", &self.directory))?;
            if actual == *diff_id {
                return Ok(actual);
            }
            let (expected, actual) = (diff_id.to_string(), actual.to_string());
            Err(StoreError::DigestMismatch { expected, actual })
        })
    }

    /// Unpacks a layer, and keeps it under its digest, which `verified` returns. Returns its size as unpacked,
    /// in bytes.
    pub(crate) fn unpack_layer<R: Read>(
        &self,
        mut archive: R,
        room: WriteSpace,
        verified: impl FnOnce(R) -> Result<Digest, StoreError>,
    ) -> Result<u64, StoreError> {
        let scratch = self.scratch()?;
        let root = scratch.path().join("fs");
        fs::create_dir(&root).map_err(io_error("make", &root))?;
        let unpacked = unpack(&mut archive, &root, room)?;
        self.keep_layer(scratch.path(), &verified(archive)?, unpacked.bytes)?;
        Ok(unpacked.bytes)
    }

    /// Moves an unpacked layer to its place, with its size beside it, durably.
    fn keep_layer(&self, scratch: &Path, diff_id: &Digest, bytes: u64) -> Result<(), StoreError> {
        let size = scratch.join("size");
        File::create(&size)
            .and_then(|mut file| file.write_all(bytes.to_string().as_bytes()))
            .map_err(io_error("write", &size))?;
        sync_layer(scratch).map_err(io_error("sync", scratch))?;
        let place = self.layer(diff_id.hex());
        if place.exists() && !self.has_layer(diff_id.hex()) {
            // Half of it was deleted by hand.
            let doomed = self.scratch()?;
            fs::rename(&place, doomed.path()).map_err(io_error("move away", &place))?;
        }
        match fs::rename(scratch, &place) {
            Ok(()) => {}
            // Another process was faster; its result is the same.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
            Err(error) => return Err(io_error("rename to", &place)(error)),
        }
        let layers = self.directory.join("layers");
        File::open(&layers)
            .and_then(|file| file.sync_all())
            .map_err(io_error("sync", &layers))
    }

    pub(crate) fn layer_size(&self, diff_id: &Digest) -> Option<u64> {
        if !self.has_layer(diff_id.hex()) {
            return None;
        }
        let size = self.layer(diff_id.hex()).join("size");
        fs::read_to_string(size).ok()?.trim().parse().ok()
    }

    /// Records an image under a name; its layers must be there.
    pub(crate) fn insert(
        &self,
        reference: &str,
        digest: &str,
        record: ImageRecord,
    ) -> Result<Image, StoreError> {
        let lock = self.lock()?;
        // Garbage collection holds the lock too: existing layers stay, because they are about to be
        // named.
        let is_gone = |layer: &&String| !self.has_layer(layer);
        if let Some(layer) = record.layers.iter().find(is_gone) {
            let layer = layer.clone();
            return Err(StoreError::LayerCleared { layer });
        }
        let mut index = self.index()?;
        index.insert(reference, digest, record);
        self.write_index(&index)?;
        drop(lock);
        let record = &index.images[digest];
        Ok(self.image(&index, digest, record))
    }

    /// Removes layers that no image names and no container has mounted.
    ///
    /// # Errors
    /// The disk fails.
    pub fn drop_unused_layers(&self) -> Result<(), StoreError> {
        self.drop_unused(&self.layers()?)
    }

    /// Removes those of the given layers that no image names and no container has mounted.
    pub(crate) fn drop_unused(&self, layers: &BTreeSet<String>) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let index = self.index()?;
        let used = index.layers();
        for layer in layers {
            let place = self.layer(layer);
            let is_used = used.contains(layer.as_str());
            if is_used || !place.exists() || self.is_mounted(std::slice::from_ref(layer))? {
                continue;
            }
            // Moved away first, so that a partly removed layer never looks complete.
            let scratch = self.scratch()?;
            fs::rename(&place, scratch.path()).map_err(io_error("rename to", scratch.path()))?;
        }
        Ok(())
    }

    /// Whether a mount of this machine uses one of the layers.
    pub(crate) fn is_mounted(&self, layers: &[String]) -> Result<bool, StoreError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = mount_table::read().map_err(io_error("read", path))?;
        // Overlay names its layers among its options; a single layer is bound.
        let uses = |mount: &MountPoint, layer: &str| {
            let bound = mount.root.components().chain(mount.path.components());
            mount.super_options.contains(layer)
                || bound.into_iter().any(|part| part.as_os_str() == layer)
        };
        let is_used = |layer: &String| mounts.iter().any(|mount| uses(mount, layer));
        Ok(layers.iter().any(is_used))
    }

    fn image(&self, index: &Index, digest: &str, record: &ImageRecord) -> Image {
        Image {
            id: record.id.clone(),
            digest: digest.to_owned(),
            references: index.names_of(digest),
            config: record.config.clone(),
            layers: record
                .layers
                .iter()
                .map(|layer| self.layer(layer).join("fs"))
                .collect(),
            size: record.size,
            pinned: !record.pulled,
        }
    }

    pub(crate) fn layer(&self, hex: &str) -> PathBuf {
        self.directory.join("layers").join(hex)
    }

    pub(crate) fn index(&self) -> Result<Index, StoreError> {
        let path = self.index_path();
        Index::read(&path).map_err(io_error("read", &path))
    }

    pub(crate) fn write_index(&self, index: &Index) -> Result<(), StoreError> {
        let path = self.index_path();
        index.write(&path).map_err(io_error("write", &path))
    }

    fn index_path(&self) -> PathBuf {
        self.directory.join("images.json")
    }

    /// Keeps other processes from changing the index until it is dropped.
    pub(crate) fn lock(&self) -> Result<File, StoreError> {
        let path = self.directory.join("lock");
        let file = File::create(&path).map_err(io_error("open", &path))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| io_error("lock", &path)(error.into()))?;
        Ok(file)
    }

    /// The lock that serialises pulls of one name.
    pub(crate) fn pull_lock(&self, reference: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.pulls.get(reference)
    }

    /// Names of the layers that are there, for tests and garbage collection.
    ///
    /// # Errors
    /// The disk fails.
    pub fn layers(&self) -> Result<BTreeSet<String>, StoreError> {
        let layers = self.directory.join("layers");
        let entries = fs::read_dir(&layers).map_err(io_error("read", &layers))?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()
            .map_err(io_error("read", &layers))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::manifest::ImageConfig;

    /// An archive with that text in one file.
    pub(crate) fn layer(text: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, "file", text.as_bytes())
            .unwrap();
        builder.into_inner().unwrap()
    }

    pub(crate) fn config() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/file".to_owned()],
            ..ImageConfig::default()
        }
    }

    #[test]
    fn a_builtin_image_is_found_by_any_form_of_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        store
            .put_builtin("mainstay/hello", &layer("one"), &config(), "f1")
            .unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        let image = store
            .get("docker.io/mainstay/hello:latest")
            .unwrap()
            .unwrap();
        assert_eq!(image.config, config());
        assert_eq!(
            fs::read_to_string(image.layers[0].join("file")).unwrap(),
            "one"
        );
        assert_eq!(store.get(&image.id).unwrap().as_ref(), Some(&image));
        assert!(store.has_builtin("mainstay/hello", "f1").unwrap());
        assert!(!store.has_builtin("mainstay/hello", "f2").unwrap());
        assert_eq!(store.get("mainstay/other").unwrap(), None);
    }

    #[test]
    fn users_of_the_host_do_not_reach_layers() {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("images");
        fs::create_dir(&directory).unwrap();
        // As it was made before.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        ImageStore::open(&directory).unwrap();
        let mode = fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn removing_the_last_name_removes_the_layers() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        store
            .put_builtin("a", &layer("one"), &config(), "f")
            .unwrap();
        store
            .put_builtin("b", &layer("one"), &config(), "f")
            .unwrap();
        store.remove("a").unwrap();
        assert_eq!(store.layers().unwrap().len(), 1);
        store.remove("b").unwrap();
        assert_eq!(store.layers().unwrap().len(), 0);
        assert!(matches!(
            store.remove("b"),
            Err(StoreError::NotFound { .. })
        ));
    }

    #[test]
    fn a_layer_that_is_not_what_it_says_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        let wrong = Digest::of(b"something else");
        let error = store
            .add_layer(
                layer("one").as_slice(),
                &wrong,
                WriteSpace::all(directory.path()),
                Observer::default(),
            )
            .unwrap_err();
        assert!(
            matches!(error, StoreError::DigestMismatch { .. }),
            "{error}"
        );
        assert_eq!(store.layers().unwrap().len(), 0);
        let left = fs::read_dir(directory.path().join("temporary"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "nothing is left behind");
    }

    /// findings R14
    #[test]
    fn an_image_whose_layers_were_deleted_by_hand_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        let make = || {
            store
                .put_builtin("a", &layer("one"), &config(), "f")
                .unwrap()
        };
        for part in ["", "fs"] {
            let image = make();
            let place = image.layers[0].parent().unwrap().join(part);
            fs::remove_dir_all(place).unwrap();
            assert_eq!(store.get("a").unwrap(), None, "{part:?}");
            assert!(!store.has_builtin("a", "f").unwrap());
            let again = make();
            assert_eq!(store.get("a").unwrap(), Some(again.clone()));
            let text = fs::read_to_string(again.layers[0].join("file"));
            assert_eq!(text.unwrap(), "one");
        }
    }
}
