//! A connection to a shim, which carries frames in both directions.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::error::{Result, RuntimeError};
use crate::protocol::{
    Call, FRAME_BYTES_MAX, Failure, FrameKind, HEADER_BYTES, Reply, Request, SOCKET, VERSION,
    header, json_frame, parse_header,
};
use crate::spec::FEWER_VARIABLES;

/// Maximum time for a response that needs no work of the shim. A stopped shim must not block the agent.
const RESPONSE_MAX: Duration = Duration::from_secs(30);

/// The address of a shim.
#[derive(Clone, Debug)]
pub(crate) struct Peer<'a> {
    pub id: &'a str,
    pub dir: &'a Path,
}

impl Peer<'_> {
    /// Opens a connection; `SandboxDead` if no process listens.
    pub async fn connect(&self) -> Result<UnixStream> {
        // A socket path has at most 108 bytes, but the path of a data directory may be longer. So the path
        // goes through a descriptor of the directory.
        let dir = match tokio::fs::File::open(self.dir).await {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.dead()),
            Err(error) => return Err(RuntimeError::io("open", self.dir)(error)),
        };
        let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(stream),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Err(self.dead()),
                // The queue of pending connections is full.
                io::ErrorKind::WouldBlock => Err(self.silent()),
                // The shim exited during the call.
                _ if is_disconnection(&error) => Err(self.dead()),
                _ => Err(RuntimeError::io("connect to", self.dir.join(SOCKET))(error)),
            },
        }
    }

    /// Sends a call and leaves the connection open for its stream.
    pub async fn open(&self, call: Call) -> Result<(UnixStream, Reply)> {
        let mut stream = self.connect().await?;
        let request = Request {
            version: VERSION,
            call,
        };
        let frame = json_frame(FrameKind::Message, &request)
            .map_err(|error| self.odd(error.to_string()))?;
        // The shim would reject the frame as malformed and close the connection.
        if frame.len() - HEADER_BYTES > FRAME_BYTES_MAX {
            return Err(RuntimeError::Invalid {
                what: container_of(&request.call).to_owned(),
                reason: format!(
                    "what is to run has {} bytes, at most {FRAME_BYTES_MAX} are taken \
                     ({FEWER_VARIABLES})",
                    frame.len()
                ),
            });
        }
        let exchange = async {
            stream.write_all(&frame).await?;
            read_json::<Reply>(&mut stream).await
        };
        let response = tokio::time::timeout(RESPONSE_MAX, exchange).await;
        match response {
            Ok(Ok(Some(Reply::Failed(failure)))) => Err(self.failure(failure, &request.call)),
            Ok(Ok(Some(reply))) => Ok((stream, reply)),
            // The shim exited before it responded.
            Ok(Ok(None)) => Err(self.dead()),
            Ok(Err(error)) if is_disconnection(&error) => Err(self.dead()),
            Ok(Err(error)) => Err(self.odd(error.to_string())),
            Err(_) => Err(self.silent()),
        }
    }

    /// Sends a call and expects only success.
    pub async fn call(&self, call: Call) -> Result<()> {
        match self.open(call).await? {
            (_, Reply::Done) => Ok(()),
            (_, other) => Err(self.odd(format!("unexpected answer {other:?}"))),
        }
    }

    pub fn dead(&self) -> RuntimeError {
        RuntimeError::SandboxDead {
            id: self.id.to_owned(),
        }
    }

    fn silent(&self) -> RuntimeError {
        RuntimeError::ShimSilent {
            id: self.id.to_owned(),
            seconds: RESPONSE_MAX.as_secs(),
        }
    }

    pub fn odd(&self, reason: String) -> RuntimeError {
        RuntimeError::Protocol {
            id: self.id.to_owned(),
            reason,
        }
    }

    fn failure(&self, failure: Failure, call: &Call) -> RuntimeError {
        let container = || container_of(call).to_owned();
        match failure {
            Failure::Version { supported } => self.odd(format!(
                "its shim speaks version {supported}, this program needs {VERSION}; \
                 delete the pod to have it made anew"
            )),
            Failure::Invalid { what, reason } => RuntimeError::Invalid { what, reason },
            Failure::NoSuchContainer => RuntimeError::NoSuchContainer {
                sandbox: self.id.to_owned(),
                container: container(),
            },
            Failure::WrongState(state) => RuntimeError::WrongState {
                container: container(),
                state,
            },
            Failure::Start(error) => RuntimeError::Start(error),
            Failure::Internal(text) => RuntimeError::Shim(text),
        }
    }
}

fn container_of(call: &Call) -> &str {
    match call {
        Call::Create(spec) => &spec.id,
        Call::Exec(spec) => &spec.container,
        Call::Attach(spec) => &spec.container,
        Call::Start { container }
        | Call::Signal { container, .. }
        | Call::Remove { container }
        | Call::ReopenLog { container } => container,
        Call::Update { container, .. } => container.as_deref().unwrap_or_default(),
        Call::State | Call::Events | Call::Destroy => "",
    }
}

fn is_disconnection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// Reads the next frame; `None` if the connection is closed between two frames.
pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
    stream: &mut R,
) -> io::Result<Option<(FrameKind, Vec<u8>)>> {
    let mut head = [0; HEADER_BYTES];
    match stream.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let Some((kind, length)) = parse_header(head) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "malformed frame",
        ));
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some((kind, body)))
}

/// Writes one frame: its header, then `body`.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(
    stream: &mut W,
    kind: FrameKind,
    body: &[u8],
) -> io::Result<()> {
    stream.write_all(&header(kind, body.len())).await?;
    stream.write_all(body).await
}

/// Writes one frame with a JSON body.
pub(crate) async fn write_json<W: AsyncWrite + Unpin, T: Serialize>(
    stream: &mut W,
    kind: FrameKind,
    body: &T,
) -> io::Result<()> {
    stream.write_all(&json_frame(kind, body)?).await
}

/// Reads the JSON body of a message frame; `None` at the end of the stream.
pub(crate) async fn read_json<T: DeserializeOwned>(
    stream: &mut UnixStream,
) -> io::Result<Option<T>> {
    match read_frame(stream).await? {
        Some((FrameKind::Message, body)) => Ok(Some(serde_json::from_slice(&body)?)),
        Some((kind, _)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unexpected frame {kind:?}"),
        )),
        None => Ok(None),
    }
}
