//! Bootstrap tokens that have expired.
//!
//! **Goal**: the Secret of an expired bootstrap token is deleted. **Relies on**: the caller deletes only the observed
//! version, so that a token with a new expiry stays. **Guarantees**: tokens without an expiry stay, and so do Secrets
//! of other types and namespaces.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use resource_kinds::bootstrap_token::{Data, Expiration, NAMESPACE, TYPE, expiration};

/// The action for a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPlan {
    /// No action.
    Leave,
    /// No action before this time.
    Wait(Timestamp),
    Delete,
}

/// Plans the action for a Secret. Total.
pub fn plan(secret: &Secret, now: Timestamp) -> TokenPlan {
    let meta = &secret.metadata;
    let is_token =
        secret.type_.as_deref() == Some(TYPE) && meta.namespace.as_deref() == Some(NAMESPACE);
    if !is_token || meta.deletion_timestamp.is_some() {
        return TokenPlan::Leave;
    }
    let none = Data::new();
    let end = expiration(secret.data.as_ref().unwrap_or(&none));
    match end {
        Expiration::Never => TokenPlan::Leave,
        Expiration::At(at) if at > now => TokenPlan::Wait(at),
        Expiration::At(_) | Expiration::Malformed => TokenPlan::Delete,
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use k8s_openapi::ByteString;
    use resource_kinds::bootstrap_token::key;

    use super::*;

    fn token(expiration: &str) -> Value {
        json!({
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": NAMESPACE}, "type": TYPE,
            "data": {key::EXPIRATION: ByteString(expiration.as_bytes().to_vec())},
        })
    }

    fn planned(secret: &Value) -> TokenPlan {
        let secret: Secret = json_tree::from_value(secret.clone()).unwrap();
        plan(&secret, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_token_goes_when_it_has_expired() {
        let later = "2026-01-01T00:00:05Z";
        assert_eq!(
            planned(&token(later)),
            TokenPlan::Wait(later.parse().unwrap())
        );
        assert_eq!(planned(&token("2026-01-01T00:00:00Z")), TokenPlan::Delete);
        assert_eq!(planned(&token("soon")), TokenPlan::Delete);
        assert_eq!(planned(&token("")), TokenPlan::Leave);
    }

    #[test]
    fn other_secrets_stay() {
        let past = "2025-01-01T00:00:00Z";
        for (field, value) in [
            ("/type", json!("Opaque")),
            ("/metadata/namespace", json!("default")),
            ("/data", Value::Null),
        ] {
            let mut secret = token(past);
            *secret.pointer_mut(field).unwrap() = value;
            assert_eq!(planned(&secret), TokenPlan::Leave, "{field}");
        }
        let mut deleted = token(past);
        deleted["metadata"]["deletionTimestamp"] = json!(past);
        assert_eq!(planned(&deleted), TokenPlan::Leave);
    }
}
