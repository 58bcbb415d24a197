//! A session's streams over SPDY (kubectl.md 5.1). The client opens one stream each for input, output,
//! errors, the terminal's size and the final status, and names each stream by a header.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use container_runtime::spec::TerminalSize;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use json_tree::Value;
use spdy::{Stream, StreamReader, StreamWriter};
use tokio::sync::mpsc;

use super::session::{
    self, CLOSING_MAX, ClientMessage, FromClient, Output, SessionState, SessionStreams, ToClient,
    terminal_size,
};

/// Time limit for the client to open its streams; kubelet's value.
const OPENING_MAX: Duration = Duration::from_secs(30);

/// Maximum size of a message with the terminal's size.
const SIZE_BYTES_MAX: usize = 1024;

/// The protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The error stream gets a Status.
    V4,
    /// The error stream gets a text, for a failure only.
    V3,
    /// As `V3`, but without the terminal's size.
    V2,
}

impl Version {
    /// All versions, the preferred one first.
    pub const ALL: [Self; 3] = [Self::V4, Self::V3, Self::V2];

    /// The newest of the client's offered versions.
    pub fn choose(offered: &[String]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| offered.iter().any(|name| name == version.name()))
    }

    /// The name in the header `X-Stream-Protocol-Version`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4.channel.k8s.io",
            Self::V3 => "v3.channel.k8s.io",
            Self::V2 => "v2.channel.k8s.io",
        }
    }
}

/// Runs a session until it ends or the client disconnects.
pub async fn run(
    connection: Upgraded,
    version: Version,
    requested: SessionStreams,
    open: impl Future<Output = SessionState> + Send,
    exit_code: bool,
) {
    let (mut opened, work) = spdy::serve(TokioIo::new(connection));
    let mut work = tokio::spawn(work);
    let names = expected_names(requested, version);
    let collected = tokio::time::timeout(OPENING_MAX, collect(&mut opened, &names)).await;
    if let Ok(Some(mut streams)) = collected {
        let mut split_stream = |name: &str| {
            let index = names.iter().position(|expected| *expected == name)?;
            streams.get_mut(index)?.take().map(Stream::split)
        };
        let open_streams = OpenStreams {
            error: split_stream("error").map(|(_, writer)| writer),
            outputs: OutputStreams {
                stdout: split_stream("stdout").map(|(_, writer)| writer),
                stderr: split_stream("stderr").map(|(_, writer)| writer),
            },
            inputs: ClientStreams {
                opened,
                is_closed: false,
                stdin: split_stream("stdin").map(|(reader, _)| reader),
                resize: split_stream("resize").map(|(reader, _)| reader),
                size: BytesMut::new(),
            },
        };
        open_streams.run(version, open, requested, exit_code).await;
    }
    // Clients lose unread data if the connection closes before the streams are read.
    if tokio::time::timeout(CLOSING_MAX, &mut work).await.is_err() {
        work.abort();
    }
}

/// The names of the streams that the client opens for its requested session.
fn expected_names(requested: SessionStreams, version: Version) -> Vec<&'static str> {
    let streams = [
        ("error", true),
        ("stdin", requested.stdin),
        ("stdout", requested.stdout),
        ("stderr", requested.stderr && !requested.tty),
        ("resize", requested.tty && version != Version::V2),
    ];
    streams
        .iter()
        .filter(|(_, is_expected)| *is_expected)
        .map(|(name, _)| *name)
        .collect()
}

/// The expected streams, sorted by name; `None` if the client disconnects.
async fn collect(
    opened: &mut mpsc::Receiver<Stream>,
    names: &[&str],
) -> Option<Vec<Option<Stream>>> {
    let mut streams: Vec<Option<Stream>> = names.iter().map(|_| None).collect();
    while streams.iter().any(Option::is_none) {
        let stream = opened.recv().await?;
        let kind = stream.header("streamtype").unwrap_or_default();
        match names.iter().position(|name| *name == kind) {
            Some(index) => streams[index] = Some(stream),
            None => {
                stream.split().1.reset().await;
            }
        }
    }
    Some(streams)
}

/// Waits until the client disconnects. The client opens no further streams.
async fn wait_closed(opened: &mut mpsc::Receiver<Stream>) {
    while let Some(stream) = opened.recv().await {
        stream.split().1.reset().await;
    }
}

