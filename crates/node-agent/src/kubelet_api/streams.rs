//! A session's streams over a WebSocket: `v5.channel.k8s.io`, `v4.channel.k8s.io` and their
//! forerunner `channel.k8s.io` (kubectl.md 5.2).
//!
//! Each binary message begins with the number of its channel: 0 input, 1 output, 2 errors, 3 the
//! final status, 4 the terminal's size; in version 5 also 255, which closes the channel whose
//! number follows. Before version 4 the status is the text of a failure, and nothing else.
//!
//! For clients that send text only (`v4.base64.channel.k8s.io`, `base64.channel.k8s.io`) the
//! number is a digit, and what follows is in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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
use tokio_util::sync::CancellationToken;

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

/// The subprotocols, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// That of a client that names none: as [`V1`](Self::V1).
    Unnamed,
    /// As [`V1`](Self::V1), in text.
    V1Text,
    /// The status has no form.
    V1,
    /// As [`V4`](Self::V4), in text.
    V4Text,
    /// Channels cannot be closed one by one.
    V4,
    /// They can.
    V5,
}

impl Protocol {
    /// All of them, but for the one without a name.
    pub const NAMED: [Self; 5] = [Self::V1Text, Self::V1, Self::V4Text, Self::V4, Self::V5];

    /// The best of those that the client offers; nothing if it offers others only.
    pub fn choose<'a>(mut offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        let known = |name: &str| Self::NAMED.into_iter().find(|known| known.name() == name);
        let Some(first) = offered.next() else {
            return Some(Self::Unnamed);
        };
        std::iter::once(first)
            .chain(offered)
            .filter_map(known)
            .max()
    }

    /// Its name; empty for the one without.
    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::V4Text => "v4.base64.channel.k8s.io",
            Self::V1 => "channel.k8s.io",
            Self::V1Text => "base64.channel.k8s.io",
            Self::Unnamed => "",
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Self::V4Text | Self::V1Text)
    }

    /// What a channel carries, as a message.
    fn message(self, channel: u8, content: &[u8]) -> Message {
        if self.is_text() {
            let digit = char::from(b'0' + channel);
            return Message::text(format!("{digit}{}", STANDARD.encode(content)));
        }
        let mut bytes = Vec::with_capacity(1 + content.len());
        bytes.push(channel);
        bytes.extend_from_slice(content);
        Message::binary(bytes)
    }

    /// The channel of a message, and what it carries; nothing if it cannot be read.
    fn content(self, mut message: Bytes) -> Option<(u8, Bytes)> {
        let channel = *message.first()?;
        let rest = message.split_off(1);
        if !self.is_text() {
            return Some((channel, rest));
        }
        let channel = channel.checked_sub(b'0')?;
        Some((channel, STANDARD.decode(rest).ok()?.into()))
    }

    /// What is said at the end; before version 4 nothing of a success.
    fn last_words(self, status: &Value) -> Option<Message> {
        match self {
            Self::V5 | Self::V4 | Self::V4Text => {
                Some(self.message(ERROR, status.to_string().as_bytes()))
            }
            Self::V1 | Self::V1Text | Self::Unnamed => {
                let failure = status["message"].as_str()?;
                Some(self.message(ERROR, failure.as_bytes()))
            }
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
    /// The end of the client's input is the end of the session, as of one attached to a container
    /// whose own input goes on after that.
    pub ends_with_input: bool,
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
        Err(message) => return finish(sink, protocol, failure(&message)).await,
    };
    let Session {
        stdin,
        stdout,
        stderr,
        control,
    } = session;
    let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
    let (resizes, resize_queue) = mpsc::channel(OUTGOING_MAX);
    let over = CancellationToken::new();
    let incoming = async {
        let on_end = wanted.ends_with_input.then_some(&over);
        take_input(stream, protocol, (stdin, on_end), resizes).await;
    };
    let output = async {
        let stderr_wanted = wanted.stderr && !wanted.tty;
        let (out, err) = (sender.clone(), sender);
        tokio::join!(
            send_output(stdout, (protocol, STDOUT), wanted.stdout, out),
            send_output(stderr, (protocol, STDERR), stderr_wanted, err),
        );
    };
    let all = async {
        let (sink, _, code) = tokio::join!(
            send_messages(sink, outgoing),
            over.run_until_cancelled(output),
            over.run_until_cancelled(end(control, resize_queue))
        );
        // Where the input's end is the end, that is what the client wanted.
        let code = code.unwrap_or(Some(0));
        finish(sink, protocol, verdict(code, exit_code)).await;
    };
    // When the client goes away, the session is dropped; when it ends, so is the input.
    tokio::select! {
        () = all => {}
        () = incoming => {}
    }
}

