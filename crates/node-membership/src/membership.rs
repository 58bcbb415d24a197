//! The membership of this machine in a cluster, as stored in the data directory.
//!
//! ```text
//! node/lock             locked with flock by a running node agent
//! node/membership.json  the servers, their authority, the node's name, its pod range and the cluster's
//! ranges
//! node/client.pem       the client certificate and its key, in one file so that they always match
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use command_output::failed_step::{FailedStep, StepContext};
use control_plane::cluster_ranges::ClusterRanges;
use data_directory::process;
use host_kernel::durable_file::{self, Durability};
use http::Uri;
use jiff::Timestamp;
use node_identity::{Identity, Validity};
use pod_network::Cidr;
use serde::{Deserialize, Serialize};

use crate::error::{MembershipError, Result};
use crate::joining::Registered;

/// The format that is written.
const FORMAT: u32 = 1;
/// The first line of a private key in PEM.
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    format: u32,
    pub node_name: String,
    /// URLs of the servers that the user named when the node joined, or later.
    pub servers: Vec<String>,
    /// URLs of the servers, as published by the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<String>,
    /// The certificate authority of the cluster, PEM.
    pub ca_pem: String,
    /// The range of this node's pods; `None` until it is registered.
    pub pod_cidr: Option<Cidr>,
    /// The range of the pods of all nodes, as last received from a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_cidr: Option<Cidr>,
    /// The range of Services, as last received from a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_cidr: Option<Cidr>,
}

impl Membership {
    /// The membership of a node that has just joined.
    pub fn new(node_name: String, servers: Vec<String>, ca_pem: String) -> Self {
        Self {
            format: FORMAT,
            node_name,
            servers,
            learned: Vec::new(),
            ca_pem,
            pod_cidr: None,
            cluster_cidr: None,
            service_cidr: None,
        }
    }

    /// The last received ranges, for a start while no server responds.
    pub fn registered(&self) -> Option<Registered> {
        Some(Registered {
            pods: self.pod_cidr?,
            cluster: ClusterRanges {
                pods: self.cluster_cidr?,
                services: self.service_cidr?,
            },
        })
    }

    /// Copies the ranges of the former membership of this machine.
    pub fn copy_ranges(&mut self, former: &Self) {
        self.pod_cidr = former.pod_cidr;
        self.cluster_cidr = former.cluster_cidr;
        self.service_cidr = former.service_cidr;
    }

    /// Stores the ranges that a server sent.
    pub fn set_registered(&mut self, ranges: Registered) {
        self.pod_cidr = Some(ranges.pods);
        self.cluster_cidr = Some(ranges.cluster.pods);
        self.service_cidr = Some(ranges.cluster.services);
    }

    /// The stored membership; `None` if the machine has not joined.
    ///
    /// # Errors
    /// The file is damaged or cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let Some(text) = text(&directory.join("membership.json"))? else {
            return Ok(None);
        };
        let parsed = serde_json::from_str(&text);
        let membership: Self = parsed.map_err(|error| damaged(directory, Some(error)))?;
        if membership.format > FORMAT {
            return Err(MembershipError::Newer(directory.to_owned()));
        }
        Ok(Some(membership))
    }

    /// The URLs of all servers; those that the user named are first.
    ///
    /// # Errors
    /// A URL is malformed.
    pub fn urls(&self) -> Result<Vec<Uri>> {
        let all = self.servers.iter().chain(&self.learned);
        all.map(|url| -> Result<Uri> {
            let parsed = url.parse();
            Ok(parsed.with_context(|| format!("parse the server's URL {url}"))?)
        })
        .collect()
    }
}

/// The directory with the membership, locked by this process.
pub struct MembershipStore {
    directory: PathBuf,
    _lock: File,
}

impl MembershipStore {
    /// Opens and locks the directory in a data directory.
    ///
    /// # Errors
    /// Another node agent runs on the data directory, or the disk fails.
    pub fn open(data: &Path) -> Result<Self> {
        let directory = data.join("node");
        let failed = || format!("open {}", directory.display());
        let created = DirBuilder::new().mode(0o700).create(&directory);
        match created {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(FailedStep::new(failed(), error).into());
            }
            _ => {}
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .custom_flags(durable_file::no_link())
            .open(directory.join("lock"))
            .with_context(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                directory,
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(MembershipError::InUse {
                data: data.to_owned(),
                process: process::serving(data).map(|agent| agent.pid),
            }),
            Err(fs::TryLockError::Error(error)) => Err(FailedStep::new(failed(), error).into()),
        }
    }

    /// The stored membership with its client certificate; `None` if the machine has not joined.
    ///
    /// # Errors
    /// The files are damaged or cannot be read.
    pub fn read(&self) -> Result<Option<(Membership, Identity)>> {
        stored(&self.directory)
    }

