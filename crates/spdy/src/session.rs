//! A connection: reads frames, passes their contents to the streams, and sends the data of the streams.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use crate::ProtocolError;
use crate::frame::{Frame, Header, encode, parse_head, read_control, reply};
use crate::headers::{Headers, Inflater};
use crate::limits::{
    CHUNK_BYTES_MAX, INCOMING_MAX, OUTGOING_MAX, STREAMS_MAX, WAITING_STREAMS_MAX,
};

const STATUS_PROTOCOL_ERROR: u32 = 1;
const STATUS_REFUSED: u32 = 3;

/// A stream that the client has opened. Dropping it sends nothing to the client.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    headers: Headers,
    incoming: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Frame>,
}

/// The reading half of a stream.
#[derive(Debug)]
pub struct StreamReader(mpsc::Receiver<Bytes>);

/// The writing half of a stream.
#[derive(Clone, Debug)]
pub struct StreamWriter {
    id: u32,
    outgoing: mpsc::Sender<Frame>,
}

impl Stream {
    /// The number of the stream; streams of a client have odd, increasing numbers.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self
            .headers
            .iter()
            .find(|(header_name, _)| header_name == name);
        header.map(|(_, value)| value.as_str())
    }

    /// Splits the stream into its halves, for two tasks.
    pub fn split(self) -> (StreamReader, StreamWriter) {
        let writer = StreamWriter {
            id: self.id,
            outgoing: self.outgoing,
        };
        (StreamReader(self.incoming), writer)
    }
}

impl StreamReader {
    /// The next data; `None` if the client has finished or reset the stream, or if the connection is closed.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

impl StreamWriter {
    /// Sends data. Returns whether the connection is open; the client may nevertheless have stopped reading.
    pub async fn write(&self, data: Bytes) -> bool {
        self.send(data, false).await
    }

    /// Closes this side of the stream.
    pub async fn finish(&self) -> bool {
        self.send(Bytes::new(), true).await
    }

    /// Ends the stream in both directions.
    pub async fn reset(&self) -> bool {
        let frame = Frame::Reset {
            stream: self.id,
            status: STATUS_PROTOCOL_ERROR,
        };
        self.outgoing.send(frame).await.is_ok()
    }

    async fn send(&self, data: Bytes, fin: bool) -> bool {
        let frame = Frame::Data {
            stream: self.id,
            fin,
            data,
        };
        self.outgoing.send(frame).await.is_ok()
    }
}

/// Serves a connection: returns the streams that the client opens, and the future that does the work. The
/// future ends with the connection, or when the caller has dropped the receiver of streams and all accepted
/// streams. All data of the client is delivered before the end of the connection.
pub fn serve<I>(
    connection: I,
) -> (
    mpsc::Receiver<Stream>,
    impl Future<Output = Result<(), Error>> + Send,
)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(connection);
    let (opened, streams) = mpsc::channel(WAITING_STREAMS_MAX);
    let (outgoing, frames) = mpsc::channel(OUTGOING_MAX);
    let incoming = Incoming {
        reader: BufReader::new(reader),
        inflater: Inflater::default(),
        opened,
        outgoing,
        streams: BTreeMap::new(),
        last: 0,
    };
    let work = async move {
        let mut sending = std::pin::pin!(send(writer, frames));
        tokio::select! {
            done = incoming.run() => {
                // Existing streams may still send after the client has closed its side.
                sending.await?;
                done
            }
            done = &mut sending => done,
        }
    };
    (streams, work)
}

/// Sends the frames. After an error, further frames are discarded until all senders are dropped: a client
/// that no longer reads may have sent data before, and its delivery must not wait for the sender.
async fn send<W>(writer: W, mut frames: mpsc::Receiver<Frame>) -> Result<(), Error>
where
    W: AsyncWrite + Unpin,
{
    let sent = write(writer, &mut frames).await;
    if sent.is_err() {
        while frames.recv().await.is_some() {}
    }
    sent
}

