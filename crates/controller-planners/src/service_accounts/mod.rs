//! The ServiceAccount `default` of every namespace.
//!
//! Goal: the account exists. Guarantees: an existing account is not changed, and namespaces that are being deleted are
//! not changed.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The name of the account.
pub const NAME: &str = "default";

/// The account to create in a namespace; `exists` is true if the namespace has the account already.
pub fn plan(namespace: &Namespace, exists: bool) -> Option<ServiceAccount> {
    if namespace.metadata.deletion_timestamp.is_some() || exists {
        return None;
    }
    Some(ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: namespace.metadata.name.clone(),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    })
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_namespace_gets_one_account_while_it_lives() {
        let of = |metadata| -> Namespace {
            json_tree::from_value(json!({"metadata": metadata})).unwrap()
        };
        let living = of(json!({"name": "n"}));
        let created = plan(&living, false).unwrap();
        assert_eq!(created.metadata.name.as_deref(), Some("default"));
        assert_eq!(created.metadata.namespace.as_deref(), Some("n"));
        assert_eq!(plan(&living, true), None);
        let going = of(json!({"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert_eq!(plan(&going, false), None);
    }
}