    /// Deletes the membership, so that the machine can join again.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn forget(&self) -> Result<()> {
        for name in ["membership.json", "client.pem"] {
            let path = self.directory.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.with_context(|| format!("remove {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Errors are those of the disk.
    pub fn write(&self, membership: &Membership) -> Result<()> {
        let text = serde_json::to_vec_pretty(membership).context("encode the membership")?;
        self.replace("membership.json", &text)
    }

    /// Stores the client certificate with its key in one file.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn write_identity(&self, identity: &Identity) -> Result<()> {
        let text = format!("{}{}", identity.certificate_pem, identity.key_pem);
        self.replace("client.pem", text.as_bytes())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let written = durable_file::replace(&path, bytes, 0o600, Durability::Name);
        Ok(written.with_context(|| format!("write {}", path.display()))?)
    }
}

/// Whether the machine with this data directory has joined a cluster and its certificate is valid at `now`.
pub fn has_joined(data: &Path, now: Timestamp) -> bool {
    let stored = stored(&data.join("node"));
    let validity = stored
        .ok()
        .flatten()
        .and_then(|(_, identity)| Validity::of_pem(&identity.certificate_pem));
    validity.is_some_and(|validity| now < validity.ends)
}

fn stored(directory: &Path) -> Result<Option<(Membership, Identity)>> {
    let Some(membership) = Membership::read(directory)? else {
        return Ok(None);
    };
    let Some(identity) = text(&directory.join("client.pem"))? else {
        return Ok(None);
    };
    let at = identity.find(KEY);
    let at = at.ok_or_else(|| damaged(directory, None))?;
    let (certificate_pem, key_pem) = identity.split_at(at);
    let identity = Identity {
        certificate_pem: certificate_pem.to_owned(),
        key_pem: key_pem.to_owned(),
    };
    Ok(Some((membership, identity)))
}

fn text(path: &Path) -> Result<Option<String>> {
    match durable_file::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FailedStep::new(format!("read {}", path.display()), error).into()),
    }
}

fn damaged(directory: &Path, source: Option<serde_json::Error>) -> MembershipError {
    MembershipError::Damaged {
        directory: directory.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_membership_is_kept_in_private() {
        let data = tempfile::tempdir().unwrap();
        let store = MembershipStore::open(data.path()).unwrap();
        assert!(store.read().unwrap().is_none());
        let servers = vec!["https://192.0.2.1:6443".to_owned()];
        let mut membership = Membership::new("n1".to_owned(), servers, "CA".to_owned());
        membership.pod_cidr = Some("10.244.1.0/24".parse().unwrap());
        assert_eq!(membership.registered(), None, "of an earlier version");
        let ranges = Registered {
            pods: "10.244.2.0/24".parse().unwrap(),
            cluster: ClusterRanges {
                pods: "10.244.0.0/16".parse().unwrap(),
                services: "10.96.0.0/16".parse().unwrap(),
            },
        };
        membership.set_registered(ranges);
        assert_eq!(membership.registered(), Some(ranges));
        membership.learned = vec!["https://192.0.2.2:6443".to_owned()];
        let identity = Identity {
            certificate_pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
            key_pem: format!("{KEY}\nx\n"),
        };
        store.write(&membership).unwrap();
        assert!(store.read().unwrap().is_none(), "the key is missing");
        store.write_identity(&identity).unwrap();
        let read = store.read().unwrap().unwrap();
        assert_eq!(read, (membership, identity));
        let urls = read.0.urls().unwrap();
        assert_eq!(urls, ["https://192.0.2.1:6443", "https://192.0.2.2:6443"]);
        for file in ["client.pem", "membership.json"] {
            let mode = fs::metadata(data.path().join("node").join(file)).unwrap();
            assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{file}");
        }
        store.forget().unwrap();
        store.forget().unwrap();
        assert!(store.read().unwrap().is_none());
    }

    #[test]
    fn one_agent_has_a_directory() {
        let data = tempfile::tempdir().unwrap();
        let store = MembershipStore::open(data.path()).unwrap();
        let Err(refused) = MembershipStore::open(data.path()) else {
            panic!("two agents");
        };
        let refused = refused.to_string();
        assert!(
            refused.contains("a node agent already runs on"),
            "{refused}"
        );
        drop(store);
        MembershipStore::open(data.path()).unwrap();
    }

    #[test]
    fn damaged_files_are_told() {
        let data = tempfile::tempdir().unwrap();
        let store = MembershipStore::open(data.path()).unwrap();
        for (membership, identity) in [("{", KEY), ("{}", KEY)] {
            store
                .replace("membership.json", membership.as_bytes())
                .unwrap();
            store.replace("client.pem", identity.as_bytes()).unwrap();
            let error = store.read().unwrap_err().to_string();
            assert!(error.contains("is damaged"), "{error}");
        }
    }
}
