//! The content of a backup: from a running server, through a socket that only the administrator may use, or
//! from the files if no server runs.

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
/// The first word of a request; there is no other request.
pub const REQUEST: &str = "backup";

/// The header: the number of objects, and the frozen volumes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The reason why there is no content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The revision of the store at which all objects were read.
    pub revision: u64,
    /// The number of objects that follow.
    pub objects: u64,
    /// The size of keys and values together, in bytes.
    pub bytes: u64,
    /// The volumes with a snapshot.
    pub frozen: Vec<FrozenVolume>,
    /// The snapshots of users.
    #[serde(default)]
    pub snapshots: Vec<UserSnapshot>,
    /// The files from which the settings of the server were read.
    pub configured_by: Vec<PathBuf>,
}

/// A volume with a temporary read-only snapshot, which is removed after the backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrozenVolume {
    /// The class; always the pool's for a server of an earlier version.
    #[serde(default = "of_the_pool")]
    pub class: Class,
    /// Name of the PersistentVolume.
    pub volume: String,
    /// The path of the temporary snapshot.
    pub path: PathBuf,
    /// Maximum size in bytes.
    pub bytes: u64,
}

fn of_the_pool() -> Class {
    Class::LocalCow
}

/// A snapshot that a user has created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserSnapshot {
    /// The class of the volume.
    pub class: Class,
    /// Name of the snapshot.
    pub name: String,
    /// The path of its files on the node.
    pub path: PathBuf,
    /// Used bytes; `None` if the file system does not report them.
    pub bytes: Option<u64>,
}

/// The request for a backup: volumes of the pool are always frozen, those of `local` only on request, if
/// their file system has snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether volumes of the class `local` are frozen, too.
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

/// The objects of a store, for a backup, with the list of its volumes.
pub struct BackupContents {
    /// The header, with the number of objects.
    pub summary: Summary,
    /// The objects, without those that have a lease (events).
    pub pairs: Vec<KeyValue>,
}

/// Reads the store at one revision, and then freezes the volumes: a backup may contain a volume that was
/// created in between without its object, but never an object without its volume.
pub async fn collect(
    store: &dyn Store,
    storage: Option<&Storage>,
    request: Request,
) -> Result<BackupContents> {
    let everything = Range {
        end: Some(vec![u8::MAX]),
        ..Range::default()
    };
    let listed = store.range(everything).await.context("read the store")?;
    let mut pairs = listed.items;
    pairs.retain(|pair| pair.lease.is_none());
    let (mut frozen, mut snapshots) = (Vec::new(), Vec::new());
    if let Some(storage) = storage {
        let freeze = storage.freeze(request.classes()).await;
        frozen = freeze.context("freeze the volumes")?;
        snapshots = storage
            .user_snapshots()
            .await
            .context("list the snapshots")?;
    }
    let summary = Summary {
        error: None,
        revision: listed.revision.0,
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
            .map(|snapshot| UserSnapshot {
                class: snapshot.class,
                name: snapshot.name,
                path: snapshot.path,
                bytes: snapshot.bytes,
            })
            .collect(),
        configured_by: Vec::new(),
    };
    Ok(BackupContents { summary, pairs })
}

/// The source of the contents. The temporary snapshots exist as long as the source.
pub enum Source {
    /// A running server, until the connection is closed.
    Server(BufReader<UnixStream>),
    Files(Box<Files>),
}

/// An instance whose server does not run.
pub struct Files {
    store: Arc<EmbeddedStore>,
    storage: Option<Storage>,
    pairs: std::vec::IntoIter<KeyValue>,
}

impl Source {
    /// Requests the contents from the server of the data directory.
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

    /// Opens the files of an instance whose server does not run.
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
        let contents = collect(store.as_ref(), storage.as_ref(), request).await?;
        let summary = Summary {
            configured_by,
            ..contents.summary
        };
        let files = Files {
            store,
            storage,
            pairs: contents.pairs.into_iter(),
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
                // The server closes its side when the temporary snapshots are removed.
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

/// Connects through the opened directory, because the path of a socket has a maximum length.
fn connect(data: &Path) -> std::io::Result<UnixStream> {
    let directory = File::open(data)?;
    UnixStream::connect(socket_below(&directory))
}

/// The path of the socket through its opened directory.
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
