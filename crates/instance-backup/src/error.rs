use std::error::Error;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;

use certificates::CertificateError;
use command_output::failed_step::FailedStep;
use control_plane::EtcdUrl;
use file_archive::ArchiveError;
use host_kernel::Interrupted;
use mvcc_store::Revision;

use crate::checksum::Checksum;

type Cause = Box<dyn Error + Send + Sync>;

/// The reason why a backup, a restoration or a copy of a store failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Step(#[from] FailedStep),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// An error of another part of the program, with its causes.
    #[error(transparent)]
    Other(Cause),

    #[error(
        "{} is not empty: choose an empty directory, or one that does not exist",
        .0.display()
    )]
    NotEmpty(PathBuf),
    #[error(
        "{} is not marked as a data directory of mainstay (it has no readable file named `{}`)",
        .0.display(), data_directory::MARKER_FILE
    )]
    NotMarked(PathBuf),
    #[error(
        "the objects of the cluster in {} are in etcd: save them with `etcdctl snapshot save`",
        .0.display()
    )]
    ObjectsInEtcd(PathBuf),
    #[error(
        "the objects of the cluster in {} are in etcd already: a backup takes them from there, with --store \
         etcd://HOST:PORT,…",
        .0.display()
    )]
    AlreadyInEtcd(PathBuf),
    #[error("{} belongs to `mainstay node`: the objects are with its server", .0.display())]
    OfNode(PathBuf),
    #[error("{} has no store", .0.display())]
    NoStore(PathBuf),
    #[error("{} has a store already: a copy needs a directory without one", .0.display())]
    HasStore(PathBuf),
    /// The message about the running server.
    #[error("{0}")]
    ServerRuns(String),
    /// The message about the running server.
    #[error("{0}. Stop it first: a store that is in use is not copied")]
    StoreInUse(String),
    #[error(
        "the keys of the cluster are missing: {} has no {}. Is a disk not mounted? Put the directory back, or \
         take certificates/ out of an earlier backup",
        .certificates.display(), .missing.join(", ")
    )]
    NoKeys {
        certificates: PathBuf,
        /// The names of the missing files.
        missing: Vec<&'static str>,
    },
    #[error(
        "--volumes would copy files while pods write them, because the file system of the volumes has no \
         snapshots. Stop the instance with its pods first (`mainstay down`), or say --live: then each file is \
         copied as it is at one moment, and a database may not start from that. Without --volumes, volumes of \
         the class local-cow are in the backup"
    )]
    LiveVolumes,
    #[error("the volume snapshot {0} was deleted while it was copied; start again")]
    SnapshotDeleted(String),

    #[error("{} is not a backup", .0.display())]
    NoBackup(PathBuf),
    #[error(
        "{} is no backup of `mainstay store backup`; those of `mainstay backup` are restored with `mainstay \
         restore`",
        .0.display()
    )]
    NoStoreBackup(PathBuf),
    #[error("{} was written by a newer mainstay; restore it with that", .0.display())]
    Newer(PathBuf),
    /// The header of a backup has no number of objects.
    #[error("read the header")]
    NoObjectCount,
    #[error("{} has no place in a data directory", .0.display())]
    Misplaced(PathBuf),
    #[error("the file's path has no directory")]
    NoParent,
    #[error("{} is not in a directory that was restored", .0.display())]
    OutsideOfRestored(PathBuf),
    #[error("an object is missing")]
    ObjectMissing,
    #[error(
        "{} has {} objects with the checksum {}, and its header says {} with {}",
        .file.display(), .actual.count, .actual.sha256, .stated.count, .stated.sha256
    )]
    BackupDiffers {
        file: PathBuf,
        actual: Checksum,
        stated: Checksum,
    },

    #[error(
        "one of --from and --to has to be etcd://HOST:PORT,…: a data directory is moved as it is, or with \
         `mainstay backup` and `mainstay restore`"
    )]
    TwoDirectories,
    #[error(
        "one of --from and --to has to be a data directory: for another etcd, use `etcdctl snapshot`"
    )]
    TwoEtcds,
    #[error("no address of etcd")]
    NoAddress,
    #[error("the cluster in {url} was moved to {to}, where it continues")]
    Moved { url: EtcdUrl, to: String },
    #[error("{url} has no cluster below {prefix}: is it another --etcd-prefix?")]
    NoCluster { url: EtcdUrl, prefix: String },
    #[error(
        "etcd has the cluster {in_etcd}, the data directory belongs to {in_directory}: choose another one"
    )]
    OtherCluster {
        in_etcd: String,
        in_directory: String,
    },
    #[error("a server uses {0}: stop all of them first")]
    EtcdInUse(EtcdUrl),
    #[error(
        "{url} has an interrupted copy of the cluster {instance} below {prefix}, and this is {local_instance}: \
         {}",
        CHOOSE_PREFIX
    )]
    InterruptedCopy {
        url: EtcdUrl,
        prefix: String,
        instance: String,
        local_instance: String,
    },
    #[error(
        "{url} is not empty: it has {keys} keys below {prefix}; {}",
        CHOOSE_PREFIX
    )]
    EtcdNotEmpty {
        url: EtcdUrl,
        prefix: String,
        keys: u64,
    },
    #[error(
        "{url} has the former objects of a cluster below {prefix}, which was moved to {to}: {}",
        CHOOSE_PREFIX
    )]
    FormerObjects {
        url: EtcdUrl,
        prefix: String,
        to: String,
    },
    #[error(
        "etcd has {} objects with the checksum {}, and not {} with {}: start the command again",
        .actual.count, .actual.sha256, .expected.count, .expected.sha256
    )]
    EtcdDiffers {
        actual: Checksum,
        expected: Checksum,
    },
    #[error("the keys of the cluster are missing")]
    KeysMissing,
    #[error("the ranges of the cluster are missing")]
    RangesMissing,
    #[error("the copy is at revision {}, and not {}", .actual.0, .expected.0)]
    OtherRevision {
        actual: Revision,
        expected: Revision,
    },
    #[error(
        "{} has {} objects with the checksum {}, and not {} with {}",
        .store.display(), .actual.count, .actual.sha256, .expected.count, .expected.sha256
    )]
    CopyDiffers {
        store: PathBuf,
        actual: Checksum,
        expected: Checksum,
    },
    #[error("choose a name for the former store")]
    NoFreeName,
}

