//! The content of a backup: read from a running server, through a socket that only the administrator
//! may use, or from the files when none runs.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use host_kernel::blocking;
use mvcc_store::embedded::{EmbeddedOptions, EmbeddedStore};
use mvcc_store::{KeyValue, Range, Store};
use serde::{Deserialize, Serialize};
use volume_storage::{Class, Storage};

pub mod records;
pub use records::write as write_pair;

/// The socket of a running server, in its data directory.
pub const SOCKET: &str = "admin.sock";
/// The first word of the only request there is.
pub const REQUEST: &str = "backup";

/// The header: the number of objects, and the frozen volumes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The error, if there are no contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The store's revision, which all objects show.
    pub revision: u64,
    /// The number of objects that follow.
    pub objects: u64,
    /// The size of keys and values together, in bytes.
    pub bytes: u64,
    /// Volumes as they are at one moment.
    pub frozen: Vec<FrozenVolume>,
    /// The snapshots that users have had made.
    #[serde(default)]
    pub snapshots: Vec<HeldSnapshot>,
    /// The files that the server was configured by.
    pub configured_by: Vec<PathBuf>,
}

/// A volume with a read-only snapshot that lasts as long as the backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrozenVolume {
    /// Its class; a server of an earlier version only has volumes of the pool.
    #[serde(default = "of_the_pool")]
    pub class: Class,
    /// Name of the PersistentVolume.
    pub volume: String,
    /// The path of its snapshot.
    pub path: PathBuf,
    /// The most that it may hold, in bytes.
    pub bytes: u64,
}

fn of_the_pool() -> Class {
    Class::LocalCow
}

/// A snapshot that a user has had made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldSnapshot {
    /// The class of the volume that it was made of.
    pub class: Class,
    /// Name of the snapshot.
    pub name: String,
    /// The path of its files on the node.
    pub path: PathBuf,
    /// The used bytes, if they are known.
    pub bytes: Option<u64>,
}

/// The request: volumes of the pool are frozen, and on request those of `local` whose file system
/// has snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether the volumes of the class `local` are wanted too.
    pub local: bool,
}

impl Request {
    /// The request as a line.
    pub fn line(self) -> String {
        match self.local {
            true => format!("{REQUEST} {}", Class::Local.name()),
            false => REQUEST.to_owned(),
        }
    }

    /// Parses the line that a client sends; `None` for any other text.
    pub fn parse(line: &str) -> Option<Self> {
        let both = [true, false].map(|local| Self { local });
        both.into_iter().find(|request| request.line() == line)
    }

    fn classes(self) -> &'static [Class] {
        match self.local {
            true => &[Class::LocalCow, Class::Local],
            false => &[Class::LocalCow],
        }
    }
}

/// The contents of a store and its volumes, for a backup.
pub struct BackupContents {
    /// The header, with the number of objects.
    pub summary: Summary,
    /// The objects, without those that have a lease (events).
    pub pairs: Vec<KeyValue>,
}

/// Reads the store at one revision, and then freezes the volumes: a volume that was made in between
/// is in the backup without its object, never an object without its volume.
pub async fn take(
    store: &dyn Store,
    storage: Option<&Storage>,
    request: Request,
) -> Result<BackupContents> {
    let everything = Range {
        end: Some(vec![u8::MAX]),
        ..Range::default()
    };
    let found = store.range(everything).await.context("read the store")?;
    let mut pairs = found.items;
    pairs.retain(|pair| pair.lease.is_none());
    let (mut frozen, mut snapshots) = (Vec::new(), Vec::new());
    if let Some(storage) = storage {
        let freeze = storage.freeze(request.classes()).await;
        frozen = freeze.context("freeze the volumes")?;
        snapshots = storage.held().await.context("list the snapshots")?;
    }
    let summary = Summary {
        error: None,
        revision: found.revision.0,
        objects: pairs.len() as u64,
        bytes: pairs.iter().map(records::length).sum(),
        frozen: frozen
            .into_iter()
            .map(|frozen| FrozenVolume {
                class: frozen.class,
                volume: frozen.volume,
                path: frozen.path,
                bytes: frozen.bytes,
            })
            .collect(),
        snapshots: snapshots
            .into_iter()
            .map(|held| HeldSnapshot {
                class: held.class,
                name: held.name,
                path: held.path,
                bytes: held.bytes,
            })
            .collect(),
        configured_by: Vec::new(),
    };
    Ok(BackupContents { summary, pairs })
}

/// The source of the contents. The volumes are frozen as long as it exists.
pub enum Source {
    /// A running server, until the connection is closed.
    Server(BufReader<UnixStream>),
    Files(Box<Files>),
}

