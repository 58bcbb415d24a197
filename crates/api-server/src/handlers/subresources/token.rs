//! ServiceAccount tokens: `serviceaccounts/token`, and checking who a token belongs to.

use std::collections::BTreeMap;
use std::sync::Arc;

use certificates::TokenSigner;
use jiff::{SignedDuration, Timestamp};
use object_model::{FieldError, FieldPath, Status, StatusReason};
use resource_kinds::admission::Operation;
use serde_json::{Value, json};

use crate::access::identity::{UserInfo, service_account_groups};
use crate::admission::dynamic_admission;
use crate::admission::writes::{Attempt, Validation, WriteOptions, admit};
use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::http::body::{self, BoxBody};
use crate::http::decode;
use crate::http::reply::Reply;
use crate::objects::metadata;
use crate::objects::storage;
use crate::pipeline::Call;
use crate::server::ApiServer;

/// Who issues the tokens (upstream's default).
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Shortest and longest life of a token, and that of one whose asker did not say.
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;
/// What accounts are bound to in claims.
const CLAIM: &str = "kubernetes.io";
/// A pod that is being deleted keeps its tokens for this long after its end (upstream's figure).
const DELETION_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// The signer and the audiences of this server.
pub(crate) struct Tokens {
    signer: Option<Arc<TokenSigner>>,
    audiences: Vec<String>,
}

impl Tokens {
    pub(crate) fn new(signer: Option<Arc<TokenSigner>>, audiences: Vec<String>) -> Self {
        let audiences = if audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            audiences
        };
        Self { signer, audiences }
    }

    /// The keys that check the tokens, as a JSON Web Key Set.
    pub(crate) fn public_keys(&self) -> Option<Value> {
        self.signer.as_ref().map(|signer| signer.jwks())
    }
}

/// A token that is good.
pub(crate) struct Accepted {
    pub(crate) user: UserInfo,
    /// Those of the asked audiences that it is for.
    pub(crate) audiences: Vec<String>,
}

/// Why a token is not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this server has no key for tokens")]
    NoSigner,
    #[error(transparent)]
    Token(#[from] certificates::TokenError),
    #[error("the token is not from this issuer")]
    Issuer,
    #[error("the token is for other audiences")]
    Audience,
    #[error("the token lacks claims")]
    Claims,
    #[error("the {0} that the token is bound to is gone")]
    Gone(&'static str),
    #[error("read what the token is bound to: {0}")]
    Store(Status),
}

/// Checks a token against the account and the objects that it is bound to. `audiences` are those
/// asked for; none means this server's own.
pub(crate) async fn authenticate(
    server: &ApiServer,
    token: &str,
    audiences: &[String],
) -> Result<Accepted, Refused> {
    let signer = server.tokens.signer.as_ref().ok_or(Refused::NoSigner)?;
    let claims = signer.verify(token)?;
    if claims["iss"] != ISSUER {
        return Err(Refused::Issuer);
    }
    let wanted = if audiences.is_empty() {
        &server.tokens.audiences
    } else {
        audiences
    };
    let present = claims["aud"].as_array().map_or(&[][..], Vec::as_slice);
    let matched: Vec<String> = wanted
        .iter()
        .filter(|one| present.iter().any(|p| p == *one))
        .cloned()
        .collect();
    if matched.is_empty() {
        return Err(Refused::Audience);
    }
    let bound = &claims[CLAIM];
    let namespace = bound["namespace"].as_str().ok_or(Refused::Claims)?;
    let account = &bound["serviceaccount"];
    let name = account["name"].as_str().ok_or(Refused::Claims)?;
    must_live(
        server,
        "serviceaccounts",
        namespace,
        account,
        "service account",
    )
    .await?;
    let extra = check_bound(server, &claims, namespace).await?;
    let user = UserInfo {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        uid: account["uid"].as_str().unwrap_or_default().to_owned(),
        groups: service_account_groups(namespace),
        extra,
    };
    Ok(Accepted {
        user: user.authenticated(),
        audiences: matched,
    })
}

/// Checks that the objects which a token is bound to live; returns what is known by them.
async fn check_bound(
    server: &ApiServer,
    claims: &Value,
    namespace: &str,
) -> Result<BTreeMap<String, Vec<String>>, Refused> {
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
        // The node of a pod is only named, not bound to: it may be registered anew.
        if claim != "node" || bound["pod"].is_null() {
            let home = if claim == "node" { "" } else { namespace };
            must_live(server, plural, home, object, what).await?;
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
    server: &ApiServer,
    plural: &str,
    namespace: &str,
    claim: &Value,
    what: &'static str,
) -> Result<(), Refused> {
    let resource = server
        .served()
        .registry
        .any_version("", plural)
        .ok_or(Refused::Gone(what))?;
    let name = claim["name"].as_str().ok_or(Refused::Claims)?;
    let found = server
        .read(&resource, namespace, name)
        .await
        .map_err(Refused::Store)?;
    let stored = found.ok_or(Refused::Gone(what))?;
    let object = storage::decode(&resource, &stored).map_err(Refused::Store)?;
    if claim["uid"] != object["metadata"]["uid"] {
        return Err(Refused::Gone(what));
    }
    let end: Option<Timestamp> = metadata::text(&object, "deletionTimestamp").parse().ok();
    let over = end
        .is_some_and(|end| end.saturating_add(DELETION_LEEWAY).unwrap_or(end) < Timestamp::now());
    if over {
        Err(Refused::Gone(what))
    } else {
        Ok(())
    }
}

/// Answers a POST of a TokenRequest.
pub(super) async fn answer(
    server: &ApiServer,
    resource: &Resource,
    call: &Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let bytes = body::read(body, &server.limits).await?;
    let decoded = decode::part(&call.parts.headers, &bytes, "TokenRequest")?;
    if options.validation == Validation::Strict && !decoded.duplicates.is_empty() {
        let text = format!(
            "strict decoding error: duplicate field {:?}",
            decoded.duplicates[0]
        );
        return Err(Status::bad_request(text));
    }
    let mut request = decoded.value;
    let signer = server.tokens.signer.as_ref().ok_or_else(|| {
        Status::new(
            StatusReason::ServiceUnavailable,
            "this server has no key for tokens",
        )
    })?;
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let stored = server.must_read(resource, namespace, name).await?;
    let account = storage::decode(resource, &stored)?;
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = json!(SECONDS_DEFAULT);
    }
    let attempt = Attempt::of(call, resource, options);
    admit(server, &attempt, Operation::Create, &mut request, None)?;
    dynamic_admission::admit_part(server, &attempt, &mut request).await?;
    let mut request = decode::typed("TokenRequest", request)?;
    let seconds = request["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(SECONDS_DEFAULT);
    check_seconds(seconds, name)?;
    let mut audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.clone_from(&server.tokens.audiences);
    }
    let mut bound = json!({
        "namespace": namespace,
        "serviceaccount": {"name": name, "uid": account["metadata"]["uid"]},
    });
    bind(server, call, &request["spec"]["boundObjectRef"], &mut bound).await?;
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "aud": audiences,
        "iat": now,
        "nbf": now,
        "exp": now + seconds,
        "jti": uuid::Uuid::new_v4().to_string(),
        CLAIM: bound,
    });
    let end = Timestamp::from_second(now + seconds).unwrap_or(Timestamp::MAX);
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["metadata"] = json!({
        "name": name, "namespace": namespace,
        "creationTimestamp": metadata::time(Timestamp::now()),
    });
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = json!(seconds);
    request["status"] = json!({
        "token": signer.sign(&claims), "expirationTimestamp": metadata::time(end),
    });
    output::outcome(call, &request)
}