async fn write<W>(mut writer: W, frames: &mut mpsc::Receiver<Frame>) -> Result<(), Error>
where
    W: AsyncWrite + Unpin,
{
    while let Some(frame) = frames.recv().await {
        writer.write_all(&encode(&frame)).await?;
        if frames.is_empty() {
            writer.flush().await?;
        }
    }
    writer.shutdown().await
}

/// The receiving side of a connection.
struct Incoming<R> {
    reader: BufReader<R>,
    inflater: Inflater,
    opened: mpsc::Sender<Stream>,
    outgoing: mpsc::Sender<Frame>,
    /// The streams in which the client may still send.
    streams: BTreeMap<u32, mpsc::Sender<Bytes>>,
    /// The number of the newest stream.
    last: u32,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    /// Reads frames until the client closes the connection or violates the protocol.
    async fn run(mut self) -> Result<(), Error> {
        loop {
            let mut head = [0; 8];
            match self.reader.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            match parse_head(head).map_err(invalid)? {
                Header::Data {
                    stream,
                    fin,
                    length,
                } => self.data(stream, fin, length).await?,
                Header::Control {
                    kind,
                    flags,
                    length,
                } => {
                    let mut payload = vec![0; length];
                    self.reader.read_exact(&mut payload).await?;
                    let frame = read_control(kind, flags, &payload.into()).map_err(invalid)?;
                    self.control(frame).await?;
                }
            }
        }
    }

    /// Passes data on in parts, so that no frame is ever in memory as a whole.
    async fn data(&mut self, stream: u32, fin: bool, length: usize) -> Result<(), Error> {
        let to = self.streams.get(&stream).cloned();
        let mut left = length;
        while left > 0 {
            let mut part = BytesMut::zeroed(left.min(CHUNK_BYTES_MAX));
            self.reader.read_exact(&mut part).await?;
            left -= part.len();
            // A stream that the server has closed has no reader.
            if let Some(to) = &to
                && to.send(part.freeze()).await.is_err()
            {
                self.streams.remove(&stream);
            }
        }
        if fin {
            self.streams.remove(&stream);
        }
        Ok(())
    }

    async fn control(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::Open { stream, fin, block } => {
                let headers = self.inflater.headers(&block).map_err(invalid)?;
                self.open(stream, fin, headers).await?;
            }
            // Ignored headers must be decompressed too, because later blocks refer to them.
            Frame::Reply { block, .. } => {
                self.inflater.headers(&block).map_err(invalid)?;
            }
            Frame::Headers { stream, fin, block } => {
                self.inflater.headers(&block).map_err(invalid)?;
                if fin {
                    self.streams.remove(&stream);
                }
            }
            Frame::Reset { stream, .. } => {
                self.streams.remove(&stream);
            }
            Frame::Ping(id) if id % 2 == 1 => self.send_frame(Frame::Ping(id)).await?,
            Frame::Ping(_) | Frame::GoAway { .. } | Frame::Data { .. } | Frame::Other => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), Error> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(invalid(ProtocolError::StreamId(id)));
        }
        let first = self.last == 0;
        self.last = id;
        self.send_frame(reply(id, first)).await?;
        if self.streams.len() >= STREAMS_MAX {
            let status = STATUS_REFUSED;
            return self.send_frame(Frame::Reset { stream: id, status }).await;
        }
        let (sender, incoming) = mpsc::channel(INCOMING_MAX);
        if !fin {
            self.streams.insert(id, sender);
        }
        let stream = Stream {
            id,
            headers,
            incoming,
            outgoing: self.outgoing.clone(),
        };
        if self.opened.send(stream).await.is_err() {
            tracing::debug!(id, "nobody takes streams any longer");
        }
        Ok(())
    }

    async fn send_frame(&mut self, frame: Frame) -> Result<(), Error> {
        let sent = self.outgoing.send(frame).await;
        sent.map_err(|_| Error::from(ErrorKind::BrokenPipe))
    }
}

fn invalid(error: ProtocolError) -> Error {
    Error::new(ErrorKind::InvalidData, error)
}
