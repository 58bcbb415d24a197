//! Images from files: OCI layouts (directories or archives) and what `docker save` writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::compression;
use crate::digest::{Digest, Hashing};
use crate::disk::{Disk, LayerError, Record, Temporary};
use crate::error::{ImportError, PullError, StoreError};
use crate::limits::DOCUMENT_BYTES_MAX;
use crate::manifest::{self, Descriptor, Document};
use crate::pull::{check_platform, wrong_platform};
use crate::reference::Reference;
use crate::registry::chain;
use crate::unpack::UnpackError;

/// Where names of images are written in a layout's index, the complete one first.
const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// Links in an archive from one name to another are followed this far.
const LINKS_MAX: usize = 4;

/// An archive's or directory's files by name.
struct Source {
    path: PathBuf,
    form: Form,
}

enum Form {
    Directory,
    Archive {
        file: File,
        /// Start and length of each file.
        files: BTreeMap<String, (u64, u64)>,
        links: BTreeMap<String, String>,
        /// Holds the unpacked archive when the given one is compressed.
        _unpacked: Option<Temporary>,
    },
}

pub(crate) fn import(disk: &Disk, path: &Path) -> Result<Vec<String>, ImportError> {
    let _lock = disk.lock_shared()?;
    let source = Source::open(disk, path)?;
    let mut names = Vec::new();
    if let Some(bytes) = source.document("index.json")? {
        import_layout(disk, &source, &bytes, &mut names)?;
    } else if let Some(bytes) = source.document("manifest.json")? {
        import_docker(disk, &source, &bytes, &mut names)?;
    } else {
        return Err(source.not_an_archive("it has neither index.json nor manifest.json"));
    }
    match names.is_empty() {
        true => Err(source.not_an_archive("it contains no image")),
        false => Ok(names),
    }
}

fn import_layout(
    disk: &Disk,
    source: &Source,
    index: &[u8],
    names: &mut Vec<String>,
) -> Result<(), ImportError> {
    let wrong = |reason: String| source.not_an_archive(&reason);
    let Document::Index(entries) = manifest::parse(index).map_err(wrong)? else {
        return Err(source.not_an_archive("index.json is no index"));
    };
    let only = entries.len() == 1;
    for entry in &entries {
        let annotation = NAME_ANNOTATIONS
            .iter()
            .find_map(|key| entry.annotations.get(*key));
        let mut references: Vec<Reference> = Vec::new();
        // A bare tag (`latest`) is no name.
        let complete = annotation.filter(|name| name.contains([':', '/', '.']));
        if let Some(Ok(reference)) = complete.map(|name| name.parse()) {
            references.push(reference);
        } else if only {
            // `docker save` writes such archives too and has the names in its own file.
            references = docker_names(source)?;
        }
        add_layout_image(disk, source, entry, &references, names)?;
    }
    Ok(())
}

fn add_layout_image(
    disk: &Disk,
    source: &Source,
    entry: &Descriptor,
    references: &[Reference],
    names: &mut Vec<String>,
) -> Result<(), ImportError> {
    let image = references
        .first()
        .map_or_else(|| entry.digest.to_string(), ToString::to_string);
    let bad = |reason: String| PullError::BadImage {
        image: image.clone(),
        reason,
    };
    let blob = |digest: &Digest| {
        let bytes = source.document(&blob_name(digest))?;
        let bytes = bytes.ok_or_else(|| bad(format!("blob {digest} is missing")))?;
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(ImportError::Image(PullError::DigestMismatch {
                image: image.clone(),
                what: "blob".to_owned(),
                expected: digest.to_string(),
                found: found.to_string(),
            })),
        }
    };
    let mut bytes = blob(&entry.digest)?;
    let top = Digest::of(&bytes);
    let mut document = manifest::parse(&bytes).map_err(&bad)?;
    if let Document::Index(manifests) = &document {
        let chosen = manifest::choose(manifests, manifest::this_architecture())
            .map_err(|available| wrong_platform(&image, available))?;
        bytes = blob(&chosen.digest)?;
        document = manifest::parse(&bytes).map_err(&bad)?;
    }
    let Document::Manifest(manifest) = document else {
        return Err(bad("its index contains an index".to_owned()).into());
    };
    let config = blob(&manifest.config.digest)?;
    let layers: Vec<String> = manifest
        .layers
        .iter()
        .map(|layer| blob_name(&layer.digest))
        .collect();
    let parts = Parts {
        image: &image,
        config: &config,
        layers: &layers,
    };
    let (id, diff_ids, size) = add_parts(disk, source, &parts)?;
    let own = disk.put_blob(&bytes)?;
    for reference in references {
        let mut digests = vec![format!("{}@{top}", reference.name())];
        if own != top {
            digests.push(format!("{}@{own}", reference.name()));
        }
        let (id, layers) = (id.clone(), diff_ids.clone());
        let manifest = Some(own.clone());
        let reference = reference.to_string();
        let record = Record {
            reference,
            id,
            manifest,
            digests,
            layers,
            size,
        };
        disk.write_record(&record)?;
        names.push(record.reference);
    }
    if references.is_empty() {
        let (reference, layers) = (id.to_string(), diff_ids);
        let (manifest, digests) = (Some(own), Vec::new());
        disk.write_record(&Record {
            reference,
            id,
            manifest,
            digests,
            layers,
            size,
        })?;
        names.push(image_id(&config));
    }
    Ok(())
}

