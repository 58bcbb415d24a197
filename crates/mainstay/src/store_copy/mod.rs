//! `mainstay store`: the objects of a cluster from a data directory into etcd and back, and from either into a
//! file and back.
//!
//! Keys, values and revisions stay the same, byte for byte. At each moment of a copy at most one of the
//! two places can be used by a server.

mod backup;
mod into_directory;
mod into_etcd;

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use control_plane::backup_contents::records;
use control_plane::{EtcdAddress, EtcdSettings, EtcdUrl};
use etcd_store::copy::{CopyError, EtcdCopy, LivePairs};
use mvcc_store::{KeyValue, Revision};
use sha2::{Digest, Sha256};

/// Arguments of `mainstay store`.
#[derive(clap::Args, Debug)]
pub struct StoreCommandArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Move the objects of a stopped server into etcd, which several servers share, or back
    #[command(after_help = AFTER_HELP)]
    Copy(Box<CopyArguments>),
    /// Write the objects of a cluster in etcd, or of a data directory, to a file; servers may be running
    #[command(after_help = backup::AFTER_BACKUP_HELP)]
    Backup(Box<backup::BackupArguments>),
    /// Restore such a file into an empty etcd, or an empty data directory
    #[command(after_help = backup::AFTER_RESTORE_HELP)]
    Restore(Box<backup::BackupArguments>),
}

/// Arguments of `mainstay store copy`.
#[derive(clap::Args, Debug)]
struct CopyArguments {
    /// Data directory of a stopped server, or etcd://HOST:PORT,… whose servers are stopped
    #[arg(long, value_name = "DIR|URL")]
    from: Place,
    /// An etcd without keys below the prefix; an empty data directory, or that of one of the servers
    #[arg(long, value_name = "DIR|URL")]
    to: Place,
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

const AFTER_HELP: &str = "\
Objects keep their UIDs and resource versions; events are left out. The certificate authority and
the key of service account tokens are copied too, so kubeconfigs and nodes stay valid. The objects
are used at the new place only: the former one is kept, and refused by servers. An interrupted
copy is refused by servers, and is started again with the same command.

Examples:
  mainstay store copy --from /var/lib/mainstay --to etcd://192.0.2.11,192.0.2.12 \\
    --etcd-cafile ca.pem --etcd-certfile client.pem --etcd-keyfile client.key
  mainstay store copy --from etcd+http://127.0.0.1:2379 --to /srv/mainstay \\
    --server-token-file server-token";

/// A place of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Directory(PathBuf),
    Etcd(EtcdUrl),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.contains("://") {
            true => text.parse().map(Self::Etcd),
            false if text.is_empty() => Err("a directory or etcd://HOST:PORT,… is needed".into()),
            false => Ok(Self::Directory(text.into())),
        }
    }
}

/// Runs `mainstay store copy`, `backup` or `restore`.
pub async fn run(arguments: StoreCommandArguments) -> Result<()> {
    match arguments.action {
        Action::Copy(arguments) => copy(&arguments).await,
        Action::Backup(arguments) => backup::backup(*arguments).await,
        Action::Restore(arguments) => backup::restore(*arguments).await,
    }
}

async fn copy(arguments: &CopyArguments) -> Result<()> {
    let token = arguments.server_token_file.clone();
    let address = |url: EtcdUrl| -> Result<EtcdAddress> {
        let settings = EtcdSettings {
            store: Some(url),
            prefix: arguments.etcd_prefix.clone(),
            cafile: arguments.etcd_cafile.clone(),
            certfile: arguments.etcd_certfile.clone(),
            keyfile: arguments.etcd_keyfile.clone(),
        };
        settings.address()?.context("no address of etcd")
    };
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).with_context(|| format!("use {}", path.display()))
    };
    match (&arguments.from, &arguments.to) {
        (Place::Directory(data), Place::Etcd(url)) => {
            into_etcd::run(&absolute(data)?, &address(url.clone())?, token).await
        }
        (Place::Etcd(url), Place::Directory(data)) => {
            into_directory::run(&address(url.clone())?, &absolute(data)?, token).await
        }
        (Place::Directory(_), Place::Directory(_)) => bail!(
            "one of --from and --to has to be etcd://HOST:PORT,…: a data directory is moved as it is, or \
             with `mainstay backup` and `mainstay restore`"
        ),
        (Place::Etcd(_), Place::Etcd(_)) => bail!(
            "one of --from and --to has to be a data directory: for another etcd, use `etcdctl snapshot`"
        ),
    }
}