/// An instance that does not run.
pub struct Files {
    store: Arc<EmbeddedStore>,
    storage: Option<Storage>,
    pairs: std::vec::IntoIter<KeyValue>,
}

impl Source {
    /// Asks the server of the data directory.
    pub fn server(data: &Path, request: Request) -> Result<(Self, Summary)> {
        let path = data.join(SOCKET);
        let doing = || format!("ask the server at {}", path.display());
        let mut stream = connect(data).with_context(doing)?;
        writeln!(stream, "{}", request.line()).with_context(doing)?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).with_context(doing)?;
        let summary: Summary = serde_json::from_str(&line).with_context(doing)?;
        if let Some(error) = summary.error {
            bail!("the server says: {error}");
        }
        Ok((Self::Server(reader), summary))
    }

    /// Opens the files of an instance that does not run.
    pub async fn files(
        data: &Path,
        configured_by: Vec<PathBuf>,
        request: Request,
    ) -> Result<(Self, Summary)> {
        let options = EmbeddedOptions::new(data.join("store"));
        let open = move || EmbeddedStore::open(options).context("open the store");
        let store = blocking(open).await?;
        let has_volumes = ["volumes", "snapshots", "pool"].iter();
        let has_volumes = has_volumes
            .map(|part| data.join(part))
            .any(|part| part.exists());
        let storage = match has_volumes {
            true => Some(Storage::open(data).await.context("open the volumes")?),
            false => None,
        };
        let taken = take(store.as_ref(), storage.as_ref(), request).await?;
        let summary = Summary {
            configured_by,
            ..taken.summary
        };
        let files = Files {
            store,
            storage,
            pairs: taken.pairs.into_iter(),
        };
        Ok((Self::Files(Box::new(files)), summary))
    }

    /// Reads the next object; an error if there are fewer than the header says.
    pub fn next_object(&mut self) -> Result<KeyValue> {
        match self {
            Self::Server(reader) => records::read(reader).context("read the server's answer"),
            Self::Files(files) => files.pairs.next().context("an object is missing"),
        }
    }

    /// Removes the temporary snapshots of the frozen volumes.
    pub async fn close(self) -> Result<()> {
        match self {
            Self::Server(mut reader) => {
                let hung_up = reader.get_ref().shutdown(std::net::Shutdown::Write);
                // The server closes its side when it has let the volumes go.
                hung_up
                    .and_then(|()| std::io::copy(&mut reader, &mut std::io::sink()))
                    .map(drop)
                    .context("release the frozen volumes")
            }
            Self::Files(files) => {
                if let Some(storage) = files.storage {
                    storage.thaw().await.context("release the frozen volumes")?;
                    storage.close().await.context("close the volumes")?;
                }
                files.store.close();
                Ok(())
            }
        }
    }
}

/// Connects through the opened directory: paths of sockets have to be short.
fn connect(data: &Path) -> std::io::Result<UnixStream> {
    let directory = File::open(data)?;
    UnixStream::connect(socket_below(&directory))
}

/// The socket's path through its opened directory.
pub fn socket_below(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

/// The remaining objects as a byte stream.
pub struct Objects<'a> {
    next: &'a mut dyn FnMut() -> Result<KeyValue>,
    left: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl<'a> Objects<'a> {
    /// An iterator over `left` objects, each from a call of `next`.
    pub fn new(next: &'a mut dyn FnMut() -> Result<KeyValue>, left: u64) -> Self {
        Self {
            next,
            left,
            buffer: Vec::new(),
            at: 0,
        }
    }
}

impl Read for Objects<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.buffer.len() && self.left > 0 {
            let pair = (self.next)().map_err(std::io::Error::other)?;
            self.left -= 1;
            self.buffer.clear();
            self.at = 0;
            records::write(&mut self.buffer, &pair)?;
        }
        let count = bytes.len().min(self.buffer.len() - self.at);
        bytes[..count].copy_from_slice(&self.buffer[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_an_earlier_version_is_understood() {
        let line = r#"{"revision": 7, "objects": 0, "bytes": 0, "configuredBy": [],
            "frozen": [{"volume": "pvc-1", "path": "/p", "bytes": 1}]}"#;
        let summary: Summary = serde_json::from_str(line).unwrap();
        assert_eq!(summary.frozen[0].class, Class::LocalCow);
        assert!(summary.snapshots.is_empty());
    }

    #[test]
    fn requests_are_read_as_they_are_written() {
        for local in [true, false] {
            let request = Request { local };
            assert_eq!(Request::parse(&request.line()), Some(request));
        }
        for line in ["", "restore", "backup pool", "backup local local"] {
            assert_eq!(Request::parse(line), None, "{line}");
        }
    }
}
