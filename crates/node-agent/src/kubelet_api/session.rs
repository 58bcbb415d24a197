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
pub async fn run(
    session: SessionState,
    requested: SessionStreams,
    exit_code: bool,
    from_client: &mut impl FromClient,
    to_client: &impl ToClient,
) -> Option<Value> {
    let (session, earlier_output) = match session {
        SessionState::Open(session, earlier_output) => (Some(session), earlier_output),
        SessionState::Ended(earlier_output) => (None, earlier_output),
        SessionState::Refused(message) => return Some(failure(&message)),
    };
    for (output, bytes) in earlier_output {
        let is_requested = match output {
            Output::Stdout => requested.stdout,
            Output::Stderr => requested.stderr && !requested.tty,
        };
        if is_requested && !to_client.send(output, bytes).await {
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
    let exit = async {
        let ((), (), code) = tokio::join!(
            send_output(
                stdout,
                Output::Stdout,
                requested.stdout,
                to_client,
                &disconnected
            ),
            send_output(
                stderr,
                Output::Stderr,
                sends_stderr,
                to_client,
                &disconnected
            ),
            resize_until_exit(control, size_queue)
        );
        code
    };
    let mut exit = std::pin::pin!(exit);
    let input_end = tokio::select! {
        code = &mut exit => return Some(final_status(code, exit_code)),
        input_end = forward_input(from_client, stdin, requested.ends_with_input, sizes) => input_end,
    };
    match input_end {
        // The end of the client's input ends the session.
        InputEnd::Ended => Some(final_status(Some(0), exit_code)),
        InputEnd::Disconnected(input) => {
            disconnected.cancel();
            let delivery = async {
                wait_delivered(input).await;
                if exit_code && requested.stdin {
                    std::future::pending().await
                }
            };
            let lingering = async {
                tokio::select! {
                    _ = exit => {}
                    () = delivery => {}
                }
            };
            let limit = match requested.tty {
                true => TERMINAL_LINGER_MAX,
                false => COMMAND_LINGER_MAX,
            };
            if timeout(limit, lingering).await.is_err() {
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
    from_client: &mut impl FromClient,
    mut stdin: Option<SessionInput>,
    ends_with_input: bool,
    sizes: mpsc::Sender<TerminalSize>,
) -> InputEnd {
    while let Some(message) = from_client.next().await {
        match message {
            ClientMessage::Input(bytes) => write_input(&mut stdin, &bytes).await,
            ClientMessage::Size(size) => {
                if let Err(unsent) = sizes.send(size).await {
                    tracing::debug!(size = ?unsent.0, "resize after the end of a session");
                }
            }
            ClientMessage::InputEnds => {
                let closed_input = close_input(&mut stdin).await;
                if ends_with_input {
                    wait_delivered(closed_input).await;
                    return InputEnd::Ended;
                }
            }
        }
    }
    InputEnd::Disconnected(close_input(&mut stdin).await)
}

async fn write_input(stdin: &mut Option<SessionInput>, bytes: &[u8]) {
    if let Some(input) = stdin
        && input.write_all(bytes).await.is_err()
    {
        // The command does not read any more, but may still write output.
        *stdin = None;
    }
}

/// Closes the input, and returns a handle to wait until all of it has arrived.
async fn close_input(stdin: &mut Option<SessionInput>) -> Option<SessionInput> {
    let mut input = stdin.take()?;
    if let Err(error) = input.shutdown().await {
        tracing::debug!(%error, "input of a session not closed");
    }
    Some(input)
}

/// Waits until all input is delivered, so that no input is lost when the session closes.
async fn wait_delivered(input: Option<SessionInput>) {
    if let Some(input) = input {
        input.wait_until_sent().await;
    }
}

async fn send_output(
    mut command_output: SessionOutput,
    output: Output,
    mut is_requested: bool,
    to_client: &impl ToClient,
    disconnected: &CancellationToken,
) {
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        match command_output.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // Output that is not requested is read, too, because a full pipe would block the command.
        if is_requested {
            let sending = disconnected.run_until_cancelled(to_client.send(output, buffer.freeze()));
            is_requested = sending.await == Some(true);
        }
    }
}

/// Resizes the terminal until the session ends, then returns the command's exit code.
async fn resize_until_exit(
    mut control: SessionControl,
    mut sizes: mpsc::Receiver<TerminalSize>,
) -> Option<i32> {
    let mut has_sizes = true;
    loop {
        tokio::select! {
            code = control.wait() => return code,
            size = sizes.recv(), if has_sizes => match size {
                Some(size) => control.resize(size).await,
                None => has_sizes = false,
            },
        }
    }
}

pub fn terminal_size(json: &[u8]) -> Option<TerminalSize> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let length = |name: &str| {
        value[name]
            .as_u64()
            .and_then(|length| u16::try_from(length).ok())
    };
    Some(TerminalSize {
        width: length("Width")?,
        height: length("Height")?,
    })
}

/// The final status of a session, with the command's exit code if `exit_code` is set.
pub fn final_status(code: Option<i32>, exit_code: bool) -> Value {
    match code {
        Some(0) => success(),
        // A client of `attach` gets no exit code, only the end of the container's streams.
        _ if !exit_code => success(),
        Some(code) => exit_status(code),
        None => failure("the container is gone"),
    }
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn exit_status(code: i32) -> Value {
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
        let status = exit_status(3);
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "3");
    }
}
