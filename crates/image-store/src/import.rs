//! Import of images from files: an OCI layout as a directory or archive, or the output of `docker
//! save`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::compression::decompressed;
use crate::digest::{Digest, HashingReader};
use crate::disk_space::{KeepFree, SpaceError, WriteSpace};
use crate::index::ImageRecord;
use crate::layers::Settled;
use crate::manifest::{
    Descriptor, Manifest, NAME_ANNOTATIONS, architecture, configuration, document,
    for_this_platform, parse,
};
use crate::reference::{InvalidReference, normalize};
use crate::stall_detector::Observer;
use crate::store::{ImageStore, StoreError};

/// Maximum nesting of indexes.
const INDEXES_DEEP: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file contains no usable image.
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    /// An image has a malformed name.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The image cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An entry of `manifest.json` in the format of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Imports all images for this machine from a file or directory. Returns their full names.
    ///
    /// # Errors
    /// The file is not an image archive, or has no image for this machine.
    pub fn import(&self, path: &Path) -> Result<Vec<String>, ImportError> {
        let facts = fs::metadata(path).map_err(read_error(path))?;
        if facts.is_dir() {
            return Import {
                store: self,
                origin: path,
                root: path,
            }
            .run();
        }
        let scratch = self.scratch()?;
        let mut space = WriteSpace::new(self.directory(), KeepFree::default());
        extract(path, scratch.path(), &mut space)?;
        Import {
            store: self,
            origin: path,
            root: scratch.path(),
        }
        .run()
    }
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> ImportError {
    let path = path.to_owned();
    move |source| ImportError::Read {
        path: path.clone(),
        source,
    }
}

