//! A session's streams over a WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`
//! (kubectl.md 5.2).
//!
//! Each binary message begins with the number of its channel: 0 input, 1 output, 2 errors, 3 the
//! final status, 4 the terminal's size; in version 5 also 255, which closes the channel whose
//! number follows.

use bytes::Bytes;
use container_runtime::spec::TerminalSize;
use container_runtime::{Session, SessionControl, SessionInput, SessionOutput};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Bytes of output per message.
pub(super) const CHUNK_BYTES: usize = 16 * 1024;
/// Messages that may wait to be sent.
pub(super) const OUTGOING_MAX: usize = 8;

/// The connection.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The two subprotocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Channels can be closed one by one.
    V5,
    /// They cannot.
    V4,
}

impl Protocol {
    /// The best of those that the client offers.
    pub fn choose<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        offered.fold(None, |best, name| match (best, name) {
            (_, "v5.channel.k8s.io") => Some(Self::V5),
            (None, "v4.channel.k8s.io") => Some(Self::V4),
            (best, _) => best,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
        }
    }
}

/// The streams that the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// The server's end of an upgraded connection.
pub async fn socket(connection: Upgraded) -> Socket {
    WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, None).await
}

/// Carries a session until it ends or the client goes away; with `exit_code`, the final status
/// tells how the command ended.
pub async fn carry(
    socket: Socket,
    protocol: Protocol,
    wanted: Wanted,
    session: Result<Session, String>,
    exit_code: bool,
) {
    let (sink, stream) = socket.split();
    let session = match session {
        Ok(session) => session,
        Err(message) => return finish(sink, failure(&message)).await,
    };
    let Session {
        stdin,
        stdout,
        stderr,
        control,
    } = session;
    let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
    let (resizes, resize_queue) = mpsc::channel(OUTGOING_MAX);
    let incoming = take_input(stream, protocol, stdin, resizes);
    let output = async {
        let stderr_wanted = wanted.stderr && !wanted.tty;
        let (out, err) = (sender.clone(), sender);
        tokio::join!(
            send_output(stdout, STDOUT, wanted.stdout, out),
            send_output(stderr, STDERR, stderr_wanted, err),
        );
    };
    let all = async {
        let (sink, (), code) = tokio::join!(
            send_messages(sink, outgoing),
            output,
            end(control, resize_queue)
        );
        finish(sink, verdict(code, exit_code)).await;
    };
    // When the client goes away, the session is dropped; when it ends, so is the input.
    tokio::select! {
        () = all => {}
        () = incoming => {}
    }
}

/// Passes on input until the client goes away; its end of input is no end of the session.
async fn take_input(
    mut stream: SplitStream<Socket>,
    protocol: Protocol,
    mut stdin: Option<SessionInput>,
    resizes: mpsc::Sender<TerminalSize>,
) {
    while let Some(Ok(message)) = stream.next().await {
        if let Message::Close(_) = message {
            return;
        }
        match said(message, protocol) {
            Some(Said::Input(bytes)) => write_input(&mut stdin, &bytes).await,
            Some(Said::Size(size)) => {
                if let Err(late) = resizes.send(size).await {
                    tracing::debug!(size = ?late.0, "resize after the end of a session");
                }
            }
            Some(Said::InputEnds) => close_input(&mut stdin).await,
            None => {}
        }
    }
}

/// What a client may say in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Input.
    Input(Bytes),
    /// The terminal's size.
    Size(TerminalSize),
    /// There is no more input.
    InputEnds,
}

/// Reads a message; nothing if it says nothing that means anything here.
pub(super) fn said(message: Message, protocol: Protocol) -> Option<Said> {
    let mut bytes: Bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        _ => return None,
    };
    let channel = *bytes.first()?;
    let rest = bytes.split_off(1);
    match (channel, protocol) {
        (STDIN, _) => Some(Said::Input(rest)),
        (RESIZE, _) => terminal_size(&rest).map(Said::Size),
        (CLOSE, Protocol::V5) if rest.first() == Some(&STDIN) => Some(Said::InputEnds),
        _ => None,
    }
}

pub(super) async fn write_input(stdin: &mut Option<SessionInput>, bytes: &[u8]) {
    if let Some(open) = stdin
        && open.write_all(bytes).await.is_err()
    {
        // The command reads no more; it may still have something to say.
        *stdin = None;
    }
}

pub(super) async fn close_input(stdin: &mut Option<SessionInput>) {
    if let Some(mut open) = stdin.take()
        && let Err(error) = open.shutdown().await
    {
        tracing::debug!(%error, "input of a session not closed");
    }
}

pub(super) fn terminal_size(json: &[u8]) -> Option<TerminalSize> {
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

async fn send_output(
    mut from: SessionOutput,
    channel: u8,
    wanted: bool,
    to: mpsc::Sender<Message>,
) {
    let mut buffer = vec![0; CHUNK_BYTES + 1];
    buffer[0] = channel;
    while let Ok(count) = from.read(&mut buffer[1..]).await
        && count > 0
    {
        let message = Message::binary(buffer[..=count].to_vec());
        if wanted && to.send(message).await.is_err() {
            return;
        }
    }
}

type Sink = SplitSink<Socket, Message>;

async fn send_messages(mut sink: Sink, mut messages: mpsc::Receiver<Message>) -> Sink {
    while let Some(message) = messages.recv().await {
        if let Err(error) = sink.send(message).await {
            tracing::debug!(%error, "client of a session is gone");
            break;
        }
    }
    sink
}

/// Resizes the terminal until the session ends, then returns its exit code.
pub(super) async fn end(
    mut control: SessionControl,
    mut sizes: mpsc::Receiver<TerminalSize>,
) -> Option<i32> {
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

async fn finish(mut sink: Sink, status: Value) {
    let mut bytes = vec![ERROR];
    bytes.extend_from_slice(status.to_string().as_bytes());
    // Only a normal end lets the client keep what it has read (RFC 6455 §7.4.1).
    let end = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    for message in [Message::binary(bytes), Message::Close(Some(end))] {
        if let Err(error) = sink.send(message).await {
            tracing::debug!(%error, "client of a session is gone");
            return;
        }
    }
}

/// The final status of a session; with `exit_code`, it tells how the command ended.
pub(super) fn verdict(code: Option<i32>, exit_code: bool) -> Value {
    match code {
        Some(0) => success(),
        Some(_) if !exit_code => success(),
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

pub(super) fn failure(message: &str) -> Value {
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
    fn the_newest_protocol_is_chosen() {
        // kubectl.md 5.1
        let of = |list: &[&str]| Protocol::choose(list.iter().copied());
        assert_eq!(
            of(&["v4.channel.k8s.io", "v5.channel.k8s.io"]),
            Some(Protocol::V5)
        );
        assert_eq!(
            of(&["channel.k8s.io", "v4.channel.k8s.io"]),
            Some(Protocol::V4)
        );
        assert_eq!(of(&["SPDY/3.1"]), None);
    }

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
