//! Streams of a command or container, and the stream of a sandbox's events.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::connection::{read_frame, write_frame, write_json};
use crate::protocol::{Attached, FrameKind, STREAM_BYTES_MAX};
use crate::spec::{SandboxEvent, TerminalSize};

/// Bytes in the buffer of each stream.
const BUFFER_BYTES: usize = 64 << 10;

/// Maximum number of waiting events. Further events fill the buffer of the shim's socket; then the shim
/// closes the stream.
const EVENTS_MAX: usize = 64;

/// Maximum number of waiting resizes. Further resizes wait, and no resize is lost.
const RESIZES_MAX: usize = 16;

/// A running command, or an attached container.
///
/// The connection closes when all parts are dropped.
/// [`ExecSpec::kill_on_drop`](crate::spec::ExecSpec::kill_on_drop) decides what happens to the command
/// then.
#[derive(Debug)]
pub struct Session {
    /// Standard input, if requested. A shutdown of this stream closes the input.
    pub stdin: Option<SessionInput>,
    /// Standard output. With a terminal, it includes standard error.
    pub stdout: SessionOutput,
    /// Standard error; empty with a terminal. Both outputs must be read, because the command blocks when
    /// one of them is full.
    pub stderr: SessionOutput,
    /// Terminal size and exit code.
    pub control: SessionControl,
}

/// The writing half of a session.
#[derive(Debug)]
pub struct SessionInput {
    stream: DuplexStream,
    at_end: watch::Receiver<bool>,
}

/// The reading half of a session.
#[derive(Debug)]
pub struct SessionOutput(DuplexStream);

/// Resizes the terminal of a session and reads its exit code.
#[derive(Debug)]
pub struct SessionControl {
    resizes: mpsc::Sender<TerminalSize>,
    exit: watch::Receiver<Option<i32>>,
    attached: watch::Receiver<Option<Timestamp>>,
    // Keeps the tasks that copy the streams running; they are aborted with the session.
    _pumps: Pumps,
}

#[derive(Debug)]
struct Pumps(Vec<JoinHandle<()>>);

impl Drop for Pumps {
    fn drop(&mut self) {
        for pump in &self.0 {
            pump.abort();
        }
    }
}

impl Session {
    pub(crate) fn new(stream: UnixStream, with_stdin: bool) -> Session {
        let (reader, writer) = stream.into_split();
        let (resizes, resize_queue) = mpsc::channel(RESIZES_MAX);
        let (exit_sender, exit) = watch::channel(None);
        let (attached_sender, attached) = watch::channel(None);
        let (stdout, stdout_sink) = tokio::io::duplex(BUFFER_BYTES);
        let (stderr, stderr_sink) = tokio::io::duplex(BUFFER_BYTES);
        let (stdin, stdin_source) = tokio::io::duplex(BUFFER_BYTES);
        let (input_at_end_sender, input_at_end) = watch::channel(false);
        let (stdin, stdin_source) = match with_stdin {
            true => {
                let stdin = SessionInput {
                    stream: stdin,
                    at_end: input_at_end,
                };
                (Some(stdin), Some(stdin_source))
            }
            false => (None, None),
        };
        let news = (exit_sender, attached_sender);
        let output = tokio::spawn(pump_output(reader, stdout_sink, stderr_sink, news));
        let input = tokio::spawn(pump_input(
            writer,
            stdin_source,
            resize_queue,
            input_at_end_sender,
        ));
        Session {
            stdin,
            stdout: SessionOutput(stdout),
            stderr: SessionOutput(stderr),
            control: SessionControl {
                resizes,
                exit,
                attached,
                _pumps: Pumps(vec![output, input]),
            },
        }
    }
}

impl SessionInput {
    /// Waits until the shim has received all of an input that was shut down: data in transit is lost when the
    /// session is dropped.
    pub async fn wait_until_sent(mut self) {
        // An error means that the shim has exited and receives no more data.
        if self.at_end.wait_for(|at_end| *at_end).await.is_err() {
            tracing::debug!("the shim went before it had all of an input");
        }
    }
}

impl SessionControl {
    /// Sets the size of the terminal.
    pub async fn resize(&self, size: TerminalSize) {
        // Without a receiver, the session has ended, and the terminal cannot be resized.
        if self.resizes.send(size).await.is_err() {
            tracing::debug!("resize after the end of a session");
        }
    }

