//! The layers of the store. A layer is unpacked once for all images; or once for one position in an image,
//! if it refers to files of the layers below.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::digest::{Digest, HashingReader};
use crate::disk_space::{LimitedReader, WriteSpace};
use crate::layer_sync::sync_layer;
use crate::stall_detector::Observer;
use crate::store::{ImageStore, StoreError, io_error};
use crate::unpack::{Below, Context, LooseEnds, unpack};

/// The name of the file in a layer's directory that lists the dependencies on the layers below. Layers of
/// earlier versions have no such file; they are unpacked again when another image uses them.
const LOOSE_ENDS: &str = "loose-ends";

/// The state of a layer at its position in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The layer is in the store.
    Present { name: String, size: u64 },
    /// The layer must be unpacked above the layers below it.
    Missing { name: String },
}

/// The name of a layer that is unpacked independently, or above the layers `below`.
pub(crate) fn layer_name(below: Option<&[String]>, diff_id: &Digest) -> String {
    match below {
        None => diff_id.hex().to_owned(),
        Some(below) => name_above(below, diff_id),
    }
}

fn name_above(below: &[String], diff_id: &Digest) -> String {
    let all = format!("{} {diff_id}", below.join(" "));
    Digest::sha256(all.as_bytes()).hex().to_owned()
}

impl ImageStore {
    /// Unpacks a layer unless it is in the store: independently, or above the named layers. Returns the
    /// bytes of the unpacked layer.
    pub(crate) fn add_layer(
        &self,
        archive: impl Read,
        diff_id: &Digest,
        below: Option<&[String]>,
        space: WriteSpace,
        observer: Observer,
    ) -> Result<u64, StoreError> {
        let name = layer_name(below, diff_id);
        if let Some(size) = self.layer_size(&name) {
            return Ok(size);
        }
        let length_max = space.archive_bytes_max();
        let length_max = length_max.map_err(io_error("inspect the disk of", self.directory()))?;
        let reader = HashingReader::new(LimitedReader::new(archive, length_max, observer));
        self.unpack_layer(reader, &name, below, space, |reader| {
            let actual = reader
                .finish()
                .map_err(io_error("read the layer of", self.directory()))?;
            if actual == *diff_id {
                return Ok(());
            }
            let (expected, actual) = (diff_id.to_string(), actual.to_string());
            Err(StoreError::DigestMismatch { expected, actual })
        })
    }

    /// Unpacks a layer, and moves it to its name if its digest is correct. Returns the bytes of the
    /// unpacked layer.
    pub(crate) fn unpack_layer<R: Read>(
        &self,
        mut archive: R,
        name: &str,
        below: Option<&[String]>,
        space: WriteSpace,
        verified: impl FnOnce(R) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let scratch = self.scratch()?;
        let root = scratch.path().join("fs");
        fs::create_dir(&root).map_err(io_error("make", &root))?;
        let context = match below {
            None => Context::unknown(),
            Some(below) => Context::Available(self.below(below)),
        };
        let unpacked = unpack(&mut archive, &root, space, context)?;
        verified(archive)?;
        for (file, text) in [
            (LOOSE_ENDS, unpacked.loose_ends.encode()),
            ("size", unpacked.bytes.to_string().into_bytes()),
        ] {
            let path = scratch.path().join(file);
            File::create(&path)
                .and_then(|mut file| file.write_all(&text))
                .map_err(io_error("write", &path))?;
        }
        self.store_layer(scratch.path().to_owned(), name)?;
        Ok(unpacked.bytes)
    }

    /// Moves an unpacked layer to its name, durably.
    fn store_layer(&self, scratch: PathBuf, name: &str) -> Result<(), StoreError> {
        sync_layer(&scratch).map_err(io_error("sync", &scratch))?;
        let layer = self.layer(name);
        if layer.exists() && !self.has_layer(name) {
            // The existing layer is incomplete, because a user has deleted a part of it.
            let replaced = self.scratch()?;
            fs::rename(&layer, replaced.path()).map_err(io_error("move away", &layer))?;
        }
        match fs::rename(&scratch, &layer) {
            Ok(()) => {}
            // Another process was faster, with an equal result; or an earlier version of the program, which
            // did not detect loose ends.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                let (from, to) = (scratch.join(LOOSE_ENDS), layer.join(LOOSE_ENDS));
                return fs::rename(&from, &to).map_err(io_error("rename to", &to));
            }
            Err(error) => return Err(io_error("rename to", &layer)(error)),
        }
        let layers = self.directory().join("layers");
        File::open(&layers)
            .and_then(|file| file.sync_all())
            .map_err(io_error("sync", &layers))
    }

    /// The size of a layer; `None` unless the layer and its loose ends exist.
    pub(crate) fn layer_size(&self, name: &str) -> Option<u64> {
        let layer = self.layer(name);
        if !self.has_layer(name) || !layer.join(LOOSE_ENDS).is_file() {
            return None;
        }
        fs::read_to_string(layer.join("size"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Which of an image's layers are in the store, the bottom layer first: unpacked independently, or for
    /// their positions in this image.
    pub(crate) fn present(&self, diff_ids: &[Digest]) -> Vec<bool> {
        let mut names = Vec::new();
        let present = diff_ids.iter().enumerate().map(|(index, diff_id)| {
            let above = name_above(&names, diff_id);
            let is_above = self.layer_size(&above).is_some();
            let alone = diff_id.hex().to_owned();
            // An image may contain a layer twice.
            let is_repeated = diff_ids[..index].contains(diff_id);
            let is_present = is_above || is_repeated || self.layer_size(&alone).is_some();
            names.push(if is_above { above } else { alone });
            is_present
        });
        present.collect()
    }

    /// The layer directly above the named layers. The independently unpacked layer is used if none of its
    /// loose ends refers to a file of the layers below.
    pub(crate) fn settle(&self, diff_id: &Digest, below: &[String]) -> Result<Settled, StoreError> {
        let above = name_above(below, diff_id);
        if let Some(size) = self.layer_size(&above) {
            return Ok(Settled::Present { name: above, size });
        }
        let name = diff_id.hex();
        let missing = Settled::Missing { name: above };
        let Some(size) = self.layer_size(name) else {
            return Ok(missing);
        };
        let file = self.layer(name).join(LOOSE_ENDS);
        let text = fs::read(&file).map_err(io_error("read", &file))?;
        let fits = LooseEnds::decode(&text).fit(&self.below(below));
        match fits.map_err(|errno| io_error("read the layers below", &file)(errno.into()))? {
            true => Ok(Settled::Present {
                name: name.to_owned(),
                size,
            }),
            false => Ok(missing),
        }
    }

    fn below(&self, names: &[String]) -> Below {
        Below::new(
            names
                .iter()
                .map(|name| self.layer(name).join("fs"))
                .collect(),
        )
    }
}
