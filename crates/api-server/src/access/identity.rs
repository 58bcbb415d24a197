//! Who is asking: client certificate, bearer token, or nobody in particular.

use std::collections::BTreeMap;

use certificates::ClientSubject;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use object_model::{Status, StatusReason};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};

use crate::access::tls::Tls;
use crate::server::ApiServer;

/// Somebody who makes requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// For instance `system:kube-scheduler`.
    pub name: String,
    /// Identity of the account behind the name, where there is one.
    pub uid: String,
    /// Groups, for instance `system:masters`.
    pub groups: Vec<String>,
    /// Further facts, for instance the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user by name and groups.
    pub fn new<G: Into<String>>(
        name: impl Into<String>,
        groups: impl IntoIterator<Item = G>,
    ) -> Self {
        Self {
            name: name.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Nobody in particular.
    pub(crate) fn anonymous() -> Self {
        Self::new(ANONYMOUS, [UNAUTHENTICATED])
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// As a `UserInfo` of `authentication.k8s.io`.
    pub(crate) fn to_json(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }

    /// Adds the group that everybody known is in.
    pub(crate) fn authenticated(mut self) -> Self {
        if !self.is_anonymous() && !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

pub(crate) const ANONYMOUS: &str = "system:anonymous";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// What is known about the other end before a request is read.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A part of this process, whose name is taken as given.
    Local(UserInfo),
    /// A network connection, with the owner of its client certificate.
    Network(Certificate),
}

/// What a connection's client certificate says.
#[derive(Clone, Debug)]
pub(crate) enum Certificate {
    Absent,
    /// Not signed by somebody we trust, or expired.
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

/// What a request proves its user with.
pub(crate) enum Credentials {
    Known(UserInfo),
    Token(String),
}

impl Credentials {
    /// Finds a request's credentials; a certificate counts before a token.
    ///
    /// *Errors.* 401 for a certificate of somebody else's, and for headers of other schemes.
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

/// Finds out who makes a request.
///
/// *Errors.* 401 for credentials that are not good.
pub(crate) async fn authenticate(
    server: &ApiServer,
    credentials: Credentials,
) -> Result<UserInfo, Status> {
    let token = match credentials {
        Credentials::Known(user) => return Ok(user),
        Credentials::Token(token) => token,
    };
    match crate::handlers::subresources::token::authenticate(server, &token, &[]).await {
        Ok(accepted) => Ok(accepted.user.authenticated()),
        Err(refusal) => {
            tracing::debug!(error = %refusal, "bearer token refused");
            Err(unauthorized())
        }
    }
}

/// The bearer token, if there is an `Authorization` header at all.
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

/// 401, with no hint why.
pub(crate) fn unauthorized() -> Status {
    Status::new(StatusReason::Unauthorized, "Unauthorized")
}

/// The groups that every account of a namespace is in.
pub(crate) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
    ]
}