/// The advice for an etcd whose prefix is in use.
const CHOOSE_PREFIX: &str =
    "choose another --etcd-prefix, or delete them with `etcdctl del --prefix`";

pub(crate) type Result<T, E = BackupError> = std::result::Result<T, E>;

impl BackupError {
    /// Adds the failed step to an error.
    pub(crate) fn at(self, step: impl Display) -> Self {
        // Callers examine the causes for the error of the kernel, so that error is a cause itself.
        let source = match self {
            Self::Other(source) => source,
            error => Box::new(error),
        };
        FailedStep::new(step, source).into()
    }
}

impl From<anyhow::Error> for BackupError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error.reallocate_into_boxed_dyn_error_without_backtrace())
    }
}

impl From<io::Error> for BackupError {
    fn from(error: io::Error) -> Self {
        Self::Other(Box::new(error))
    }
}

impl From<Interrupted> for BackupError {
    fn from(error: Interrupted) -> Self {
        Self::Other(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use command_output::failed_step::StepContext;

    use super::*;

    fn denied() -> io::Error {
        io::Error::from(io::ErrorKind::PermissionDenied)
    }

    /// `mainstay` prints all causes, and gives advice about a denied permission.
    #[test]
    fn errors_of_the_kernel_stay_causes() {
        let write = || "write /backup".to_owned();
        let errors = [
            Err::<(), _>(denied())
                .with_context(write)
                .unwrap_err()
                .into(),
            BackupError::from(denied()).at(write()),
            BackupError::from(anyhow::Error::new(denied())).at(write()),
            BackupError::from(anyhow::Error::new(denied()).context(write())),
        ];
        for error in errors {
            let error = anyhow::Error::new(error);
            assert_eq!(format!("{error:#}"), format!("{}: {}", write(), denied()));
            assert!(error.chain().any(|cause| cause.is::<io::Error>()));
        }
    }
}