fn image_id(config: &[u8]) -> String {
    Digest::of(config).to_string()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

fn docker_images(source: &Source, bytes: &[u8]) -> Result<Vec<DockerImage>, ImportError> {
    serde_json::from_slice(bytes)
        .map_err(|error| source.not_an_archive(&format!("malformed manifest.json: {error}")))
}

fn docker_names(source: &Source) -> Result<Vec<Reference>, ImportError> {
    let Some(bytes) = source.document("manifest.json")? else {
        return Ok(Vec::new());
    };
    let images = docker_images(source, &bytes)?;
    let tags = images
        .iter()
        .flat_map(|image| image.repo_tags.iter().flatten());
    Ok(tags.filter_map(|tag| tag.parse().ok()).collect())
}

fn import_docker(
    disk: &Disk,
    source: &Source,
    bytes: &[u8],
    names: &mut Vec<String>,
) -> Result<(), ImportError> {
    for image in docker_images(source, bytes)? {
        let tags = image.repo_tags.unwrap_or_default();
        let name = tags
            .first()
            .cloned()
            .unwrap_or_else(|| image.config.clone());
        let config = source
            .document(&image.config)?
            .ok_or_else(|| PullError::BadImage {
                image: name.clone(),
                reason: format!("its configuration {} is missing", image.config),
            })?;
        let parts = Parts {
            image: &name,
            config: &config,
            layers: &image.layers,
        };
        let (id, layers, size) = add_parts(disk, source, &parts)?;
        let mut references = Vec::new();
        for tag in &tags {
            let reference: Reference = tag.parse().map_err(PullError::from)?;
            references.push(reference.to_string());
        }
        if references.is_empty() {
            references.push(id.to_string());
        }
        for reference in references {
            let (id, layers) = (id.clone(), layers.clone());
            let record = Record {
                reference,
                id,
                manifest: None,
                digests: Vec::new(),
                layers,
                size,
            };
            disk.write_record(&record)?;
            names.push(record.reference);
        }
    }
    Ok(())
}

struct Parts<'a> {
    image: &'a str,
    config: &'a [u8],
    /// Names of the layers' files, topmost last.
    layers: &'a [String],
}

/// Unpacks an image's layers and keeps its configuration.
fn add_parts(
    disk: &Disk,
    source: &Source,
    parts: &Parts<'_>,
) -> Result<(Digest, Vec<Digest>, u64), ImportError> {
    let bad = |reason: String| PullError::BadImage {
        image: parts.image.to_owned(),
        reason,
    };
    let configuration =
        manifest::parse_configuration(parts.config, parts.layers.len()).map_err(bad)?;
    check_platform(&configuration.os, &configuration.architecture)
        .map_err(|available| wrong_platform(parts.image, available))?;
    let mut size = 0;
    for (name, diff_id) in parts.layers.iter().zip(configuration.diff_ids()) {
        size += match disk.layer_bytes(diff_id) {
            Some(bytes) => bytes,
            None => {
                let file = source.open_file(name)?;
                let file = file.ok_or_else(|| bad(format!("its layer {name} is missing")))?;
                disk.add_layer(diff_id, file)
                    .map_err(|error| layer_error(parts.image, error))?
            }
        };
    }
    let id = disk.put_blob(parts.config)?;
    Ok((id, configuration.diff_ids().to_vec(), size))
}

