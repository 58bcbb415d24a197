//! The images that are part of the program, and the program of `mainstay/hello`.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod error;
pub mod hello;
mod image;

use image_store::{ImageConfig, ImageStore};

pub use error::BuiltinImageError;

/// Builds the built-in images of this program, unless the store has them.
///
/// # Errors
/// The files of this program cannot be read, or the error of the image store.
pub fn put(images: &ImageStore) -> Result<(), BuiltinImageError> {
    let fingerprint = image::fingerprint()?;
    let mut missing = Vec::new();
    for image in image::IMAGES {
        if !images.has_builtin(image.reference, &fingerprint)? {
            missing.push(image);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let layer = images.put_builtin_layer(&image::layer(&image::files()?)?)?;
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
