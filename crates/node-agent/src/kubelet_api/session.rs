//! A session of exec or attach: carries the client's input to the command, the command's output to
//! the client, and at the end the status. It is independent of the transport, WebSocket or SPDY.

use bytes::{Bytes, BytesMut};
use container_runtime::spec::TerminalSize;
use container_runtime::{Session, SessionControl, SessionInput, SessionOutput};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Bytes of output per message.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// Messages that may wait to be passed on.
pub const OUTGOING_MAX: usize = 8;

/// The streams that the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStreams {
    /// Whether the client sends standard input.
    pub stdin: bool,
    /// Whether the client receives standard output.
    pub stdout: bool,
    /// Whether the client receives standard error.
    pub stderr: bool,
    /// Whether the command has a terminal.
    pub tty: bool,
    /// Whether the end of the client's input ends the session, as for an attach to a container
    /// whose input stays open.
    pub ends_with_input: bool,
}

/// A message of the client of `exec` or `attach`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Input.
    Input(Bytes),
    /// The terminal's size.
    Size(TerminalSize),
    /// The client has closed standard input.
    InputEnds,
}

/// The stream of the command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output of the command.
    Stdout,
    /// Standard error of the command.
    Stderr,
}

/// Receives the client's messages, in either protocol (WebSocket or SPDY).
pub trait FromClient: Send {
    /// The next message; `None` after a disconnect.
    fn next(&mut self) -> impl Future<Output = Option<ClientMessage>> + Send;
}

/// The output to the client.
pub trait ToClient: Sync {
    /// Sends output; `false` after a disconnect.
    fn send(&self, output: Output, bytes: Bytes) -> impl Future<Output = bool> + Send;
}

/// Runs a session until it ends, and returns its final status, with the command's exit code if
/// `exit_code` is set. `None` if the client disconnects.
pub async fn carry(
    session: Session,
    (wanted, exit_code): (SessionStreams, bool),
    from: impl FromClient,
    to: &impl ToClient,
) -> Option<Value> {
    let Session {
        stdin,
        stdout,
        stderr,
        control,
    } = session;
    let (sizes, size_queue) = mpsc::channel(OUTGOING_MAX);
    let stderr_wanted = wanted.stderr && !wanted.tty;
    let ending = async {
        let ((), (), code) = tokio::join!(
            send_output(stdout, (Output::Stdout, wanted.stdout), to),
            send_output(stderr, (Output::Stderr, stderr_wanted), to),
            end(control, size_queue)
        );
        code
    };
    tokio::select! {
        code = ending => Some(verdict(code, exit_code)),
        end = take_input(from, stdin, wanted.ends_with_input, sizes) => match end {
            InputEnd::ClientGone => None,
            // The client ended the session.
            InputEnd::IsTheEnd => Some(verdict(Some(0), exit_code)),
        },
    }
}

/// The reason for the end of the input.
enum InputEnd {
    ClientGone,
    /// The client has sent the end of its input, which ends the session.
    IsTheEnd,
}

/// Forwards input until the client disconnects. The end of its input does not end the session,
/// unless configured so.
async fn take_input(
    mut from: impl FromClient,
    mut stdin: Option<SessionInput>,
    ends_with_input: bool,
    sizes: mpsc::Sender<TerminalSize>,
) -> InputEnd {
    while let Some(said) = from.next().await {
        match said {
            ClientMessage::Input(bytes) => write_input(&mut stdin, &bytes).await,
            ClientMessage::Size(size) => {
                if let Err(late) = sizes.send(size).await {
                    tracing::debug!(size = ?late.0, "resize after the end of a session");
                }
            }
            ClientMessage::InputEnds => {
                let closed = close_input(&mut stdin).await;
                if ends_with_input {
                    all_taken(closed).await;
                    return InputEnd::IsTheEnd;
                }
            }
        }
    }
    InputEnd::ClientGone
}

async fn write_input(stdin: &mut Option<SessionInput>, bytes: &[u8]) {
    if let Some(open) = stdin
        && open.write_all(bytes).await.is_err()
    {
        // The command reads no more; it may still have something to say.
        *stdin = None;
    }
}

/// Closes the input, and returns a handle to wait until all of it has arrived.
async fn close_input(stdin: &mut Option<SessionInput>) -> Option<SessionInput> {
    let mut open = stdin.take()?;
    if let Err(error) = open.shutdown().await {
        tracing::debug!(%error, "input of a session not closed");
    }
    Some(open)
}

/// Waits until all input has arrived, so that none is lost with the session.
async fn all_taken(closed: Option<SessionInput>) {
    if let Some(closed) = closed {
        closed.taken().await;
    }
}

async fn send_output(
    mut from: SessionOutput,
    (output, wanted): (Output, bool),
    to: &impl ToClient,
) {
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // Unwanted output is read all the same: a full pipe would block the command.
        if wanted && !to.send(output, buffer.freeze()).await {
            return;
        }
    }
}

/// Resizes the terminal until the session ends, then returns its exit code.
async fn end(mut control: SessionControl, mut sizes: mpsc::Receiver<TerminalSize>) -> Option<i32> {
    let mut open = true;
    loop {
        tokio::select! {
            code = control.wait() => return code,
            size = sizes.recv(), if open => match size {
                Some(size) => control.resize(size).await,
                None => open = false,
            },
        }
    }
}

pub fn terminal_size(json: &[u8]) -> Option<TerminalSize> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let side = |name: &str| {
        value[name]
            .as_u64()
            .and_then(|side| u16::try_from(side).ok())
    };
    Some(TerminalSize {
        width: side("Width")?,
        height: side("Height")?,
    })
}

/// The final status of a session, with the command's exit code if `exit_code` is set.
pub fn verdict(code: Option<i32>, exit_code: bool) -> Value {
    match code {
        Some(0) => success(),
        // An attached client gets the end of the container's streams, but no exit code.
        _ if !exit_code => success(),
        Some(code) => exited(code),
        None => failure("the container is gone"),
    }
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn exited(code: i32) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}
    })
}

pub fn failure(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_statuses_have_their_form() {
        // kubectl.md 5.2
        let size = terminal_size(br#"{"Width":80,"Height":24}"#).unwrap();
        assert_eq!((size.width, size.height), (80, 24));
        assert_eq!(terminal_size(b"{}"), None);
        let status = exited(3);
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "3");
    }
}
