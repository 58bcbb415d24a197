//! The store: the images with their names. This module adds and removes layers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host_kernel::keyed_locks::KeyedLocks;
use host_kernel::mount_table::{self, MountPoint};
use rustix::fs::FlockOperation;

use crate::disk_space::{OutOfSpace, SpaceError};
use crate::index::{Image, ImageRecord, Index};
use crate::reference::{InvalidReference, normalize};
use crate::unpack::{UnpackError, hides_all_below};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A layer was removed before the image was added: the layer must be added again.
    #[error("layer {layer} was removed while its image was being added")]
    LayerCleared {
        /// The layer's digest, without its algorithm.
        layer: String,
    },
    /// The name is malformed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// There is no image with this name.
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
        /// The digest in the image's configuration.
        expected: String,
        actual: String,
    },
    /// A layer cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The data does not fit.
    #[error(transparent)]
    OutOfSpace(#[from] OutOfSpace),
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
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

pub(crate) fn space_error(action: &'static str, path: &Path) -> impl Fn(SpaceError) -> StoreError {
    let failed = io_error(action, path);
    move |error| match error {
        SpaceError::OutOfSpace(error) => error.into(),
        SpaceError::Io(error) => failed(error),
    }
}

impl StoreError {
    /// The missing disk space; `None` if the error has another cause.
    pub fn out_of_space(&self) -> Option<&OutOfSpace> {
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
    /// A lock per name: only one pull of a name runs at a time.
    pub(crate) pulls: Arc<KeyedLocks<tokio::sync::Mutex<()>>>,
}

/// Minimum length of a layer's short name in the options of an overlay.
const SHORT_NAME_BYTES: usize = 6;

const DIRECTORY_MODE: u32 = 0o700;

impl ImageStore {
    /// Opens a store. The directory is created if it is missing.
    ///
    /// # Errors
    /// The directory cannot be created or read.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = directory.into();
        fs::create_dir_all(&directory).map_err(io_error("make", &directory))?;
        // Layers contain set-user-ID programs and devices, so users of the host must not have access.
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

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The image with this name (completed as in Docker) or id; `None` if it is absent.
    ///
    /// # Errors
    /// The name is malformed, or the disk fails.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, StoreError> {
        let index = self.index()?;
        let image = index.look_up(reference)?;
        let image = image.filter(|(digest, record)| self.is_whole(digest, record));
        Ok(image.map(|(digest, record)| self.image(&index, digest, record)))
    }

    /// Whether all layers of an image exist. A user may have deleted them.
    fn is_whole(&self, digest: &str, record: &ImageRecord) -> bool {
        let missing = record.layers.iter().find(|layer| !self.has_layer(layer));
        if let Some(layer) = missing {
            cov_mark::hit!(findings_r14);
            tracing::warn!(
                digest,
                layer,
                "an image lacks a layer, and has to be had again"
            );
        }
        missing.is_none()
    }

    pub(crate) fn has_layer(&self, hex: &str) -> bool {
        let layer = self.layer(hex);
        layer.join("size").is_file() && layer.join("fs").is_dir()
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

    /// Removes a name. The image is removed with its last name, unless a container uses it.
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

    /// Whether the image with this name is built in and has this fingerprint.
    ///
    /// # Errors
    /// The name is malformed, or the disk fails.
    pub fn has_builtin(&self, reference: &str, fingerprint: &str) -> Result<bool, StoreError> {
        let index = self.index()?;
        let stored = index
            .find(&normalize(reference)?)
            .filter(|(digest, record)| self.is_whole(digest, record))
            .map(|(_, record)| record.fingerprint.clone());
        Ok(stored.flatten().as_deref() == Some(fingerprint))
    }

    /// The image with this full name; `None` if it is not built in.
    pub(crate) fn builtin(&self, reference: &str) -> Option<Image> {
        let index = self.index().ok()?;
        let (digest, record) = index.find(reference)?;
        record.fingerprint.as_ref()?;
        Some(self.image(&index, digest, record))
    }

    /// Records an image under a name. Its layers must exist.
    pub(crate) fn insert(
        &self,
        reference: &str,
        digest: &str,
        mut record: ImageRecord,
    ) -> Result<Image, StoreError> {
        let lock = self.lock()?;
        // Garbage collection holds this lock, too. Existing layers stay, because the image is about to name
        // them.
        let is_missing = |layer: &&String| !self.has_layer(layer);
        if let Some(layer) = record.layers.iter().find(is_missing) {
            let layer = layer.clone();
            return Err(StoreError::LayerCleared { layer });
        }
        // The kernel ignores the opaque mark of a layer's root directory, so the layers below are left out.
        let hides_all = |layer: &String| hides_all_below(&self.layer(layer).join("fs"));
        if let Some(lowest) = record.layers.iter().rposition(hides_all) {
            record.layers.drain(..lowest);
        }
        let mut index = self.index()?;
        index.insert(reference, digest, record);
        self.write_index(&index)?;
        drop(lock);
        let record = &index.images[digest];
        Ok(self.image(&index, digest, record))
    }

    /// Removes layers that no image has and no container has mounted.
    ///
    /// # Errors
    /// The disk fails.
    pub fn drop_unused_layers(&self) -> Result<(), StoreError> {
        self.drop_unused(&self.layers()?)
    }

    /// Removes those of `layers` that no image has and no container has mounted.
    pub(crate) fn drop_unused(&self, layers: &BTreeSet<String>) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let index = self.index()?;
        let used = index.layers();
        for layer in layers {
            let path = self.layer(layer);
            let is_used = used.contains(layer.as_str());
            if is_used || !path.exists() || self.is_mounted(std::slice::from_ref(layer))? {
                continue;
            }
            // The layer is moved first, so that a partly deleted layer never looks complete.
            let scratch = self.scratch()?;
            fs::rename(&path, scratch.path()).map_err(io_error("rename to", scratch.path()))?;
        }
        Ok(())
    }

    /// Whether a mount of this machine uses one of the layers.
    pub(crate) fn is_mounted(&self, layers: &[String]) -> Result<bool, StoreError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = mount_table::read().map_err(io_error("read", path))?;
        // The options of an overlay mount contain its layers.
        let uses = |mount: &MountPoint, layer: &str| {
            let bound = mount.root.components().chain(mount.path.components());
            is_named(&mount.super_options, layer)
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
            layers: distinct(&record.layers)
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

    /// Prevents changes of the index by other processes until the value is dropped.
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

    /// Names of the layers in the store, for tests and garbage collection.
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

/// The layers without repetitions. Of equal layers, the top one is kept, because it overrides the others.
fn distinct(layers: &[String]) -> impl Iterator<Item = &String> {
    let above = |index: usize| &layers[index + 1..];
    let layers = layers.iter().enumerate();
    layers.filter_map(move |(index, layer)| (!above(index).contains(layer)).then_some(layer))
}

/// Whether the options of an overlay name a layer: as a component of a path, or by a prefix of its digest
/// if the paths of all layers were too long for the kernel.
fn is_named(options: &str, layer: &str) -> bool {
    let names = options.split([',', '=', ':']);
    options.contains(layer)
        || names
            .into_iter()
            .any(|name| name.len() >= SHORT_NAME_BYTES && layer.starts_with(name))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::disk_space::WriteSpace;
    use crate::manifest::ImageConfig;
    use crate::stall_detector::Observer;

    /// An archive with one file, whose content is `text`.
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
        // A directory with the mode of earlier versions.
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
        let wrong = Digest::sha256(b"something else");
        let error = store
            .add_layer(
                layer("one").as_slice(),
                &wrong,
                None,
                WriteSpace::all(directory.path()),
                Observer::default(),
            )
            .unwrap_err();
        assert!(
            matches!(error, StoreError::DigestMismatch { .. }),
            "{error}"
        );
        assert_eq!(store.layers().unwrap().len(), 0);
        let leftovers = fs::read_dir(directory.path().join("temporary"))
            .unwrap()
            .count();
        assert_eq!(leftovers, 0, "nothing is left behind");
    }

    /// findings-2 I1
    #[test]
    fn a_layer_is_in_use_by_its_path_and_by_its_short_name() {
        let layer = "0a1b2c3d4e5f";
        for options in [
            "rw,lowerdir=/images/layers/0a1b2c3d4e5f/fs,upperdir=/u",
            "rw,lowerdir=ffffff:0a1b2c,upperdir=up,workdir=work",
            "rw,lowerdir+=ffffff,lowerdir+=0a1b2c3",
        ] {
            assert!(is_named(options, layer), "{options}");
        }
        for options in [
            "rw",
            "rw,lowerdir=0a1b2:0a1b2d,upperdir=up",
            "ro,lowerdir=/0a1b2c",
        ] {
            assert!(!is_named(options, layer), "{options}");
        }
    }

    #[test]
    fn of_equal_layers_the_topmost_is_mounted() {
        let layers = ["a", "b", "a", "c", "b"].map(str::to_owned);
        let mounted: Vec<_> = distinct(&layers).collect();
        assert_eq!(mounted, ["a", "c", "b"]);
    }

    /// findings R14
    #[test]
    fn an_image_whose_layers_were_deleted_by_hand_is_not_there() {
        cov_mark::check!(findings_r14);
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        let make = || {
            store
                .put_builtin("a", &layer("one"), &config(), "f")
                .unwrap()
        };
        for part in ["", "fs"] {
            let image = make();
            let path = image.layers[0].parent().unwrap().join(part);
            fs::remove_dir_all(path).unwrap();
            assert_eq!(store.get("a").unwrap(), None, "{part:?}");
            assert!(!store.has_builtin("a", "f").unwrap());
            let again = make();
            assert_eq!(store.get("a").unwrap(), Some(again.clone()));
            let text = fs::read_to_string(again.layers[0].join("file"));
            assert_eq!(text.unwrap(), "one");
        }
    }
}