fn check_seconds(seconds: i64, name: &str) -> Result<(), Status> {
    let text = if seconds < SECONDS_MIN {
        "may not specify a duration less than 10 minutes"
    } else if seconds > SECONDS_MAX {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let field = FieldPath::root("spec").child("expirationSeconds");
    let error = FieldError::invalid(&field, seconds, text);
    Err(Status::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        name,
        &[error],
    ))
}

/// Adds to the claims the object that the token is to live and die with.
async fn bind(
    server: &ApiServer,
    call: &Call,
    reference: &Value,
    claims: &mut Value,
) -> Result<(), Status> {
    let Some(kind) = reference["kind"].as_str() else {
        return Ok(());
    };
    let (claim, plural, namespace) = match kind {
        "Pod" => ("pod", "pods", call.info.namespace.as_str()),
        "Secret" => ("secret", "secrets", call.info.namespace.as_str()),
        "Node" => ("node", "nodes", ""),
        other => {
            let text = format!("cannot bind token to object of type {other:?}");
            return Err(Status::bad_request(text));
        }
    };
    let name = reference["name"].as_str().unwrap_or_default();
    let missing = || Status::not_found("", plural, name);
    let resource = server
        .served()
        .registry
        .any_version("", plural)
        .ok_or_else(missing)?;
    let stored = server.must_read(&resource, namespace, name).await?;
    let object = storage::decode(&resource, &stored)?;
    let uid = &object["metadata"]["uid"];
    let asked = reference["uid"].as_str().unwrap_or_default();
    if !asked.is_empty() && *uid != asked {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", plural, name, &why));
    }
    if kind == "Pod" && object["spec"]["serviceAccountName"] != call.info.name {
        let text = format!(
            "cannot bind token for serviceaccount {:?} to pod running with different \
             serviceaccount name.",
            call.info.name
        );
        return Err(Status::bad_request(text));
    }
    claims[claim] = json!({"name": name, "uid": uid});
    let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
    if kind == "Pod" && !node.is_empty() {
        claims["node"] = json!({"name": node});
        if let Some(nodes) = server.served().registry.any_version("", "nodes")
            && let Some(stored) = server.read(&nodes, "", node).await?
        {
            claims["node"]["uid"] = storage::decode(&nodes, &stored)?["metadata"]["uid"].clone();
        }
    }
    Ok(())
}
