//! `mainstay store`: copies the objects of a cluster between a data directory, etcd and a file.

use std::path::PathBuf;

use anyhow::{Context, Result};
use control_plane::{EtcdSettings, TokenFile};
use instance_backup::store::{StoreCopy, StoreLocation, StoreSource, back_up, restore};

use crate::settings::DataDirectory;

/// Arguments of `mainstay store`.
#[derive(clap::Args, Debug)]
pub struct StoreCommandArguments {
    #[command(subcommand)]
    action: StoreAction,
}

#[derive(clap::Subcommand, Debug)]
enum StoreAction {
    /// Move the objects of a stopped server into etcd, which several servers share, or back
    #[command(after_help = AFTER_COPY_HELP)]
    Copy(Box<CopyArguments>),
    /// Write the objects of a cluster in etcd, or of a data directory, to a file; servers may be running
    #[command(after_help = AFTER_BACKUP_HELP)]
    Backup(Box<StoreFileArguments>),
    /// Restore such a file into an empty etcd, or an empty data directory
    #[command(after_help = AFTER_RESTORE_HELP)]
    Restore(Box<StoreFileArguments>),
}

/// Arguments of `mainstay store copy`.
#[derive(clap::Args, Debug)]
struct CopyArguments {
    /// Data directory of a stopped server, or etcd://HOST:PORT,… whose servers are stopped
    #[arg(long, value_name = "DIR|URL")]
    from: StoreSource,
    /// An etcd without keys below the prefix; an empty data directory, or that of one of the servers
    #[arg(long, value_name = "DIR|URL")]
    to: StoreSource,
    /// Prefix of all keys in etcd [default: /mainstay]
    #[arg(long, value_name = "PREFIX")]
    etcd_prefix: Option<String>,
    /// Certificates of the authority of etcd's members, PEM [default: those of the machine]
    #[arg(long, value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd, PEM
    #[arg(long, value_name = "FILE")]
    etcd_certfile: Option<PathBuf>,
    /// Key of this certificate, PEM
    #[arg(long, value_name = "FILE")]
    etcd_keyfile: Option<PathBuf>,
    /// Secret that encrypts the cluster's keys in etcd [default: server-token in the data directory]
    #[arg(long, value_name = "FILE")]
    server_token_file: Option<PathBuf>,
}

const AFTER_COPY_HELP: &str = "\
Objects keep their UIDs and resource versions; events are left out. The certificate authority and
the key of service account tokens are copied too, so kubeconfigs and nodes stay valid. The objects
are used at the new place only: the former one is kept, and refused by servers. An interrupted
copy is refused by servers, and is started again with the same command.

Examples:
  mainstay store copy --from /var/lib/mainstay --to etcd://192.0.2.11,192.0.2.12 \\
    --etcd-cafile ca.pem --etcd-certfile client.pem --etcd-keyfile client.key
  mainstay store copy --from etcd+http://127.0.0.1:2379 --to /srv/mainstay \\
    --server-token-file server-token";

/// Arguments of `mainstay store backup` and `mainstay store restore`.
#[derive(clap::Args, Debug)]
struct StoreFileArguments {
    /// Backup file; it contains secrets and is readable by its owner only
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    etcd: EtcdSettings,
    #[command(flatten)]
    data: DataDirectory,
    /// Secret that encrypts the cluster's keys in the file [default: server-token in the data directory]
    #[arg(long, value_name = "FILE")]
    server_token_file: Option<PathBuf>,
}

const AFTER_BACKUP_HELP: &str = "\
The file contains all objects of one resource version, and the keys of the cluster, encrypted
under the server token. Keep a copy of the token: a restore into a data directory, and each new
server, needs it. It does not contain volumes and events; `mainstay backup` writes those of one
machine. Running servers continue to run.

Examples:
  mainstay store backup /backups/monday.objects --store etcd://192.0.2.11,192.0.2.12 \\
    --etcd-cafile ca.pem --etcd-certfile client.pem --etcd-keyfile client.key
  mainstay store backup /backups/monday.objects --data-dir /var/lib/mainstay";

const AFTER_RESTORE_HELP: &str = "\
The destination is an etcd without keys below the prefix, or an empty data directory. Objects keep
their UIDs and resource versions; new resource versions are one thousand million above those of the
backup. The whole file is checked before anything is written, and the objects are read back.

Examples:
  mainstay store restore /backups/monday.objects --store etcd://192.0.2.11,192.0.2.12 \\
    --etcd-cafile ca.pem --etcd-certfile client.pem --etcd-keyfile client.key
  mainstay store restore /backups/monday.objects --data-dir /srv/mainstay \\
    --server-token-file server-token";

/// Runs `mainstay store copy`, `backup` or `restore`.
pub async fn run(arguments: StoreCommandArguments) -> Result<()> {
    match arguments.action {
        StoreAction::Copy(arguments) => Ok(StoreCopy::from(*arguments).run().await?),
        StoreAction::Backup(arguments) => {
            Ok(back_up(&arguments.location()?, &arguments.file).await?)
        }
        StoreAction::Restore(arguments) => {
            Ok(restore(&arguments.location()?, &arguments.file).await?)
        }
    }
}

impl From<CopyArguments> for StoreCopy {
    fn from(arguments: CopyArguments) -> Self {
        Self {
            from: arguments.from,
            to: arguments.to,
            etcd: EtcdSettings {
                store: None,
                prefix: arguments.etcd_prefix,
                cafile: arguments.etcd_cafile,
                certfile: arguments.etcd_certfile,
                keyfile: arguments.etcd_keyfile,
            },
            token: arguments.server_token_file,
        }
    }
}

impl StoreFileArguments {
    fn location(&self) -> Result<StoreLocation> {
        if let Some(address) = self.etcd.clone().address()? {
            return Ok(StoreLocation::Etcd(address));
        }
        let data = self.data.path()?;
        let data = std::path::absolute(&data).with_context(|| format!("use {}", data.display()))?;
        Ok(StoreLocation::Directory {
            token: TokenFile::choose(self.server_token_file.clone(), &data),
            data,
        })
    }
}
