//! Removal of unused images, safe against pods that start to use them concurrently.
//!
//! The caller chooses the images; this module ensures that no image in use is removed. Under the store's
//! lock, an image is first removed from the index, and then its layers are moved to a scratch directory.
//! Their deletion takes long, and follows without the lock. A crash in between may leave layers without an
//! image, which the next [`ImageStore::mark_orphans`] removes, or scratch directories of an exited process,
//! which the next opening of the store removes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::index::{ImageRecord, Index};
use crate::scratch::Scratch;
use crate::store::{ImageStore, StoreError, io_error};

/// The images and layers that pods use, even if they are not mounted yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagesInUse {
    /// Images by their names in the specifications of pods.
    pub references: BTreeSet<String>,
    /// Unpacked layers, with the paths of [`crate::Image::layers`].
    pub layers: BTreeSet<PathBuf>,
}

/// Data that was removed from the store and still uses disk space.
#[derive(Debug, Default)]
#[must_use = "it takes room until it is swept"]
pub struct Garbage {
    pub references: Vec<String>,
    /// Bytes of the unpacked layers.
    pub bytes: u64,
    removed: Vec<Scratch>,
}

impl Garbage {
    /// Deletes the data from the disk.
    ///
    /// # Errors
    /// The disk fails; the rest is deleted when the store is opened the next time.
    pub fn sweep(self) -> Result<(), StoreError> {
        let mut result = Ok(());
        for scratch in &self.removed {
            match fs::remove_dir_all(scratch.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound && result.is_ok() => {
                    result = Err(io_error("remove", scratch.path())(error));
                }
                _ => {}
            }
        }
        result
    }
}

impl ImageStore {
    /// Removes an image with all its names, and its layers that no other image has, no mount uses and no
    /// pod needs. `None` if the image is pinned, in use, or absent.
    ///
    /// # Errors
    /// The disk fails.
    pub fn mark(&self, digest: &str, needed: &ImagesInUse) -> Result<Option<Garbage>, StoreError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let Some(record) = index.images.get(digest).cloned() else {
            return Ok(None);
        };
        if !record.pulled || self.is_needed(&index, digest, &record, needed)? {
            return Ok(None);
        }
        let mut garbage = Garbage {
            references: index.names_of(digest),
            ..Garbage::default()
        };
        index.remove_image(digest);
        self.write_index(&index)?;
        for layer in &record.layers {
            self.mark_layer(&index, layer, needed, &mut garbage);
        }
        Ok(Some(garbage))
    }

    /// Removes layers without an image whose age is at least `age`: newer layers may belong to an image
    /// that is being added.
    ///
    /// # Errors
    /// The disk fails.
    pub fn mark_orphans(&self, needed: &ImagesInUse, age: Duration) -> Result<Garbage, StoreError> {
        let _lock = self.lock()?;
        let mut garbage = Garbage::default();
        if self.pulls_are_under_way() {
            return Ok(garbage);
        }
        let index = self.index()?;
        let now = SystemTime::now();
        for layer in self.layers()? {
            let unpacked = fs::metadata(self.layer(&layer).join("size"));
            let unpacked = unpacked.and_then(|size| size.modified());
            let old = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since >= age);
            if unpacked.is_ok_and(old) {
                self.mark_layer(&index, &layer, needed, &mut garbage);
            }
        }
        Ok(garbage)
    }

    /// Digests of the images that are in `needed` or mounted.
    ///
    /// # Errors
    /// The disk fails.
    pub fn in_use(&self, needed: &ImagesInUse) -> Result<BTreeSet<String>, StoreError> {
        let index = self.index()?;
        let mut digests = BTreeSet::new();
        for (digest, record) in &index.images {
            if self.is_needed(&index, digest, record, needed)? {
                digests.insert(digest.clone());
            }
        }
        Ok(digests)
    }

    /// Whether an image is needed. The top layer identifies the image: a mount of that layer uses the whole
    /// image.
    fn is_needed(
        &self,
        index: &Index,
        digest: &str,
        record: &ImageRecord,
        needed: &ImagesInUse,
    ) -> Result<bool, StoreError> {
        let means = |reference: &String| {
            let image = index.look_up(reference).ok().flatten();
            image.is_some_and(|(named, _)| named == digest)
        };
        if needed.references.iter().any(means) {
            return Ok(true);
        }
        let Some(top) = record.layers.last() else {
            return Ok(false);
        };
        Ok(needed.layers.contains(&self.layer(top).join("fs"))
            || self.is_mounted(std::slice::from_ref(top))?)
    }

    /// Moves an unused layer to a scratch directory. A failure is logged, and the layer is removed the next
    /// time, because the image is removed already.
    fn mark_layer(
        &self,
        index: &Index,
        layer: &String,
        needed: &ImagesInUse,
        garbage: &mut Garbage,
    ) {
        let path = self.layer(layer);
        if index.layers().contains(layer.as_str())
            || needed.layers.contains(&path.join("fs"))
            || !matches!(self.is_mounted(std::slice::from_ref(layer)), Ok(false))
        {
            return;
        }
        let bytes = bytes_of(&path);
        match self.move_to_scratch(&path) {
            Ok(scratch) => {
                garbage.bytes = garbage.bytes.saturating_add(bytes);
                garbage.removed.push(scratch);
            }
            // An image may contain a layer twice.
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(layer, %error, "layer stays behind"),
        }
    }

    fn move_to_scratch(&self, path: &Path) -> Result<Scratch, StoreError> {
        fs::metadata(path).map_err(io_error("read", path))?;
        let scratch = self.scratch()?;
        fs::rename(path, scratch.path()).map_err(io_error("rename to", scratch.path()))?;
        Ok(scratch)
    }

    /// Whether this process is adding images from registries.
    fn pulls_are_under_way(&self) -> bool {
        !self.pulls.is_empty()
    }
}

