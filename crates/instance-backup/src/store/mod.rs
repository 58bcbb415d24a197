//! Copies of the objects of a cluster: between a data directory and etcd, and between either and a file.
//!
//! Keys, values and revisions are copied byte for byte. At each moment of a copy, servers can use at most one
//! of source and destination.

mod file;
mod into_directory;
mod into_etcd;

use std::path::PathBuf;
use std::str::FromStr;

use command_output::failed_step::{FailedStep, StepContext};
use control_plane::{EtcdAddress, EtcdSettings, EtcdUrl, TokenFile};
use etcd_store::copy::{CopyError, EtcdCopy, LivePairs};
use mvcc_store::{KeyValue, Revision};

use crate::error::{BackupError, Result};

pub use file::{back_up, restore};

/// The source or the destination of a copy, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSource {
    /// A data directory.
    Directory(PathBuf),
    /// The members of an etcd cluster.
    Etcd(EtcdUrl),
}

/// The reason why a text names no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStoreSource {
    #[error("a directory or etcd://HOST:PORT,… is needed")]
    Empty,
    /// The message about the malformed URL.
    #[error("{0}")]
    Url(String),
}

impl FromStr for StoreSource {
    type Err = InvalidStoreSource;

    fn from_str(text: &str) -> Result<Self, InvalidStoreSource> {
        match text.contains("://") {
            true => match text.parse::<EtcdUrl>() {
                Ok(url) => Ok(Self::Etcd(url)),
                Err(error) => Err(InvalidStoreSource::Url(error.to_string())),
            },
            false if text.is_empty() => Err(InvalidStoreSource::Empty),
            false => Ok(Self::Directory(text.into())),
        }
    }
}

/// A store with objects, or an empty store for them.
#[derive(Clone, Debug)]
pub enum StoreLocation {
    /// A cluster in etcd.
    Etcd(EtcdAddress),
    /// A data directory, and the secret that encrypts the keys of its cluster.
    Directory {
        /// Absolute.
        data: PathBuf,
        token: TokenFile,
    },
}

/// A copy between a data directory and etcd.
#[derive(Clone, Debug)]
pub struct StoreCopy {
    pub from: StoreSource,
    pub to: StoreSource,
    /// The prefix and the certificates of the etcd; its URL is that of `from` or `to`.
    pub etcd: EtcdSettings,
    /// The file of the server token, if the user named one.
    pub token: Option<PathBuf>,
}

impl StoreCopy {
    /// Copies the objects of a stopped server.
    ///
    /// # Errors
    /// Source and destination are both directories or both etcd, a server uses one of them, the destination
    /// has other objects, or an error of the disk or of etcd.
    pub async fn run(self) -> Result<()> {
        let address = |url: &EtcdUrl| -> Result<EtcdAddress> {
            let mut settings = self.etcd.clone();
            settings.store = Some(url.clone());
            settings.address()?.ok_or(BackupError::NoAddress)
        };
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).with_context(|| format!("use {}", path.display()))
        };
        let token = self.token.clone();
        match (&self.from, &self.to) {
            (StoreSource::Directory(data), StoreSource::Etcd(url)) => {
                into_etcd::run(&absolute(data)?, &address(url)?, token).await
            }
            (StoreSource::Etcd(url), StoreSource::Directory(data)) => {
                into_directory::run(&address(url)?, &absolute(data)?, token).await
            }
            (StoreSource::Directory(_), StoreSource::Directory(_)) => {
                Err(BackupError::TwoDirectories)
            }
            (StoreSource::Etcd(_), StoreSource::Etcd(_)) => Err(BackupError::TwoEtcds),
        }
    }
}

async fn connect(address: &EtcdAddress) -> Result<EtcdCopy> {
    let connected = EtcdCopy::connect(&address.options()).await;
    Ok(connected.map_err(|error| control_plane::store::refusal(address, error))?)
}

/// Adds the address to an error.
fn at(address: &EtcdAddress) -> impl Fn(CopyError) -> BackupError {
    let step = format!("copy {} below {}", address.url, address.prefix);
    move |error| FailedStep::new(&step, error).into()
}

/// The error for an etcd without a cluster below its prefix.
fn no_cluster(address: &EtcdAddress) -> BackupError {
    BackupError::NoCluster {
        url: address.url.clone(),
        prefix: address.prefix.clone(),
    }
}

/// The id of the instance whose objects these are.
fn instance(pairs: &LivePairs) -> Option<String> {
    let record = pairs.live.get(data_directory::INSTANCE_RECORD)?;
    String::from_utf8(record.value.to_vec()).ok()
}

/// The objects of a cluster in the order of their keys, with the records that servers of an etcd share.
struct Contents {
    instance: String,
    pairs: Vec<KeyValue>,
    /// The highest resource version; new versions are above it.
    revision: Revision,
}

fn contents(pairs: &LivePairs, instance: String) -> Contents {
    Contents {
        instance,
        pairs: pairs.without_lease().cloned().collect(),
        revision: pairs.revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_or_an_etcd() {
        let parse = |text: &str| text.parse::<StoreSource>();
        let directory = StoreSource::Directory("/var/lib/mainstay".into());
        assert_eq!(parse("/var/lib/mainstay"), Ok(directory));
        assert!(matches!(parse("etcd://a,b"), Ok(StoreSource::Etcd(_))));
        assert!(matches!(parse("etcd+http://a:1"), Ok(StoreSource::Etcd(_))));
        assert!(parse("https://a").is_err() && parse("").is_err());
    }
}
