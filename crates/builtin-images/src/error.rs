use std::io;

use host_kernel::Interrupted;
use image_store::StoreError;

/// The reason why the built-in images are not in the store.
#[derive(Debug, thiserror::Error)]
pub enum BuiltinImageError {
    /// A file of this program cannot be read or packed.
    #[error("{step}")]
    Io {
        /// The failed step.
        step: String,
        source: io::Error,
    },
    /// The files do not fit into memory.
    #[error("the image is too large")]
    TooLarge,
    /// A mapped library has no absolute path.
    #[error("make the path absolute")]
    Relative,
    /// The image store refuses the image.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The thread that packs the files ended early.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl BuiltinImageError {
    /// Adds the failed step to an error of the kernel.
    pub(crate) fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }
}
