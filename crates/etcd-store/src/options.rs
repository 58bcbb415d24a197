//! The options of a connection with etcd.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use mvcc_store::{Limits, StoreError, Txn};
use outbound_http::tls::{self, BundleError};
use rpc_channel::RpcError;
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

use crate::connections::Endpoint;

/// etcd's port for clients.
const PORT: u16 = 2379;

type Observe = dyn Fn(&Call<'_>) + Send + Sync;

/// A call of etcd that has ended, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The name of the call in etcd's API (`Txn`, `Range`).
    pub method: &'a str,
    /// The transaction of the store that the call executes.
    pub txn: Option<&'a Txn>,
    /// The duration of the call.
    pub duration: Duration,
    /// Whether etcd refused the call, or did not respond.
    pub failed: bool,
}

/// A function that receives each call.
#[derive(Clone)]
pub struct CallObserver(Arc<Observe>);

impl CallObserver {
    /// An observer that calls the function for each call of etcd, from any thread.
    pub fn new(observe: impl Fn(&Call<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }

    pub(crate) fn observe(&self, call: &Call<'_>) {
        (self.0)(call);
    }
}

impl fmt::Debug for CallObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallObserver").finish_non_exhaustive()
    }
}

/// A connection with a member, over which HTTP/2 is spoken.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

type Dial = dyn Fn(&str) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> + Send + Sync;

/// Makes the connections with members, instead of TCP.
#[derive(Clone)]
pub struct Dialer(Arc<Dial>);

impl Dialer {
    /// A dialer that calls the function with the host of a member.
    pub fn new(
        dial: impl Fn(&str) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(dial))
    }

    pub(crate) fn dial(&self, host: &str) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        (self.0)(host)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

/// The options for opening a store in etcd.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members: `http://host:port` or `https://host:port`. The store uses the first member that responds.
    pub endpoints: Vec<String>,
    /// The prefix of all keys. Servers with equal prefixes share a store.
    pub prefix: String,
    /// File with the certificates of the members' authorities, in PEM; `None` for the authorities of the machine.
    pub cafile: Option<PathBuf>,
    /// Files of the client's certificate with its chain, and of its key, in PEM. All files are read again
    /// for each new connection.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Bounds on memory and time.
    pub limits: Limits,
    /// The observer of all calls, for metrics.
    pub observer: Option<CallObserver>,
    /// Opens the connections, before TLS; `None` for TCP.
    pub dialer: Option<Dialer>,
}

impl EtcdOptions {
    /// The members at these addresses, the prefix `/mainstay`, and default limits.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "/mainstay".to_owned(),
            cafile: None,
            identity: None,
            limits: Limits::default(),
            observer: None,
            dialer: None,
        }
    }

    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, ConnectError> {
        let endpoints: Result<Vec<_>, _> =
            self.endpoints.iter().map(|text| endpoint(text)).collect();
        match endpoints {
            Ok(none) if none.is_empty() => Err(ConnectError::Endpoint(String::new())),
            endpoints => endpoints,
        }
    }
}

/// The reason why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An invalid address, or no address at all.
    #[error("{0:?} is not the address of a member of etcd: http://host:port or https://host:port")]
    Endpoint(String),
    /// A file of certificates that cannot be read.
    #[error("read {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// A file without a valid certificate or key.
    #[error("use {}", .0.display())]
    Certificates(PathBuf, #[source] BundleError),
    /// The files of a certificate and of a key that does not belong to the certificate.
    #[error("the key in {} is not that of the certificate in {}", .1.display(), .0.display())]
    OtherKey(PathBuf, PathBuf),
    /// TLS cannot be used.
    #[error("the certificates for etcd")]
    Tls(#[from] tls::Error),
    /// A copy into this etcd was interrupted.
    #[error(
        "the copy of a cluster into this etcd is not complete: begin it again with the same command (`mainstay store copy` or `mainstay store restore`)"
    )]
    Incomplete,
    /// The data was copied elsewhere.
    #[error("the cluster of this etcd was moved to {0}, where it continues")]
    Moved(String),
    /// The record of the data's origin has an unknown format.
    #[error("the data in etcd was copied by a newer version of mainstay; use that")]
    NewerRecord,
    /// No member responds, or every member refuses; with the reason of each member.
    #[error("etcd cannot be used")]
    Store(#[from] StoreError),
}

/// The error of a start with an etcd that does not respond.
pub(crate) fn unusable(error: RpcError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Whether this is the address of a member: `http://host:port` or `https://host:port`.
pub fn is_endpoint(text: &str) -> bool {
    endpoint(text).is_ok()
}

fn endpoint(text: &str) -> Result<Endpoint, ConnectError> {
    let strange = || ConnectError::Endpoint(text.to_owned());
    let url = Url::parse(text).map_err(|_| strange())?;
    let is_tls = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err(strange()),
    };
    let host = url.host_str().ok_or_else(strange)?;
    let has_more = !matches!(url.path(), "" | "/") || url.query().is_some();
    if has_more || !url.username().is_empty() || url.port() == Some(0) {
        return Err(strange());
    }
    // The URL leaves out the usual ports of HTTP.
    let explicit = url.port().or_else(|| {
        let usual = url.port_or_known_default()?;
        text.trim_end_matches('/')
            .ends_with(&format!(":{usual}"))
            .then_some(usual)
    });
    Ok(Endpoint {
        is_tls,
        host: host.trim_matches(['[', ']']).to_owned(),
        port: explicit.unwrap_or(PORT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_members_are_read() {
        let plain = |text: &str| {
            let endpoint = endpoint(text).unwrap();
            (endpoint.is_tls, endpoint.host, endpoint.port)
        };
        assert_eq!(plain("http://a:1"), (false, "a".to_owned(), 1));
        assert_eq!(plain("https://a.b/"), (true, "a.b".to_owned(), 2379));
        assert_eq!(plain("https://a:443"), (true, "a".to_owned(), 443));
        assert_eq!(plain("http://[::1]:2379"), (false, "::1".to_owned(), 2379));
        for strange in [
            "",
            "a:1",
            "etcd://a",
            "http://",
            "http://a/path",
            "http://u@a",
            "http://a:0",
            "http://a:65536",
            "http://:1",
        ] {
            assert!(endpoint(strange).is_err(), "{strange}");
        }
        assert!(EtcdOptions::new([""; 0]).endpoints().is_err());
    }
}
