//! The ConfigMap `kube-root-ca.crt` of every namespace: the certificate authority of the API server, for pods.
//!
//! Goal: the ConfigMap contains the authority's certificates and no other data. Guarantees: namespaces that are being
//! deleted are not changed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The name of the ConfigMap.
pub const NAME: &str = "kube-root-ca.crt";

const KEY: &str = "ca.crt";
const NOTE_KEY: &str = "kubernetes.io/description";
const NOTE: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
    internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage \
    is guaranteed across distributions of Kubernetes clusters.";

/// The write for a namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum RootCaAction {
    /// Create the ConfigMap.
    Create(Box<ConfigMap>),
    ReplaceData(BTreeMap<String, String>),
}

/// Plans the write for a namespace with the ConfigMap `present`; an empty `pem` publishes nothing.
pub fn plan(namespace: &Namespace, present: Option<&ConfigMap>, pem: &str) -> Option<RootCaAction> {
    if namespace.metadata.deletion_timestamp.is_some() || pem.is_empty() {
        return None;
    }
    let data = BTreeMap::from([(KEY.to_owned(), pem.to_owned())]);
    match present {
        Some(present) if present.data.as_ref() == Some(&data) => None,
        Some(_) => Some(RootCaAction::ReplaceData(data)),
        None => Some(RootCaAction::Create(Box::new(ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: namespace.metadata.name.clone(),
                annotations: Some([(NOTE_KEY.to_owned(), NOTE.to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        }))),
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn namespace(metadata: Value) -> Namespace {
        json_tree::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn map(data: Value) -> ConfigMap {
        json_tree::from_value(json!({"data": data})).unwrap()
    }

    #[test]
    fn a_namespace_gets_the_authority_once() {
        let namespace = namespace(json!({"name": "n"}));
        let Some(RootCaAction::Create(created)) = plan(&namespace, None, "pem") else {
            panic!("nothing is created");
        };
        assert_eq!(created.metadata.namespace.as_deref(), Some("n"));
        assert_eq!(plan(&namespace, Some(&created), "pem"), None);
        assert_eq!(plan(&namespace, None, ""), None);
    }

    #[test]
    fn other_data_is_replaced() {
        let namespace = namespace(json!({"name": "n"}));
        let expected = BTreeMap::from([("ca.crt".to_owned(), "new".to_owned())]);
        for data in [
            json!({"ca.crt": "old"}),
            json!({"ca.crt": "new", "x": "y"}),
            json!(null),
        ] {
            let planned = plan(&namespace, Some(&map(data)), "new");
            assert_eq!(planned, Some(RootCaAction::ReplaceData(expected.clone())));
        }
    }

    #[test]
    fn a_namespace_that_is_being_deleted_gets_nothing() {
        let going = json!({"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(plan(&namespace(going), None, "pem"), None);
    }
}
