//! Settings of a pool.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::ClientConfig;

/// Decides from a host name and one of its addresses whether a connection to the address is allowed.
pub type Allows = Arc<dyn Fn(&str, IpAddr) -> bool + Send + Sync>;

/// The proxies that requests go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxies {
    /// No proxy.
    None,
    /// The proxy with this URL: `http://`, `https://`, `socks5://` or `socks5h://`. A SOCKS proxy resolves the names of
    /// servers.
    Through(Uri),
    /// The proxies in the environment variables `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, as curl reads
    /// them.
    Environment,
}

/// The settings of a [`crate::Pool`].
#[derive(Clone)]
pub struct Settings {
    /// The longest time for the setup of a connection, including TLS and proxies.
    pub connect_limit: Duration,
    /// The longest time without a byte from the server.
    pub silence_limit: Duration,
    /// The trusted servers; see [`crate::tls`].
    pub tls: Arc<ClientConfig>,
    /// The server name in certificates, if it differs from the host of the URL.
    pub server_name: Option<String>,
    /// Whether requests to a server share HTTP/2 connections if the server supports HTTP/2. A shared connection also
    /// detects a server that has vanished.
    pub http2: bool,
    /// The proxies that requests go through.
    pub proxies: Proxies,
    /// Decides whether a connection to a resolved address is allowed, for servers and for proxies. It is not called for
    /// URLs with an address in place of a name: the caller checks these.
    pub allows: Allows,
}
