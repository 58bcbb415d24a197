//! A gRPC server on unix sockets.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use host_kernel::blocking;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rpc_channel::framing::framed;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::driver::Driver;
use crate::node::NodeDriver;

/// The encoded response, or the code and the message of an error.
pub(crate) type Done = Result<Vec<u8>, (u32, String)>;

/// The effect of a call on its connection.
pub(crate) enum CallOutcome {
    Done(Done),
    /// The connection breaks.
    Dies,
    /// The call gets no response until the caller cancels it.
    Hangs,
    /// Encoded responses, one after the other.
    Stream(BoxStream<'static, Vec<u8>>),
}

/// A server on a socket; dropping it stops the server. The socket file stays, as after a crash.
pub struct TestDriver {
    socket: PathBuf,
    _serving: AbortOnDropHandle<()>,
}

impl TestDriver {
    /// Serves the node driver on a socket.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn serve(socket: &Path, driver: Arc<NodeDriver>) -> io::Result<Self> {
        listen(socket, move |path, message| driver.respond(path, message))
    }

    /// Serves the complete driver on a socket.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn serve_whole(socket: &Path, driver: Arc<Driver>) -> io::Result<Self> {
        listen(socket, move |path, message| driver.respond(path, message))
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

pub(crate) fn listen(
    socket: &Path,
    respond: impl Fn(&str, &[u8]) -> CallOutcome + Send + Sync + 'static,
) -> io::Result<TestDriver> {
    if let Err(error) = std::fs::remove_file(socket)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(socket)?;
    let respond = Arc::new(respond);
    let serving = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(connection(stream, respond.clone()));
        }
    });
    Ok(TestDriver {
        socket: socket.to_owned(),
        _serving: AbortOnDropHandle::new(serving),
    })
}

async fn connection<A>(stream: UnixStream, respond: Arc<A>)
where
    A: Fn(&str, &[u8]) -> CallOutcome + Send + Sync + 'static,
{
    let service = service_fn(move |request| exchange(request, respond.clone()));
    let served = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // The fault `die` breaks the connection here.
    drop(served);
}

async fn exchange<A>(
    request: Request<Incoming>,
    respond: Arc<A>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, io::Error>
where
    A: Fn(&str, &[u8]) -> CallOutcome + Send + Sync + 'static,
{
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    let response = blocking(move || match body.get(5..) {
        Some(message) => Ok::<_, io::Error>(respond(&path, message)),
        None => Ok(CallOutcome::Dies),
    })
    .await?;
    let response = match response {
        CallOutcome::Done(done) => done,
        CallOutcome::Dies => return Err(io::Error::other("dies")),
        CallOutcome::Hangs => std::future::pending().await,
        CallOutcome::Stream(messages) => {
            let frames = messages.map(|message| Ok(Frame::data(framed(&message))));
            return grpc_response(StreamBody::new(frames).boxed_unsync());
        }
    };
    let mut trailers = HeaderMap::new();
    let mut frames = Vec::new();
    match response {
        Ok(message) => {
            frames.push(Ok(Frame::data(framed(&message))));
            trailers.insert("grpc-status", 0.into());
        }
        Err((code, words)) => {
            trailers.insert("grpc-status", code.into());
            let words = words.replace('%', "%25").replace('\n', "%0A");
            let words = words.try_into().map_err(io::Error::other)?;
            trailers.insert("grpc-message", words);
        }
    }
    frames.push(Ok(Frame::trailers(trailers)));
    grpc_response(StreamBody::new(stream::iter(frames)).boxed_unsync())
}

fn grpc_response(
    body: UnsyncBoxBody<Bytes, Infallible>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, io::Error> {
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(body).map_err(io::Error::other)
}