struct OpenStreams {
    error: Option<StreamWriter>,
    outputs: OutputStreams,
    inputs: ClientStreams,
}

impl OpenStreams {
    async fn run(
        mut self,
        version: Version,
        open: impl Future<Output = SessionState>,
        requested: SessionStreams,
        exit_code: bool,
    ) {
        let status = session::run(
            open.await,
            requested,
            exit_code,
            &mut self.inputs,
            &self.outputs,
        )
        .await;
        let Some(status) = status else { return };
        let outputs = [&self.outputs.stdout, &self.outputs.stderr];
        for output in outputs.into_iter().flatten() {
            output.finish().await;
        }
        if let Some(error) = &self.error {
            if let Some(text) = status_message(version, &status) {
                error.write(text.into()).await;
            }
            error.finish().await;
        }
    }
}

/// The streams to the client.
struct OutputStreams {
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
}

impl ToClient for OutputStreams {
    async fn send(&self, output: Output, bytes: Bytes) -> bool {
        let stream = match output {
            Output::Stdout => &self.stdout,
            Output::Stderr => &self.stderr,
        };
        match stream {
            Some(stream) => stream.write(bytes).await,
            None => true,
        }
    }
}

/// The streams from the client.
struct ClientStreams {
    opened: mpsc::Receiver<Stream>,
    /// Whether the client has disconnected. The last input may still be unread.
    is_closed: bool,
    stdin: Option<StreamReader>,
    resize: Option<StreamReader>,
    /// The received part of the next size.
    size: BytesMut,
}

impl FromClient for ClientStreams {
    async fn next(&mut self) -> Option<ClientMessage> {
        loop {
            if let Some(size) = self.complete_size() {
                return Some(ClientMessage::Size(size));
            }
            if self.is_closed && self.stdin.is_none() {
                return None;
            }
            tokio::select! {
                bytes = read(&mut self.stdin) => match bytes {
                    Some(bytes) => return Some(ClientMessage::Input(bytes)),
                    None => {
                        self.stdin = None;
                        return Some(ClientMessage::InputEnds);
                    }
                },
                bytes = read(&mut self.resize) => match bytes {
                    Some(bytes) if self.size.len() <= SIZE_BYTES_MAX => self.size.extend_from_slice(&bytes),
                    _ => self.resize = None,
                },
                () = wait_closed(&mut self.opened), if !self.is_closed => self.is_closed = true,
            }
        }
    }
}

impl ClientStreams {
    /// Removes the next complete size from the buffer. Sizes are consecutive JSON objects, which the frames
    /// may split at any byte.
    fn complete_size(&mut self) -> Option<TerminalSize> {
        while let Some(end) = self.size.iter().position(|byte| *byte == b'}') {
            let object = self.size.split_to(end + 1);
            if let Some(size) = terminal_size(&object) {
                return Some(size);
            }
        }
        None
    }
}

/// The next data of a stream. Never returns for a stream that has ended or does not exist.
async fn read(stream: &mut Option<StreamReader>) -> Option<Bytes> {
    match stream {
        Some(stream) => stream.read().await,
        None => std::future::pending().await,
    }
}

/// The text that the error stream receives at the end of the session.
fn status_message(version: Version, status: &Value) -> Option<String> {
    if version == Version::V4 {
        return Some(status.to_string());
    }
    let has_failed = status["status"] != "Success";
    has_failed.then(|| status["message"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_tree::json;

    #[test]
    fn streams_and_versions_are_those_of_clients() {
        // kubectl.md 5.1, 5.2
        let requested = SessionStreams {
            stdin: true,
            stdout: true,
            stderr: true,
            tty: true,
            ends_with_input: false,
        };
        assert_eq!(
            expected_names(requested, Version::V4),
            ["error", "stdin", "stdout", "resize"]
        );
        let offered = [
            "v5.channel.k8s.io",
            "v3.channel.k8s.io",
            "v4.channel.k8s.io",
        ];
        let offered = offered.map(str::to_owned);
        assert_eq!(Version::choose(&offered), Some(Version::V4));
        assert_eq!(Version::choose(&["channel.k8s.io".to_owned()]), None);
        let failure = json!({"status": "Failure", "message": "no"});
        assert_eq!(status_message(Version::V3, &failure).as_deref(), Some("no"));
        assert_eq!(
            status_message(Version::V2, &json!({"status": "Success"})),
            None
        );
    }
}
