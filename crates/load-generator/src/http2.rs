//! Connections with HTTP/2, which many requests share.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use http::Request;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Config;
use kube::client::ConfigExt;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Flow-control windows of Go's client: of a stream, and of a connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// An open connection. The connection closes after its last request when the value is dropped.
#[derive(Clone)]
pub struct SharedConnection {
    requests: SendRequest<Empty<Bytes>>,
    base: String,
}

impl SharedConnection {
    /// Opens a connection to the server of a configuration.
    pub async fn open(config: &Config) -> Result<Self> {
        let url = &config.cluster_url;
        let host = url.host().context("the URL of the server has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut tls = config.rustls_client_config().context("prepare TLS")?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect((host, url.port_u16().unwrap_or(443)));
        let stream = stream.await.context("connect to the server")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let name = ServerName::try_from(host.to_owned()).context("read the server's host name")?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream);
        let stream = stream.await.context("open a connection with TLS")?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let handshake = builder.handshake(TokioIo::new(stream));
        let (requests, connection) = handshake.await.context("open a connection with HTTP/2")?;
        tokio::spawn(connection);
        let base = url.to_string().trim_end_matches('/').to_owned();
        Ok(Self { requests, base })
    }

    /// The body of the successful response to a get.
    pub async fn get(&mut self, path: &str) -> Result<Incoming> {
        let request = Request::get(format!("{}{path}", self.base)).body(Empty::new())?;
        self.requests.ready().await.context("send a request")?;
        let reply = self.requests.send_request(request).await;
        let reply = reply.context("send a request")?;
        if !reply.status().is_success() {
            bail!("{path} is answered {}", reply.status());
        }
        Ok(reply.into_body())
    }
}
