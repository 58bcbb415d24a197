//! The certificates of a node: the first certificate is requested with a bootstrap token, later
//! certificates with the node's certificate.
//!
//! A new node has the address of a server, a token, and the hash of the authority's key. [`find_authority`]
//! reads the authority's certificate in a TLS handshake, and sends no data before the hash is correct.
//! [`join`] requests the client certificate with the token. Afterwards, the node requests its certificates
//! with its own certificate ([`request()`]), and needs no token. [`Renewal`] replaces a certificate before
//! it expires, and [`renewed_client`] uses the newest certificate. Other components of a node have separate
//! clients ([`account_client`]). All clients use the same server of several ([`Servers`]).

mod account;
mod authority;
mod client;
mod error;
mod join;
mod keys;
mod renewal;
mod request;
mod servers;
mod token;

pub use account::account_client;
pub use authority::find_authority;
pub use client::{Credentials, client, renewed_client};
pub use error::Error;
pub use join::{Joined, join};
pub use keys::{CertificateSubject, Identity};
pub use renewal::{Failures, Renewal, Validity, wait};
pub use request::request;
pub use servers::Servers;
pub use token::JoinToken;
