//! The certificates of a node: the first one by a bootstrap token, and the next ones as the node itself.
//!
//! A new node knows a server, a token and the hash of the authority's key. [`find_authority`] gets the
//! authority's certificate in a TLS handshake, and sends nothing before the hash is right. [`join`]
//! asks for the client certificate by the token. From then on the node asks for its certificates as
//! itself ([`request()`]), and needs no token. [`Renewal`] replaces a certificate before it expires, and
//! [`renewed_client`] shows the newest one. The other parts of a node have clients of their own
//! ([`account_client`]). All of them ask the same server of several ([`Servers`]).

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
