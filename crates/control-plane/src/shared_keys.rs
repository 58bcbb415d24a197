//! The certificate authority and the signing keys of several servers, in their shared store.
//!
//! [`certificates::ServerToken`] encrypts them, and decides whether a server may use them; this module reads
//! the token's file, and reads and creates the one key of the store. A user who encrypts objects
//! (`--encryption-provider-config`) copies the file with the encryption key to every server, as with
//! Kubernetes: that key is not stored here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use certificates::{SealError, ServerToken, SharedError, SharedKeys};
use command_output::output::print_line;
use data_directory::store_record;
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::block_in_place;
use host_kernel::durable_file::{self, Durability};
use mvcc_store::{Store, StoreError};

/// The key of the record, outside of `/registry/`, which contains the objects.
pub const KEY: &[u8] = b"/mainstay/credentials";

/// The operations of a store that the keys need.
pub trait KeyStore: Sync {
    /// The newest value of all servers.
    fn read(&self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>>;
    /// Reads the value; writes `value` if there is none.
    fn read_or_write(&self, value: Bytes) -> BoxFuture<'_, Result<Bytes, StoreError>>;
}

impl KeyStore for Arc<dyn Store> {
    fn read(&self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        store_record::read(self.as_ref(), KEY).boxed()
    }

    fn read_or_write(&self, value: Bytes) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        async move { store_record::read_or_write(self.as_ref(), KEY, &value).await }.boxed()
    }
}

/// The file with the server token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFile {
    /// The user named the file; it must exist.
    Named(PathBuf),
    /// The file is in the data directory; the first server creates it.
    OfDirectory(PathBuf),
}

/// A token, and whether this start has created it.
struct Token {
    token: ServerToken,
    is_new: bool,
}

impl TokenFile {
    /// The file that the user named, or the file in the data directory.
    pub fn choose(named: Option<PathBuf>, data: &Path) -> Self {
        match named {
            Some(path) => Self::Named(path),
            None => Self::OfDirectory(data.join("server-token")),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Named(path) | Self::OfDirectory(path) => path,
        }
    }

    /// Reads the token. The first server of a cluster creates one if the user named no file: the file is on
    /// disk before anything is encrypted with the token.
    fn read(&self, is_first: bool) -> Result<Token> {
        let path = self.path();
        let displayed = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match self {
                Self::Named(_) => bail!("--server-token-file {displayed}: there is no such file"),
                Self::OfDirectory(_) if is_first => {
                    let token = ServerToken::generate().context("make a server token")?;
                    let text = format!("{}\n", token.text());
                    durable_file::replace(path, text.as_bytes(), 0o600, Durability::Name)
                        .with_context(|| format!("write {displayed}"))?;
                    let is_new = true;
                    return Ok(Token { token, is_new });
                }
                Self::OfDirectory(_) => bail!(
                    "the store has the keys of a cluster, and this server has no server token: copy \
                     the file server-token of another server's data directory, and name the copy with \
                     --server-token-file"
                ),
            },
            Err(error) => return Err(error).with_context(|| format!("read {displayed}")),
        };
        let token = ServerToken::parse(&text).with_context(|| format!("use {displayed}"))?;
        let is_new = false;
        Ok(Token { token, is_new })
    }

    /// Decrypts the keys in the store, if this server may use them; an error names the remedy.
    fn open(&self, stored: &[u8], local: Option<&SharedKeys>, token: &Token) -> Result<SharedKeys> {
        let opened = token.token.open_for(stored, local);
        opened.map_err(|error| match error {
            SharedError::Sealed(SealError::WrongToken) => {
                if token.is_new {
                    // Another server was first, so this token encrypts nothing.
                    drop(std::fs::remove_file(self.path()));
                }
                anyhow::anyhow!(
                    "{error} than the one in {}: name a copy of the file server-token of another \
                     server's data directory with --server-token-file. Nothing was changed",
                    self.path().display()
                )
            }
            other => other.into(),
        })
    }
}

/// Copies the keys of the store to the directory of certificates; a store without keys gets those of the
/// directory, or new keys.
///
/// # Errors
/// The token is missing or wrong; the directory belongs to another cluster; errors of store and disk.
pub async fn prepare(store: &dyn KeyStore, file: &TokenFile, certificates: &Path) -> Result<()> {
    let stored = store.read().await.context("read the cluster's keys")?;
    let token = block_in_place(|| file.read(stored.is_none()))?;
    let stored = match stored {
        Some(stored) => stored,
        None => {
            let sealed = block_in_place(|| {
                let keys = SharedKeys::read_or_generate(certificates)?;
                anyhow::Ok(Bytes::from(token.token.seal(&keys)?))
            });
            let sealed = sealed.context("decode the keys that the servers share")?;
            // Another server may have written its keys first; they are used then.
            let stored = store.read_or_write(sealed.clone()).await;
            let stored = stored.context("store the cluster's keys")?;
            if stored == sealed {
                print_line(&format!(
                    "mainstay: the server token of this cluster is in {}: each further server needs a \
                     copy of it",
                    file.path().display()
                ));
            }
            stored
        }
    };
    block_in_place(|| {
        let local = SharedKeys::read(certificates)?;
        let keys = file.open(&stored, local.as_ref(), &token)?;
        anyhow::Ok(keys.install(certificates)?)
    })
    .context("decode the keys that the servers share")
}

