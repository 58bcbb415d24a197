//! The errors of the provisioner.

use std::path::PathBuf;

/// The error of creating or removing a volume.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionerError {
    /// The disk said no.
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
    /// The host's disk has too little space.
    #[error(
        "the disk is too full: {} more are needed, {} are free, of which {} are left to the host",
        amount(*missing),
        amount(*free),
        amount(*reserve)
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
    /// The API server said no, or was not there.
    #[error("write a volume or claim")]
    Api(#[from] api_client::Error),
    /// The task was cut off.
    #[error("work on a directory was cut off")]
    CutOff(#[from] host_kernel::Interrupted),
}

/// Bytes as users read them.
pub(crate) fn amount(bytes: u64) -> String {
    const MEBI: u64 = 1 << 20;
    match bytes / MEBI {
        0 => format!("{bytes} bytes"),
        whole if whole < 10 << 10 => format!("{whole} MiB"),
        whole => format!("{} GiB", whole >> 10),
    }
}
