//! An HTTP/1.1 and HTTP/2 client with time limits, limits on bodies, and explicit trust.
//!
//! [`connect`], [`tls::handshake`] and [`exchange`] are the steps of one request over a separate connection. [`Pool`]
//! keeps connections open, shares them between requests if the server supports HTTP/2, uses proxies, and follows the
//! redirects that the caller allows. [`tls`] creates the TLS settings of both.

mod body;
mod connector;
mod exchange;
mod multiplexed;
mod pool;
pub mod redirect;
mod settings;
pub mod socket;
mod splice;
pub mod tls;

pub use body::{Body, BodyError};
pub use exchange::{ConnectError, connect, exchange};
pub use hyper::Error as ExchangeError;
pub use multiplexed::ConnectFailed;
pub use pool::{Error, Pool, RequestBody};
pub use settings::{Allows, Proxies, Settings};
pub use splice::splice;
pub use url::Url;

/// An error of any type.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
