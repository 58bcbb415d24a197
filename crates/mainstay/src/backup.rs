//! `mainstay backup` and `mainstay restore`: the data of an instance in one file.

use std::path::{Path, PathBuf};

use anyhow::Result;
use instance_backup::BackupRequest;

use crate::settings::DataDirectory;

/// Arguments of `mainstay backup`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct BackupArguments {
    /// Backup file; it contains secrets and is readable by its owner only
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Include volumes of the class local: by snapshots if their file system has them, else file by
    /// file, which needs stopped pods or --live
    #[arg(long)]
    volumes: bool,
    /// Copy files while pods may write them: each file is consistent, but files are from different
    /// moments, so a database may not start from them. Changed files are listed
    #[arg(long, requires = "volumes")]
    live: bool,
    /// Include volume snapshots, each in full
    #[arg(long)]
    snapshots: bool,
    #[command(flatten)]
    data: DataDirectory,
}

const AFTER_HELP: &str = "\
The file contains all objects of one revision, the certificate authority, the key of service
account tokens, registries.yaml, seccomp profiles, the configuration files of the server (with
the keys of encrypted objects), and the volumes of the class local-cow, each as after a loss of
power. It does not contain images, logs, emptyDirs and events. Volumes of the class local and
volume snapshots are included on request; otherwise the output lists them. A running server
continues to run.

Examples:
  mainstay backup /backups/monday.tar.gz
  mainstay backup --volumes --live --snapshots /backups/all.tar.gz
  mainstay restore /backups/monday.tar.gz --data-dir /var/lib/mainstay";

/// Writes a backup of the instance in the data directory, whether or not it runs.
pub async fn run(arguments: BackupArguments) -> Result<()> {
    let request = BackupRequest {
        data: arguments.data.path()?,
        configuration: arguments.data.configuration_path().map(Path::to_owned),
        file: arguments.file,
        volumes: arguments.volumes,
        live: arguments.live,
        snapshots: arguments.snapshots,
    };
    Ok(instance_backup::back_up(&request).await?)
}

/// Arguments of `mainstay restore`.
#[derive(clap::Args, Debug)]
pub struct RestoreArguments {
    /// Backup file of `mainstay backup`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// --data-dir is the destination, on any path and host: an empty or a missing directory
    #[command(flatten)]
    data: DataDirectory,
}

/// Restores a backup into an empty directory.
pub async fn restore(arguments: &RestoreArguments) -> Result<()> {
    Ok(instance_backup::restore(&arguments.file, &arguments.data.path()?).await?)
}
