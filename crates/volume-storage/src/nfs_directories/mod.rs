//! Volumes that are directories of an NFS export.
//!
//! The export is mounted for each piece of work, attached nowhere: neither a killed process nor a server
//! that is away leaves a mount.

mod directory;

use std::path::PathBuf;
use std::time::Duration;

use host_kernel::call_with_timeout;
use host_kernel::nfs::{Detached, Export, MountError};

use crate::error::StorageError as Error;

/// Time limit of the work on the server; the next attempt continues.
const WORK_MAX: Duration = Duration::from_secs(120);

/// The mount is soft: an absent server fails the work, which is retried. With a hard mount, the work would wait for
/// ever.
const FAIL_SOON: &str = "soft,timeo=100,retrans=2";

/// One piece of work on an export; the paths are relative to its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportWork {
    Make(PathBuf),
    Remove(PathBuf),
    /// Renames a directory to its archived name. If the name exists, the name of the volume is appended.
    Archive {
        directory: PathBuf,
        volume: String,
    },
}

/// Mounts an export with these options, and works on the directory of a volume in the export.
///
/// # Errors
/// The server does not respond, or refuses.
pub async fn work_on_export(
    export: Export,
    mut mount_options: Vec<String>,
    volume: &str,
    work: ExportWork,
) -> Result<(), Error> {
    mount_options.push(FAIL_SOON.to_owned());
    let key = format!("provision {volume}");
    let export_text = export.to_string();
    let done = call_with_timeout(key, WORK_MAX, move || {
        let mounted = Detached::mount(&export, &mount_options, false)?;
        let root = mounted.root();
        let done = match &work {
            ExportWork::Make(path) => directory::make(root, path),
            ExportWork::Remove(path) => directory::remove(root, path),
            ExportWork::Archive { directory, volume } => {
                directory::archive(root, directory, volume)
            }
        };
        done.map_err(|source| MountError::Here {
            doing: format!("{export}, write to it"),
            source,
        })
    });
    match done.await {
        Ok(done) => done.map_err(|error| Error::Source(error.to_string())),
        Err(error) => Err(Error::Source(format!("{export_text}: {error}"))),
    }
}
