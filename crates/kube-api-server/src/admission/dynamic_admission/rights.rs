//! The rights that expressions check: `authorizer` in policies and match conditions.

use std::sync::Arc;

use custom_resources::{
    AccessCheck, AccessDecision, AccessSubject, AccessTarget, RequestAuthorizer,
};
use object_model::FieldSelector;

use crate::access::authorize::{self, AuthorizationAttributes, Authorizer};
use crate::http::user::UserInfo;

/// The authoriser for the expressions about a request of this user.
pub(super) fn request_authorizer(
    authorizer: &Arc<Authorizer>,
    user: &UserInfo,
) -> Arc<RequestAuthorizer> {
    let (authorizer, user) = (authorizer.clone(), user.clone());
    Arc::new(RequestAuthorizer::new(move |check| {
        decide(&authorizer, &user, check)
    }))
}

fn decide(authorizer: &Authorizer, requester: &UserInfo, check: &AccessCheck) -> AccessDecision {
    let account = match &check.subject {
        AccessSubject::Requester => None,
        AccessSubject::ServiceAccount { namespace, name } => Some(UserInfo::new(
            format!("system:serviceaccount:{namespace}:{name}"),
            [
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ],
        )),
    };
    let user = account.as_ref().unwrap_or(requester);
    let decision = match &check.target {
        AccessTarget::Path(path) => {
            let attributes = AuthorizationAttributes {
                verb: &check.verb,
                path: Some(path),
                ..AuthorizationAttributes::default()
            };
            authorize::decide(authorizer, user, &attributes)
        }
        AccessTarget::Resource(access) => {
            // As upstream, a selector that does not parse restricts nothing, so the check needs more rights.
            let fields = FieldSelector::parse(&access.field_selector).unwrap_or_default();
            let attributes = AuthorizationAttributes {
                verb: &check.verb,
                group: &access.group,
                resource: &access.resource,
                subresource: &access.subresource,
                namespace: &access.namespace,
                name: &access.name,
                fields: Some(&fields),
                path: None,
            };
            authorize::decide(authorizer, user, &attributes)
        }
    };
    match decision {
        Ok(()) => AccessDecision {
            is_allowed: true,
            ..AccessDecision::default()
        },
        Err(refusal) => AccessDecision {
            reason: refusal.reason().unwrap_or_default(),
            ..AccessDecision::default()
        },
    }
}
