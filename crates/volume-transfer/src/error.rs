use std::error::Error;
use std::io;
use std::path::PathBuf;

use btrfs_send_stream::ReceiveError;
use file_archive::ArchiveError;
use host_kernel::Interrupted;

/// The reason why a copy ends early.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Stream(#[from] ReceiveError),
    #[error("{step}")]
    Io {
        /// The failed step, with the path of the file.
        step: String,
        source: io::Error,
    },
    #[error("the path of an entry leads out of the volume")]
    Outside,
    #[error("{}: not in a directory of the volume", .0.display())]
    NoDirectory(PathBuf),
    #[error("entries of type {0:?} are not supported")]
    EntryType(tar::EntryType),
    #[error("the copy has no directory")]
    Empty,
    #[error("the sender failed")]
    SenderPanicked,
    #[error("the copy was cut off: {0}")]
    CutOff(String),
}

impl From<Interrupted> for TransferError {
    fn from(error: Interrupted) -> Self {
        Self::CutOff(error.0.to_string())
    }
}

impl TransferError {
    /// Adds the failed step to an error of the kernel.
    pub fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }

    /// Whether one of the causes is an error of the kernel with one of these kinds.
    pub fn has_kind(&self, kinds: &[io::ErrorKind]) -> bool {
        let mut cause: Option<&dyn Error> = Some(self);
        while let Some(error) = cause {
            let kernel = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if kernel.is_some_and(|kind| kinds.contains(&kind)) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}
