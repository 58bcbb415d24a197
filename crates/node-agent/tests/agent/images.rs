//! Images for one test.

use std::path::Path;

use image_store::ImageConfig;

use crate::harness::{Harness, layer};

/// The layer of all tests with additional files, which are readable and executable.
pub fn layer_with(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = layer();
    // The two empty blocks at the end are removed, so that more entries can be added.
    archive.truncate(archive.len() - 1024);
    let mut archive = tar::Builder::new(archive);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        let name = Path::new(name);
        let inside = name.strip_prefix("/").unwrap_or(name);
        archive
            .append_data(&mut header, inside, bytes.as_slice())
            .unwrap();
    }
    archive.into_inner().unwrap()
}

/// Adds an image to the node: its layer and its configuration.
pub fn put(harness: &Harness, image: &str, layer: &[u8], config: ImageConfig) {
    let fingerprint = format!("{config:?}");
    let config = ImageConfig {
        env: vec!["PATH=/bin".to_owned()],
        ..config
    };
    harness
        .images
        .put_builtin(image, layer, &config, &fingerprint)
        .unwrap();
}
