//! Access control: authentication, authorisation, auditing and TLS.

pub(crate) mod audit;
pub(crate) mod authorize;
pub(crate) mod authorizing_reader;
mod bootstrap_tokens;
pub(crate) mod identity;
pub(crate) mod impersonation;
pub(crate) mod oidc;
pub(crate) mod tls;
pub(crate) mod tokens;

use std::sync::{Arc, OnceLock};

use crate::access::audit::Audit;
use crate::access::authorize::Authorizer;
use crate::access::tokens::Tokens;

/// Authentication by tokens, authorisation and auditing.
pub(crate) struct Access {
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) tokens: Tokens,
    pub(crate) audit: OnceLock<Arc<Audit>>,
}
