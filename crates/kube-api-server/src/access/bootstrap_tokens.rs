//! Bootstrap tokens of new nodes: the check of a token against its Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use json_tree::Value;
use object_model::Status;
use resource_kinds::bootstrap_token::{self as tokens, Data, TokenParts, key};
use sha2::{Digest, Sha256};

use crate::http::user::UserInfo;
use crate::objects::metadata;
use crate::objects::storage::{self, Objects};

/// The reason why a bootstrap token is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BootstrapTokenRefusal {
    #[error("no bootstrap token has this identifier")]
    Unknown,
    #[error("the Secret of the bootstrap token is being deleted")]
    Deleted,
    #[error("the bootstrap token is wrong")]
    Wrong,
    #[error("the bootstrap token has expired")]
    Expired,
    #[error("the bootstrap token is not for authentication")]
    Usage,
    #[error("a bootstrap token cannot give the group {0:?}")]
    Group(String),
    #[error("read the Secret of the bootstrap token: {0}")]
    Store(Status),
}

/// Authenticates a bootstrap token: user `system:bootstrap:ID` in the token's groups.
pub(crate) async fn authenticate(
    objects: &Objects,
    token: TokenParts<'_>,
    now: Timestamp,
) -> Result<UserInfo, BootstrapTokenRefusal> {
    let secrets = objects.catalog.any_version("", "secrets");
    let secrets = secrets.ok_or(BootstrapTokenRefusal::Unknown)?;
    let name = tokens::secret_name(token.id);
    let stored = objects.read(&secrets, tokens::NAMESPACE, &name).await;
    let stored = stored
        .map_err(BootstrapTokenRefusal::Store)?
        .ok_or(BootstrapTokenRefusal::Unknown)?;
    let secret = storage::decode(&secrets, &stored).map_err(BootstrapTokenRefusal::Store)?;
    check(&secret, token, now)
}

/// Checks a token against its Secret.
fn check(
    secret: &Value,
    token: TokenParts<'_>,
    now: Timestamp,
) -> Result<UserInfo, BootstrapTokenRefusal> {
    if secret["type"] != tokens::TYPE {
        return Err(BootstrapTokenRefusal::Unknown);
    }
    if metadata::is_deleting(secret) {
        return Err(BootstrapTokenRefusal::Deleted);
    }
    let data: Data = json_tree::from_value(secret["data"].clone()).unwrap_or_default();
    // The comparison of digests takes the same time for all texts, so its duration tells an attacker nothing.
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    if digest(tokens::text(&data, key::SECRET)) != digest(token.secret)
        || tokens::text(&data, key::ID) != token.id
    {
        return Err(BootstrapTokenRefusal::Wrong);
    }
    if tokens::expiration(&data).is_over(now) {
        return Err(BootstrapTokenRefusal::Expired);
    }
    if !tokens::is_for(&data, key::AUTHENTICATION) {
        return Err(BootstrapTokenRefusal::Usage);
    }
    let groups = tokens::groups(&data).map_err(|error| BootstrapTokenRefusal::Group(error.0))?;
    Ok(UserInfo {
        name: format!("system:bootstrap:{}", token.id),
        uid: String::new(),
        groups: groups.into_iter().collect(),
        extra: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut data: BTreeMap<&str, &str> = BTreeMap::from([
            (key::ID, "abcdef"),
            (key::SECRET, "0123456789abcdef"),
            (key::AUTHENTICATION, "true"),
        ]);
        data.extend(changes.iter().copied());
        let data: Data = data
            .into_iter()
            .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
            .collect();
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": tokens::TYPE, "data": data})
    }

    fn checked(secret: &Value) -> Result<UserInfo, BootstrapTokenRefusal> {
        let token = tokens::parse("abcdef.0123456789abcdef").unwrap();
        check(secret, token, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_token_is_a_user_of_the_group_of_bootstrappers() {
        let user = checked(&secret(&[])).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, [tokens::GROUP]);
        let user = checked(&secret(&[
            (key::GROUPS, tokens::NODE_GROUP),
            (key::EXPIRATION, "2026-01-01T00:00:01Z"),
        ]));
        assert_eq!(user.unwrap().groups, [tokens::GROUP, tokens::NODE_GROUP]);
    }

    #[test]
    fn other_tokens_are_refused() {
        for (changes, reason) in [
            (
                [(key::SECRET, "0123456789abcdeX")],
                BootstrapTokenRefusal::Wrong,
            ),
            ([(key::SECRET, "")], BootstrapTokenRefusal::Wrong),
            ([(key::ID, "abcdeg")], BootstrapTokenRefusal::Wrong),
            (
                [(key::EXPIRATION, "2026-01-01T00:00:00Z")],
                BootstrapTokenRefusal::Expired,
            ),
            ([(key::EXPIRATION, "soon")], BootstrapTokenRefusal::Expired),
            (
                [(key::AUTHENTICATION, "True")],
                BootstrapTokenRefusal::Usage,
            ),
            (
                [(key::GROUPS, "system:masters")],
                BootstrapTokenRefusal::Group("system:masters".to_owned()),
            ),
        ] {
            assert_eq!(checked(&secret(&changes)).unwrap_err(), reason);
        }
        let mut other = secret(&[]);
        other["type"] = json!("Opaque");
        assert_eq!(checked(&other).unwrap_err(), BootstrapTokenRefusal::Unknown);
        let mut deleted = secret(&[]);
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(
            checked(&deleted).unwrap_err(),
            BootstrapTokenRefusal::Deleted
        );
        let mut empty = secret(&[]);
        empty["data"] = Value::Null;
        assert_eq!(checked(&empty).unwrap_err(), BootstrapTokenRefusal::Wrong);
    }
}
