//! Connections of a pool: directly to the server, or through a proxy.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::{Service, ServiceExt};

use crate::settings::{Allows, Settings};
use crate::{BoxError, socket, tls};

/// The protocol name of HTTP/2 in the TLS handshake (ALPN).
const HTTP2: &[u8] = b"h2";

/// A name resolver that leaves out addresses that are not allowed.
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
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = addresses.filter(|address| allows(name.as_str(), address.ip()));
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
    /// The server name in the certificate, if it differs from the host of the URI.
    server_name: Option<Arc<str>>,
}

impl Direct {
    async fn connect(self, uri: Uri) -> Result<Stream, BoxError> {
        let tcp = self.tcp.clone().oneshot(uri.clone()).await?;
        let stream = Stream::new(tcp.into_inner());
        match is_https(&uri) {
            true => self.secured(stream, &uri).await,
            false => Ok(stream),
        }
    }

    async fn secured(self, stream: Stream, uri: &Uri) -> Result<Stream, BoxError> {
        let host = match &self.server_name {
            Some(name) => name,
            None => uri.host().unwrap_or_default().trim_matches(['[', ']']),
        };
        let stream = tls::handshake(TokioIo::new(stream), host, self.tls).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        Ok(Stream {
            is_http2,
            ..Stream::new(stream)
        })
    }
}

impl Service<Uri> for Direct {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Connects to the server of a URI, through a proxy if the settings name one for the URI.
#[derive(Clone)]
pub struct Connector {
    direct: Direct,
    proxies: Arc<Matcher>,
    limit: Duration,
}

impl Connector {
    pub fn new(settings: Settings, proxies: Arc<Matcher>) -> Self {
        let limit = settings.connect_limit;
        let mut tcp = HttpConnector::new_with_resolver(Resolver(settings.allows));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(limit));
        socket::ending_when_silent(&mut tcp);
        let direct = Direct {
            tcp,
            tls: settings.tls,
            server_name: settings.server_name.map(Arc::from),
        };
        Self {
            direct,
            proxies,
            limit,
        }
    }

    /// Offers HTTP/2 to servers in the TLS handshake.
    pub fn with_http2(mut self) -> Self {
        let mut tls = ClientConfig::clone(&self.direct.tls);
        tls.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        self.direct.tls = Arc::new(tls);
        self
    }

    async fn connect(self, uri: Uri) -> Result<Stream, BoxError> {
        let Some(proxy) = self.proxies.intercept(&uri) else {
            return self.direct.connect(uri).await;
        };
        let mut to_proxy = Direct {
            server_name: None,
            ..self.direct.clone()
        };
        if !to_proxy.tls.alpn_protocols.is_empty() {
            // Requests to proxies use HTTP/1.1.
            let mut tls = ClientConfig::clone(&to_proxy.tls);
            tls.alpn_protocols.clear();
            to_proxy.tls = Arc::new(tls);
        }
        let stream = match proxy.uri().scheme_str().unwrap_or_default() {
            "http" | "https" if !is_https(&uri) => {
                let stream = to_proxy.connect(proxy.uri().clone()).await?;
                return Ok(Stream {
                    is_proxied: true,
                    ..stream
                });
            }
            "http" | "https" => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
                if let Some(credentials) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(credentials.clone());
                }
                tunnel.oneshot(uri.clone()).await?
            }
            "socks5" | "socks5h" => {
                let mut tunnel = SocksV5::new(with_socks_port(proxy.uri())?, to_proxy);
                if let Some((user, password)) = proxy.raw_auth() {
                    tunnel = tunnel.with_auth(user.to_owned(), password.to_owned());
                }
                tunnel.oneshot(uri.clone()).await?
            }
            scheme => {
                return Err(format!("proxies of the scheme {scheme:?} are not supported").into());
            }
        };
        match is_https(&uri) {
            true => self.direct.secured(stream, &uri).await,
            false => Ok(stream),
        }
    }
}

/// The URI of a proxy. The default port of SOCKS (RFC 1928) is added if the URI of a SOCKS proxy has no port.
fn with_socks_port(proxy: &Uri) -> Result<Uri, http::Error> {
    if proxy.port().is_some() {
        return Ok(proxy.clone());
    }
    let host = proxy.host().unwrap_or_default();
    Uri::builder()
        .scheme("socks5")
        .authority(format!("{host}:1080"))
        .path_and_query("/")
        .build()
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

/// A TCP or TLS connection.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

/// A connection of the pool.
pub struct Stream {
    io: TokioIo<Box<dyn Io>>,
    /// Whether requests must contain the whole URL, because a proxy reads them.
    is_proxied: bool,
    /// Whether the server has chosen HTTP/2.
    is_http2: bool,
}

impl Stream {
    fn new(io: impl Io + 'static) -> Self {
        Self {
            io: TokioIo::new(Box::new(io)),
            is_proxied: false,
            is_http2: false,
        }
    }

    pub fn is_http2(&self) -> bool {
        self.is_http2
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