/// Passes on input until the client goes away. Its end of input is no end of the session, unless
/// there is somebody to tell.
async fn take_input(
    mut stream: SplitStream<Socket>,
    protocol: Protocol,
    (mut stdin, over): (Option<SessionInput>, Option<&CancellationToken>),
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
            Some(Said::InputEnds) => {
                let closed = close_input(&mut stdin).await;
                if let Some(over) = over {
                    all_taken(closed).await;
                    over.cancel();
                }
            }
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
    let bytes: Bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        _ => return None,
    };
    let (channel, rest) = protocol.content(bytes)?;
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

/// Ends the input, and hands over what tells when all of it has arrived.
pub(super) async fn close_input(stdin: &mut Option<SessionInput>) -> Option<SessionInput> {
    let mut open = stdin.take()?;
    if let Err(error) = open.shutdown().await {
        tracing::debug!(%error, "input of a session not closed");
    }
    Some(open)
}

/// Waits until all of an input that has ended has arrived: it is not to be lost with the session.
pub(super) async fn all_taken(closed: Option<SessionInput>) {
    if let Some(closed) = closed {
        closed.taken().await;
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
    (protocol, channel): (Protocol, u8),
    wanted: bool,
    to: mpsc::Sender<Message>,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count) = from.read(&mut buffer).await
        && count > 0
    {
        let message = protocol.message(channel, &buffer[..count]);
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

async fn finish(mut sink: Sink, protocol: Protocol, status: Value) {
    // Only a normal end lets the client keep what it has read (RFC 6455 §7.4.1).
    let end = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    let words = protocol.last_words(&status);
    for message in words.into_iter().chain([Message::Close(Some(end))]) {
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
        // Who is attached hears the end of the container's streams, and no more.
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
        let text = ["base64.channel.k8s.io", "v4.base64.channel.k8s.io"];
        assert_eq!(of(&text), Some(Protocol::V4Text));
        assert_eq!(of(&["channel.k8s.io"]), Some(Protocol::V1));
        assert_eq!(of(&[]), Some(Protocol::Unnamed));
    }

    #[test]
    fn text_has_digits_and_base64() {
        for protocol in Protocol::NAMED {
            let message = protocol.message(RESIZE, br#"{"Width":80,"Height":24}"#);
            let size = TerminalSize {
                width: 80,
                height: 24,
            };
            assert_eq!(said(message, protocol), Some(Said::Size(size)));
        }
        assert_eq!(
            Protocol::V1Text.message(STDOUT, b"hi\n"),
            Message::text("1aGkK")
        );
        assert_eq!(said(Message::text("0a"), Protocol::V4Text), None);
        assert_eq!(said(Message::text("!aGkK"), Protocol::V4Text), None);
    }

    #[test]
    fn the_first_version_tells_of_failures_only() {
        let of = |status: &Value| Protocol::V1.last_words(status);
        assert_eq!(of(&success()), None);
        let text = b"\x03command terminated with non-zero exit code: exit status 3";
        assert_eq!(of(&exited(3)), Some(Message::binary(text.to_vec())));
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