/// The size of an unpacked layer.
fn bytes_of(layer: &Path) -> u64 {
    let size = fs::read_to_string(layer.join("size")).unwrap_or_default();
    size.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::disk_space::WriteSpace;
    use crate::manifest::ImageConfig;
    use crate::stall_detector::Observer;
    use crate::store::tests::layer;

    fn store() -> (tempfile::TempDir, ImageStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        (directory, store)
    }

    /// Adds an image with these layers, as after a pull. Returns its digest.
    fn add(store: &ImageStore, name: &str, layers: &[&str]) -> String {
        let hexes = layers.iter().map(|text| {
            let bytes = layer(text);
            let diff_id = Digest::sha256(&bytes);
            let space = WriteSpace::all(store.directory());
            let added =
                store.add_layer(bytes.as_slice(), &diff_id, None, space, Observer::default());
            added.unwrap();
            diff_id.hex().to_owned()
        });
        let record = ImageRecord {
            id: format!("sha256:{name}"),
            config: ImageConfig::default(),
            layers: hexes.collect(),
            size: 0,
            fingerprint: None,
            pulled: true,
            access: Default::default(),
        };
        let digest = Digest::sha256(layers.concat().as_bytes()).to_string();
        let reference = format!("docker.io/library/{name}");
        store.insert(&reference, &digest, record).unwrap();
        digest
    }

    fn hex(text: &str) -> String {
        Digest::sha256(&layer(text)).hex().to_owned()
    }

    fn layers(store: &ImageStore) -> BTreeSet<String> {
        store.layers().unwrap()
    }

    fn scratch(directory: &tempfile::TempDir) -> usize {
        fs::read_dir(directory.path().join("temporary"))
            .unwrap()
            .count()
    }

    #[test]
    fn an_image_goes_with_the_layers_that_no_other_has() {
        // statefulset.md 12.16
        let (directory, store) = store();
        let old = add(&store, "old:1", &["base", "a"]);
        let new = add(&store, "new:1", &["base", "b"]);
        let garbage = store.mark(&old, &ImagesInUse::default()).unwrap().unwrap();
        assert_eq!(garbage.references, ["docker.io/library/old:1"]);
        assert_eq!(garbage.bytes, 1);
        assert_eq!(layers(&store), [hex("base"), hex("b")].into());
        assert_eq!(scratch(&directory), 1, "deleted only when it is swept");
        garbage.sweep().unwrap();
        assert_eq!(scratch(&directory), 0);
        assert_eq!(store.get("old:1").unwrap(), None);
        let image = store.get("new:1").unwrap().unwrap();
        assert!(!image.pinned && image.layers.iter().all(|layer| layer.is_dir()));
        // A second removal has no effect.
        assert!(store.mark(&old, &ImagesInUse::default()).unwrap().is_none());
        let garbage = store.mark(&new, &ImagesInUse::default()).unwrap().unwrap();
        assert_eq!(garbage.bytes, 5);
        garbage.sweep().unwrap();
        assert_eq!(layers(&store), BTreeSet::new());
    }

    #[test]
    fn what_is_needed_or_pinned_stays() {
        // statefulset.md 12.16
        let (_directory, store) = store();
        let named = add(&store, "named:1", &["base", "a"]);
        let mounted = add(&store, "layers:1", &["base", "b"]);
        let by_hand = store
            .put_builtin("own", &layer("own"), &ImageConfig::default(), "f")
            .unwrap();
        assert!(by_hand.pinned);
        let layer = store
            .get("layers:1")
            .unwrap()
            .unwrap()
            .layers
            .pop()
            .unwrap();
        let needed = ImagesInUse {
            references: ["named:1".to_owned(), "No Name".to_owned()].into(),
            layers: [layer].into(),
        };
        for digest in [&named, &mounted, &by_hand.digest] {
            assert!(store.mark(digest, &needed).unwrap().is_none());
        }
        let in_use = store.in_use(&needed).unwrap();
        assert_eq!(in_use, [named.clone(), mounted.clone()].into());
        // The image is also found by id and by digest.
        for name in ["sha256:named:1".to_owned(), format!("any@{named}")] {
            let needed = ImagesInUse {
                references: [name].into(),
                ..ImagesInUse::default()
            };
            assert!(store.mark(&named, &needed).unwrap().is_none());
        }
        // A layer in use stays when its image is removed.
        let base = store.get("named:1").unwrap().unwrap().layers[0].clone();
        let needed = ImagesInUse {
            layers: [base].into(),
            ..ImagesInUse::default()
        };
        for digest in [&named, &mounted] {
            let garbage = store.mark(digest, &needed).unwrap().unwrap();
            garbage.sweep().unwrap();
        }
        assert_eq!(layers(&store), [hex("base"), hex("own")].into());
    }

    #[test]
    fn what_a_crash_left_goes_the_next_time() {
        let (directory, store) = store();
        let retained = add(&store, "kept:1", &["base"]);
        let digest = add(&store, "gone:1", &["base", "a"]);
        // The state after a crash: the index is written, but the layers still exist.
        let mut index = store.index().unwrap();
        index.remove_image(&digest);
        store.write_index(&index).unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        assert_eq!(layers(&store).len(), 2);
        let hour = Duration::from_secs(3600);
        let young = store.mark_orphans(&ImagesInUse::default(), hour).unwrap();
        young.sweep().unwrap();
        assert_eq!(
            layers(&store).len(),
            2,
            "it may be part of an image to come"
        );
        let pull = store.pull_lock("other:1");
        let none = store.mark_orphans(&ImagesInUse::default(), Duration::ZERO);
        assert_eq!(none.unwrap().bytes, 0, "a pull may be about to name it");
        drop(pull);
        let garbage = store.mark_orphans(&ImagesInUse::default(), Duration::ZERO);
        let garbage = garbage.unwrap();
        assert_eq!(garbage.bytes, 1);
        // The layer is not in the store any more. If the process exits now, the next opening of the store
        // deletes the layer.
        let leftover = directory.path().join("temporary/0-0");
        fs::rename(garbage.removed[0].path(), &leftover).unwrap();
        ImageStore::open(directory.path()).unwrap();
        assert!(!leftover.exists());
        assert!(store.get(&format!("any@{retained}")).unwrap().is_some());
        assert_eq!(layers(&store), [hex("base")].into());
    }
}