/// Says whose fault a layer's failure is.
pub(crate) fn layer_error(image: &str, error: LayerError) -> PullError {
    let image = image.to_owned();
    match error {
        LayerError::Store(source) => PullError::Store { image, source },
        LayerError::Mismatch { expected, found } => PullError::DigestMismatch {
            image,
            what: "unpacked layer".to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        },
        LayerError::Unpack(UnpackError::Write { path, source }) => PullError::Store {
            image,
            source: StoreError::io("unpack", path)(source),
        },
        LayerError::Unpack(error) => PullError::BadImage {
            image,
            reason: format!("unpack a layer: {}", chain(&error)),
        },
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Source {
    fn open(disk: &Disk, path: &Path) -> Result<Source, ImportError> {
        let read = |source| ImportError::Read {
            path: path.to_owned(),
            source,
        };
        let path_buf = path.to_owned();
        if std::fs::metadata(path).map_err(read)?.is_dir() {
            return Ok(Source {
                path: path_buf,
                form: Form::Directory,
            });
        }
        let mut file = File::open(path).map_err(read)?;
        let mut unpacked = None;
        if is_compressed(&mut file).map_err(read)? {
            let temporary = disk.temporary();
            let mut plain = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(temporary.path())
                .map_err(StoreError::io("make", temporary.path()))?;
            let mut reader = compression::decompressed(file).map_err(read)?;
            io::copy(&mut reader, &mut plain).map_err(read)?;
            drop(reader);
            file = plain;
            unpacked = Some(temporary);
        }
        let (files, links) = table_of_contents(&mut file).map_err(|error| {
            let path = path.to_owned();
            ImportError::NotAnArchive {
                path,
                reason: error.to_string(),
            }
        })?;
        let form = Form::Archive {
            file,
            files,
            links,
            _unpacked: unpacked,
        };
        Ok(Source {
            path: path_buf,
            form,
        })
    }

    fn not_an_archive(&self, reason: &str) -> ImportError {
        ImportError::NotAnArchive {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Reads a small file; `None` when there is none.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(file) = self.open_file(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let mut hashing = Hashing::new(file.take(DOCUMENT_BYTES_MAX + 1));
        hashing
            .read_to_end(&mut bytes)
            .map_err(|source| ImportError::Read {
                path: self.path.join(name),
                source,
            })?;
        match hashing.bytes > DOCUMENT_BYTES_MAX {
            true => Err(self.not_an_archive(&format!("{name} is too large"))),
            false => Ok(Some(bytes)),
        }
    }

    fn open_file(&self, name: &str) -> Result<Option<Box<dyn Read>>, ImportError> {
        let failed = |source| ImportError::Read {
            path: self.path.join(name),
            source,
        };
        match &self.form {
            Form::Directory => {
                // Names come from the layout's own files: none may lead out of it.
                let plain = Path::new(name)
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_)));
                if !plain {
                    return Err(self.not_an_archive(&format!("{name:?} leads out of it")));
                }
                match File::open(self.path.join(name)) {
                    Ok(file) => Ok(Some(Box::new(file))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(failed(error)),
                }
            }
            Form::Archive {
                file, files, links, ..
            } => {
                let mut name = name.to_owned();
                for _ in 0..LINKS_MAX {
                    match links.get(&name) {
                        Some(target) => name = target.clone(),
                        None => break,
                    }
                }
                let Some((start, length)) = files.get(&name) else {
                    return Ok(None);
                };
                let mut file = file.try_clone().map_err(failed)?;
                file.seek(SeekFrom::Start(*start)).map_err(failed)?;
                Ok(Some(Box::new(io::BufReader::new(file).take(*length))))
            }
        }
    }
}

fn is_compressed(file: &mut File) -> io::Result<bool> {
    let mut magic = Vec::new();
    file.take(4).read_to_end(&mut magic)?;
    file.rewind()?;
    Ok(magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd])
}

type Contents = (BTreeMap<String, (u64, u64)>, BTreeMap<String, String>);

fn table_of_contents(file: &mut File) -> io::Result<Contents> {
    let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
    let mut archive = tar::Archive::new(&mut *file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = tidy(&String::from_utf8_lossy(&entry.path_bytes()), "");
        match entry.header().entry_type() {
            kind if kind.is_file() => {
                files.insert(name, (entry.raw_file_position(), entry.size()));
            }
            kind if kind.is_symlink() || kind.is_hard_link() => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target).into_owned();
                let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                let base = if kind.is_symlink() { dir } else { "" };
                links.insert(name.clone(), tidy(&target, base));
            }
            _ => {}
        }
    }
    Ok((files, links))
}

/// A path inside the archive without `.`, `..` and doubled slashes.
fn tidy(path: &str, base: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
