//! Tokens in Secrets of the type `kubernetes.io/service-account-token`.
//!
//! **Goal.** Each such Secret holds a token of the account that it names, the certificates that the
//! API server is to be trusted by, and its namespace; one whose account is gone goes too.
//! **Relies on** the account being looked up anew before a Secret is deleted: it may be so young
//! that it was not seen yet. **Guarantees** that a token, once there, stays.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

/// The type of such Secrets.
pub const TYPE: &str = "kubernetes.io/service-account-token";
/// The annotation that names the account.
pub const ACCOUNT: &str = "kubernetes.io/service-account.name";
/// The annotation with the account's uid.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The key of the token.
pub const TOKEN: &str = "token";

/// What is to be done about a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Leave,
    /// It goes, if its account is gone indeed.
    Delete,
    /// Something is missing.
    Fill {
        /// Whether that is the token.
        token: bool,
        /// The uid of the account, for the annotation.
        uid: String,
        /// Other keys.
        data: BTreeMap<String, ByteString>,
    },
}

/// The account that a Secret is for.
pub fn account_of(secret: &Secret) -> Option<&str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    let name = annotations.get(ACCOUNT)?;
    (secret.type_.as_deref() == Some(TYPE) && !name.is_empty()).then_some(name)
}

/// What is to be done about a Secret whose account is the given one, if there is any.
pub fn plan(secret: &Secret, account: Option<&ServiceAccount>, root_ca_pem: &str) -> Plan {
    if account_of(secret).is_none() || secret.metadata.deletion_timestamp.is_some() {
        return Plan::Leave;
    }
    let annotations = secret.metadata.annotations.as_ref();
    let noted = annotations.and_then(|all| all.get(ACCOUNT_UID));
    let Some(uid) = account.and_then(|account| account.metadata.uid.as_ref()) else {
        return Plan::Delete;
    };
    if noted.is_some_and(|noted| noted != uid) {
        return Plan::Delete;
    }
    let present = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    let wanted = [("ca.crt", root_ca_pem), ("namespace", namespace)];
    let data: BTreeMap<String, ByteString> = wanted
        .into_iter()
        .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
        .filter(|(key, bytes)| !bytes.0.is_empty() && present(key) != Some(bytes))
        .collect();
    let token = present(TOKEN).is_none_or(|token| token.0.is_empty());
    if !token && data.is_empty() && noted.is_some() {
        return Plan::Leave;
    }
    Plan::Fill {
        token,
        uid: uid.clone(),
        data,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(annotations: Value, data: Value) -> Secret {
        let secret = json!({
            "metadata": {"name": "t", "namespace": "d", "annotations": annotations},
            "type": TYPE, "data": data,
        });
        serde_json::from_value(secret).unwrap()
    }

    fn account(uid: &str) -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "a", "uid": uid}})).unwrap()
    }

    #[test]
    fn a_new_secret_gets_everything_and_a_full_one_stays() {
        let new = secret(json!({ACCOUNT: "a"}), json!({"mine": "eA=="}));
        let Plan::Fill { token, uid, data } = plan(&new, Some(&account("u")), "pem") else {
            panic!("nothing is filled in");
        };
        assert!(token && uid == "u");
        assert_eq!(data["ca.crt"].0, b"pem");
        assert_eq!(data["namespace"].0, b"d");
        let full = json!({"token": "eA==", "ca.crt": "cGVt", "namespace": "ZA=="});
        let full = secret(json!({ACCOUNT: "a", ACCOUNT_UID: "u"}), full);
        assert_eq!(plan(&full, Some(&account("u")), "pem"), Plan::Leave);
        let renewed = plan(&full, Some(&account("u")), "other");
        assert!(
            matches!(renewed, Plan::Fill { token: false, .. }),
            "{renewed:?}"
        );
    }

    #[test]
    fn a_secret_goes_with_its_account() {
        let mine = secret(json!({ACCOUNT: "a", ACCOUNT_UID: "u"}), json!({}));
        assert_eq!(plan(&mine, None, ""), Plan::Delete);
        assert_eq!(plan(&mine, Some(&account("another")), ""), Plan::Delete);
        let mut opaque = mine;
        opaque.type_ = Some("Opaque".to_owned());
        assert_eq!(plan(&opaque, None, ""), Plan::Leave);
        assert_eq!(plan(&secret(json!({}), json!({})), None, ""), Plan::Leave);
    }
}
