//! The errors of the storage of volumes.

use std::error::Error;
use std::iter;
use std::path::PathBuf;

/// The reason why a step on a volume has failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk reported an error.
    #[error("{doing} {}", path.display())]
    Directory {
        /// The failed operation.
        doing: &'static str,
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A name or path that no volume of this node can have.
    #[error("{path:?} is not a volume's directory under {}", under.display())]
    OutOfBounds {
        /// The name or path.
        path: String,
        /// The directory of the volumes.
        under: PathBuf,
    },
    /// The claim requests a feature that a directory does not have.
    #[error("{0}")]
    Unsupported(String),
    /// The host's disk has too few free bytes.
    #[error(
        "the disk is too full: {} more are needed, {} are free, of which {} are left to the host",
        readable_bytes(*missing),
        readable_bytes(*free),
        readable_bytes(*reserve)
    )]
    DiskFull {
        /// Bytes that are missing.
        missing: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are not touched.
        reserve: u64,
    },
    /// The file system has no snapshots or clones.
    #[error(
        "the file system of {} cannot make snapshots and clones; volumes of the class local-cow can",
        under.display()
    )]
    NoCopies {
        /// The directory of the volumes.
        under: PathBuf,
    },
    /// The source of the volume is unavailable now.
    #[error("{0}")]
    Source(String),
    /// The task was cancelled.
    #[error("work on a directory was cut off")]
    CutOff(#[from] host_kernel::Interrupted),
}

/// An error with its causes, on one line.
pub(crate) fn with_causes(error: &StorageError) -> String {
    let causes = iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A number of bytes as users read it: `512 MiB`.
pub fn readable_bytes(bytes: u64) -> String {
    const MEBI: u64 = 1 << 20;
    match bytes / MEBI {
        0 => format!("{bytes} bytes"),
        whole if whole < 10 << 10 => format!("{whole} MiB"),
        whole => format!("{} GiB", whole >> 10),
    }
}
