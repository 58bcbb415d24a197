//! The images that are part of the program.

use anyhow::Result;
use image_store::{ImageConfig, ImageStore};

use crate::builtin;

/// Makes the built-in images of this program, unless they are there already.
pub fn put(images: &ImageStore) -> Result<()> {
    let fingerprint = builtin::fingerprint()?;
    let mut missing = Vec::new();
    for image in builtin::IMAGES {
        if !images.has_builtin(image.reference, &fingerprint)? {
            missing.push(image);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let layer = images.put_builtin_layer(&builtin::layer(&builtin::files()?)?)?;
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    for image in missing {
        let config = ImageConfig {
            entrypoint: owned(image.entrypoint),
            cmd: owned(image.cmd),
            env: vec!["PATH=/:/bin".to_owned()],
            ..ImageConfig::default()
        };
        images.put_builtin_of(image.reference, &layer, &config, &fingerprint)?;
    }
    Ok(())
}
