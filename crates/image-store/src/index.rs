//! `images.json`: the images and their names. The file is replaced atomically, under a lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host_kernel::durable_file::{self, Durability};
use serde::{Deserialize, Serialize};

use crate::access::ImageUsers;
use crate::manifest::ImageConfig;
use crate::reference::{InvalidReference, normalize};

/// A present image, whose layers are unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of the configuration, which identifies the image.
    pub id: String,
    /// Digest of the manifest, which identifies the image in a registry.
    pub digest: String,
    pub references: Vec<String>,
    /// The configuration of containers: entry point, environment, user.
    pub config: ImageConfig,
    /// The unpacked layers, the top layer last.
    pub layers: Vec<PathBuf>,
    /// Bytes of the unpacked layers.
    pub size: u64,
    /// Whether garbage collection retains the image, because no known registry has it.
    pub pinned: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Full name → digest of the manifest.
    pub references: BTreeMap<String, String>,
    /// Digest of the manifest → the image.
    pub images: BTreeMap<String, ImageRecord>,
}

/// An image in the index file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub id: String,
    pub config: ImageConfig,
    /// Names of the layers in `layers/`, the top layer last.
    pub layers: Vec<String>,
    pub size: u64,
    /// The fingerprint of a built-in image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Whether the image came from a registry and can be pulled again.
    #[serde(default)]
    pub pulled: bool,
    /// The allowed users of the image, by repository. Empty if the image was not pulled.
    #[serde(default, skip_serializing_if = "ImageUsers::is_empty")]
    pub access: ImageUsers,
}

impl Index {
    /// Reads the index file. A missing file is an empty store.
    pub fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the index file durably.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        durable_file::replace(path, &text, 0o644, Durability::Name)
    }

    /// Adds an image under a name. The access under this name may differ from the access under other names.
    pub fn insert(&mut self, reference: &str, digest: &str, mut record: ImageRecord) {
        let former = self.images.get(digest);
        let has_other_names = self.names_of(digest).iter().any(|name| name != reference);
        record.pulled &= former.is_none_or(|former| former.pulled || !has_other_names);
        if let Some(former) = former {
            let access = (reference, std::mem::take(&mut record.access));
            record.access = ImageUsers::joined(access, (&self.names_of(digest), &former.access));
        }
        self.images.insert(digest.to_owned(), record);
        self.references
            .insert(reference.to_owned(), digest.to_owned());
        self.drop_unnamed();
    }

    /// Removes a name, and an image without any other name. Returns whether the name existed.
    pub fn remove(&mut self, reference: &str) -> bool {
        let existed = self.references.remove(reference).is_some();
        self.drop_unnamed();
        existed
    }

    /// Removes an image with all its names.
    pub fn remove_image(&mut self, digest: &str) {
        self.references.retain(|_, named| named != digest);
        self.drop_unnamed();
    }

    fn drop_unnamed(&mut self) {
        let named: BTreeSet<&String> = self.references.values().collect();
        self.images.retain(|digest, _| named.contains(digest));
    }

    /// The image with a full name. A name with a digest selects the image with that digest.
    pub fn find(&self, reference: &str) -> Option<(&String, &ImageRecord)> {
        let by_digest = || {
            reference
                .rsplit_once('@')
                .map(|(_, digest)| digest.to_owned())
        };
        let digest = self.references.get(reference).cloned().or_else(by_digest)?;
        self.images.get_key_value(&digest)
    }

    /// The image with a name (completed as in Docker) or an id.
    pub fn look_up(
        &self,
        reference: &str,
    ) -> Result<Option<(&String, &ImageRecord)>, InvalidReference> {
        match self.find_id(reference) {
            Some(image) => Ok(Some(image)),
            None => Ok(self.find(&normalize(reference)?)),
        }
    }

    /// The image with an id, which is the digest of its configuration.
    pub fn find_id(&self, id: &str) -> Option<(&String, &ImageRecord)> {
        self.images.iter().find(|(_, record)| record.id == id)
    }

    /// Names of all layers that an image uses.
    pub fn layers(&self) -> BTreeSet<&str> {
        self.images
            .values()
            .flat_map(|record| &record.layers)
            .map(String::as_str)
            .collect()
    }

    /// The names of an image.
    pub fn names_of(&self, digest: &str) -> Vec<String> {
        let names = self.references.iter().filter(|(_, named)| *named == digest);
        names.map(|(reference, _)| reference.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(layer: &str) -> ImageRecord {
        ImageRecord {
            id: format!("id-{layer}"),
            config: ImageConfig::default(),
            layers: vec![layer.to_owned()],
            size: 1,
            fingerprint: None,
            pulled: false,
            access: ImageUsers::default(),
        }
    }

    #[test]
    fn a_name_moves_to_another_image() {
        let mut index = Index::default();
        index.insert("a:1", "sha256:x", record("x"));
        index.insert("b:1", "sha256:x", record("x"));
        index.insert("a:1", "sha256:y", record("y"));
        assert_eq!(
            index.find("a:1").map(|(digest, _)| digest.as_str()),
            Some("sha256:y")
        );
        assert_eq!(index.names_of("sha256:x"), ["b:1"]);
        assert!(index.remove("b:1"));
        assert_eq!(index.layers().into_iter().collect::<Vec<_>>(), ["y"]);
        assert!(!index.remove("b:1"));
    }

    #[test]
    fn what_came_by_hand_stays_pinned_under_its_name() {
        let pulled = || ImageRecord {
            pulled: true,
            ..record("x")
        };
        let mut index = Index::default();
        index.insert("by-hand:1", "sha256:x", record("x"));
        index.insert("registry/a:1", "sha256:x", pulled());
        assert!(!index.images["sha256:x"].pulled);
        index.remove("by-hand:1");
        index.insert("registry/a:1", "sha256:x", pulled());
        assert!(index.images["sha256:x"].pulled);
        index.insert("by-hand:1", "sha256:x", record("x"));
        assert!(!index.images["sha256:x"].pulled);
    }

    /// findings S20: all pods may use an imported image, even if the image was also pulled under another
    /// name with a secret.
    #[test]
    fn an_imported_name_is_for_everybody_and_a_pulled_one_is_not() {
        let private = "registry.example/private:1";
        let pulled = || ImageRecord {
            access: ImageUsers::pulled(private, Some(&crate::access::secret("team", "p"))),
            ..record("x")
        };
        let mut imported_last = Index::default();
        imported_last.insert(private, "sha256:x", pulled());
        imported_last.insert("docker.io/library/app:1", "sha256:x", record("x"));
        let mut pulled_last = Index::default();
        pulled_last.insert("docker.io/library/app:1", "sha256:x", record("x"));
        pulled_last.insert(private, "sha256:x", pulled());
        for index in [imported_last, pulled_last] {
            let access = &index.images["sha256:x"].access;
            assert!(access.allow("docker.io/library/app:1", &[]));
            assert!(!access.allow(private, &[]));
        }
    }

    #[test]
    fn the_file_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("images.json");
        assert_eq!(Index::read(&path).unwrap(), Index::default());
        let mut index = Index::default();
        index.insert("a:1", "sha256:x", record("x"));
        index.write(&path).unwrap();
        assert_eq!(Index::read(&path).unwrap(), index);
        assert_eq!(
            index
                .find("other@sha256:x")
                .map(|(digest, _)| digest.as_str()),
            Some("sha256:x")
        );
    }
}