    /// Waits for the time since which the session has received the container's output; earlier lines are in
    /// the log. `None` if the shim exits, or if an older shim does not send the time within `limit`.
    pub async fn attached_at(&mut self, limit: Duration) -> Option<Timestamp> {
        let attached_at = self.attached.wait_for(Option::is_some);
        let attached_at = tokio::time::timeout(limit, attached_at).await.ok()?;
        attached_at.ok().and_then(|at| *at)
    }

    /// Waits for the exit code; `None` if the connection closes before, because the shim died.
    pub async fn wait(&mut self) -> Option<i32> {
        self.exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|code| *code)
    }
}

async fn pump_output(
    mut reader: OwnedReadHalf,
    stdout: DuplexStream,
    stderr: DuplexStream,
    (exit, attached): (watch::Sender<Option<i32>>, watch::Sender<Option<Timestamp>>),
) {
    let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
    while let Ok(Some((kind, body))) = read_frame(&mut reader).await {
        let sink = match kind {
            FrameKind::Stdout => &mut stdout,
            FrameKind::Stderr => &mut stderr,
            FrameKind::Exit => {
                // The outputs are closed first, so that a receiver of the exit code also observes the end
                // of the output.
                (stdout, stderr) = (None, None);
                if let Ok(code) = serde_json::from_slice(&body) {
                    exit.send_replace(Some(code));
                }
                break;
            }
            FrameKind::Message => {
                if let Ok(Attached { at }) = serde_json::from_slice(&body) {
                    attached.send_replace(Some(at));
                }
                continue;
            }
            FrameKind::Stdin | FrameKind::Resize => continue,
        };
        // Without a reader, the output is not needed.
        let closed = match sink {
            Some(open) if !body.is_empty() => open.write_all(&body).await.is_err(),
            _ => true,
        };
        if closed {
            *sink = None;
        }
    }
    drop((stdout, stderr));
}

async fn pump_input(
    mut writer: OwnedWriteHalf,
    mut stdin: Option<DuplexStream>,
    mut resizes: mpsc::Receiver<TerminalSize>,
    at_end: watch::Sender<bool>,
) {
    let mut buffer = vec![0; STREAM_BYTES_MAX];
    loop {
        tokio::select! {
            size = resizes.recv() => {
                // The sender lives as long as the session, so this task ends with the session.
                let Some(size) = size else { return };
                if write_json(&mut writer, FrameKind::Resize, &size).await.is_err() {
                    return;
                }
            }
            read = read_some(&mut stdin, &mut buffer) => {
                let count = read.unwrap_or(0);
                if write_frame(&mut writer, FrameKind::Stdin, &buffer[..count]).await.is_err() {
                    return;
                }
                if count == 0 {
                    stdin = None;
                    at_end.send_replace(true);
                }
            }
        }
    }
}

async fn read_some(stdin: &mut Option<DuplexStream>, buffer: &mut [u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.read(buffer).await,
        None => std::future::pending().await,
    }
}

impl AsyncWrite for SessionInput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for SessionOutput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

/// The events of one sandbox, in order, since the subscription.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<SandboxEvent>,
    _pump: Pumps,
}

impl Events {
    pub(crate) fn new(stream: UnixStream) -> Events {
        let (sender, queue) = mpsc::channel(EVENTS_MAX);
        let pump = tokio::spawn(pump_events(stream, sender));
        Events {
            queue,
            _pump: Pumps(vec![pump]),
        }
    }

    /// Waits for the next event. Cancellation loses no event. [`SandboxEvent::Gone`] is the last event,
    /// followed by `None`.
    pub async fn next(&mut self) -> Option<SandboxEvent> {
        self.queue.recv().await
    }
}

async fn pump_events(mut stream: UnixStream, sender: mpsc::Sender<SandboxEvent>) {
    while let Ok(Some((FrameKind::Message, body))) = read_frame(&mut stream).await {
        let Ok(event) = serde_json::from_slice(&body) else {
            break;
        };
        if sender.send(event).await.is_err() {
            return;
        }
    }
    if sender.send(SandboxEvent::Gone).await.is_err() {
        tracing::debug!("nobody waits for events any more");
    }
}
