//! Authentication: client certificate, bearer token, or anonymous.

use certificates::ClientSubject;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use object_model::{Status, StatusReason};
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::access::tls::Tls;
use crate::access::tokens::Tokens;
use crate::http::user::UserInfo;

/// The identity of a connection's peer.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A part of this process, whose name is trusted.
    Local(UserInfo),
    /// The requester is a component of this process. Its user name is trusted.
    Network(Certificate),
}

/// The subject of a connection's client certificate.
#[derive(Clone, Debug)]
pub(crate) enum Certificate {
    Absent,
    /// Not signed by a trusted authority, or expired.
    Untrusted,
    Of(UserInfo),
}

impl Certificate {
    pub(crate) fn of_chain(chain: Option<&[CertificateDer<'_>]>, tls: &Tls) -> Self {
        let Some([first, rest @ ..]) = chain else {
            return Self::Absent;
        };
        if let Err(error) = tls.clients.verify_client_cert(first, rest, UnixTime::now()) {
            tracing::debug!(%error, "client certificate refused");
            return Self::Untrusted;
        }
        match ClientSubject::of(first) {
            Ok(subject) => Self::Of(UserInfo::new(subject.common_name, subject.organizations)),
            Err(error) => {
                tracing::debug!(%error, "client certificate refused");
                Self::Untrusted
            }
        }
    }
}

/// The credentials of a request.
pub(crate) enum Credentials {
    Known(UserInfo),
    Token(String),
}

impl Credentials {
    /// Extracts the credentials of a request. A certificate has precedence over a token.
    ///
    /// *Errors.* 401 for an untrusted certificate, and for an `Authorization` header of another scheme.
    pub(crate) fn of(caller: Caller, headers: &HeaderMap) -> Result<Self, Status> {
        let certificate = match caller {
            Caller::Local(user) | Caller::Network(Certificate::Of(user)) => {
                return Ok(Self::Known(user.authenticated()));
            }
            Caller::Network(other) => other,
        };
        match (bearer(headers)?, certificate) {
            (Some(token), _) => Ok(Self::Token(token)),
            (None, Certificate::Untrusted) => Err(unauthorized()),
            (None, _) => Ok(Self::Known(UserInfo::anonymous())),
        }
    }
}

/// Authenticates a request.
///
/// *Errors.* 401 for invalid credentials.
pub(crate) async fn authenticate(
    tokens: &Tokens,
    credentials: Credentials,
) -> Result<UserInfo, Status> {
    let token = match credentials {
        Credentials::Known(user) => return Ok(user),
        Credentials::Token(token) => token,
    };
    match tokens.authenticate(&token, &[]).await {
        Ok(accepted) => Ok(accepted.user.authenticated()),
        Err(refusal) => {
            tracing::debug!(error = %refusal, "bearer token refused");
            Err(unauthorized())
        }
    }
}

/// The bearer token; `None` if the request has no `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, Status> {
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let text = header.to_str().map_err(|_| unauthorized())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Ok(Some(token.trim().to_owned()))
        }
        _ => Err(unauthorized()),
    }
}

/// 401 `Unauthorized`. As upstream, the message contains no reason.
pub(crate) fn unauthorized() -> Status {
    Status::new(StatusReason::Unauthorized, "Unauthorized")
}

/// The groups of all service accounts of a namespace.
pub(crate) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
    ]
}