async fn connect(address: &EtcdAddress) -> Result<EtcdCopy> {
    let connected = EtcdCopy::connect(&address.options()).await;
    connected.map_err(|error| control_plane::store::refusal(address, error))
}

/// Adds the address to an error.
fn at(address: &EtcdAddress) -> impl Fn(CopyError) -> anyhow::Error {
    let shown = format!("copy {} below {}", address.url, address.prefix);
    move |error| anyhow::Error::new(error).context(shown.clone())
}

/// The instance whose objects these are.
fn instance(pairs: &LivePairs) -> Option<String> {
    let record = pairs.live.get(data_directory::INSTANCE_RECORD)?;
    String::from_utf8(record.value.to_vec()).ok()
}

/// The objects of a cluster in the order of their keys, with the records that servers of an etcd share.
struct Contents {
    instance: String,
    pairs: Vec<KeyValue>,
    /// New resource versions are above this one.
    revision: Revision,
}

fn contents(pairs: &LivePairs, instance: String) -> Contents {
    Contents {
        instance,
        pairs: pairs.kept().cloned().collect(),
        revision: pairs.revision,
    }
}

/// The number of pairs and the SHA-256 of all of them, in the form of backups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Checksum {
    count: usize,
    sha256: String,
}

impl Checksum {
    /// Of pairs in the order of their keys.
    fn of<'p>(pairs: impl Iterator<Item = &'p KeyValue>) -> Result<Self> {
        let (mut digest, mut count, mut frame) = (Sha256::new(), 0, Vec::new());
        for pair in pairs {
            frame.clear();
            records::write(&mut frame, pair).context("encode an object")?;
            digest.update(&frame);
            count += 1;
        }
        let digits = digest.finalize();
        let digits = digits.iter().map(|byte| format!("{byte:02x}"));
        Ok(Self {
            count,
            sha256: digits.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mvcc_store::Omittable;

    use super::*;

    #[test]
    fn a_place_is_a_directory_or_an_etcd() {
        let place = |text: &str| text.parse::<Place>();
        let directory = Place::Directory("/var/lib/mainstay".into());
        assert_eq!(place("/var/lib/mainstay"), Ok(directory));
        assert!(matches!(place("etcd://a,b"), Ok(Place::Etcd(_))));
        assert!(matches!(place("etcd+http://a:1"), Ok(Place::Etcd(_))));
        assert!(place("https://a").is_err() && place("").is_err());
    }

    #[test]
    fn any_difference_changes_the_checksum() {
        let pair = KeyValue {
            key: b"/registry/a"[..].into(),
            value: Bytes::from_static(b"{}"),
            create_revision: Revision(2),
            mod_revision: Revision(3),
            lease: None,
            omittable: Omittable::UNKNOWN,
        };
        let of = |pairs: &[&KeyValue]| Checksum::of(pairs.iter().copied()).unwrap();
        let all = of(&[&pair]);
        assert_eq!(all.count, 1);
        let newer = KeyValue {
            mod_revision: Revision(4),
            ..pair.clone()
        };
        let other = KeyValue {
            value: Bytes::from_static(b"{ }"),
            ..pair.clone()
        };
        for different in [of(&[]), of(&[&newer]), of(&[&other]), of(&[&pair, &pair])] {
            assert_ne!(different, all);
        }
    }
}
