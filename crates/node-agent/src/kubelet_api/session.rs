//! A session of exec or attach: copies the client's input to the command and the command's output to the
//! client, and finally sends the status. The module is independent of the transport, WebSocket or SPDY.
//!
//! The end of a stream is never delivered before its data. A client may disconnect directly after its last
//! byte. Then the command still receives all of the input, and the end of the input. The output of the
//! command is dropped meanwhile, so that the command does not wait for a reader.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use container_runtime::spec::TerminalSize;
use container_runtime::{Session, SessionControl, SessionInput, SessionOutput};
use json_tree::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Bytes of output per message.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// Maximum number of messages that wait to be sent.
pub const OUTGOING_MAX: usize = 8;

/// After the session has ended, the client has this time to read the rest and to close its connection. Then
/// the server closes the connection. If a connection is closed while the server has unread data of the
/// client, the client loses output that it has not read.
pub const CLOSING_MAX: Duration = Duration::from_secs(10);

/// After the client has disconnected, the command has this time to process its input. Then the streams of
/// the command are closed.
const COMMAND_LINGER_MAX: Duration = Duration::from_secs(60);

/// After the client has disconnected, a command on a terminal has this time to read its last input. Then
/// the terminal hangs up.
const TERMINAL_LINGER_MAX: Duration = Duration::from_secs(5);

/// The streams of the container for a request.
pub enum SessionState {
    /// The streams are open. The list has output from before the session.
    Open(Session, Vec<(Output, Bytes)>),
    /// The container has exited. The list has its output since the client's last read of the log.
    Ended(Vec<(Output, Bytes)>),
    /// The streams cannot be opened, for this reason.
    Refused(String),
}

/// The streams that the client requests.
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
    /// Whether the end of the client's input ends the session, as in an attach to a container whose input
    /// stays open.
    pub ends_with_input: bool,
}

/// A message from the client of `exec` or `attach`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    Input(Bytes),
    /// The terminal's size.
    Size(TerminalSize),
    /// The client has closed standard input.
    InputEnds,
}

/// An output stream of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// Receives the client's messages over WebSocket or SPDY.
pub trait FromClient: Send {
    /// The next message. `None` after the client has disconnected and all of its messages are returned.
    fn next(&mut self) -> impl Future<Output = Option<ClientMessage>> + Send;
}

/// Sends output to the client.
pub trait ToClient: Sync {
    /// Sends output; `false` if the client has disconnected.
    fn send(&self, output: Output, bytes: Bytes) -> impl Future<Output = bool> + Send;
}

/// Runs a session until it ends, and returns its final status, with the command's exit code if `exit_code`
/// is set. `None` if the client disconnects first.
pub async fn carry(
    session: SessionState,
    requested: SessionStreams,
    exit_code: bool,
    from: &mut impl FromClient,
    to: &impl ToClient,
) -> Option<Value> {
    let (session, before) = match session {
        SessionState::Open(session, before) => (Some(session), before),
        SessionState::Ended(before) => (None, before),
        SessionState::Refused(message) => return Some(failure(&message)),
    };
    for (output, bytes) in before {
        let is_requested = match output {
            Output::Stdout => requested.stdout,
            Output::Stderr => requested.stderr && !requested.tty,
        };
        if is_requested && !to.send(output, bytes).await {
            break;
        }
    }
    let Some(session) = session else {
        return Some(success());
    };
    let Session {
        stdin,
        stdout,
        stderr,
        control,
    } = session;
    let (sizes, size_queue) = mpsc::channel(OUTGOING_MAX);
    let sends_stderr = requested.stderr && !requested.tty;
    let disconnected = CancellationToken::new();
    let ending = async {
        let ((), (), code) = tokio::join!(
            send_output(stdout, Output::Stdout, requested.stdout, to, &disconnected),
            send_output(stderr, Output::Stderr, sends_stderr, to, &disconnected),
            end(control, size_queue)
        );
        code
    };
    let mut ending = std::pin::pin!(ending);
    let end = tokio::select! {
        code = &mut ending => return Some(verdict(code, exit_code)),
        end = forward_input(from, stdin, requested.ends_with_input, sizes) => end,
    };
    match end {
        // The end of the client's input ends the session.
        InputEnd::Ended => Some(verdict(Some(0), exit_code)),
        InputEnd::Disconnected(input) => {
            disconnected.cancel();
            let rest = async {
                wait_delivered(input).await;
                if exit_code && requested.stdin {
                    std::future::pending().await
                }
            };
            let ended = async {
                tokio::select! {
                    _ = ending => {}
                    () = rest => {}
                }
            };
            let limit = match requested.tty {
                true => TERMINAL_LINGER_MAX,
                false => COMMAND_LINGER_MAX,
            };
            if timeout(limit, ended).await.is_err() {
                tracing::debug!("a command continues without its client: its streams are closed");
            }
            None
        }
    }
}

/// The reason for the end of the input.
enum InputEnd {
    /// The client has disconnected. Contains the input, which is closed and may still have undelivered
    /// data.
    Disconnected(Option<SessionInput>),
    /// The client has closed its input, which ends the session.
    Ended,
}

/// Forwards input until the client disconnects. The end of the input ends the session only if
/// `ends_with_input` is set.
async fn forward_input(
    from: &mut impl FromClient,
    mut stdin: Option<SessionInput>,
    ends_with_input: bool,
    sizes: mpsc::Sender<TerminalSize>,
) -> InputEnd {
    while let Some(message) = from.next().await {
        match message {
            ClientMessage::Input(bytes) => write_input(&mut stdin, &bytes).await,
            ClientMessage::Size(size) => {
                if let Err(late) = sizes.send(size).await {
                    tracing::debug!(size = ?late.0, "resize after the end of a session");
                }
            }
            ClientMessage::InputEnds => {
                let closed = close_input(&mut stdin).await;
                if ends_with_input {
                    wait_delivered(closed).await;
                    return InputEnd::Ended;
                }
            }
        }
    }
    InputEnd::Disconnected(close_input(&mut stdin).await)
}

async fn write_input(stdin: &mut Option<SessionInput>, bytes: &[u8]) {
    if let Some(open) = stdin
        && open.write_all(bytes).await.is_err()
    {
        // The command does not read any more, but may still write output.
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

/// Waits until all input is delivered, so that no input is lost when the session closes.
async fn wait_delivered(closed: Option<SessionInput>) {
    if let Some(closed) = closed {
        closed.wait_until_sent().await;
    }
}

async fn send_output(
    mut from: SessionOutput,
    output: Output,
    mut is_requested: bool,
    to: &impl ToClient,
    disconnected: &CancellationToken,
) {
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // Output that is not requested is read, too, because a full pipe would block the command.
        if is_requested {
            let sent = disconnected.run_until_cancelled(to.send(output, buffer.freeze()));
            is_requested = sent.await == Some(true);
        }
    }
}

/// Resizes the terminal until the session ends, then returns the command's exit code.
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
        // A client of `attach` gets no exit code, only the end of the container's streams.
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
