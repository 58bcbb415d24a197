use std::io;
use std::path::PathBuf;

/// The reason why an archive is not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// An error of the disk, of the output, or of a file to archive.
    #[error("{step}")]
    Io {
        /// The failed step, with the path of the file.
        step: String,
        source: io::Error,
    },
    /// The archive was truncated or changed.
    #[error("{text}")]
    Incomplete {
        /// The message, with the name of the archive.
        text: String,
        /// The error of the decoder; `None` if a checksum differs, or if the checksums are missing.
        source: Option<io::Error>,
    },
    /// The format of the checksums is newer than this program.
    #[error("{0}, or written by a newer mainstay")]
    Newer(String),
    /// The path of the archive is a directory.
    #[error("{} is a directory, and not a backup", .0.display())]
    Directory(PathBuf),
}

impl ArchiveError {
    /// Adds the failed step to an error of the kernel.
    pub(crate) fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }

    /// An error of a decoder.
    pub(crate) fn incomplete(text: &str) -> impl Fn(io::Error) -> Self + Copy {
        move |error| Self::Incomplete {
            text: text.to_owned(),
            source: Some(error),
        }
    }

    /// A difference of checksums, or their absence.
    pub(crate) fn of_checksums(text: &str) -> Self {
        Self::Incomplete {
            text: text.to_owned(),
            source: None,
        }
    }
}
