//! Settings of a pool.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::ClientConfig;

/// Decides whether the address of a name may be connected to.
pub type Allows = Arc<dyn Fn(&str, IpAddr) -> bool + Send + Sync>;

/// The proxies that requests go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxies {
    /// No proxy.
    None,
    /// This one: `http://`, `https://`, `socks5://` or `socks5h://`. The proxy of SOCKS resolves names.
    Through(Uri),
    /// Those of the variables `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, as of curl.
    Environment,
}

/// The settings of a [`crate::Pool`].
#[derive(Clone)]
pub struct Settings {
    /// The longest time until a connection stands, TLS and proxies included.
    pub connect_limit: Duration,
    /// The longest time in which a server may send nothing.
    pub silence_limit: Duration,
    /// The servers that are trusted; see [`crate::tls`].
    pub tls: Arc<ClientConfig>,
    /// The name in the certificates of servers, if it is not that of their URL.
    pub server_name: Option<String>,
    /// Whether requests to a server that has HTTP/2 share connections. A server that has vanished is noticed then.
    pub http2: bool,
    /// The proxies that requests go through.
    pub proxies: Proxies,
    /// Decides whether an address that a name resolves to may be connected to; names of proxies
    /// included. The caller checks URLs that have an address in place of a name.
    pub allows: Allows,
}