/// Extracts the regular files of an archive. The file system's links are not used: links of `docker save`
/// are resolved to files of the archive.
fn extract(path: &Path, target: &Path, space: &mut WriteSpace) -> Result<(), ImportError> {
    let file = File::open(path).map_err(read_error(path))?;
    let plain = decompressed(file).map_err(read_error(path))?;
    let mut archive = tar::Archive::new(plain);
    let malformed = |reason: String| ImportError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let not_tar = |error: io::Error| malformed(format!("not an image archive: {error}"));
    let refused = |error: SpaceError| match error {
        SpaceError::OutOfSpace(error) => ImportError::Store(error.into()),
        SpaceError::Io(error) => not_tar(error),
    };
    for entry in archive.entries().map_err(not_tar)? {
        let mut entry = entry.map_err(not_tar)?;
        let name = entry.path().map_err(not_tar)?.into_owned();
        space.reserve(0, 1).map_err(refused)?;
        let Some(destination) = below(target, &name) else {
            return Err(malformed(format!("unsafe path {name:?}")));
        };
        if let Some(directory) = destination.parent() {
            fs::create_dir_all(directory).map_err(read_error(path))?;
        }
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let mut file = File::create(&destination).map_err(read_error(&destination))?;
                space.copy(&mut entry, &mut file).map_err(refused)?;
            }
            tar::EntryType::Symlink => {
                let link = entry
                    .link_name()
                    .map_err(not_tar)?
                    .unwrap_or_default()
                    .into_owned();
                let source = name.parent().unwrap_or(Path::new("")).join(link);
                if let Some(source) = lexically(&source).and_then(|source| below(target, &source))
                    && source.is_file()
                {
                    fs::hard_link(&source, &destination).map_err(read_error(&destination))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Resolves `..` in a path without reading the disk; `None` if the path leaves its root.
fn lexically(path: &Path) -> Option<PathBuf> {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !resolved.pop() {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(resolved)
}

/// `root/name`; `None` if the name leaves `root`.
fn below(root: &Path, name: &Path) -> Option<PathBuf> {
    let plain = name
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    plain.then(|| root.join(name))
}

/// Images in the files of a directory.
struct Import<'a> {
    store: &'a ImageStore,
    origin: &'a Path,
    root: &'a Path,
}

impl Import<'_> {
    fn run(&self) -> Result<Vec<String>, ImportError> {
        if self.root.join("index.json").is_file() {
            return self.layout();
        }
        if self.root.join("manifest.json").is_file() {
            return self.saved();
        }
        Err(self.malformed("neither index.json (OCI) nor manifest.json (docker save) in it"))
    }

    fn layout(&self) -> Result<Vec<String>, ImportError> {
        let bytes = self.read(Path::new("index.json"))?;
        let index =
            document(&*bytes).map_err(|error| self.malformed(format!("index.json: {error}")))?;
        let mut names = Vec::new();
        let mut other_platforms = Vec::new();
        for entry in index.manifests.unwrap_or_default() {
            let mut annotations = NAME_ANNOTATIONS.iter();
            let name = annotations.find_map(|name| entry.annotations.get(*name));
            let Some(name) = name else {
                return Err(self.malformed(
                    "an image without a name (annotation org.opencontainers.image.ref.name)",
                ));
            };
            let name = normalize(name)?;
            match self.layout_image(&entry, &name, INDEXES_DEEP)? {
                Ok(()) => names.push(name),
                Err(platforms) => other_platforms.extend(platforms),
            }
        }
        if names.is_empty() {
            let platforms = other_platforms.join(", ");
            let architecture = architecture();
            return Err(self.malformed(format!(
                "no image for linux/{architecture}, only for [{platforms}]"
            )));
        }
        Ok(names)
    }

    /// Imports the target of a descriptor. The inner error lists the available platforms.
    fn layout_image(
        &self,
        entry: &Descriptor,
        name: &str,
        depth: usize,
    ) -> Result<Result<(), Vec<String>>, ImportError> {
        let Some(depth) = depth.checked_sub(1) else {
            let reason = format!("an index behind more than {INDEXES_DEEP} others");
            return Err(self.malformed(reason));
        };
        let bytes = self.blob(&entry.digest)?;
        match parse(&*bytes).map_err(|error| self.malformed(error.to_string()))? {
            Manifest::Index(entries) => match for_this_platform(&entries) {
                Ok(entry) if *entry != Descriptor::default() => {
                    self.layout_image(entry, name, depth)
                }
                Ok(_) => Err(self.malformed("an empty entry in an index")),
                Err(platforms) => Ok(Err(platforms)),
            },
            Manifest::Image { config, layers } => {
                let files: Vec<PathBuf> = layers
                    .iter()
                    .map(|layer| blob_path(&layer.digest))
                    .collect();
                let config = self.blob(config.digest.as_str())?;
                let digest = Digest::sha256(&bytes);
                for (file, layer) in files.iter().zip(&layers) {
                    self.check(file, &layer.digest)?;
                }
                self.store_image(name, &digest, &config, &files)
            }
        }
    }

    fn saved(&self) -> Result<Vec<String>, ImportError> {
        let bytes = self.read(Path::new("manifest.json"))?;
        let images: Vec<Saved> = serde_json::from_slice(&bytes)
            .map_err(|error| self.malformed(format!("malformed manifest.json: {error}")))?;
        let mut names = Vec::new();
        for image in images {
            let config = self.read(Path::new(&image.config))?;
            let digest = Digest::sha256(&config);
            let files: Vec<PathBuf> = image.layers.iter().map(PathBuf::from).collect();
            for tag in image.repo_tags.unwrap_or_default() {
                let name = normalize(&tag)?;
                self.store_image(&name, &digest, &config, &files)?
                    .map_err(|platforms| {
                        self.malformed(format!("only for {}", platforms.join(", ")))
                    })?;
                names.push(name);
            }
        }
        if names.is_empty() {
            return Err(self.malformed("no image with a name in it"));
        }
        Ok(names)
    }

    fn store_image(
        &self,
        name: &str,
        digest: &Digest,
        config: &[u8],
        files: &[PathBuf],
    ) -> Result<Result<(), Vec<String>>, ImportError> {
        let blob = configuration(config).map_err(|error| self.malformed(error.to_string()))?;
        if blob.os != "linux" || blob.architecture != architecture() {
            return Ok(Err(vec![format!("{}/{}", blob.os, blob.architecture)]));
        }
        if blob.rootfs.diff_ids.len() != files.len() {
            return Err(self.malformed("configuration and manifest disagree on the layers"));
        }
        let mut layers: Vec<String> = Vec::new();
        let mut alone = BTreeSet::new();
        let mut size = 0;
        for (file, diff_id) in files.iter().zip(&blob.rootfs.diff_ids) {
            let diff_id = Digest::parse(diff_id)
                .ok_or_else(|| self.malformed(format!("malformed layer digest {diff_id:?}")))?;
            let add = |below: Option<&[String]>| {
                let archive = self
                    .open(file)
                    .and_then(|file| decompressed(file).map_err(read_error(self.origin)))?;
                let space = WriteSpace::new(self.store.directory(), KeepFree::default());
                let observer = Observer::default();
                Ok::<_, ImportError>(
                    self.store
                        .add_layer(archive, &diff_id, below, space, observer)?,
                )
            };
            let mut settled = self.store.settle(&diff_id, &layers)?;
            if matches!(settled, Settled::Missing { .. }) {
                add(None)?;
                settled = self.store.settle(&diff_id, &layers)?;
            }
            let (name, bytes) = match settled {
                Settled::Present { name, size } => (name, size),
                Settled::Missing { name } => {
                    alone.insert(diff_id.hex().to_owned());
                    (name, add(Some(layers.as_slice()))?)
                }
            };
            layers.push(name);
            size += bytes;
        }
        let id = Digest::sha256(config).to_string();
        let record = ImageRecord {
            id,
            config: blob.config,
            layers,
            size,
            fingerprint: None,
            pulled: false,
            access: Default::default(),
        };
        self.store.insert(name, digest.as_str(), record)?;
        self.store.drop_unused(&alone)?;
        Ok(Ok(()))
    }

    fn blob(&self, digest: &str) -> Result<Vec<u8>, ImportError> {
        let digest = Digest::parse(digest)
            .ok_or_else(|| self.malformed(format!("malformed digest {digest:?}")))?;
        let bytes = self.read(&blob_path(&digest))?;
        if Digest::sha256(&bytes) != digest {
            return Err(self.malformed(format!("a blob that does not match its digest {digest}")));
        }
        Ok(bytes)
    }

    fn check(&self, file: &Path, digest: &Digest) -> Result<(), ImportError> {
        let actual = HashingReader::new(self.open(file)?)
            .finish()
            .map_err(read_error(self.origin))?;
        if actual != *digest {
            return Err(self.malformed(format!("a blob that does not match its digest {digest}")));
        }
        Ok(())
    }

    fn read(&self, name: &Path) -> Result<Vec<u8>, ImportError> {
        let mut bytes = Vec::new();
        self.open(name)?
            .read_to_end(&mut bytes)
            .map_err(read_error(self.origin))?;
        Ok(bytes)
    }

    fn open(&self, name: &Path) -> Result<File, ImportError> {
        let path = below(self.root, name)
            .ok_or_else(|| self.malformed(format!("unsafe path {name:?}")))?;
        File::open(&path).map_err(|error| self.malformed(format!("{}: {error}", name.display())))
    }

    fn malformed(&self, reason: impl Into<String>) -> ImportError {
        ImportError::Malformed {
            path: self.origin.to_owned(),
            reason: reason.into(),
        }
    }
}

fn blob_path(digest: &Digest) -> PathBuf {
    PathBuf::from("blobs/sha256").join(digest.hex())
}
