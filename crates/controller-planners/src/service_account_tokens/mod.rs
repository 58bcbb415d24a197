//! Tokens in Secrets of the type `kubernetes.io/service-account-token`.
//!
//! **Goal.** Each such Secret contains a token of the ServiceAccount that the Secret names, the API server's CA
//! certificates, and its namespace; a Secret of a deleted ServiceAccount is deleted. **Relies on**: the caller reads
//! the account from the API server before the deletion of a Secret, because a new account may not be in the cache yet.
//! **Guarantees**: an existing token stays.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::MetadataIdentity;

/// The type of Secrets for tokens of ServiceAccounts.
pub const TYPE: &str = "kubernetes.io/service-account-token";
/// The annotation with the account's name.
pub const ACCOUNT: &str = "kubernetes.io/service-account.name";
/// The annotation with the account's UID.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The key of the token.
pub const TOKEN: &str = "token";

/// The action for a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountTokenPlan {
    /// No action.
    Leave,
    /// Delete the Secret, if the API server confirms that its account does not exist.
    Delete,
    /// Add missing data.
    Fill {
        /// Whether the token is missing.
        token: bool,
        /// The UID of the account, for the annotation.
        uid: Uid,
        /// The other missing keys.
        data: BTreeMap<String, ByteString>,
    },
}

/// The account that a Secret names.
pub fn account_of(secret: &Secret) -> Option<&str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    let name = annotations.get(ACCOUNT)?;
    (secret.type_.as_deref() == Some(TYPE) && !name.is_empty()).then_some(name)
}

/// Plans the action for a Secret; `account` is `None` if the account does not exist.
pub fn plan(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    root_ca_pem: &str,
) -> Result<AccountTokenPlan, IncompleteMetadata> {
    if account_of(secret).is_none() || secret.metadata.deletion_timestamp.is_some() {
        return Ok(AccountTokenPlan::Leave);
    }
    let annotations = secret.metadata.annotations.as_ref();
    let noted = annotations.and_then(|all| all.get(ACCOUNT_UID));
    let Some(account) = account else {
        return Ok(AccountTokenPlan::Delete);
    };
    let uid = account.metadata.object_uid()?;
    if noted.is_some_and(|noted| uid != *noted.as_str()) {
        return Ok(AccountTokenPlan::Delete);
    }
    let present = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let namespace = secret.metadata.object_namespace()?;
    let desired = [("ca.crt", root_ca_pem), ("namespace", namespace)];
    let data: BTreeMap<String, ByteString> = desired
        .into_iter()
        .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
        .filter(|(key, bytes)| !bytes.0.is_empty() && present(key) != Some(bytes))
        .collect();
    let token = present(TOKEN).is_none_or(|token| token.0.is_empty());
    if !token && data.is_empty() && noted.is_some() {
        return Ok(AccountTokenPlan::Leave);
    }
    Ok(AccountTokenPlan::Fill { token, uid, data })
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn secret(annotations: Value, data: Value) -> Secret {
        let secret = json!({
            "metadata": {"name": "t", "namespace": "d", "annotations": annotations},
            "type": TYPE, "data": data,
        });
        json_tree::from_value(secret).unwrap()
    }

    fn account(uid: &str) -> ServiceAccount {
        json_tree::from_value(json!({"metadata": {"name": "a", "uid": uid}})).unwrap()
    }

    #[test]
    fn a_new_secret_gets_everything_and_a_full_one_stays() {
        let new = secret(json!({ACCOUNT: "a"}), json!({"mine": "eA=="}));
        let AccountTokenPlan::Fill { token, uid, data } =
            plan(&new, Some(&account("u")), "pem").unwrap()
        else {
            panic!("nothing is filled in");
        };
        assert!(token && uid == *"u");
        assert_eq!(data["ca.crt"].0, b"pem");
        assert_eq!(data["namespace"].0, b"d");
        let full = json!({"token": "eA==", "ca.crt": "cGVt", "namespace": "ZA=="});
        let full = secret(json!({ACCOUNT: "a", ACCOUNT_UID: "u"}), full);
        assert_eq!(
            plan(&full, Some(&account("u")), "pem").unwrap(),
            AccountTokenPlan::Leave
        );
        let renewed = plan(&full, Some(&account("u")), "other").unwrap();
        assert!(
            matches!(renewed, AccountTokenPlan::Fill { token: false, .. }),
            "{renewed:?}"
        );
    }

    #[test]
    fn a_secret_goes_with_its_account() {
        let mine = secret(json!({ACCOUNT: "a", ACCOUNT_UID: "u"}), json!({}));
        assert_eq!(plan(&mine, None, "").unwrap(), AccountTokenPlan::Delete);
        assert_eq!(
            plan(&mine, Some(&account("another")), "").unwrap(),
            AccountTokenPlan::Delete
        );
        let mut opaque = mine;
        opaque.type_ = Some("Opaque".to_owned());
        assert_eq!(plan(&opaque, None, "").unwrap(), AccountTokenPlan::Leave);
        assert_eq!(
            plan(&secret(json!({}), json!({})), None, "").unwrap(),
            AccountTokenPlan::Leave
        );
    }
}
