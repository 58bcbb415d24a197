//! Receives a stream into a directory that no pod uses.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use btrfs_send_stream::{Base, ReceiveError, Uuid};
use bytes::{Buf, Bytes};
use file_archive::ArchiveItem;
use host_kernel::{BlockingTask, blocking};
use kube_api_client::guarded_writes::chain;
use tar::EntryType;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use volume_storage::FirstCopy;

use super::error::TransferError;
use super::sending::ROOT;
use super::{StepResult, conflict, internal};

/// The received stream of one attempt.
#[derive(Debug)]
pub(super) struct Receiving {
    attempt: String,
    received_bytes: u64,
    parts: Sender<Bytes>,
    task: BlockingTask<StreamOutcome, TransferError>,
}

/// The destination of a received stream.
#[derive(Debug)]
pub(super) enum Destination {
    /// An empty directory for files.
    Files(PathBuf),
    /// An empty subvolume for a snapshot, or a clone of the first copy for the difference to it.
    Stream(PathBuf, Option<FirstCopy>),
}

/// The result of a received stream.
#[derive(Debug)]
pub(super) enum StreamOutcome {
    /// The files are complete.
    Files,
    /// The snapshot is complete, with this identity.
    Snapshot(Uuid),
    /// The stream is the difference to another snapshot than the first copy; the reason.
    OtherBase(String),
    /// The data cannot be stored on this file system; the reason.
    Impossible(String),
}

impl Receiving {
    pub(super) fn start(attempt: &str, to: Destination) -> Self {
        let (parts, receiver) = channel(2);
        let task = blocking(move || match to {
            Destination::Files(to) => receive(receiver, to).map(|()| StreamOutcome::Files),
            Destination::Stream(to, first) => receive_snapshot(receiver, &to, first),
        });
        Self {
            attempt: attempt.to_owned(),
            received_bytes: 0,
            parts,
            task,
        }
    }

    pub(super) fn attempt(&self) -> &str {
        &self.attempt
    }

    /// Passes the next part to the task that writes.
    ///
    /// *Errors.* The part is not the next part, or the task has ended.
    pub(super) async fn receive(&mut self, offset: u64, part: Bytes) -> StepResult<()> {
        if offset != self.received_bytes {
            return Err(conflict("parts are taken in their order, once"));
        }
        self.received_bytes += part.len() as u64;
        if part.is_empty() {
            return Ok(());
        }
        let sent = self.parts.send(part).await;
        sent.map_err(|_| internal("the stream does not continue"))
    }

    /// Waits until the last file is written.
    pub(super) async fn finish(self) -> StepResult<StreamOutcome> {
        drop(self.parts);
        match self.task.await {
            Ok(outcome) => Ok(outcome),
            Err(error) if is_full(&error) => Ok(StreamOutcome::Impossible(chain(&error))),
            Err(error) => Err(internal(&chain(&error))),
        }
    }

    /// Closes the input and waits for the end of the task.
    pub(super) async fn close(self) {
        drop(self.parts);
        self.task.await.ok();
    }
}

fn is_full(error: &TransferError) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull, Unsupported};
    error.has_kind(&[StorageFull, QuotaExceeded, Unsupported])
}

fn receive(parts: Receiver<Bytes>, to: PathBuf) -> Result<(), TransferError> {
    let mut stream = Stream {
        parts,
        part: Bytes::new(),
    };
    let mut tree = Tree {
        directories: BTreeSet::from([to.clone()]),
        root: to,
        files: BTreeSet::new(),
        times: Vec::new(),
    };
    let broken = "the copy of the volume was truncated or changed";
    file_archive::read_stream(&mut stream, broken, &mut |item| tree.put(item))?;
    // Reads the zeros at the end of an archive.
    let end = io::copy(&mut stream, &mut io::sink());
    end.map_err(TransferError::at("read the end of the copy"))?;
    tree.finish()
}

fn receive_snapshot(
    parts: Receiver<Bytes>,
    to: &Path,
    first: Option<FirstCopy>,
) -> Result<StreamOutcome, TransferError> {
    let stream = Stream {
        parts,
        part: Bytes::new(),
    };
    let open = |path: &Path| {
        let step = format!("open {}", path.display());
        File::open(path).map_err(TransferError::at(step))
    };
    let base = first.map(|first| {
        open(&first.path).map(|directory| Base {
            snapshot: first.snapshot,
            directory,
        })
    });
    match btrfs_send_stream::receive(stream, &open(to)?, base.transpose()?.as_ref()) {
        Ok(snapshot) => Ok(StreamOutcome::Snapshot(snapshot)),
        Err(error @ ReceiveError::OtherBase) => Ok(StreamOutcome::OtherBase(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// The received parts as one stream of bytes.
struct Stream {
    parts: Receiver<Bytes>,
    part: Bytes,
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part,
                None => return Ok(0),
            }
        }
        let count = bytes.len().min(self.part.len());
        self.part.copy_to_slice(&mut bytes[..count]);
        Ok(count)
    }
}

/// The restored tree of a volume.
struct Tree {
    root: PathBuf,
    /// The root, and the directories that this stream created. Files are written only into these: a symbolic
    /// link may lead out of the volume, and a node under the control of an attacker must not write files of
    /// another node.
    directories: BTreeSet<PathBuf>,
    /// Regular files, which hard links may refer to.
    files: BTreeSet<PathBuf>,
    /// The modification times of directories, set at the end because new entries change them.
    times: Vec<(PathBuf, (i64, i64))>,
}

impl Tree {
    fn at(&self, path: &Path) -> Result<PathBuf, TransferError> {
        let inside = path.strip_prefix(ROOT).ok();
        let plain = |path: &&Path| {
            let mut parts = path.components();
            parts.all(|part| matches!(part, Component::Normal(_)))
        };
        let inside = inside.filter(plain).ok_or(TransferError::Outside)?;
        Ok(match inside.as_os_str().is_empty() {
            true => self.root.clone(),
            false => self.root.join(inside),
        })
    }

    fn put(&mut self, item: ArchiveItem<'_>) -> Result<(), TransferError> {
        let path_text = item.path.clone();
        let step = || TransferError::at(format!("write {}", path_text.display()));
        let to = self.at(&item.path)?;
        let parent = to.parent().filter(|_| to != self.root);
        if parent.is_some_and(|parent| !self.directories.contains(parent)) {
            return Err(TransferError::NoDirectory(path_text));
        }
        let mut first = None;
        match item.header.entry_type() {
            EntryType::Directory => {
                if to != self.root {
                    std::fs::create_dir(&to).map_err(step())?;
                    self.directories.insert(to.clone());
                }
                self.times
                    .extend(item.modified.map(|time| (to.clone(), time)));
            }
            EntryType::Regular => {
                self.files.insert(to.clone());
            }
            EntryType::Link => {
                let named = item.link.as_deref().map(|link| self.at(link)).transpose()?;
                first = named.filter(|first| self.files.contains(first));
            }
            EntryType::Symlink | EntryType::Fifo => {}
            kind => return Err(TransferError::EntryType(kind)),
        }
        file_archive::restore_item(item, &to, first.as_deref()).map_err(step())
    }

    fn finish(self) -> Result<(), TransferError> {
        if self.times.is_empty() {
            return Err(TransferError::Empty);
        }
        for (path, time) in self.times.iter().rev() {
            let step = format!("set the time of {}", path.display());
            file_archive::set_modified(path, *time).map_err(TransferError::at(step))?;
        }
        Ok(())
    }
}
