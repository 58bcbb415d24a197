//! Bearer tokens: ServiceAccount tokens, with the account and the objects to which they are bound, and bootstrap
//! tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use certificates::TokenSigner;
use jiff::{SignedDuration, Timestamp};
use json_tree::Value;
use object_model::Status;
use resource_kinds::bootstrap_token;

use crate::access::bootstrap_tokens;
use crate::access::identity::service_account_groups;
use crate::http::user::UserInfo;
use crate::objects::metadata;
use crate::objects::storage;
use crate::objects::storage::Objects;

/// The issuer of tokens (upstream's default).
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The claim that contains the bound account and objects.
pub(crate) const CLAIM: &str = "kubernetes.io";
/// The tokens of a pod in deletion stay valid for this time after the end of its grace period (upstream's value).
const DELETION_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// The signer and the audiences of this server.
pub(crate) struct Tokens {
    signer: Option<Arc<TokenSigner>>,
    audiences: Vec<String>,
    objects: Arc<Objects>,
}

impl Tokens {
    pub(crate) fn new(
        signer: Option<Arc<TokenSigner>>,
        audiences: Vec<String>,
        objects: Arc<Objects>,
    ) -> Self {
        let audiences = if audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            audiences
        };
        Self {
            signer,
            audiences,
            objects,
        }
    }

    /// Authenticates a token, with its account and bound objects. `audiences` are the requested audiences; if the
    /// list is empty, this server's own audiences count. Bootstrap tokens are valid for this server's own audiences.
    pub(crate) async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<ValidToken, TokenRefusal> {
        let requested = if audiences.is_empty() {
            &self.audiences
        } else {
            audiences
        };
        if let Some(parts) = bootstrap_token::parse(token) {
            let matched = matching(requested, |one| {
                self.audiences.iter().any(|local| local == one)
            })?;
            let now = Timestamp::now();
            let user = bootstrap_tokens::authenticate(&self.objects, parts, now).await?;
            return Ok(ValidToken {
                user: user.authenticated(),
                audiences: matched,
            });
        }
        let signer = self.signer.as_ref().ok_or(TokenRefusal::NoSigner)?;
        let claims = signer.verify(token)?;
        if claims["iss"] != ISSUER {
            return Err(TokenRefusal::Issuer);
        }
        let present = claims["aud"].as_array().map_or(&[][..], Vec::as_slice);
        let matched = matching(requested, |one| present.iter().any(|p| p == one))?;
        let bound = &claims[CLAIM];
        let namespace = bound["namespace"].as_str().ok_or(TokenRefusal::Claims)?;
        let account = &bound["serviceaccount"];
        let name = account["name"].as_str().ok_or(TokenRefusal::Claims)?;
        must_live(
            &self.objects,
            "serviceaccounts",
            namespace,
            account,
            "service account",
        )
        .await?;
        let extra = check_bound(&self.objects, &claims, namespace).await?;
        let user = UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: account["uid"].as_str().unwrap_or_default().to_owned(),
            groups: service_account_groups(namespace),
            extra,
        };
        Ok(ValidToken {
            user: user.authenticated(),
            audiences: matched,
        })
    }

    /// The signing key; `None` if the server issues no tokens.
    pub(crate) fn signer(&self) -> Option<&TokenSigner> {
        self.signer.as_deref()
    }

    /// The audiences of tokens whose request names no audience.
    pub(crate) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The public keys that verify the tokens, as a JSON Web Key Set.
    pub(crate) fn public_keys(&self) -> Option<Value> {
        self.signer.as_ref().map(|signer| signer.jwks())
    }
}

/// The user and the audiences of a token with a valid signature, lifetime and bound object.
pub(crate) struct ValidToken {
    pub(crate) user: UserInfo,
    /// The requested audiences that the token contains.
    pub(crate) audiences: Vec<String>,
}

/// The reason why a token is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenRefusal {
    #[error("this server has no key for tokens")]
    NoSigner,
    #[error(transparent)]
    Token(#[from] certificates::TokenError),
    #[error(transparent)]
    Bootstrap(#[from] bootstrap_tokens::BootstrapTokenRefusal),
    #[error("the token is not from this issuer")]
    Issuer,
    #[error("the token is for other audiences")]
    Audience,
    #[error("the token lacks claims")]
    Claims,
    #[error("the {0} that the token is bound to was deleted")]
    Deleted(&'static str),
    #[error("read what the token is bound to: {0}")]
    Store(Status),
}

/// The requested audiences that the token contains.
///
/// *Errors.* The token contains no requested audience.
fn matching(requested: &[String], has: impl Fn(&str) -> bool) -> Result<Vec<String>, TokenRefusal> {
    let matched: Vec<String> = requested.iter().filter(|one| has(one)).cloned().collect();
    match matched.is_empty() {
        true => Err(TokenRefusal::Audience),
        false => Ok(matched),
    }
}

/// Checks that a token's bound objects exist; returns attributes of these objects for the user.
async fn check_bound(
    objects: &Objects,
    claims: &Value,
    namespace: &str,
) -> Result<BTreeMap<String, Vec<String>>, TokenRefusal> {
    let bound = &claims[CLAIM];
    let mut extra = BTreeMap::new();
    if let Some(id) = claims["jti"].as_str() {
        let key = "authentication.kubernetes.io/credential-id".to_owned();
        extra.insert(key, vec![format!("JTI={id}")]);
    }
    for (claim, plural, what) in [
        ("pod", "pods", "pod"),
        ("secret", "secrets", "secret"),
        ("node", "nodes", "node"),
    ] {
        let object = &bound[claim];
        if object.is_null() {
            continue;
        }
        // A pod's token contains the name and UID of the node, but is not bound to the node: the node may be deleted
        // and registered again.
        if claim != "node" || bound["pod"].is_null() {
            let home = if claim == "node" { "" } else { namespace };
            must_live(objects, plural, home, object, what).await?;
        }
        for field in ["name", "uid"] {
            if let Some(value) = object[field].as_str() {
                let key = format!("authentication.kubernetes.io/{claim}-{field}");
                extra.insert(key, vec![value.to_owned()]);
            }
        }
    }
    Ok(extra)
}

async fn must_live(
    objects: &Objects,
    plural: &str,
    namespace: &str,
    claim: &Value,
    what: &'static str,
) -> Result<(), TokenRefusal> {
    let resource = objects
        .catalog
        .any_version("", plural)
        .ok_or(TokenRefusal::Deleted(what))?;
    let name = claim["name"].as_str().ok_or(TokenRefusal::Claims)?;
    let stored_object = objects
        .read(&resource, namespace, name)
        .await
        .map_err(TokenRefusal::Store)?;
    let stored = stored_object.ok_or(TokenRefusal::Deleted(what))?;
    let object = storage::decode(&resource, &stored).map_err(TokenRefusal::Store)?;
    if claim["uid"] != object["metadata"]["uid"] {
        return Err(TokenRefusal::Deleted(what));
    }
    let end: Option<Timestamp> = metadata::text(&object, "deletionTimestamp").parse().ok();
    let over = end
        .is_some_and(|end| end.saturating_add(DELETION_LEEWAY).unwrap_or(end) < Timestamp::now());
    if over {
        Err(TokenRefusal::Deleted(what))
    } else {
        Ok(())
    }
}
