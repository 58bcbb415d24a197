//! Connections of a pool: to the server, or through a proxy of the environment.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::{Service, ServiceExt};

use crate::{BoxError, tls};

/// Decides whether the address of a name may be connected to.
pub type Allows = Arc<dyn Fn(&str, IpAddr) -> bool + Send + Sync>;

/// The look-up of names, with the addresses left out that are not allowed.
#[derive(Clone)]
struct Resolver(Allows);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let allows = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = found.filter(|address| allows(name.as_str(), address.ip()));
            let allowed: Vec<SocketAddr> = allowed.collect();
            if allowed.is_empty() {
                return Err("its name leads to no address that may be reached".into());
            }
            Ok(allowed.into_iter())
        })
    }
}

/// Connects to the server of a URI, with TLS for https.
#[derive(Clone)]
struct Direct {
    tcp: HttpConnector<Resolver>,
    tls: Arc<ClientConfig>,
}

impl Service<Uri> for Direct {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let direct = self.clone();
        Box::pin(async move {
            let tcp = direct.tcp.oneshot(uri.clone()).await?;
            let stream = Stream::new(tcp.into_inner());
            match is_https(&uri) {
                true => secured(stream, &uri, direct.tls).await,
                false => Ok(stream),
            }
        })
    }
}

/// Connects to the server of a URI, through the proxy that the environment names for it.
#[derive(Clone)]
pub struct Connector {
    direct: Direct,
    proxies: Arc<Matcher>,
    limit: Duration,
}

impl Connector {
    pub fn new(
        allows: Allows,
        tls: Arc<ClientConfig>,
        proxies: Arc<Matcher>,
        limit: Duration,
    ) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver(allows));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(limit));
        Self {
            direct: Direct { tcp, tls },
            proxies,
            limit,
        }
    }

    async fn connect(self, uri: Uri) -> Result<Stream, BoxError> {
        let Some(proxy) = self.proxies.intercept(&uri) else {
            return self.direct.oneshot(uri).await;
        };
        let scheme = proxy.uri().scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") {
            return Err(format!("proxies of the scheme {scheme:?} are not supported").into());
        }
        if !is_https(&uri) {
            let stream = self.direct.oneshot(proxy.uri().clone()).await?;
            return Ok(Stream {
                is_proxied: true,
                ..stream
            });
        }
        let tls = self.direct.tls.clone();
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.direct);
        if let Some(credentials) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        secured(tunnel.oneshot(uri.clone()).await?, &uri, tls).await
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let limit = connector.limit;
            let connected = tokio::time::timeout(limit, connector.connect(uri)).await;
            connected.map_err(|_| BoxError::from("no connection in time"))?
        })
    }
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme() == Some(&Scheme::HTTPS)
}

async fn secured(stream: Stream, uri: &Uri, tls: Arc<ClientConfig>) -> Result<Stream, BoxError> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = tls::handshake(TokioIo::new(stream), host, tls).await?;
    Ok(Stream::new(stream))
}

/// A connection of TCP or TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

/// A connection of the pool.
pub struct Stream {
    io: TokioIo<Box<dyn Io>>,
    /// Requests name the whole URL, since a proxy reads them.
    is_proxied: bool,
}

impl Stream {
    fn new(io: impl Io + 'static) -> Self {
        Self {
            io: TokioIo::new(Box::new(io)),
            is_proxied: false,
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
