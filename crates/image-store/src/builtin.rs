//! Built-in images, which contain this program.

use crate::access::ImageUsers;
use crate::digest::Digest;
use crate::disk_space::WriteSpace;
use crate::index::{Image, ImageRecord};
use crate::manifest::{ConfigBlob, ImageConfig, RootFs, architecture};
use crate::reference::normalize;
use crate::store::{ImageStore, StoreError, io_error};

/// The layer of built-in images.
#[derive(Clone, Debug)]
pub struct BuiltinLayer {
    diff_id: Digest,
    /// The size of the unpacked files, in bytes.
    size: u64,
}

impl ImageStore {
    /// Adds a built-in image: one layer (an uncompressed tar archive) and the configuration of its
    /// containers.
    ///
    /// # Errors
    /// The name or the archive is malformed, or the disk fails.
    pub fn put_builtin(
        &self,
        reference: &str,
        layer: &[u8],
        config: &ImageConfig,
        fingerprint: &str,
    ) -> Result<Image, StoreError> {
        let layer = self.put_builtin_layer(layer)?;
        self.put_builtin_of(reference, &layer, config, fingerprint)
    }

    /// Adds the layer of built-in images, an uncompressed tar archive.
    ///
    /// # Errors
    /// The archive is malformed, or the disk fails.
    pub fn put_builtin_layer(&self, layer: &[u8]) -> Result<BuiltinLayer, StoreError> {
        let diff_id = Digest::sha256(layer);
        // The program cannot start without this layer, so no minimum of disk space stays free.
        let space = WriteSpace::all(&self.directory);
        let (name, below) = (diff_id.hex(), Some([].as_slice()));
        let size = match self.layer_size(name) {
            Some(size) => size,
            None => self.unpack_layer(layer, name, below, space, |_| Ok(()))?,
        };
        Ok(BuiltinLayer { diff_id, size })
    }

    /// Adds a built-in image with this layer.
    ///
    /// # Errors
    /// The name is malformed, or the disk fails.
    pub fn put_builtin_of(
        &self,
        reference: &str,
        layer: &BuiltinLayer,
        config: &ImageConfig,
        fingerprint: &str,
    ) -> Result<Image, StoreError> {
        let reference = normalize(reference)?;
        let BuiltinLayer { diff_id, size } = layer;
        let blob = ConfigBlob {
            architecture: architecture().to_owned(),
            os: "linux".to_owned(),
            config: config.clone(),
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: vec![diff_id.to_string()],
            },
        };
        let bytes = serde_json::to_vec(&blob).map_err(|error| {
            io_error("encode the configuration of", &self.directory)(error.into())
        })?;
        let id = Digest::sha256(&bytes);
        let record = ImageRecord {
            id: id.to_string(),
            config: config.clone(),
            layers: vec![diff_id.hex().to_owned()],
            size: *size,
            fingerprint: Some(fingerprint.to_owned()),
            pulled: false,
            access: ImageUsers::default(),
        };
        self.insert(&reference, id.as_str(), record)
    }
}
