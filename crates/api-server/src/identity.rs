//! Who is asking: client certificate, bearer token, or nobody in particular.

use std::collections::BTreeMap;

use certificates::ClientSubject;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use object_model::{Status, StatusReason};
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::server::ApiServer;
use crate::tls::Tls;

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

    /// Adds the group that everybody known is in.
    pub(crate) fn authenticated(mut self) -> Self {
        if !self.is_anonymous() && !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const AUTHENTICATED: &str = "system:authenticated";

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
    match crate::subresources::token::authenticate(server, &token, &[]).await {
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

/// Takes the place of the user that the `Impersonate-` headers name, if there are any.
///
/// *Errors.* 403 if the real user may not, 400 for groups or extras without a user.
pub(crate) fn impersonate(
    server: &ApiServer,
    user: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let given = headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"));
    if !given {
        return Ok(user);
    }
    let name = headers
        .get("impersonate-user")
        .map(text)
        .unwrap_or_default();
    if name.is_empty() {
        return Err(Status::bad_request(
            "requested impersonation without a user",
        ));
    }
    let extra = headers.keys().find(|name| {
        name.as_str().starts_with("impersonate-extra-") || name.as_str() == "impersonate-uid"
    });
    if let Some(header) = extra {
        return Err(Status::bad_request(format!(
            "impersonation by {header} is not supported"
        )));
    }
    let mut groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .map(text)
        .collect();
    for group in &groups {
        may_impersonate(server, &user, "groups", "", group)?;
    }
    match name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
    {
        Some((namespace, account)) => {
            may_impersonate(server, &user, "serviceaccounts", namespace, account)?;
            if groups.is_empty() {
                groups = service_account_groups(namespace);
            }
        }
        None => may_impersonate(server, &user, "users", "", &name)?,
    }
    Ok(UserInfo::new(name, groups).authenticated())
}

fn may_impersonate(
    server: &ApiServer,
    user: &UserInfo,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    let info = crate::request_info::RequestInfo {
        is_resource: true,
        verb: "impersonate".to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    };
    crate::authorize::authorize(&server.rbac, user, &info)
}

/// The groups that every account of a namespace is in.
pub(crate) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
    ]
}
