//! A node whose kubelet API is this test: the other end of tunnels.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use node_identity::Identity;
use tokio::io::{self, AsyncRead, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::tenant::{Server, WINDOW, certificate_and_key, head};

/// The manner of the responses.
#[derive(Clone, Copy)]
pub enum Manner {
    /// A response without end.
    Talks,
    /// The begin of a response, or of a session.
    Waits,
}

pub struct HollowNode {
    server: Server,
    acceptor: TlsAcceptor,
    manner: Manner,
    /// Whether the node has stopped reading from its tunnels.
    pub is_deaf: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl HollowNode {
    pub fn new(server: Server, identity: &Identity, serving: &Identity, manner: Manner) -> Self {
        let (certificates, key) = certificate_and_key(serving);
        let tls = ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(certificates, key).unwrap();
        Self {
            server: server.with_identity(identity),
            acceptor: Arc::new(tls).into(),
            manner,
            is_deaf: Arc::default(),
            connections: Arc::default(),
        }
    }

    /// The number of requests with a response so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Opens a tunnel, which accepts any number of connections.
    pub async fn open_tunnel(&self) {
        let mut stream = self.server.connect("http/1.1").await;
        let request = "GET /mainstay.dev/tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                       Upgrade: mainstay-tunnel\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let head = head(&mut stream).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let (acceptor, manner) = (self.acceptor.clone(), self.manner);
        let connections = self.connections.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let upgrade = hyper::upgrade::on(&mut request);
            let (acceptor, connections) = (acceptor.clone(), connections.clone());
            tokio::spawn(serve(upgrade, acceptor, manner, connections));
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        });
        let (reader, writer) = io::split(stream);
        let reader = Deaf {
            reader,
            is_deaf: self.is_deaf.clone(),
        };
        let serving = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(None)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .serve_connection(TokioIo::new(io::join(reader, writer)), service);
        // The task ends when the server closes the tunnel.
        tokio::spawn(serving);
    }
}

/// Responds to the request of one connection.
async fn serve(
    upgrade: OnUpgrade,
    acceptor: TlsAcceptor,
    manner: Manner,
    connections: Arc<AtomicUsize>,
) -> Option<Infallible> {
    let upgraded = TokioIo::new(upgrade.await.ok()?);
    let mut stream = acceptor.accept(upgraded).await.ok()?;
    let request_head = head(&mut stream).await.ok()?.to_ascii_lowercase();
    let begin = match request_head.contains("upgrade: websocket") {
        true => "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket",
        false => "200 OK\r\nTransfer-Encoding: chunked",
    };
    let begin = format!("HTTP/1.1 {begin}\r\n\r\n");
    stream.write_all(begin.as_bytes()).await.ok()?;
    connections.fetch_add(1, Ordering::Relaxed);
    stream.flush().await.ok()?;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    loop {
        match manner {
            Manner::Talks => stream.write_all(chunk.as_bytes()).await.ok()?,
            Manner::Waits => std::future::pending().await,
        }
    }
}

/// A reader that stops reading when it is deaf.
struct Deaf<R> {
    reader: R,
    is_deaf: Arc<AtomicBool>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Deaf<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.is_deaf.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => Pin::new(&mut self.reader).poll_read(context, buffer),
        }
    }
}
