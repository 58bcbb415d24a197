//! Sends the files of a detached directory, or a snapshot, as a stream.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use file_archive::{CopyFidelity, TreeActivity, Writer};
use host_kernel::{BlockingTask, blocking, btrfs};
use kube_api_client::guarded_writes::chain;
use object_model::{Status, StatusReason};
use rustix::pipe::PipeFlags;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use volume_storage::Snapshots;

use super::error::TransferError;
use super::{StepResult, conflict, internal};

/// Size of a part in bytes; the maximum size of a request to the API server is 3 MiB.
const PART_BYTES: usize = 1 << 20;
/// The path of the volume in the archive.
pub(super) const ROOT: &str = "volume";

/// The data of a stream.
#[derive(Debug)]
pub(super) enum Source {
    /// The files in a detached directory.
    Files(PathBuf),
    Snapshots(Snapshots),
}

/// The sent stream of one attempt.
#[derive(Debug)]
pub(super) struct Sending {
    attempt: String,
    sent: u64,
    parts: Receiver<Bytes>,
    /// The task that produces the parts; `None` after its result was returned.
    task: Option<BlockingTask<(), TransferError>>,
}

impl Sending {
    pub(super) fn start(attempt: &str, from: Source) -> Self {
        let (sender, parts) = channel(2);
        let task = blocking(move || match from {
            Source::Files(from) => send(&from, sender),
            Source::Snapshots(snapshots) => send_snapshots(&snapshots, sender),
        });
        Self {
            attempt: attempt.to_owned(),
            sent: 0,
            parts,
            task: Some(task),
        }
    }

    pub(super) fn attempt(&self) -> &str {
        &self.attempt
    }

    /// The next part; empty at the end of the stream.
    ///
    /// *Errors.* Invalid if the files cannot be sent in any attempt.
    pub(super) async fn next(&mut self, offset: u64) -> StepResult<Bytes> {
        if offset != self.sent {
            return Err(conflict("parts are read in their order, once"));
        }
        if let Some(part) = self.parts.recv().await {
            self.sent += part.len() as u64;
            return Ok(part);
        }
        match self.task.take() {
            None => Ok(Bytes::new()),
            Some(task) => match task.await {
                Ok(()) => Ok(Bytes::new()),
                Err(error) => Err(status(&error)),
            },
        }
    }

    /// Closes the output and waits for the end of the task.
    pub(super) async fn close(self) {
        drop(self.parts);
        if let Some(task) = self.task {
            task.await.ok();
        }
    }
}

fn status(error: &TransferError) -> Box<Status> {
    let text = chain(error);
    // Paths longer than PATH_MAX have no name in the kernel's interface.
    use io::ErrorKind::{InvalidFilename, Unsupported};
    match error.has_kind(&[Unsupported, InvalidFilename]) {
        true => Box::new(Status::new(StatusReason::Invalid, text)),
        false => internal(&text),
    }
}

fn send(from: &Path, sender: Sender<Bytes>) -> Result<(), TransferError> {
    let stream = Parts {
        sender,
        part: Vec::with_capacity(PART_BYTES),
    };
    let mut writer = Writer::over(stream, CopyFidelity::Replacement);
    writer.add_tree(Path::new(ROOT), from, TreeActivity::Still)?;
    let (mut stream, _) = writer.finish_stream()?;
    let flushed = stream.flush();
    flushed.map_err(TransferError::at("forward the end of the files"))
}

/// Copies the kernel's stream from a pipe into parts.
fn send_snapshots(snapshots: &Snapshots, sender: Sender<Bytes>) -> Result<(), TransferError> {
    let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
    let (from, to) = pipe.map_err(TransferError::at("create a pipe"))?;
    // A larger pipe needs fewer switches between the two threads.
    rustix::pipe::fcntl_setpipe_size(&to, PART_BYTES).ok();
    std::thread::scope(|scope| {
        let kernel =
            scope.spawn(move || btrfs::send(&snapshots.snapshot, snapshots.base.as_deref(), to));
        let mut parts = Parts {
            sender,
            part: Vec::with_capacity(PART_BYTES),
        };
        // The pipe closes when the copy ends, which stops the kernel's stream.
        let copied = io::copy(&mut File::from(from), &mut parts);
        let sent = kernel.join().map_err(|_| TransferError::SenderPanicked)?;
        // If the receiver of the parts is dropped, the kernel's error is only a consequence.
        copied.map_err(TransferError::at("forward the stream of the snapshot"))?;
        let snapshot = snapshots.snapshot.display();
        sent.map_err(TransferError::at(format!("send {snapshot}")))?;
        let flushed = parts.flush();
        flushed.map_err(TransferError::at("forward the end of the stream"))
    })
}

/// Collects bytes into parts.
struct Parts {
    sender: Sender<Bytes>,
    part: Vec<u8>,
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PART_BYTES - self.part.len());
        self.part.extend_from_slice(&bytes[..count]);
        if self.part.len() == PART_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART_BYTES));
        self.sender
            .blocking_send(part.into())
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
