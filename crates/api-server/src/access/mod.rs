//! Access control: authentication, authorisation, auditing, flow control and TLS.

pub(crate) mod asking;
pub(crate) mod audit;
pub(crate) mod authorize;
pub(crate) mod identity;
pub(crate) mod impersonation;
pub(crate) mod oidc;
pub(crate) mod tls;
pub(crate) mod tokens;
