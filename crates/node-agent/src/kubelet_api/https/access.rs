//! Authentication and authorisation of requests by the API server.

use std::collections::BTreeMap;

use certificates::{ClientSubject, SubjectError};
use connection_limits::ConnectionStage;
use http::Request;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube_api_client::{Api, Client, PostParams};
use object_model::{Status, StatusReason};

use super::rights::rights;

/// The group of all authenticated users.
const AUTHENTICATED: &str = "system:authenticated";

/// A user of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    groups: Vec<String>,
    uid: Option<String>,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

impl User {
    /// The user of a client certificate that the handshake has verified.
    pub fn of_certificate(certificate: &[u8]) -> Result<Self, SubjectError> {
        let subject = ClientSubject::of(certificate)?;
        let mut groups = subject.organizations;
        groups.push(AUTHENTICATED.to_owned());
        Ok(Self {
            name: subject.common_name,
            groups,
            uid: None,
            extra: None,
        })
    }
}

#[derive(Debug)]
pub struct KubeletAuthorizer {
    node_name: String,
    client: Client,
}

impl KubeletAuthorizer {
    /// The checks for this node. `client` sends requests to the API server as the node.
    pub fn new(node_name: &str, client: Client) -> Self {
        Self {
            node_name: node_name.to_owned(),
            client,
        }
    }

    /// Authenticates and authorises a request; `user` is the user of the connection's certificate, which
    /// has priority over a token. `stage` is notified when the credentials are valid.
    ///
    /// *Errors.* 401 for a request without valid credentials, 403 for one that is not allowed, 500 if the
    /// API server does not respond.
    pub async fn permit<B>(
        &self,
        request: &Request<B>,
        user: Option<User>,
        stage: &ConnectionStage,
    ) -> Result<(), Box<Status>> {
        let user = match (user, bearer(request)) {
            (Some(user), _) => user,
            (None, Some(token)) => self.user_of(token).await?.ok_or_else(unauthorized)?,
            (None, None) => return Err(unauthorized()),
        };
        stage.is_known();
        let (method, path) = (request.method(), request.uri().path());
        let Some(rights) = rights(method, path) else {
            let message = format!("the method {method} is not supported");
            return Err(Box::new(Status::new(
                StatusReason::MethodNotAllowed,
                message,
            )));
        };
        for subresource in rights.subresources {
            let attributes = ResourceAttributes {
                verb: Some(rights.verb.to_owned()),
                version: Some("v1".to_owned()),
                resource: Some("nodes".to_owned()),
                subresource: Some((*subresource).to_owned()),
                name: Some(self.node_name.clone()),
                ..ResourceAttributes::default()
            };
            if self.allows(&user, attributes).await? {
                return Ok(());
            }
        }
        let message = format!(
            "user {:?} needs the right to {} nodes/{} of node {:?}",
            user.name,
            rights.verb,
            rights.subresources.join(" or nodes/"),
            self.node_name
        );
        Err(Box::new(Status::new(StatusReason::Forbidden, message)))
    }

    /// The user of a token; `None` if the token is invalid.
    async fn user_of(&self, token: &str) -> Result<Option<User>, Box<Status>> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let response = reviews.create(&PostParams::default(), &review).await;
        let status = response.map_err(review_error)?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        Ok(user.map(|user| User {
            name: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            uid: user.uid,
            extra: user.extra,
        }))
    }

    async fn allows(
        &self,
        user: &User,
        attributes: ResourceAttributes,
    ) -> Result<bool, Box<Status>> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: user.uid.clone(),
                extra: user.extra.clone(),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let response = reviews.create(&PostParams::default(), &review).await;
        let status = response.map_err(review_error)?.status;
        Ok(status.is_some_and(|status| status.allowed))
    }
}

/// The response with code 401, without a reason that could help an attacker.
fn unauthorized() -> Box<Status> {
    Box::new(Status::new(StatusReason::Unauthorized, "Unauthorized"))
}

fn review_error(error: kube_api_client::Error) -> Box<Status> {
    let message = format!("ask the API server about a request: {error}");
    Box::new(Status::internal(message))
}

fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