/// Encrypts the keys of a single server, for a shared store.
///
/// # Errors
/// The directory of certificates has no keys; the token is missing or wrong; errors of the disk.
pub fn seal(file: &TokenFile, certificates: &Path) -> Result<Vec<u8>> {
    let keys = SharedKeys::read(certificates).context("read the keys of the cluster")?;
    let Some(keys) = keys else {
        bail!(
            "{} has no certificate authority with its keys",
            certificates.display()
        );
    };
    let sealed = file.read(true)?.token.seal(&keys);
    sealed.context("encrypt the keys of the cluster")
}

/// Decrypts the keys in a shared store, for a server that will be single, with the directory of certificates.
///
/// # Errors
/// The token is missing or wrong; the directory belongs to another cluster.
pub fn unseal(stored: &[u8], file: &TokenFile, certificates: &Path) -> Result<SharedKeys> {
    let token = file.read(false)?;
    let local = SharedKeys::read(certificates)?;
    file.open(stored, local.as_ref(), &token)
}

#[cfg(test)]
mod tests {
    use mvcc_store::embedded::EmbeddedStore;
    use tokio::sync::Barrier;

    use super::*;

    fn certificates(data: &Path) -> Option<SharedKeys> {
        SharedKeys::read(&data.join("certificates")).unwrap()
    }

    fn in_memory() -> Arc<dyn Store> {
        EmbeddedStore::in_memory()
    }

    async fn start(store: &dyn KeyStore, data: &Path, named: Option<PathBuf>) -> Result<()> {
        let file = TokenFile::choose(named, data);
        prepare(store, &file, &data.join("certificates")).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_second_server_has_the_keys_of_the_first() {
        let store = in_memory();
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        start(&store, one.path(), None).await.unwrap();
        let keys = certificates(one.path());
        assert!(keys.is_some());
        let alone = start(&store, two.path(), None).await.unwrap_err();
        assert!(alone.to_string().contains("--server-token-file"), "{alone}");
        let wrong = two.path().join("wrong");
        std::fs::write(&wrong, "0123456789abcdef0123456789abcdef").unwrap();
        let refused = start(&store, two.path(), Some(wrong)).await.unwrap_err();
        let refused = format!("{refused:#}");
        assert!(refused.contains("another server token"), "{refused}");
        assert_eq!(certificates(two.path()), None);
        let token = one.path().join("server-token");
        start(&store, two.path(), Some(token)).await.unwrap();
        assert_eq!(certificates(two.path()), keys);
        // Each of them starts again.
        start(&store, one.path(), None).await.unwrap();
        assert_eq!(certificates(one.path()), keys);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_was_alone_keeps_its_authority() {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("certificates");
        let before = certificates::Authority::open_or_create(&dir).unwrap();
        let store = in_memory();
        start(&store, data.path(), None).await.unwrap();
        let after = certificates::Authority::open_or_create(&dir).unwrap();
        assert_eq!(before.ca_pem(), after.ca_pem());
        let other = in_memory();
        let second = tempfile::tempdir().unwrap();
        let token = data.path().join("server-token");
        start(&other, second.path(), Some(token)).await.unwrap();
        let refused = start(&other, data.path(), None).await.unwrap_err();
        let refused = format!("{refused:#}");
        assert!(refused.contains("not the one of the cluster"), "{refused}");
    }

    /// A store whose first reads come before any creation.
    struct AtOnce {
        store: Arc<dyn Store>,
        reads: Barrier,
    }

    impl KeyStore for AtOnce {
        fn read(&self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
            self.store.read()
        }

        fn read_or_write(&self, value: Bytes) -> BoxFuture<'_, Result<Bytes, StoreError>> {
            let write = async {
                self.reads.wait().await;
                self.store.read_or_write(value).await
            };
            write.boxed()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn two_first_servers_agree() {
        let at_once = AtOnce {
            store: in_memory(),
            reads: Barrier::new(2),
        };
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let token = one.path().join("token");
        std::fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
        let named = || Some(token.clone());
        let both = tokio::join!(
            start(&at_once, one.path(), named()),
            start(&at_once, two.path(), named())
        );
        both.0.unwrap();
        both.1.unwrap();
        assert_eq!(certificates(one.path()), certificates(two.path()));
        assert!(certificates(one.path()).is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_two_first_servers_without_a_common_token_one_is_told() {
        let at_once = AtOnce {
            store: in_memory(),
            reads: Barrier::new(2),
        };
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let both = tokio::join!(
            start(&at_once, one.path(), None),
            start(&at_once, two.path(), None)
        );
        let (loser, error) = match both {
            (Ok(()), Err(error)) => (two, error),
            (Err(error), Ok(())) => (one, error),
            both => panic!("{both:?}"),
        };
        assert!(format!("{error:#}").contains("another server token"));
        assert_eq!(certificates(loser.path()), None);
        assert!(!loser.path().join("server-token").exists());
    }
}
